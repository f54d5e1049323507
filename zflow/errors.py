"""Whose fault a failure is: the exception tree, the problems of a configuration, the exit codes.

Decides which class an error belongs to and how a problem reads. Never prints, logs or exits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of `zflow` means; documented numbers, never reused."""

    OK = 0
    FAILED = 1  # the pipeline failed, or the ledger has a hole
    USAGE = 2  # wrong command line or invalid topology
    UNREACHABLE = 3  # the coordinator does not answer
    TIMED_OUT = 4
    CRASH_LOOP = 5
    INCOMPATIBLE = 6  # version or codec
    LAUNCHER = 7  # a launcher or its engine failed
    INTERRUPTED = 130  # after a clean drain
    FORCED = 137


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a topology or its settings, where it is, and how to mend it.

    where: the stage, edge or setting. file is empty for what was not written in a file.
    """

    where: str
    file: str
    line: int
    message: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        advice = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.where}: {self.message}{advice}"


class ZflowError(Exception):
    """Whatever zflow raises on purpose."""


class ConfigError(ZflowError):
    """The topology or its settings are wrong; holds all problems, so that one run shows them all.

    raises: ValueError without any problem, since the reader would learn nothing.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        if not self.problems:
            raise ValueError("a ConfigError needs at least one problem; got none")
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class StageError(ZflowError):
    """The user's function failed: retry the item, or put it into the dead-letter store."""


class ProtocolError(ZflowError):
    """The peer broke the protocol: drop the link."""


class Unavailable(ZflowError):
    """The environment refuses for now: back off and try again."""


class Superseded(Unavailable):
    """Somebody else has taken over what this process had: it will never have it again."""


class Incompatible(Unavailable):
    """A newer zflow wrote it: nothing is wrong with it, and this one cannot use it."""


class InternalError(ZflowError):
    """zflow itself is wrong: stop."""


def suggest(word: str, choices: Iterable[str]) -> str:
    """How to mend a mistyped word: the nearest choice, else all of them."""
    known = sorted(choices)
    nearest = get_close_matches(word, known, n=1)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return f"choose one of: {', '.join(known)}" if known else "there is none to choose from"

"""Which dead letters a verb means: by id, by stage, error, text and age.

Decides what is chosen, and that a run is left alone while it runs. Never changes a letter.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from zflow.cli.stored import refused, typed
from zflow.clock import Clock
from zflow.errors import ConfigError, Problem
from zflow.state.deadletter import StoredLetter, read_dead_letters
from zflow.state.runs import RunLock, StoredRun, is_running

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Age(click.ParamType):  # type: ignore[type-arg] # generic in click 8.5, not in 8.1
    """`30s`, `10m`, `2h` or `3d`, as seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Called by click for what was typed."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value), re.ASCII)
        if found is None:
            advice = "give a number and s, m, h or d: 30s, 10m, 2h, 3d"
            self.fail(f"{value!r} is no age; {advice}", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the filters let through; None lets everything through. Ages count from the death."""

    stage: str | None
    error: str | None
    text: str | None
    older_s: float | None
    newer_s: float | None

    def takes(self, stored: StoredLetter, now_s: float) -> bool:
        """True if every filter lets this letter through. now_s: since the epoch."""
        letter = stored.letter
        age_s = now_s - letter.buried_at_s
        return (
            self.stage in (None, letter.stage)
            and self.error in (None, letter.error_class)
            and (self.text is None or self.text in letter.error)
            and (self.older_s is None or age_s >= self.older_s)
            and (self.newer_s is None or age_s < self.newer_s)
        )


OPTIONS = (
    click.option("--stage", metavar="STAGE", help="Only what failed in this stage."),
    click.option("--error", metavar="CLASS", help="Only errors of this class."),
    click.option("--text", metavar="TEXT", help="Only with this text in the traceback."),
    click.option(
        "--older", "older_s", type=Age(), metavar="AGE", help="Only what died that long ago: 2h."
    ),
    click.option(
        "--newer", "newer_s", type=Age(), metavar="AGE", help="Only what died since then: 30s, 3d."
    ),
)


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the filters; they reach it as one `choice`."""

    @functools.wraps(command)
    def with_choice(
        *arguments: Any,
        stage: str | None,
        error: str | None,
        text: str | None,
        older_s: float | None,
        newer_s: float | None,
        **others: Any,
    ) -> Any:
        choice = Choice(stage=stage, error=error, text=text, older_s=older_s, newer_s=newer_s)
        return command(*arguments, choice=choice, **others)

    decorated: Callable[..., Any] = with_choice
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated


def chosen(stored: StoredRun, ids: Sequence[str], choice: Choice) -> list[StoredLetter]:
    """The letters of these ids, of all if there are none, as far as the filters let through.

    raises: ConfigError with every id that is unknown.
    """
    letters = list(read_dead_letters(stored.state.dead_folder))
    now_s = Clock().wall_s()
    named = _named(letters, ids) if ids else letters
    return [letter for letter in named if choice.takes(letter, now_s)]


def chosen_letter(stored: StoredRun, letter_id: str) -> StoredLetter:
    """The letter of this id; raises ConfigError."""
    (letter,) = _named(read_dead_letters(stored.state.dead_folder), [letter_id])
    return letter


def _named(letters: Iterable[StoredLetter], ids: Sequence[str]) -> list[StoredLetter]:
    """The letters of these ids, in their order."""
    known = {letter.id: letter for letter in letters}
    unknown = [letter_id for letter_id in ids if letter_id not in known]
    if unknown:
        message, fix = "the run has no dead letter of this id", f"list them: {typed('dead', 'ls')}"
        raise ConfigError([problem(name, message, fix) for name in unknown])
    return [known[letter_id] for letter_id in dict.fromkeys(ids)]


def problem(letter_id: str, message: str, fix: str) -> Problem:
    """One thing that is wrong with one letter."""
    return refused(letter_id, message, fix).problems[0]


def refuse_if_running(stored: StoredRun) -> None:
    """Raises ConfigError while a process works on the run: it may be writing letters, too."""
    if is_running(stored.state):
        where, fix = f"run {stored.record.run_id}", "stop it first: Ctrl-C where it runs"
        raise refused(where, "it is running, its dead letters stay as they are meanwhile", fix)


@contextmanager
def held_still(stored: StoredRun) -> Iterator[None]:
    """Nobody else runs the run, sends its letters or changes them meanwhile."""
    refuse_if_running(stored)
    lock = RunLock(stored.state)
    try:
        yield
    finally:
        lock.release()

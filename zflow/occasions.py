"""What a topology's hooks are told: that a run has begun, has ended, or that something failed.

Plain frozen data, made for people's own code. Decides nothing.
"""

from dataclasses import dataclass
from typing import Any

HOOKS = ("on_start", "on_finish", "on_error", "on_dead_letter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has begun (`on_start`) or ended (`on_finish`).

    parameters: STAGE.NAME=VALUE. The rest is of its end: exit_code and outcome as the command line
    tells them, seconds, items that the sources have yielded and that are settled, dead letters.
    """

    run_id: str
    topology: str
    parameters: tuple[str, ...] = ()
    exit_code: int | None = None
    outcome: str = ""
    seconds: float = 0.0
    items: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A replica has died and is replaced, or the run has failed (`on_error`).

    slot: stage/index, empty if it is the run that failed. cause: in words.
    """

    run_id: str
    slot: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An item was given up, and is stored (`on_dead_letter`).

    id: what `zflow dead show` calls it. item: what was given up, None if it cannot be read; shown:
    its repr, cut. error: the traceback. attempts: how often it was tried.
    """

    run_id: str
    id: str
    stage: str
    edge: str
    item: Any
    shown: str
    error_class: str
    error: str
    attempts: int

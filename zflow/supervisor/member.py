"""What a supervisor knows of one slot, of where things are, and of a process that has ended."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zflow.ids import Slot
from zflow.paths import RunDirectory
from zflow.wire.control import StageConfig
from zflow.wire.data import Crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One process has ended. orderly: it was told to finish and did.

    reason: exit, signal, stuck, oom or rollout; cause: the same in words.
    """

    slot: Slot
    incarnation: int
    orderly: bool
    reason: str
    cause: str
    tail: str  # the end of what it wrote to stderr
    crash: Crash
    counters: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posts:
    """Where the replicas of one supervisor find everything.

    control: where the coordinator answers. addresses: of a slot, where it takes messages and where
    it takes the answers to its own.
    """

    run: RunDirectory
    state: Path
    control: str
    options: tuple[str, ...]  # of every replica's command line, beside these
    addresses: Callable[[Slot], tuple[str, str]]


@dataclass(slots=True)
class Member:
    """One slot under supervision."""

    slot: Slot
    stage: StageConfig
    incarnation: int = 0
    waiting: bool = False  # its peers do not know of it yet
    dropped: bool = False  # it is somebody else's, or nobody's, once its process has ended
    rollout_s: float = 0.0  # since when its process has been asked to make room; 0 if it was not
    crashes: list[Crash] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0  # wall clock
    pidfd: int = -1
    err_from: int = 0  # where this incarnation's stderr begins
    killed_because: str = ""
    killed_reason: str = ""  # stuck, rollout or stop
    start_at_s: float = 0.0  # when the next incarnation may start; 0 while one runs
    fruitless: int = 0
    refused_since_s: float = 0.0  # since when a disk or a lock has refused; 0 if none does
    failures: int = 0
    finished: bool = False
    last_tail: str = ""
    last_error: str = ""
    restarts: dict[str, int] = field(default_factory=dict)  # by reason

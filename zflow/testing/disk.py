"""What outlives the processes of an anchor: one file per partition, with its atomic commits.

Decides what a commit changes, whom the fence lets write, and what a power loss takes back. Never
asks whether that was right; `effects` does.

A commit is written, and a little later it is on the disk (`sync`). A process that dies takes
nothing back that was written; a power loss takes back everything behind the last sync.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zflow.hashing import text_hash64
from zflow.protocol.anchor import Applied, Commit
from zflow.state.entries import Row
from zflow.testing.items import Item, Timer
from zflow.testing.topologies import Stage

if TYPE_CHECKING:
    from zflow.testing.process import Process


Alarm = tuple[int, Timer | None, float]  # key, what is set and when it is due; None: it fired then


@dataclass(slots=True, eq=False)
class Written:
    """One commit as it goes to the file. items: that it applies, in order; fence: of its owner.

    timers: rows of timers, None for one that goes; alarms: the same, for the user's own state.
    """

    commit: Commit
    items: list[Item]
    fence: int
    timers: list[Row] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    index: int = 0  # how many commits the file has with it


@dataclass(slots=True)
class Contents:
    """What a reader of the file sees."""

    watermarks: dict[int, int] = field(default_factory=dict)
    records: list[Applied] = field(default_factory=list)
    rows: dict[int, Item] = field(default_factory=dict)
    timers: dict[bytes, bytes] = field(default_factory=dict)
    alarms: dict[int, Timer] = field(default_factory=dict)  # what is to be done, by key
    low: int = 0
    next: int = 0
    done: bool = False

    def apply(self, written: Written) -> None:
        """One commit, whole."""
        commit = written.commit
        self.watermarks.update(commit.watermarks)
        known = [*self.records, *commit.applied]
        marks = self.watermarks
        self.records = [one for one in known if one.top >= marks.get(one.origin, 0)]
        for oseq, row in enumerate(commit.outputs, commit.first):
            self.rows[oseq] = row
        self.next = commit.first + len(commit.outputs)
        for oseq in range(self.low, commit.low):
            self.rows.pop(oseq, None)
        self.low = commit.low
        self.done = self.done or commit.done
        self._apply_timers(written.timers)
        for key, timer, _ in written.alarms:
            self.alarms.pop(key, None)
            if timer is not None:
                self.alarms[key] = timer

    def _apply_timers(self, rows: list[Row]) -> None:
        for raw, row in rows:
            self.timers.pop(raw, None)
            if row is not None:
                self.timers[raw] = row


class Disk:
    """The file of one partition. flocked: a zombie that holds it keeps others away, not only the
    fence; who is no zombie always does.

    full: a commit is on the disk before its owner is told (`synchronous=FULL`).
    """

    def __init__(
        self, stage: Stage, number: int, birth: int, *, flocked: bool, full: bool = True
    ) -> None:
        self.stage = stage
        self.number = number
        self.origin = text_hash64("origin", stage.name, str(number), str(birth))
        self.fence = 0
        self.flocked = flocked
        self.full = full
        self.log: list[Written] = []
        self.synced = 0  # of them
        self.losses = 0
        self.contents = Contents()
        self._holder: Process | None = None

    def lock(self, process: "Process") -> bool:
        """The process holds the file from now on; False if somebody else who lives does."""
        holder = self._holder
        other = holder if holder is not process else None
        if other is not None and other.alive and (self.flocked or not other.zombie):
            return False
        self._holder = process
        self.fence += 1
        return True

    def unlock(self, process: "Process") -> None:
        """The process lets go of the file."""
        if self._holder is process:
            self._holder = None

    def accepts(self, fence: int) -> bool:
        """The check inside every transaction: nobody has acquired the partition since (R9)."""
        return fence == self.fence

    def mark(self) -> tuple[int, int]:
        """Of the outputs: from which on they are sent again, and the number of the next."""
        return self.contents.low, self.contents.next

    def write(self, written: Written) -> None:
        """One commit."""
        self.log.append(written)
        written.index = len(self.log)
        self.contents.apply(written)

    def sync(self, index: int) -> list[Written]:
        """The first `index` commits are on the disk; those that were not before."""
        fresh = self.log[self.synced : index]
        self.synced = max(self.synced, index)
        return fresh

    def lose_power(self) -> list[Written]:
        """Everything behind the last sync is gone: these commits."""
        self.losses += 1
        gone, self.log = self.log[self.synced :], self.log[: self.synced]
        if gone:
            self.contents = Contents()
            for written in self.log:
                self.contents.apply(written)
        return gone

    def __repr__(self) -> str:
        return f"{self.stage.name}.{self.number}"

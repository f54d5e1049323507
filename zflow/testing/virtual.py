"""Virtual time for a run in one process: a timeline, the clocks on it, and the threads it replaces.

Decides in which order things happen, and nothing else. Never sleeps, starts no thread.
"""

import heapq
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from zflow.clock import Clock
from zflow.replica.committer import Committer
from zflow.replica.keeper import Keeper
from zflow.replica.partitions import Owned
from zflow.state.partition import Batch
from zflow.state.positions import PositionFile

START_NS = 10**12  # 0 means "not running" and "never" in many places
COMMIT_NS = (200_000, 4_000_000)  # how long one takes: at least, at most


class Timeline:
    """What happens when; of things at the same time, first what was asked for first."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.steps = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, at_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call that then, and not before now."""
        self._asked += 1
        heapq.heappush(self._heap, (max(at_ns, self.now_ns), self._asked, call, arguments))

    def due_ns(self) -> int | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """The next thing happens."""
        self.steps += 1
        self.now_ns, _, call, arguments = heapq.heappop(self._heap)
        call(*arguments)

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the beginning."""
        return (self.now_ns - START_NS) / 1e9


class VirtualClock(Clock):
    """The clock of one replica: ahead of the timeline while the replica is at work."""

    def __init__(self, wall_s: float) -> None:
        self.ns = START_NS
        self._wall_s = wall_s  # at START_NS

    def now_s(self) -> float:
        """Virtual monotonic seconds."""
        return self.ns / 1e9

    def now_ns(self) -> int:
        """The same in nanoseconds."""
        return self.ns

    def wall_s(self) -> float:
        """The real time at which the run began, and the virtual seconds since."""
        return self._wall_s + (self.ns - START_NS) / 1e9

    def thread_ns(self) -> int:
        """All time is CPU time here."""
        return self.ns

    def cpu_of_this_thread(self) -> Callable[[], int]:
        """The same."""
        return self.thread_ns

    def process_ns(self) -> int:
        """The same."""
        return self.ns - START_NS

    def thread_waits(self) -> int:
        """Nobody ever waits."""
        return 0

    def sleep(self, seconds: float) -> None:
        """Time passes at once."""
        self.spend(int(seconds * 1e9))

    def spend(self, ns: int) -> None:
        """Work takes so long."""
        self.ns += ns


class VirtualKeeper(Keeper):
    """A keeper whose disk is there at once."""

    def __init__(
        self, dead_path: Path, position: PositionFile | None, clock: Clock, wake: Callable[[], None]
    ) -> None:
        super().__init__(dead_path, position, clock, wake)
        self._told = wake

    def _ask(self) -> None:
        self._commit()
        self._told()


class VirtualCommitter(Committer[Owned]):
    """Commits that take virtual time, each at its end. later: calls that so many ns from now."""

    def __init__(
        self,
        clock: Clock,
        wake: Callable[[], None],
        later: Callable[..., None],
        random: Random,
    ) -> None:
        super().__init__(clock, wake)
        self._told = wake
        self._later = later
        self._random = random
        self._under_way: dict[int, tuple[Owned, Batch]] = {}

    def submit(self, owned: Owned, batch: Batch) -> None:
        """Commit a little later; a partition asks again only when this is done."""
        self._under_way[owned.number] = owned, batch
        self._later(self._random.randint(*COMMIT_NS), self._end, owned.number)

    def _end(self, number: int) -> None:
        if number not in self._under_way:  # the process is dead
            return
        owned, batch = self._under_way.pop(number)
        try:
            owned.file.commit(batch)
            self.done.append(owned)
        except Exception as error:  # noqa: BLE001 - the replica raises it in its next step
            self.failure = error
        self._told()

    def die(self) -> None:
        """The process dies: what is under way reaches the disk, or does not."""
        for owned, batch in self._under_way.values():
            if self._random.random() < 0.5:
                owned.file.commit(batch)
        self._under_way.clear()

    def close(self) -> None:
        """Commit what is under way."""
        for number in list(self._under_way):
            self._end(number)

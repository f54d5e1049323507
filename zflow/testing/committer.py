"""The commits of one simulated process on their way to the files, one after the other in each.

Decides how long a commit takes, whether it fails and is tried again, and what a death in the
middle of it leaves in the file: all of it or nothing. Asks the world's onlooker at each.
"""

from collections import deque
from typing import TYPE_CHECKING

from zflow.testing.disk import Disk, Written
from zflow.testing.invariants import Violation

if TYPE_CHECKING:
    from zflow.testing.process import Process

AGAIN_S = 0.05  # after a commit that failed
SYNC_LATER_S = 1.0  # a commit without an fsync of its own


class Committer:
    """See the module. It goes on while the process does; a pause holds it up too."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self._queues: dict[int, deque[Written]] = {}
        self._disks: dict[int, Disk] = {}
        self._heard: list[tuple[int, Written]] = []

    @property
    def busy(self) -> bool:
        """A commit is under way."""
        return any(self._queues.values())

    def add(self, number: int, disk: Disk, written: Written) -> None:
        """One more commit of this partition."""
        queue = self._queues.setdefault(number, deque())
        self._disks[number] = disk
        queue.append(written)
        if len(queue) == 1:
            self._write_in(self._took_s(), number)

    def heard(self) -> list[tuple[int, Written]]:
        """The commits that are stored, since the last time, in order."""
        heard, self._heard = self._heard, []
        for number, _ in heard:
            queue = self._queues[number]
            queue.popleft()
            if queue:
                self._write_in(self._took_s(), number)
        return heard

    def died(self) -> None:
        """Nothing more will be written, except what the disk was already at."""
        for number, queue in self._queues.items():
            if not queue:
                continue
            if queue[0].index:
                self._world.count("died behind a commit")
            elif self._world.random.random() < 0.5:
                if self._store(self._disks[number], queue[0]):
                    self._world.count("died in a commit, which is whole")
                    self._sync_in(0.0, number, queue[0])
            else:
                self._world.count("died in a commit, which is not there")

    def _took_s(self) -> float:
        return self._process.disk_s * (0.5 + self._world.random.random())

    def _write_in(self, wait_s: float, number: int) -> None:
        written = self._queues[number][0]
        self._world.at(self._world.now_s + wait_s, self._write, (number, written))

    def _write(self, number: int, written: Written) -> None:
        process, world = self._process, self._world
        if not process.alive:
            return
        if world.now_s < process.paused_until_s:
            world.at(process.paused_until_s, self._write, (number, written))
            return
        if world.random.random() < process.disk_fails:
            world.count("commit failed")
            self._write_in(AGAIN_S, number)
            return
        disk = self._disks[number]
        if not self._store(disk, written):
            self._refused(disk)
            return
        if disk.full:
            self._sync_in(self._took_s(), number, written)
        else:
            self._tell(number, written)
            self._sync_in(SYNC_LATER_S, number, written)

    def _store(self, disk: Disk, written: Written) -> bool:
        """One transaction."""
        if not disk.accepts(written.fence):
            self._world.count("commit refused by its fence")
            return False
        self._world.effects.commits(disk, written)
        self._world.redrives.commits(disk, written)
        disk.write(written)
        if not disk.full:
            self._world.effects.durable([written])  # or so everybody believes
        self._world.count("finish committed" if written.commit.done else "commit written")
        return True

    def _refused(self, disk: Disk) -> None:
        """Somebody else owns the partition: this process must end."""
        process = self._process
        if not process.zombie:
            raise Violation("I7", f"{process} has lost {disk}, but it is the newest")
        self._world.at(self._world.now_s, self._world.retire, (process,))

    def _sync_in(self, wait_s: float, number: int, written: Written) -> None:
        disk = self._disks[number]
        at_s = self._world.now_s + wait_s
        self._world.at(at_s, self._synced, (disk, disk.losses, number, written))

    def _synced(self, disk: Disk, losses: int, number: int, written: Written) -> None:
        """It is on the disk, unless the power was lost before."""
        if losses != disk.losses:
            return
        fresh = disk.sync(written.index)
        if disk.full:
            self._world.effects.durable(fresh)
            self._tell(number, written)

    def _tell(self, number: int, written: Written) -> None:
        if self._process.alive:
            self._heard.append((number, written))
            self._process.wake(self._world.now_s)

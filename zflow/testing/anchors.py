"""One simulated replica of a durable stage or of an exactly-once sink, on the disks of its world.

Decides when user code applies what is fresh, and when a commit begins; `protocol.anchor` decides
what is fresh and what may be acknowledged, `committer` what becomes of a commit on its way to the
file. An item that fails is tried again in place, so that later units of its partition wait, and in
the end it is a dead letter of this replica's own.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from zflow.ids import Slot
from zflow.protocol.actions import Bury
from zflow.protocol.anchor import Dedupe, Partition
from zflow.protocol.core import OriginSettings
from zflow.protocol.inbox import Portion
from zflow.protocol.keyed import Owners
from zflow.testing.committer import Committer
from zflow.testing.disk import Disk, Written
from zflow.testing.invariants import Violation
from zflow.testing.items import Fate, Item
from zflow.testing.timers import Alarms, Armed
from zflow.testing.topologies import DURABLE, EXACT
from zflow.testing.worker import Worker
from zflow.wire.run import OSEQ, Run, item_span

if TYPE_CHECKING:
    from zflow.testing.process import Process

GROUP_S = 0.02  # what is applied within it is committed together
LOCKED_S = 0.05  # between two looks at a file that somebody else holds
UNDER_WAY = 2  # commits of one partition at once


class Owned:
    """A partition, its file, and what was applied since the last commit was taken.

    since_s: when it was acquired.
    """

    def __init__(self, disk: Disk, partition: Partition, fence: int, since_s: float) -> None:
        self.disk = disk
        self.partition = partition
        self.fence = fence
        self.since_s = since_s
        self.items: list[Item] = []
        self.armed = Armed(disk.contents)
        self.timed = False  # a commit is planned

    @property
    def dirty(self) -> bool:
        """There is something to commit."""
        return self.partition.dirty or self.armed.dirty

    def at_rest(self) -> bool:
        """All that was done is in the file."""
        return not self.dirty and not self.partition.under_way


class AnchorWorker(Worker):
    """A worker whose stage commits."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process)
        self._index = Slot.parse(process.slot).index
        self.owners = Owners(self._stage.partitions, len(self._stage.slots))
        self.owned: dict[int, Owned] = {}
        self.committer = Committer(process)
        self.alarms = Alarms(process, self)
        self._acquired = False
        self._work: Iterator[float] | None = None
        self._buried = True  # the dead letter that the work under way waits for

    # -- acquiring -------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Everything that is its own is acquired, committed and, on a durable stage, finished."""
        durable = self._stage.kind == DURABLE
        return self._acquired and all(
            self.is_mine(own.partition.number)
            and own.at_rest()
            and (own.partition.done or not durable)
            for own in self.owned.values()
        )

    @property
    def committing(self) -> bool:
        """A commit is under way."""
        return self.committer.busy

    def assign(self, generation: int, slots: list[int]) -> None:
        """Who owns what from now on; what has to be given away goes when it is at rest."""
        if self.owners.assign(generation, slots):
            self._acquired = False

    def is_mine(self, number: int) -> bool:
        """By the newest word that came here."""
        return self.owners.slots[number] == self._index

    def _release_all(self) -> None:
        """Let go of what moves, at a commit boundary and once its outputs are settled."""
        if self._portion is not None:
            return
        for number, own in list(self.owned.items()):
            if not self.is_mine(number) and self._at_rest(own):
                self._core.released(number)
                self._release(self.owned.pop(number))

    def _at_rest(self, own: Owned) -> bool:
        """Everything of the partition is in the file, and its outputs are settled."""
        return self._core.partitions[own.partition.number].empty() and own.at_rest()

    def _release(self, own: Owned) -> None:
        own.disk.unlock(self._process)
        self._process.world.count("partition released")

    def _acquire_all(self, now_s: float) -> None:
        for disk in self._process.world.disks_of(self._stage):
            if disk.number in self.owned or not self.is_mine(disk.number):
                continue
            if not disk.lock(self._process):
                self._process.world.count("waited for a partition that somebody held")
                self.due_s = now_s + LOCKED_S
                return
            self._acquire(disk, now_s)
        self._acquired = True

    def _acquire(self, disk: Disk, now_s: float) -> None:
        """Load what the file says; nobody else may commit from now on."""
        world = self._process.world
        self._make_durable(disk)
        contents = disk.contents
        low, following = disk.mark()
        dedupe = Dedupe(contents.watermarks, contents.records)
        partition = Partition(disk.number, dedupe=dedupe, next_oseq=following, done=contents.done)
        self._own(Owned(disk, partition, disk.fence, now_s))
        world.count("partition acquired after finish" if contents.done else "partition acquired")
        if self._stage.kind != DURABLE:
            return
        settings = OriginSettings(origin=disk.origin, stage=self._stage.name, low=low)
        origin = self._core.acquired(disk.number, settings)
        rows = [row for oseq, row in sorted(contents.rows.items()) if oseq >= low]
        if rows:
            world.count("outbox sent again")
            self._produce_at(origin, rows, now_s)

    def _make_durable(self, disk: Disk) -> None:
        """The raised fence is a commit of its own, and takes to the disk what lies before it.

        Without that, a duplicate could be acknowledged of which the only trace is a commit that a
        predecessor wrote and died before it was on the disk.
        """
        if disk.full:
            self._process.world.effects.durable(disk.sync(len(disk.log)))

    def _own(self, own: Owned) -> None:
        self.owned[own.partition.number] = own

    # -- slices ----------------------------------------------------------------------------------

    def advance(self, now_s: float) -> None:
        """Hear of commits first."""
        for number, written in self.committer.heard():
            self._stored(number, written, now_s)
        self._release_all()
        super().advance(now_s)

    def begin(self, now_s: float) -> None:
        """Acquire before anything else; a sink's commits hold up its data thread."""
        if self.due_s != float("inf") or not self._process.alive:
            return
        if not self._acquired:
            self._acquire_all(now_s)
        blocked = self._work is not None or (self._stage.kind == EXACT and self.committer.busy)
        if self._acquired and not blocked:
            self.alarm_s = self.alarms.fire(now_s)
            super().begin(now_s)

    def idle(self) -> bool:
        """Nothing is being applied, and what is its own is here."""
        return self._acquired and self._portion is None and self.due_s == float("inf")

    def _killing(self, portion: Portion) -> bool:
        at = 0
        for run in portion.runs:
            items = portion.items[at : at + run.items]
            at += run.items
            own = self.owned.get(run.partition)
            if own is not None and any(item.fate is Fate.POISON for item in items):
                for begin, end in own.partition.dedupe.fresh(run):
                    first, last = item_span([run], begin, end)
                    if any(item.fate is Fate.POISON for item in items[first:last]):
                        return True
        return False

    def _taken(self, portion: Portion, run: Run, at: int) -> Owned | None:
        """The partition of a run that is to be applied here; None if it was given back."""
        link, first = portion.link, portion.first + at
        stray = link.is_stray(run.partition, first)
        own = self.owned.get(run.partition)
        if own is not None and self.is_mine(run.partition) and not stray:
            return own
        self._core.given_back(link, run.partition, first, run.n)
        self._process.world.count("given back as a stray" if stray else "given back")
        return None

    def _go_on(self, now_s: float) -> None:
        """The slice under way ends, or goes on with an item that waits for its next attempt."""
        self.due_s = float("inf")
        if self._portion is None:
            return  # `begin` looks again at what it has to acquire
        if self._kills:
            self._process.poisoned(now_s)
            return
        if self._work is None:
            self._work = self._apply(self._portion)
        wait_s = next(self._work, None)
        if wait_s is not None:
            self.due_s = now_s + wait_s
            return
        self._work = None
        self._over(now_s)
        if self._stage.kind == EXACT:
            for number in self.owned:
                self._begin_commit(number)

    def _apply(self, portion: Portion) -> Iterator[float]:
        """All runs of a portion, one after the other; gives how long to wait for what."""
        at = place = 0
        for run in portion.runs:
            items = portion.items[place : place + run.items]
            own = self._taken(portion, run, at)
            at += run.n
            place += run.items
            if own is None:
                continue
            stretches = own.partition.dedupe.fresh(run)
            for begin, end in stretches:
                first, last = item_span([run], begin, end)
                yield from self._apply_stretch(own, run, (begin, end), items[first:last])
            self._owe(own, portion, at - run.n, run.n, fresh=bool(stretches))

    def _apply_stretch(
        self, own: Owned, run: Run, span: tuple[int, int], items: list[Item]
    ) -> Iterator[float]:
        good = items
        if any(item.fate is not Fate.WELL for item in items):
            good = []
            for item in items:
                if (yield from self._tried(own, item)):
                    good.append(item)
        stretch = run if span == (0, run.n) else run.cut(*span)
        durable = self._stage.kind == DURABLE
        own.partition.applied(stretch, [row for item in good for row in item.rows if durable])
        own.items += good
        for item in good:
            own.armed.sets(item, self._process.world.now_s, self._process.slot)

    def _tried(self, own: Owned, item: Item) -> Generator[float, None, bool]:
        """Apply one item, as often as is declared; False if it is given up (I16)."""
        assert item.edge is not None, "sources apply nothing"
        settings, world = item.edge.settings, self._process.world
        attempt = 0
        while (code := self._failure(item, attempt)) is not None:
            own.armed.fails(item, world.now_s)
            if code != "error" or attempt == settings.retries:
                break
            world.count("tried again in place")
            yield settings.backoff_s * 2.0**attempt
            attempt += 1
        if code is None:
            return True
        if settings.on_error == "drop":
            return False
        self._bury(item, code, attempt + 1)
        while not self._buried:
            yield float("inf")
        return False

    def _bury(self, item: Item, code: str, attempts: int) -> None:
        """Ask for its dead letter; nothing goes on here before that is committed."""
        assert item.edge is not None, "sources apply nothing"
        assert item.unit is not None, "what was taken has a name"
        self._process.world.count("dead letter of an anchor")
        origin, oseq, path, index = item.unit
        run = Run(origin, path, OSEQ, index, oseq, 1)
        said = (attempts, code, "SimError", "it failed", False)
        self._buried = False
        letter = Bury(0, self._stage.name, item.edge.settings.label, run, [item], *said)
        self._core.bury(letter, self._goes_on)

    def _goes_on(self) -> None:
        """The dead letter is committed."""
        self._buried = True
        self.due_s = self._process.world.now_s

    def _owe(self, own: Owned, portion: Portion, at: int, n: int, *, fresh: bool) -> None:
        """These units of the portion are through here."""
        if own.partition.owes(portion.link, portion.first + at, n):
            if not fresh:
                self._process.world.count("duplicate waited for a commit")
        else:
            self._process.world.count("duplicate acknowledged at once")
            self._core.committed(portion.link, portion.first + at, n)
        if self._stage.kind == DURABLE:
            self.commit_soon(own)

    # -- commits ---------------------------------------------------------------------------------

    def commit_soon(self, own: Owned) -> None:
        """What was done is committed, with what is done in a moment."""
        if own.dirty and not own.timed:
            own.timed = True
            world = self._process.world
            wait_s = GROUP_S * self._random.random()
            world.at(world.now_s + wait_s, self._group_over, (own,))

    def _group_over(self, own: Owned) -> None:
        """What was applied meanwhile is committed together."""
        process = self._process
        if not process.alive:
            return
        if process.world.now_s < process.paused_until_s:
            process.world.at(process.paused_until_s, self._group_over, (own,))
            return
        own.timed = False
        if own is self.owned.get(own.partition.number):
            self._begin_commit(own.partition.number)

    def _begin_commit(self, number: int) -> None:
        own = self.owned[number]
        if own.dirty and len(own.partition.under_way) < UNDER_WAY:
            self.committer.add(number, own.disk, self._take(own))

    def _take(self, own: Owned) -> Written:
        """What was applied since the last time, for the file."""
        origin = self._core.partitions.get(own.partition.number)
        low = origin.low if origin is not None else 0
        commit = own.partition.take(self._core.inbox.watermarks, low)
        if commit.watermarks:
            self._process.world.count("records forgotten")
        items, own.items = own.items, []
        return Written(commit, items, own.fence, *own.armed.take())

    def _stored(self, number: int, written: Written, now_s: float) -> None:
        """A commit is durable: acknowledge its units, send its outputs."""
        own = self.owned[number]
        commit = own.partition.stored()
        if commit is not written.commit:
            raise Violation("I7", f"{own.disk}: commits are told out of order")
        for link, first, n in commit.units:
            self._core.committed(link, first, n)
        self._send(own, written, now_s)
        if self._stage.kind == DURABLE:
            self.commit_soon(own)

    def _send(self, own: Owned, written: Written, now_s: float) -> None:
        """The outputs of a commit leave."""
        commit = written.commit
        if commit.outputs:
            origin = self._core.partitions[own.partition.number]
            if origin.next != commit.first:
                raise Violation("I6", f"{own.disk}: sends {commit.first} as {origin.next}")
            self._produce_at(origin, commit.outputs, now_s)

    # -- the end ---------------------------------------------------------------------------------

    def finish(self) -> None:
        """All that will ever come has been applied: once per partition, the last outputs."""
        world = self._process.world
        for number, own in self.owned.items():
            if not own.partition.done:
                own.partition.finished(world.finals[self._stage.index, number])
                self.commit_soon(own)
                world.nemesis.finishes(self._process)

    def died(self, now_s: float) -> None:
        """What is being written may be in the file or not."""
        self.committer.died()

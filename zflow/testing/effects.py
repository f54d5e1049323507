"""What must hold of the files of anchors, whatever the faults.

Decides only whether it holds. Each check names the invariant it is part of:

| I1  | what an anchor called durable is in its file at the end, and timers that wait   |
| I5  | every item is applied at most once, over all owners and crashes, and finish too |
| I5  | a timer fires at most once, when it is set by an item that is applied, and due  |
| I6  | a watermark is never above the true low mark, and never falls in a file         |
| I7  | a commit is accepted only with the current fence                                |
| I14 | straight from an origin, items of a partition are applied in the order of oseq  |
| I17 | at the end no outbox row is open and every durable partition has finished       |
"""

from collections.abc import Iterable

from zflow.state.entries import unpack_row
from zflow.testing.disk import Disk, Written
from zflow.testing.invariants import Violation
from zflow.testing.items import Fate, Item, Timer
from zflow.testing.topologies import DURABLE, SOURCE, Topology


class Effects:
    """The onlooker's books of everything that anchors have committed in one world."""

    def __init__(self, topology: Topology, items: Iterable[Item]) -> None:
        self.applied: set[Item] = set()
        self.rows: dict[int, list[Item]] = {}  # of each origin, by oseq
        self._lows: dict[int, int] = {}  # below it everything was found durable
        self.alarms: dict[Disk, dict[int, tuple[Timer, float]]] = {}  # set and not fired, by key
        self._tops: dict[tuple[Disk, int, int], int] = {}  # by edge and origin: highest applied
        self._stages = topology.stages
        origins = {stage.index for stage in topology.stages if stage.kind in (SOURCE, DURABLE)}
        self._straight = {
            edge.number
            for stage in topology.stages
            if stage.anchor
            for edge in stage.ins
            if edge.source in origins
        }
        # One item that cannot be read sends all of its message back, to come again later.
        self._straight -= {i.edge.number for i in items if i.edge and i.fate is Fate.UNREADABLE}

    # -- low marks -------------------------------------------------------------------------------

    def low(self, origin: int, low: int, who: object) -> None:
        """Somebody takes everything of the origin below `low` for settled (I6)."""
        begin = self._lows.get(origin, 0)
        if low <= begin:
            return
        rows = self.rows.get(origin, ())
        if low > len(rows):
            raise Violation("I6", f"{who}: mark {low} of {origin:x}, which has {len(rows)} items")
        for oseq in range(begin, low):
            if rows[oseq].owed:
                raise Violation("I6", f"{who}: mark {low}, but {oseq} is open: {rows[oseq]}")
        self._lows[origin] = low

    def stated(self, marks: list[int], who: object) -> None:
        """A heartbeat carries these marks."""
        for at in range(0, len(marks), 2):
            self.low(marks[at], marks[at + 1], who)

    # -- commits ---------------------------------------------------------------------------------

    def commits(self, disk: Disk, written: Written) -> None:
        """The file is about to take this."""
        contents, commit = disk.contents, written.commit
        if contents.done and (written.items or written.alarms or commit.done):
            raise Violation("I5", f"{disk}: something was applied after finish: {written.items}")
        for item in written.items:
            self._applies(disk, item)
        for origin, mark in commit.watermarks.items():
            if mark < contents.watermarks.get(origin, 0):
                raise Violation("I6", f"{disk}: the mark of {origin:x} falls to {mark}")
            self.low(origin, mark, disk)
        self._outputs(disk, written)
        self._alarmed(disk, written)
        if written.fence != disk.fence:
            raise Violation("I7", f"{disk}: fence {written.fence} commits under {disk.fence}")

    def _applies(self, disk: Disk, item: Item) -> None:
        if item in self.applied:
            raise Violation("I5", f"{disk}: applied a second time: {item}")
        self.applied.add(item)
        assert item.edge is not None, "only what came over an edge is applied"
        if item.stage != disk.stage.index or max(item.partition, 0) != disk.number:
            raise Violation("I7", f"{disk}: applied in a partition that is not its own: {item}")
        if item.edge.number in self._straight:
            self._in_order(disk, item.edge.number, item)

    def _in_order(self, disk: Disk, edge: int, item: Item) -> None:
        assert item.unit is not None, "what was taken has a name"
        origin, oseq, _, _ = item.unit
        top = self._tops.get((disk, edge, origin), -1)
        if oseq <= top:
            raise Violation("I14", f"{disk}: {oseq} applied behind {top}: {item}")
        self._tops[disk, edge, origin] = oseq

    def _outputs(self, disk: Disk, written: Written) -> None:
        """I6: outputs are numbered without gaps, and only settled ones leave the outbox."""
        commit = written.commit
        rows = self.rows[disk.origin]
        if commit.first != len(rows) or commit.low < disk.contents.low:
            raise Violation("I6", f"{disk}: outputs from {commit.first} behind {len(rows)}")
        rows.extend(commit.outputs)
        self.low(disk.origin, commit.low, disk)

    def _alarmed(self, disk: Disk, written: Written) -> None:
        """I5: a timer fires once, not before its item is applied and its time has come."""
        for key, timer, at_s in written.alarms:
            if timer is not None and timer.item not in self.applied:
                raise Violation(
                    "I5", f"{disk}: a timer is set by what is not applied: {timer.item}"
                )
            fired = self._alarm(disk, key, timer, at_s)
            if timer is not None:
                continue
            if fired is None:
                raise Violation("I5", f"{disk}: a timer fires that is not set: {key}")
            if at_s < fired[1]:
                raise Violation("I5", f"{disk}: a timer of {fired[1]} s fires at {at_s} s")
            if not set(fired[0].rows) <= set(written.commit.outputs):
                raise Violation(
                    "I6", f"{disk}: the outputs of a timer are not in its commit: {key}"
                )

    def _alarm(
        self, disk: Disk, key: int, timer: Timer | None, at_s: float
    ) -> tuple[Timer, float] | None:
        """What was set for the key until now."""
        alarms = self.alarms.setdefault(disk, {})
        before = alarms.pop(key, None)
        if timer is not None:
            alarms[key] = timer, at_s
        return before

    @staticmethod
    def durable(commits: Iterable[Written]) -> None:
        """They are on the disk: whoever sent the items may hear of it."""
        for written in commits:
            for item in written.items:
                item.settle()

    def gone(self, disk: Disk, commits: list[Written]) -> None:
        """A power loss has taken these back."""
        for written in commits:
            self.applied.difference_update(written.items)
        self._tops = {name: top for name, top in self._tops.items() if name[0] is not disk}
        for item in (item for written in disk.log for item in written.items):
            if item.edge is not None and item.edge.number in self._straight:
                self._in_order(disk, item.edge.number, item)
        del self.rows[disk.origin][disk.contents.next :]
        self.alarms.pop(disk, None)
        for written in disk.log:
            for alarm in written.alarms:
                self._alarm(disk, *alarm)

    # -- the end ---------------------------------------------------------------------------------

    def ended(self, disks: Iterable[Disk], items: Iterable[Item], dead: set[Item]) -> None:
        """Everything has drained."""
        for disk in disks:
            self.low(disk.origin, disk.contents.next, disk)
            if disk.stage.kind == DURABLE and not disk.contents.done:
                raise Violation("I17", f"{disk} has not finished")
            left = dict(unpack_row(raw, row)[:2] for raw, row in disk.contents.timers.items())
            wanted = {key: due_s for key, (_, due_s) in self.alarms.get(disk, {}).items()}
            if left != wanted:
                raise Violation("I1", f"{disk}: its timers are {left}, and should be {wanted}")
        for item in items:
            anchored = item.edge is not None and self._stages[item.stage].anchor
            if anchored and item.done and item not in dead and item not in self.applied:
                raise Violation("I1", f"it was durable, and is gone: {item}")

"""Anchors, keyed edges and what is stored of both, without the protection that they are there for.

Decides nothing; `mutants` puts these in place. Each says what it no longer does by its name, and
does everything else as the original does.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from zflow.hashing import mix64
from zflow.intervals import Range
from zflow.protocol.anchor import Applied, Commit, Dedupe, Partition
from zflow.protocol.core import Core
from zflow.protocol.identity import Brancher
from zflow.protocol.keyed import KeyedOutbox
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.testing.anchors import AnchorWorker, Owned
from zflow.testing.disk import Disk, Written
from zflow.testing.ending import Ending
from zflow.testing.items import Item
from zflow.testing.topologies import FILTER, FLAT, MAP, STREAM, Stage
from zflow.testing.worker import Worker
from zflow.testing.world import Seat
from zflow.wire.run import OSEQ, RESENT, Run

_dedupe = Dedupe.__init__
_stored = Partition.stored
_keyed = Brancher.keyed
_queue_of = KeyedOutbox._queue_of
_take = AnchorWorker._take
_send = AnchorWorker._send
_bury = AnchorWorker._bury
_low_marks = Core._watermarks


# --- what was applied ---------------------------------------------------------------------------


def fresh_unmarked(self: Dedupe, run: Run) -> list[Range]:
    """Look only at what is remembered, not at the watermark."""
    known = self._seen.get(run.origin, {}).get((run.path, run.axis, run.fixed))
    fresh = [p for p in range(run.n) if known is None or run.number(p) not in known]
    return [(p, p + 1) for p in fresh]


def dedupe_of_nothing(
    self: Dedupe, watermarks: Mapping[int, int] | None = None, applied: Iterable[Applied] = ()
) -> None:
    """Begin without the records of the file."""
    _dedupe(self, watermarks)


def stored_and_forgotten(self: Partition) -> Commit:
    """Forget units when they are acknowledged."""
    commit = _stored(self)
    for record in commit.applied:
        self.dedupe._seen.pop(record.origin, None)
        self.dedupe._axes.pop(record.origin, None)
    return commit


def highest_settled(self: Core) -> Iterator[tuple[int, int]]:
    """State the highest settled position of an origin, whatever is open below it."""
    ends = {o.origin: max((end for _, end in o._settled), default=o.low) for o in self._origins()}
    for origin, low in _low_marks(self):
        yield origin, ends.get(origin, low)


# --- commits ------------------------------------------------------------------------------------


def accept_any_fence(self: Disk, fence: int) -> bool:
    """Take commits from everybody."""
    return True


def owe_nothing(self: Partition, owner: Any, first: int, n: int) -> bool:
    """Acknowledge what was applied before it is committed."""
    return False


def owe_open_only(self: Partition, owner: Any, first: int, n: int) -> bool:
    """Do not wait for a commit under way."""
    if not self.dirty:
        return False
    self._open.units.append((owner, first, n))
    return True


def finished_unmarked(self: Partition, outputs: list[Any]) -> None:
    """Commit what `finish` made, but not that it has run."""
    self._open.outputs += outputs
    self.done = True


def take_and_send(self: AnchorWorker, own: Owned) -> Written:
    """Send outputs when their commit begins."""
    written = _take(self, own)
    _send(self, own, written, self._process.world.now_s)
    return written


def send_nothing(self: AnchorWorker, own: Owned, written: Written, now_s: float) -> None:
    """The counterpart of `take_and_send`."""
    return


def take_and_count(self: AnchorWorker, own: Owned) -> Written:
    """Remember how far outputs are numbered in memory, for `low_in_memory`."""
    written = _take(self, own)
    origin = self._core.partitions.get(own.partition.number)
    if origin is not None:
        origin.__dict__["numbered"] = own.partition.next
    return written


def low_in_memory(self: Core) -> Iterator[tuple[int, int]]:
    """An empty outbox has its low mark at the next number, committed or not."""
    numbered = {
        origin.origin: origin.__dict__.get("numbered", origin.low)
        for origin in self.partitions.values()
        if origin.empty()
    }
    for origin, low in _low_marks(self):
        yield origin, max(low, numbered.get(origin, low))


def mark_of_rows(self: Disk) -> tuple[int, int]:
    """Derive the next number from the rows that are left."""
    rows = self.contents.rows
    following = max(rows) + 1 if rows else 0
    return min(self.contents.low, following), following


def mark_at_end(self: Disk) -> tuple[int, int]:
    """Send no rows again."""
    return self.contents.next, self.contents.next


def leave_unsynced(self: AnchorWorker, disk: Disk) -> None:
    """Raise the fence in memory only."""
    return


def bury_nothing(self: AnchorWorker, item: Item, code: str, attempts: int) -> None:
    """Leave out what cannot be applied, and say nothing of it."""
    self._buried = True


def bury_unawaited(self: AnchorWorker, item: Item, code: str, attempts: int) -> None:
    """Ask for a dead letter, and go on before it is committed."""
    _bury(self, item, code, attempts)
    self._buried = True


def same_origin(self: Seat) -> int:
    """Every incarnation is the same origin."""
    return self.origin


def finish_at_once(self: Ending, stage: Stage, over: dict[int, bool]) -> bool:
    """Finish whenever nothing is open here."""
    return True


# --- edges --------------------------------------------------------------------------------------


def queue_of_anybody(self: KeyedOutbox, segment: Segment) -> Any:
    """Send again to whichever slot comes next."""
    if segment.runs[0].flags & RESENT:
        return self._lanes[segment.runs[0].number(0) % len(self._lanes)]
    return _queue_of(self, segment)


def to_back(self: Outbox, segments: list[Segment]) -> None:
    """What comes back queues behind what was never sent."""
    for segment in segments:
        self._queue_of(segment).append(segment)
        self.queued += segment.n


def place_anew(self: Worker, kid: Item) -> int:
    """A stage between origin and anchor gives another key when it is executed again."""
    if self._stage.kind not in (MAP, FILTER, FLAT, STREAM) or kid.edge is None:
        return kid.partition
    placed: set[Item] = self._process.world.__dict__.setdefault("placed", set())
    if kid in placed:
        return (kid.partition + 1) % kid.edge.settings.partitions
    placed.add(kid)
    return kid.partition


# --- names --------------------------------------------------------------------------------------


def keyed_without_partition(
    self: Brancher,
    run: Run,
    positions: list[int],
    partition: int,
    *,
    part: int = 0,
    counts: list[int] | None = None,
) -> Run:
    """Name what goes to several partitions alike."""
    made = _keyed(self, run, positions, partition, part=part, counts=counts)
    return replace(made, path=mix64(run.path, self._edge, part))


def keyed_without_part(
    self: Brancher,
    run: Run,
    positions: list[int],
    partition: int,
    *,
    part: int = 0,
    counts: list[int] | None = None,
) -> Run:
    """Name all parts of what one input yields to a partition alike."""
    return _keyed(self, run, positions, partition, counts=counts)


def keyed_without_index(
    self: Brancher,
    run: Run,
    positions: list[int],
    partition: int,
    *,
    part: int = 0,
    counts: list[int] | None = None,
) -> Run:
    """Number the units of one source item from 0 in every run."""
    made = _keyed(self, run, positions, partition, part=part, counts=counts)
    if made.axis == OSEQ:
        return replace(made, fixed=0)
    return replace(made, start=0, numbers=None)


def keyed_without_counts(
    self: Brancher,
    run: Run,
    positions: list[int],
    partition: int,
    *,
    part: int = 0,
    counts: list[int] | None = None,
) -> Run:
    """Do not say how many items a unit has."""
    return _keyed(self, run, positions, partition, part=part)

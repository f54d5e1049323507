"""Runs sink classes: many items in one call, and item by item when the call fails.

Decides what is a duplicate before a sink with `commit` sees it, and which progress rows are stored
beside the items. A sink's own store is the only memory of what it has taken.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from zflow.errors import Superseded, Unavailable
from zflow.log import Repeating
from zflow.protocol.anchor import Applied, Dedupe
from zflow.protocol.inbox import Portion
from zflow.replica.worker import StageWorker
from zflow.wire.run import Run

WRITE_NS = 20_000_000  # of one call: what it costs to commit is paid once
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0

_WATERMARK, _APPLIED = b"w", b"a"  # begin the keys of progress rows; never changed
_ENCODER = msgspec.msgpack.Encoder()
_NAME = msgspec.msgpack.Decoder(tuple[int, int, int, int, int])
_NUMBERS = msgspec.msgpack.Decoder(list[tuple[int, int]])
_MARK = msgspec.msgpack.Decoder(tuple[int, int])

Units = list[tuple[Run, list[Any]]]
Row = tuple[bytes, bytes | None]


def ids_of(run: Run) -> list[str]:
    """The names of a run's units, as `context.item_id` gives them."""
    names = []
    for origin, oseq, path, index in run.units():
        names.append(f"{origin:016x}-{oseq}-{path:016x}-{index}")
    return names


class BatchSinkWorker(StageWorker):
    """Sink classes with `write(items)`: a slice at once, item by item if the slice fails."""

    portion_ns = WRITE_NS
    _not_theirs: tuple[type[Exception], ...] = ()  # what is no fault of an item

    def _write(self, portion: Portion, begin: int, end: int) -> None:
        self._call(portion.items[begin:end])

    def _call_all(self, portion: Portion, begin: int, results: list[Any]) -> BaseException | None:
        if begin == 0 and portion.n > 1:
            try:
                self._write(portion, 0, portion.n)
                results.extend([None] * portion.n)
                return None
            except self._not_theirs:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the single calls tell whose
                self.bench.context.logger.info("not written at once, item by item: %s", error)
        for position in range(begin, portion.n):
            self.bench.context.at(portion, position)
            try:
                self._write(portion, position, position + 1)
            except self._not_theirs:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
                return error
            results.append(None)
        return None


class UpsertSinkWorker(BatchSinkWorker):
    """Sink classes with `upsert(items, ids)`: an item that comes again has the same id."""

    def _write(self, portion: Portion, begin: int, end: int) -> None:
        ids = [name for run in portion.runs for name in ids_of(run)]
        self._call(portion.items[begin:end], ids[begin:end])


class CommitSinkWorker(BatchSinkWorker):
    """Sink classes with `commit(items, ids, progress)`: what was applied is stored beside it.

    A store that cannot be written now is tried again with the same portion, for ever; one that
    somebody else has taken over ends the process.
    """

    _progress: "Progress | None" = None  # None until it is asked for, again after a failure
    _not_theirs = (Unavailable,)
    _repeating: Repeating | None = None
    _portion: Portion | None = None
    _due_s = 0.0
    _wait_s = RETRY_FIRST_S

    def slice(self) -> bool:
        """First what could not be stored, if its time has come."""
        bench = self.bench
        if self._portion is None:
            return super().slice()
        if bench.clock.now_s() < self._due_s:
            return False
        portion, self._portion = self._portion, None
        began_ns = bench.clock.now_ns()
        bench.black_box.enter(portion.runs, alone=portion.n == 1, now_ns=began_ns)
        bench.entered(True)
        self._run(portion)
        bench.entered(False)
        self._account(portion, began_ns, bench.clock.now_ns())
        return True

    def due_s(self) -> float:
        """When the portion that could not be stored is tried again."""
        return self._due_s if self._portion is not None else super().due_s()

    def settled(self) -> bool:
        """Nothing waits for the store."""
        return self._portion is None

    def _take(self, now_ns: int) -> Portion | None:
        return None if self._portion is not None else super()._take(now_ns)

    def _account(self, portion: Portion, began_ns: int, ended_ns: int) -> None:
        if self._portion is None:
            super()._account(portion, began_ns, ended_ns)
        else:  # it is not through
            self.bench.black_box.leave()

    def _known(self) -> "Progress":
        if self._progress is None:
            self._progress = Progress(self.bench.context.instance.load_progress())
        return self._progress

    def _run(self, portion: Portion) -> None:
        try:
            super()._run(portion)
            self._wait_s = RETRY_FIRST_S
        except Superseded:
            raise
        except Unavailable as error:
            if self._repeating is None:
                self._repeating = Repeating(self.bench.context.logger, self.bench.clock)
            self._repeating.warning(
                "cannot commit: %s; nothing is lost, the sink waits and tries again", error
            )
            self._portion = portion
            self._due_s = self.bench.clock.now_s() + self._wait_s
            self._wait_s = min(RETRY_MAX_S, 2 * self._wait_s)

    def _write(self, portion: Portion, begin: int, end: int) -> None:
        if portion.link.key[0] in self.bench.unmarked:
            ids = [name for run in portion.runs for name in ids_of(run)]
            self._call(portion.items[begin:end], ids[begin:end], [])
            return
        progress = self._known()
        fresh, rows, at = [], list[Row](), 0
        for run in portion.runs:
            low, high = max(begin - at, 0), min(end - at, run.n)
            if low < high:
                part = run.cut(low, high)
                for first, last in progress.dedupe.fresh(part):
                    items = portion.items[at + low + first : at + low + last]
                    fresh.append((part.cut(first, last), items))
                    # At once: a later run of the same portion may bring the same unit, when the
                    # stage before had it from two replicas.
                    rows.append(progress.applied(part.cut(first, last)))
            at += run.n
        applied = sum(run.n for run, _ in fresh)
        self.bench.counters.duplicates += end - begin - applied
        if not fresh:
            return
        rows += progress.raised(self.bench.reactor.core.inbox.watermarks)
        try:
            self._call(
                [item for _, items in fresh for item in items],
                [name for run, _ in fresh for name in ids_of(run)],
                rows,
            )
        except BaseException:
            self._progress = None  # what the sink has stored counts, not what was about to be
            raise


class Progress:
    """What a sink has applied, as the rows that it stores tell."""

    def __init__(self, rows: list[tuple[bytes, bytes]]) -> None:
        marks: dict[int, int] = {}
        applied: list[Applied] = []
        self._rows: dict[int, list[tuple[int, bytes]]] = {}  # origin -> top and key of each
        for key, value in rows:
            if key[:1] == _WATERMARK:
                origin, low = _MARK.decode(value)
                marks[origin] = low
            elif key[:1] == _APPLIED:
                origin, path, axis, fixed, _ = _NAME.decode(key[1:])
                record = Applied(
                    origin=origin, path=path, axis=axis, fixed=fixed, ranges=_NUMBERS.decode(value)
                )
                applied.append(record)
                self._rows.setdefault(origin, []).append((record.top, key))
        self.dedupe = Dedupe(marks, applied)

    def applied(self, run: Run) -> Row:
        """What is stored beside the items of this run."""
        record = self.dedupe.add(run)
        name = (record.origin, record.path, record.axis, record.fixed, record.ranges[0][0])
        key = _APPLIED + _ENCODER.encode(name)
        self._rows.setdefault(record.origin, []).append((record.top, key))
        return key, _ENCODER.encode(record.ranges)

    def raised(self, watermarks: dict[int, int]) -> list[Row]:
        """The watermarks that have risen, and what goes because it is below."""
        rows: list[Row] = []
        for origin, low in self.dedupe.raise_to(watermarks).items():
            rows.append((_WATERMARK + origin.to_bytes(8, "big"), _ENCODER.encode((origin, low))))
            rows.extend((key, None) for key in self._below(origin, low))
        return rows

    def _below(self, origin: int, low: int) -> Iterator[bytes]:
        kept = []
        for top, key in self._rows.get(origin, []):
            if top < low:
                yield key
            else:
                kept.append((top, key))
        self._rows[origin] = kept

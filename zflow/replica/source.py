"""Runs a source: pulls items out of the user's generator and hands them to the core.

Decides how many items to pull before looking up, and where to begin again. The generator may
block for ever: what it has yielded lies in a deque that the control thread can empty meanwhile.
"""

import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from zflow.clock import Clock
from zflow.errors import StageError
from zflow.replica.emit import WhenError
from zflow.replica.timebook import PULLING
from zflow.replica.worker import SLICE_NS, Bench, Worker, describe
from zflow.state.positions import Mark, Position
from zflow.wire.codec import checksum_bytes, dump_item, load_item

CHUNK_NS = 250_000  # what is pulled before it is sent
MAX_CHUNK_ITEMS = 4096
FORGETTING = 0.8  # per pull, of the worst time an item took
MAX_BACKOFF_S = 30.0
SKIP_ITEMS = 65_536

_END = object()


class SourceChanged(StageError):
    """The replayed source does not give the item that was settled at that place."""


def checksum(item: Any) -> int:
    """32 bits of an item, never 0; 0 if the item has no stable bytes."""
    raw = checksum_bytes(item)
    return 0 if raw is None else zlib.crc32(raw) or 1


def _read_over(iterator: Iterator[Any], count: int) -> deque[Any]:
    """Read so many items and keep the last one, if there are any."""
    last: deque[Any] = deque(maxlen=1)
    for begin in range(0, count, SKIP_ITEMS):
        last.extend(itertools.islice(iterator, min(SKIP_ITEMS, count - begin)))
    return last


class _Effort:
    """What a pull takes: its wall time if it waited for something, else its CPU time.

    On a busy machine a thread is preempted for milliseconds at a time; that says nothing about how
    long the next item will take.
    """

    __slots__ = ("_began_ns", "_clock", "_cpu_ns", "_waits")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits = clock.thread_waits()
        self._cpu_ns = clock.thread_ns()
        self._began_ns = clock.now_ns()

    def end(self) -> tuple[int, bool]:
        """(what it took since it was made, by the same thread; whether it waited)."""
        if self._clock.thread_waits() != self._waits:
            return self._clock.now_ns() - self._began_ns, True
        return self._clock.thread_ns() - self._cpu_ns, False


class _SourceMark:
    """Where the source was behind one item, and how to recognise that item again."""

    __slots__ = ("_item", "checksum", "place")

    def __init__(self, place: bytes | None, item: Any) -> None:
        self.place = place
        self.checksum = 0
        self._item = item

    def complete(self) -> None:
        """Take the checksum and let go of the item."""
        self.checksum = checksum(self._item)
        self._item = None


class SourceWorker(Worker):
    """One source replica.

    begin: makes a fresh iterator; its argument is the number of settled items, or the source's
    own position. skips: the iterator begins at 0 whatever it is told, so settled items are read
    and thrown away. place: the source's `position()`, or None.
    """

    def __init__(
        self,
        bench: Bench,
        begin: Callable[[Any], Iterator[Any]],
        *,
        position: Position,
        skips: bool,
        place: Callable[[], Any] | None,
        retries: int,
        backoff_s: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.bench = bench
        self.ended = position.ended
        self.draining = False
        self.paused = False  # nothing is pulled, and it has not ended
        self._begin = begin
        self._position = position
        self._skips = skips
        self._place = place
        self._retries = retries
        self._backoff_s = backoff_s
        self._failed = failed
        self._raised = 0
        self._again_s = 0.0
        self._chunk = 1
        self._item_ns = 0.0  # what an item takes, at worst lately
        self._iterator: Iterator[Any] | None = None
        self._pulled: deque[Any] = deque()
        self._gathered = False  # what is in it was copied where its maker could still change it
        self._collected = 0  # of the pull under way, by the control thread
        self._marks: list[_SourceMark] = []

    # -- pulling -----------------------------------------------------------------------------

    def slice(self) -> bool:
        """Pull and send for about 2 ms; False if there is nothing to pull now."""
        bench = self.bench
        core = bench.reactor.core
        began_ns = now_ns = bench.clock.now_ns()
        worked = False
        while now_ns - began_ns < SLICE_NS:
            held_up = self.paused or now_ns / 1e9 < self._again_s or core.full()
            if self.ended or self.draining or held_up:
                core.source_ended = self.ended or self.draining
                break
            worked = True
            bench.counters.time.enter(PULLING)
            effort = _Effort(bench.clock)
            self._pull()
            took_ns, waited = effort.end()
            bench.counters.time.leave(waited=waited)
            ended_ns = bench.clock.now_ns()
            with bench.reactor.lock:
                items = list(self._pulled)
                self._pulled.clear()
                if core.source_ended:
                    # A drain ended it while its code ran, and everything may have been called
                    # settled since. A resume gives these items again.
                    self.draining = True
                    break
                self._hand_over(items, ended_ns)
                bench.reactor.flush()
                self._complete_marks()
                core.source_ended = self.ended
            bench.counters.worked(len(items) + self._collected, took_ns)
            self._collected = 0
            self._adapt(len(items), took_ns)
            now_ns = bench.clock.now_ns()
        return worked

    def _pull(self) -> None:
        """The user's code; the only place where a source can block."""
        self.bench.entered(True)
        try:
            if self._iterator is None:
                self._iterator = self._start()
            self._pull_chunk(itertools.islice(self._iterator, self._chunk))
            self._note_progress()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - around the user's function
            self._iterator = None
            self._note_progress()
            self._raise_or_retry(error)
        finally:
            self.bench.entered(False)

    def _note_progress(self) -> None:
        """Retries are counted from the last item that came."""
        if self._pulled:
            self._raised = 0

    def _pull_chunk(self, pulled: Iterator[Any]) -> None:
        emitter = self.bench.emitter
        self._gathered = emitter.careful
        if self._gathered:
            emitter.gather(pulled, self._pulled.append)
            return
        try:
            self._pulled.extend(pulled)
        finally:
            with self.bench.reactor.lock:  # the control thread takes from it, item by item
                if emitter.surprised(list(self._pulled)):
                    self._pulled.clear()
                    self._iterator = None  # begin again behind what was handed over

    def _adapt(self, items: int, took_ns: int) -> None:
        """Pull as many as 250 microseconds give.

        One slow item counts at once, fast ones only bit by bit: a paced source that catches up
        for a moment would otherwise be asked for many, and block with the first in hand.
        """
        if items:
            self._item_ns = max(took_ns / items, self._item_ns * FORGETTING)
            fitting = int(CHUNK_NS / max(self._item_ns, 1.0))
            self._chunk = max(1, min(4 * self._chunk, fitting, MAX_CHUNK_ITEMS))

    def collect(self, now_ns: int) -> None:
        """Hand over what has been yielded while the generator still runs. Under the lock, from
        the control thread: one by one, since the other thread may be adding."""
        if not self._gathered and self.bench.emitter.surprised(list(self._pulled)):
            return  # the generator may be writing into them; they are thrown away
        self._note_progress()
        count = len(self._pulled)
        self._collected += count
        self._hand_over([self._pulled.popleft() for _ in range(count)], now_ns)
        self._complete_marks()

    def waiting(self) -> bool:
        """Something has been yielded and not been handed over."""
        return bool(self._pulled)

    # -- handing over ------------------------------------------------------------------------

    def _hand_over(self, items: list[Any], now_ns: int) -> None:
        if items and items[-1] is _END:
            items.pop()
            self.ended = True
        if not items:
            return
        self.bench.counters.received += len(items)
        self._produce(items, now_ns)

    def _produce(self, items: list[Any], now_ns: int) -> None:
        """Give items their numbers, around those whose `when=` or `key=` raised."""
        bench, core = self.bench, self.bench.reactor.core
        while items:
            try:
                outputs = bench.emitter.route(items)
            except WhenError as error:
                at = error.position
                self._produce(items[:at], now_ns)  # another edge may still object
                cause = error.__cause__ or error
                bench.counters.failed(cause)
                name, text = describe(cause)
                core.produced_bad("final", name, text, self._mark(items[at]))
                items = items[at + 1 :]
                continue
            core.produced(outputs, len(items), now_ns, self._mark(items[-1]))
            bench.counters.processed += len(items)
            bench.counters.filtered += bench.emitter.nothing
            return

    def _mark(self, last: Any) -> "_SourceMark":
        """The end of what was pulled. Its checksum is made once the items are on their way."""
        place = dump_item(self._place()) if self._place is not None else None
        mark = _SourceMark(place, last)
        self._marks.append(mark)
        return mark

    def _complete_marks(self) -> None:
        for mark in self._marks:
            mark.complete()
        self._marks.clear()

    def mark(self) -> Mark | None:
        """The newest settled mark, as it is stored."""
        origin = self.bench.reactor.core.origin
        if origin is None or origin.mark is None:
            return None
        end, mark = origin.mark
        return Mark(end=end, checksum=mark.checksum, place=mark.place)

    # -- beginning again ---------------------------------------------------------------------

    def _start(self) -> Iterator[Any]:
        """An iterator that stands behind the items which were yielded before, then `_END`."""
        origin = self.bench.reactor.core.origin
        assert origin is not None
        mark = self.mark() or self._position.mark
        if self._place is not None:
            place = load_item(mark.place) if mark is not None and mark.place is not None else None
            iterator = self._begin(place)
            self._skip(iterator, origin.next - (mark.end if mark is not None else 0), None)
        elif self._skips:
            iterator = self._begin(0)
            self._skip(iterator, origin.next, mark)
        else:
            iterator = self._begin(origin.next)
        return itertools.chain(iterator, (_END,))

    def _skip(self, iterator: Iterator[Any], count: int, mark: Mark | None) -> None:
        """Read `count` settled items again, and compare the one that left a checksum."""
        check = mark.end if mark is not None and mark.checksum and mark.end <= count else 0
        last = _read_over(iterator, check)
        if check and mark is not None and (checksum(last[0]) if last else 0) != mark.checksum:
            raise SourceChanged(
                f"the source changed: item {check - 1} is not the one that was settled "
                "before; a source must give the same items again, or take `resume`"
            )
        _read_over(iterator, count - check)

    def _raise_or_retry(self, error: BaseException) -> None:
        bench = self.bench
        bench.counters.failed(error)
        if isinstance(error, SourceChanged) or self._raised >= self._retries:
            self.draining = True  # for the rest of this slice; the replica knows from now on
            self.draining = True
            self._failed(error)
            return
        wait_s = min(MAX_BACKOFF_S, self._backoff_s * 2.0**self._raised)
        self._raised += 1
        bench.counters.retried += 1
        self._again_s = bench.clock.now_s() + wait_s
        bench.context.logger.warning(
            "the source raised %s: %s; it starts again in %.1f s (%d of %d)",
            type(error).__name__,
            error,
            wait_s,
            self._raised,
            self._retries,
        )

    def due_s(self) -> float:
        """When a source that raised is called again."""
        waiting = self._again_s > self.bench.clock.now_s()
        return self._again_s if waiting else float("inf")

"""Runs generator stages: any number of outputs per input, streamed when there are many.

Decides when outputs leave: those of a stretch of inputs together, so that what goes to one
partition travels as one run; those of an input that yields very many before it has ended.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from zflow.protocol.inbox import Portion
from zflow.protocol.outputs import Output
from zflow.protocol.task import Task
from zflow.replica.emit import WhenError
from zflow.replica.scatter import Scatter
from zflow.replica.worker import StageWorker, describe

STREAM_ITEMS = 1024  # outputs of one input kept back before they may leave early


class Stream:
    """An input whose outputs leave while its generator goes on. ordinal: of its next output."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.ordinal = 0
        self.scatters: dict[int, Scatter] = {}


class GivesYields(StageWorker):
    """How what generators yield goes to the core."""

    _nothing = 0  # inputs of the stretch that have yielded nothing

    def _leave(self, portion: Portion, begin: int, done: list[list[Output]]) -> None:
        """Outputs of some inputs that have yielded their last, in one task."""
        if not done:
            return
        core = self.bench.reactor.core
        scatters: dict[int, Scatter] = {}
        with self.bench.reactor.lock:
            task = core.open_tasks(portion, begin, begin + len(done))
            for at, outputs in enumerate(done):
                self._hand_over_yields(task, portion, begin + at, outputs, 0, scatters)
            for scatter in scatters.values():
                core.yielded_to(task, portion, begin, scatter.edge, scatter.take(full=False))
            core.done(task)
            self.bench.counters.processed += len(done)
            self.bench.counters.filtered += self._nothing
        self._nothing = 0

    def _hand_over_yields(
        self,
        task: Task,
        portion: Portion,
        position: int,
        outputs: list[Output],
        ordinal: int,
        scatters: dict[int, Scatter],
    ) -> None:
        """Some of what one input yielded, from that ordinal on. Under the lock."""
        at = portion.first + position - task.first
        for output in outputs:
            if output.partitions is not None:
                scatter = scatters.setdefault(output.edge, Scatter(output.edge))
                if ordinal == 0:
                    scatter.begin()
                scatter.add(at, output)
            elif output.items:
                ordinals = _ordinals(ordinal, output)
                core = self.bench.reactor.core
                core.yielded(
                    task, portion, position, output.edge, ordinals, output.items, output.lane
                )

    def _send_part(
        self,
        stream: Stream,
        portion: Portion,
        position: int,
        outputs: list[Output],
        n: int,
        *,
        ended: bool,
    ) -> None:
        """The next `n` yields of an input that streams."""
        core = self.bench.reactor.core
        with self.bench.reactor.lock:
            self._hand_over_yields(
                stream.task, portion, position, outputs, stream.ordinal, stream.scatters
            )
            for scatter in stream.scatters.values():
                shares = scatter.take(full=not ended)
                core.yielded_to(stream.task, portion, position, scatter.edge, shares)
            if ended:
                core.done(stream.task)
        stream.ordinal += n
        if ended:
            self.bench.counters.processed += 1

    def _fail_part(self, stream: Stream, error: BaseException) -> None:
        if isinstance(error, WhenError):
            error = error.__cause__ or error
        code = "error" if isinstance(error, self._retry_on) else "final"
        self.bench.counters.failed(error)
        with self.bench.reactor.lock:
            self.bench.reactor.core.failed_open(stream.task, code, *describe(error))


class YieldWorker(GivesYields):
    """A generator that is suspended between slices keeps the rest of its portion waiting."""

    _portion: Portion | None = None
    _position = 0
    _stream: Stream | None = None
    _made: Iterator[Any]  # the generator of the stream

    def slice(self) -> bool:
        """Continue a suspended generator first."""
        if self._portion is None:
            return super().slice() or self._portion is not None
        bench = self.bench
        if bench.reactor.core.full():
            return False
        began_ns = bench.clock.now_ns()
        portion = self._portion
        rest = portion.runs  # the whole portion: the ones before are settled or waiting
        bench.black_box.enter(rest, alone=portion.n == 1, now_ns=began_ns)
        bench.entered(True)
        self._run(portion)
        bench.entered(False)
        bench.black_box.leave()
        bench.counters.worked(0, bench.clock.now_ns() - began_ns)
        with bench.reactor.lock:
            bench.reactor.flush()
        return True

    def _take(self, now_ns: int) -> Portion | None:
        return None if self._portion is not None else super()._take(now_ns)

    def _run(self, portion: Portion) -> None:
        self._portion = portion
        while self._position < portion.n:
            going_on = self._go_on(portion) if self._stream is not None else self._stretch(portion)
            if not going_on:
                return  # suspended
        self._portion = None
        self._position = 0

    def _stretch(self, portion: Portion) -> bool:
        """Inputs until one fails, streams, or is the last; then all of them leave together."""
        done: list[list[Output]] = []
        begin = self._position
        error: BaseException | None = None
        for position in range(begin, portion.n):
            try:
                made, outputs, ended = self._first_of(portion, position)
            except (Exception, SystemExit) as raised:  # noqa: BLE001 - the user's function
                error = raised
                break
            if not ended:
                self._leave(portion, begin, done)
                self._position = position
                self._begin_stream(portion, position, made, outputs)
                return False
            done.append(outputs)
        self._leave(portion, begin, done)
        self._position = begin + len(done)
        if self.gates is not None and self._is_held(portion, begin, len(done), error):
            return True  # the portion ends here now
        if error is not None:
            cause = error.__cause__ if isinstance(error, WhenError) else None
            self._fail(portion, self._position, cause or error)
            self._position += 1
        return True

    def _first_of(
        self, portion: Portion, position: int
    ) -> tuple[Iterator[Any], list[Output], bool]:
        """The generator of one input, its first outputs, and whether these are all."""
        self.bench.context.at(portion, position)
        made = iter(self._call(portion.items[position]))
        items: list[Any] = []
        self.bench.emitter.gather(itertools.islice(made, STREAM_ITEMS), items.append)
        if not items:
            self._nothing += 1
        return made, self.bench.emitter.route(items), len(items) < STREAM_ITEMS

    # -- streams -----------------------------------------------------------------------------

    def _begin_stream(
        self, portion: Portion, position: int, made: Iterator[Any], outputs: list[Output]
    ) -> None:
        with self.bench.reactor.lock:
            task = self.bench.reactor.core.open_task(portion, position)
        self._stream, self._made = Stream(task), made
        self._send_stream(portion, outputs, STREAM_ITEMS, ended=False)

    def _go_on(self, portion: Portion) -> bool:
        """The next outputs of the suspended generator; False if there may be more."""
        stream = self._stream
        assert stream is not None, "only a stream goes on"
        items: list[Any] = []
        try:
            self.bench.context.at(portion, self._position)
            self.bench.emitter.gather(itertools.islice(self._made, STREAM_ITEMS), items.append)
            outputs = self.bench.emitter.route(items)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            self._fail_part(stream, error)
            self._end_stream()
            return True
        self._send_stream(portion, outputs, len(items), ended=len(items) < STREAM_ITEMS)
        return self._stream is None

    def _send_stream(self, portion: Portion, outputs: list[Output], n: int, *, ended: bool) -> None:
        stream = self._stream
        assert stream is not None, "only a stream sends"
        self._send_part(stream, portion, self._position, outputs, n, ended=ended)
        if ended:
            self._end_stream()

    def _end_stream(self) -> None:
        self._stream = None
        self._position += 1


def _ordinals(first: int, output: Output) -> list[int] | range:
    if output.positions is None:
        return range(first, first + len(output.items))
    return [first + position for position in output.positions]

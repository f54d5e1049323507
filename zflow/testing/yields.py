"""The generators of one simulated process: any number of outputs per input, streamed or not.

Decides in which steps outputs leave. FLAT: those of a stretch of inputs together, with what goes
to one partition in units of several items; STREAM: a few at a time, while the generator goes on.
"""

from typing import TYPE_CHECKING

from zflow.protocol.core import Output
from zflow.protocol.inbox import Portion
from zflow.protocol.task import Task
from zflow.replica.scatter import Scatter
from zflow.testing.invariants import Violation
from zflow.testing.items import Item
from zflow.testing.topologies import STREAM
from zflow.testing.worker import Worker
from zflow.wire.run import FREE

if TYPE_CHECKING:
    from zflow.testing.process import Process

STREAM_OUTPUTS = 2  # per step of a generator that streams


class YieldWorker(Worker):
    """A worker whose stage yields."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process)
        self._task: Task | None = None  # of the generator that streams
        self._step = 0
        self._scatters: dict[int, Scatter] = {}

    def begin(self, now_s: float) -> None:
        """A suspended generator goes on before anything else."""
        if self._task is None:
            super().begin(now_s)
        elif self.due_s == float("inf") and self._process.alive and not self._core.full():
            self._made.clear()
            self.due_s = now_s + self._stage.service_s

    def _most_units(self) -> int:
        return 1 if self._stage.kind == STREAM else super()._most_units()

    def _begin_slice(self, now_s: float) -> None:
        super()._begin_slice(now_s)
        if self._portion is not None and self._stage.kind == STREAM and not self._kills:
            self._task = self._core.open_task(self._portion, 0)
            self._step = 0
            self._scatters = self._new_scatters()

    def _go_on(self, now_s: float) -> None:
        if self._task is not None:
            self._stream(now_s)
        else:
            super()._go_on(now_s)

    def _over(self, now_s: float) -> None:
        super()._over(now_s)
        self._task = None

    # -- what is yielded -------------------------------------------------------------------------

    def _new_scatters(self) -> dict[int, Scatter]:
        return {number: Scatter(number) for number in self._keyed}

    def _returned(self, begin: int, end: int) -> None:
        """All outputs of a stretch of inputs leave together."""
        if begin == end:
            return
        portion = self._portion
        assert portion is not None, "a slice has a portion"
        scatters = self._new_scatters()
        task = self._core.open_tasks(portion, begin, end)
        for position in range(begin, end):
            for scatter in scatters.values():
                scatter.begin()
            item = portion.items[position]
            self._yield(task, portion, position, begin, item, (0, 1 << 30), scatters)
        self._scatter(task, portion, begin, scatters, full=False)
        self._core.done(task)
        if self._random.random() < 0.05:
            self._too_late(task, portion, begin)

    def _yield(
        self,
        task: Task,
        portion: Portion,
        position: int,
        begin: int,
        item: Item,
        span: tuple[int, int],
        scatters: dict[int, Scatter],
    ) -> None:
        """The yields of one input whose ordinals are in the span."""
        low, high = span
        for number, kids in zip(self._numbers, item.kids, strict=True):
            some = [(ordinal, kid) for ordinal, kid in kids if low <= ordinal < high]
            ordinals, made = [o for o, _ in some], [kid for _, kid in some]
            if number in scatters:
                partitions = [self._place(kid) for kid in made]
                scatters[number].add(position - begin, Output(number, None, made, partitions))
            elif some:
                self._core.yielded(task, portion, position, number, ordinals, made)
                self._count_made(number, len(made))

    def _scatter(
        self,
        task: Task,
        portion: Portion,
        begin: int,
        scatters: dict[int, Scatter],
        *,
        full: bool,
    ) -> None:
        """What may leave goes to its partitions."""
        for number, scatter in scatters.items():
            shares = scatter.take(full=full)
            if not shares:
                continue
            if any(share.part for share in shares):
                self._process.world.count("part beyond the first")
            if any(share.counts for share in shares):
                self._process.world.count("unit of several items")
            self._core.yielded_to(task, portion, begin, number, shares)
            self._count_made(number, sum(len(share.positions) for share in shares))

    def _too_late(self, task: Task, portion: Portion, position: int) -> None:
        """User code tries to emit for an input that has returned: it must be told no (I3)."""
        free = [number for number in self._numbers if number not in self._keyed]
        if not free:
            return
        extra = Item(0, None, 1, FREE)
        try:
            self._core.yielded(task, portion, position, free[0], [1 << 20], [extra])
        except ValueError:
            self._process.world.count("emission after return refused")
            return
        raise Violation("I3", "an input that had returned took another output")

    # -- streams ---------------------------------------------------------------------------------

    def _stream(self, now_s: float) -> None:
        """One step of a generator whose outputs leave while it goes on."""
        portion, task = self._portion, self._task
        assert portion is not None, "a slice has a portion"
        assert task is not None, "a generator that streams has a task"
        item = portion.items[0]
        low, high = self._step, self._step + STREAM_OUTPUTS
        failure = self._failure(item, self._attempts()[0])
        last = 1 + max((o for kids in item.kids for o, _ in kids), default=-1)
        if failure is not None and high >= last // 2:
            self._fail_stream(task, portion, failure)
            self._over(now_s)
            return
        self._yield(task, portion, 0, 0, item, (low, high), self._scatters)
        self._scatter(task, portion, 0, self._scatters, full=high < last)
        self._step = high
        if high >= last:
            self._core.done(task)
            self._over(now_s)
            return
        self._process.world.count("streaming step")
        self.due_s = float("inf")  # `begin` goes on as soon as there is room
        if self._core.full():
            self._process.world.count("generator suspended")

    def _fail_stream(self, task: Task, portion: Portion, code: str) -> None:
        if self._step:
            self._process.world.count("failed after some outputs")
            self._core.failed_open(task, code, "SimError", "it failed half-way")
        else:
            self._core.failed(portion, 0, code, "SimError", "it failed")

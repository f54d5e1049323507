"""The generators of one simulated process: any number of outputs per input, streamed or not.

Decides in which steps outputs leave. FLAT: those of a stretch of inputs together, with what goes
to one partition in units of several items; STREAM: a few at a time, while the generator goes on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zflow.protocol.inbox import Portion
from zflow.protocol.outputs import Output
from zflow.protocol.task import Task
from zflow.replica.scatter import Scatter
from zflow.testing.invariants import Violation
from zflow.testing.items import Item
from zflow.testing.topologies import STREAM
from zflow.testing.urgent import by_lane
from zflow.testing.worker import Worker
from zflow.wire.run import FREE

if TYPE_CHECKING:
    from zflow.testing.process import Process

STREAM_OUTPUTS = 2  # per step of a generator that streams


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Inputs of a portion, from `begin` on, whose outputs leave together or one by one."""

    task: Task
    portion: Portion
    begin: int
    scatters: dict[int, Scatter]


class YieldWorker(Worker):
    """A worker whose stage yields."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process)
        self._streamed: _Stretch | None = None  # the input whose generator streams
        self._step = 0

    def begin(self, now_s: float) -> None:
        """A suspended generator goes on before anything else."""
        if self._streamed is None:
            super().begin(now_s)
        elif self.due_s == float("inf") and self._process.alive and not self._core.full():
            self._made.clear()
            self.due_s = now_s + self._stage.service_s

    def _most_units(self) -> int:
        return 1 if self._stage.kind == STREAM else super()._most_units()

    def _begin_slice(self, now_s: float) -> None:
        super()._begin_slice(now_s)
        if self._portion is not None and self._stage.kind == STREAM and not self._kills:
            task = self._core.open_task(self._portion, 0)
            self._streamed = _Stretch(task, self._portion, 0, self._new_scatters())
            self._step = 0

    def _go_on(self, now_s: float) -> None:
        if self._streamed is not None:
            self._stream(self._streamed, now_s)
        else:
            super()._go_on(now_s)

    def _over(self, now_s: float) -> None:
        super()._over(now_s)
        self._streamed = None

    # -- what is yielded -------------------------------------------------------------------------

    def _new_scatters(self) -> dict[int, Scatter]:
        return {number: Scatter(number) for number in self._keyed}

    def _returned(self, begin: int, end: int) -> None:
        """All outputs of a stretch of inputs leave together."""
        if begin == end:
            return
        portion = self._portion
        assert portion is not None, "a slice has a portion"
        task = self._core.open_tasks(portion, begin, end)
        stretch = _Stretch(task, portion, begin, self._new_scatters())
        for position in range(begin, end):
            for scatter in stretch.scatters.values():
                scatter.begin()
            self._yield(stretch, position, 0, 1 << 30)
        self._scatter(stretch, full=False)
        self._core.done(task)
        if self._random.random() < 0.05:
            self._too_late(task, portion, begin)

    def _yield(self, stretch: _Stretch, position: int, low: int, high: int) -> None:
        """The yields of one input of the stretch whose ordinals are in [low, high)."""
        portion = stretch.portion
        for number, kids in zip(self._numbers, portion.items[position].kids, strict=True):
            some = [(ordinal, kid) for ordinal, kid in kids if low <= ordinal < high]
            ordinals, made = [o for o, _ in some], [kid for _, kid in some]
            if number in stretch.scatters:
                output = Output(number, None, made, [self._place(kid) for kid in made])
                stretch.scatters[number].add(position - stretch.begin, output)
            elif number in self._urgent:
                for lane, own in by_lane(made).items():
                    numbers, kids = [ordinals[p] for p in own], [made[p] for p in own]
                    where = stretch.task, portion, position, number
                    self._core.yielded(*where, numbers, kids, lane)
                    self._count_made(number, len(kids))
            elif some:
                self._core.yielded(stretch.task, portion, position, number, ordinals, made)
                self._count_made(number, len(made))

    def _scatter(self, stretch: _Stretch, *, full: bool) -> None:
        """What may leave goes to its partitions."""
        world = self._process.world
        for number, scatter in stretch.scatters.items():
            shares = scatter.take(full=full)
            if not shares:
                continue
            if any(share.part for share in shares):
                world.count("part beyond the first")
            if any(share.counts for share in shares):
                world.count("unit of several items")
            core = self._core
            core.yielded_to(stretch.task, stretch.portion, stretch.begin, number, shares)
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

    def _stream(self, streamed: _Stretch, now_s: float) -> None:
        """One step of a generator whose outputs leave while it goes on."""
        item = streamed.portion.items[0]
        low, high = self._step, self._step + STREAM_OUTPUTS
        failure = self._failure(item, self._attempts()[0])
        last = 1 + max((o for kids in item.kids for o, _ in kids), default=-1)
        if failure is not None and high >= last // 2:
            self._fail_stream(streamed, failure)
            self._over(now_s)
            return
        self._yield(streamed, 0, low, high)
        self._scatter(streamed, full=high < last)
        self._step = high
        if high >= last:
            self._core.done(streamed.task)
            self._over(now_s)
            return
        self._process.world.count("streaming step")
        self.due_s = float("inf")  # `begin` goes on as soon as there is room
        if self._core.full():
            self._process.world.count("generator suspended")

    def _fail_stream(self, streamed: _Stretch, code: str) -> None:
        if self._step:
            self._process.world.count("failed after some outputs")
            self._core.failed_open(streamed.task, code, "SimError", "it failed half-way")
        else:
            self._core.failed(streamed.portion, 0, code, "SimError", "it failed")

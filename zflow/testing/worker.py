"""The user code of one simulated process: slices of items that take virtual time.

Decides when a slice begins, how long it takes and what it makes of its items. Never touches
frames. The process asks it to `advance` whenever it wakes.
"""

from collections import Counter
from typing import TYPE_CHECKING

from zflow.protocol.inbox import Portion
from zflow.protocol.origin import Origin
from zflow.protocol.outputs import Output
from zflow.testing.items import Fate, Item
from zflow.testing.topologies import SINK, SOURCE
from zflow.testing.urgent import by_lane
from zflow.wire.run import Run

if TYPE_CHECKING:
    from zflow.testing.process import Process

COMMIT_S = 0.001  # between a sink's commit and its return


class Worker:
    """Executes one slice at a time. `due_s` is when the next thing happens; inf if idle."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._core = process.core
        self._random = process.world.random
        self._stage = process.stage
        self._numbers = [edge.number for edge in process.stage.outs]
        self._keyed = {edge.number for edge in process.stage.outs if edge.keyed}
        self._urgent = {edge.number for edge in process.stage.outs if edge.settings.lanes}
        self.due_s = float("inf")
        self.alarm_s = float("inf")  # when a timer is due, if nothing happens before
        self.slow = 1.0
        self._portion: Portion | None = None
        self._producing = 0
        self._began_s = 0.0
        self._committed = False
        self._kills = False
        self._made: Counter[int] = Counter()  # units by edge since there was room

    def slow_down(self, factor: float) -> None:
        """Service times are multiplied by it from now on."""
        self.slow = factor

    @property
    def executing(self) -> list[Run]:
        """What the black box names: the runs of the slice under way."""
        return self._portion.runs if self._portion else []

    @property
    def items(self) -> list[Item]:
        """The items of the slice under way."""
        return self._portion.items if self._portion else []

    @property
    def sender(self) -> tuple[str, int]:
        """Which incarnation sent what is being executed."""
        assert self._portion is not None, "only a slice of a stage has a sender"
        return self._portion.link.key[1], self._portion.link.incarnation

    def advance(self, now_s: float) -> None:
        """End what is over and begin what fits in between, as a data thread does in one slice."""
        while self.due_s <= now_s and self._process.alive:
            at_s = self.due_s
            self._go_on(at_s)
            self.begin(at_s)

    def _go_on(self, now_s: float) -> None:
        if self._stage.kind == SOURCE:
            self._produce(now_s)
        elif self._kills:
            self._process.poisoned(now_s)
        elif self._stage.kind == SINK and not self._committed:
            self._commit(now_s)
        else:
            self._end(now_s)

    def begin(self, now_s: float) -> None:
        """Start a slice if there is work and room for what it makes."""
        if self.due_s != float("inf") or not self._process.alive or self._core.full():
            return
        self._made.clear()
        if self._stage.kind == SOURCE:
            self._begin_source(now_s)
        else:
            self._begin_slice(now_s)

    def ready(self) -> bool:
        """False while it cannot work yet, or owes something to the end of the run."""
        return True

    @property
    def committing(self) -> bool:
        """A commit of an anchor is under way."""
        return False

    def died(self, now_s: float) -> None:
        """The process is gone."""

    # -- sources ---------------------------------------------------------------------------------

    def _begin_source(self, now_s: float) -> None:
        origin = self._core.origin
        assert origin is not None, "a source has an origin"
        left = len(self._process.roots) - origin.next
        if left == 0:
            self._core.source_ended = True
            return
        burst = self._stage.slice_items
        self._producing = min(left, self._random.randint(burst // 2, burst))
        self.due_s = now_s + self._service_s(self._producing)

    def _produce(self, now_s: float) -> None:
        origin = self._core.origin
        assert origin is not None, "a source has an origin"
        items = self._process.roots[origin.next : origin.next + self._producing]
        self.due_s = float("inf")
        self._process.seat.yielded(len(items))
        self._produce_at(origin, items, now_s)

    def _produce_at(self, origin: Origin, items: list[Item], now_s: float) -> None:
        """The origin has these next items; what nobody can take goes to the dead letters."""
        if all(item.fate is not Fate.FINAL for item in items):
            self._produce_some(origin, items, now_s)
            return
        for item in items:
            self._produce_some(origin, [item], now_s)

    def _produce_some(self, origin: Origin, items: list[Item], now_s: float) -> None:
        end = origin.next + len(items)
        if items[0].fate is Fate.FINAL:
            self._core.produced_bad("final", "SimError", "nobody can take it", end, origin)
            return
        outputs = self._outputs(items)
        self._core.produced_at(origin, outputs, len(items), int(now_s * 1e9), end)
        if self._stage.kind == SOURCE:
            self._retained(outputs)

    # -- slices ----------------------------------------------------------------------------------

    def _begin_slice(self, now_s: float) -> None:
        parcel = self._core.next_parcel(now_s)
        if parcel is None:
            return
        most = self._most_units()
        n = most if self._random.random() < 0.5 else self._random.randint(1, most)
        portion = self._core.take(parcel, n, now_s)
        process = self._process
        process.world.invariants.named(portion)
        process.check_suspect(portion)
        self._portion = portion
        self._began_s = now_s
        self._committed = False
        self._kills = self._killing(portion)
        took_s = self._service_s(len(portion.items))
        # A killing item strikes somewhere in the slice, other events may come before.
        self.due_s = now_s + (took_s * self._random.random() if self._kills else took_s)
        self._core.inbox.executing_since_s = now_s
        process.world.nemesis.executes(process, portion.items, self.due_s)

    def _most_units(self) -> int:
        return self._stage.slice_items

    def _killing(self, portion: Portion) -> bool:
        """Something in the portion kills whoever executes it."""
        return any(item.fate is Fate.POISON for item in portion.items)

    def _service_s(self, n: int) -> float:
        return n * self._stage.service_s * self.slow * (0.5 + self._random.random())

    def _commit(self, now_s: float) -> None:
        """A sink's effects become durable before it returns."""
        assert self._portion is not None, "a slice has a portion"
        attempts = self._attempts()
        for item, attempt in zip(self._portion.items, attempts, strict=True):
            if self._failure(item, attempt) is None:
                item.settle()
        self._committed = True
        self.due_s = now_s + COMMIT_S * self.slow

    def _attempts(self) -> list[int]:
        assert self._portion is not None, "a slice has a portion"
        return [run.attempt for run in self._portion.runs for _ in range(run.n)]

    @staticmethod
    def _failure(item: Item, attempt: int) -> str | None:
        if item.fate is Fate.FINAL:
            return "final"
        if item.fate is Fate.ALWAYS or (item.fate is Fate.FLAKY and attempt < item.fails):
            return "error"
        return None

    def _end(self, now_s: float) -> None:
        """Hand over what the slice made, input by input around those that failed."""
        portion = self._portion
        assert portion is not None, "a slice has a portion"
        begin = 0
        for position, attempt in enumerate(self._attempts()):
            code = self._failure(portion.items[position], attempt)
            if code is not None:
                self._returned(begin, position)
                self._core.failed(portion, position, code, "SimError", "it failed")
                begin = position + 1
        self._returned(begin, portion.n)
        self._over(now_s)

    def _over(self, now_s: float) -> None:
        assert self._portion is not None, "a slice has a portion"
        self._core.inbox.window.measured(self._portion.n, max(1e-6, now_s - self._began_s))
        self._core.inbox.executing_since_s = None
        self._portion = None
        self.due_s = float("inf")

    def _returned(self, begin: int, end: int) -> None:
        if begin == end:
            return
        portion = self._portion
        assert portion is not None, "a slice has a portion"
        outputs = self._outputs(portion.items[begin:end])
        self._core.returned(portion, begin, end, outputs)
        self._retained(outputs)

    def _outputs(self, items: list[Item]) -> list[Output]:
        """At most one kid of each item on each edge."""
        outputs = []
        for at, number in enumerate(self._numbers):
            positions = [p for p, item in enumerate(items) if item.kids[at]]
            kids = [items[p].kids[at][0][1] for p in positions]
            everyone = len(positions) == len(items)
            if number in self._urgent:
                for lane, own in by_lane(kids).items():
                    places, some = [positions[p] for p in own], [kids[p] for p in own]
                    outputs.append(Output(number, places, some, None, lane))
                continue
            partitions = [self._place(kid) for kid in kids] if number in self._keyed else None
            outputs.append(Output(number, None if everyone else positions, kids, partitions))
        return outputs

    def _place(self, kid: Item) -> int:
        """The partition that the edge's key gives to it."""
        return kid.partition

    def _retained(self, outputs: list[Output]) -> None:
        made: Counter[int] = Counter()
        for output in outputs:
            made[output.edge] += len(output.items)
        for edge, n in made.items():
            if n:
                self._count_made(edge, n)

    def _count_made(self, edge: int, n: int) -> None:
        self._made[edge] += n
        self._process.made(edge, self._made[edge])

"""What the tests of the core share: a codec of plain lists, cores, and a wire that loses nothing.

Loaded by the fixture `kit`; tests take from it what they need.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from zflow.protocol.actions import Action, Bury, Dial, Hangup, Reply, Send
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import InboxSettings, Portion
from zflow.protocol.outbox import EdgeSettings
from zflow.protocol.outputs import Output
from zflow.protocol.segment import Segment
from zflow.protocol.sender import Identity
from zflow.protocol.task import Task
from zflow.wire import data
from zflow.wire.payload import DecodeError, EncodeError
from zflow.wire.run import OSEQ, Run

START_S = 1000.0
EDGE = 9


class Unencodable:
    """An item that cannot travel."""


class Undecodable:
    """An item that travels and that nobody can read."""


class ListPayload:
    """A list of items as it is; an item that says `size` takes that many bytes, others 10."""

    def __init__(self, items: list[Any]) -> None:
        self.items = list(items)
        self.size_bytes = sum(getattr(item, "size", 10) for item in items)
        self.sizes = [self.size_bytes]


class Big:
    """An item of many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


class ListCodec:
    """Counts its calls, so that a test can tell how often a message was made and read."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def encode(self, items: list[Any]) -> ListPayload:
        self.calls["encode"] += 1
        if any(isinstance(item, Unencodable) for item in items):
            raise EncodeError("cannot travel") from TypeError("cannot travel")
        return ListPayload(items)

    def decode(self, payload: ListPayload) -> list[Any]:
        self.calls["decode"] += 1
        if any(isinstance(item, Undecodable) for item in payload.items):
            raise DecodeError("cannot be read") from KeyError("gone")
        return list(payload.items)


class Owner:
    """Of tasks; writes down which inputs it heard were settled, and which failed."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.failed: list[tuple[int, str, str]] = []

    def settle(self, first: int, n: int) -> None:
        self.settled += range(first, first + n)

    def fail(
        self, first: int, code: str, error_class: str, error: str, *, partial: bool = False
    ) -> None:
        self.failed.append((first, code, error_class))


def segment_of(items: list[Any], *, first: int = 0, owner: Owner | None = None) -> Segment:
    """Outputs of inputs first, first + 1, ...: one each. Their task has returned."""
    n = len(items)
    task = Task(owner or Owner(), first, n)
    task.made(n)
    task.returned()
    return Segment([Run(1, 2, OSEQ, 0, first, n)], items, task, range(n))


def identity(slot: str = "read/0", incarnation: int = 1) -> Identity:
    return Identity(
        run_id="run",
        slot=slot,
        incarnation=incarnation,
        ack_endpoint=f"ack of {slot}",
        generation=1,
        codec="list",
    )


def edge_settings(edge: int = EDGE, *targets: str, **others: Any) -> EdgeSettings:
    to = targets or ("sink/0",)
    settings = {"edge": edge, "label": "read->sink", "stage": to[0].partition("/")[0]}
    return EdgeSettings(**settings, targets=to, **others)


def inbox_settings(slot: str, *edges: int, **others: Any) -> InboxSettings:
    settings = {"run_id": "run", "incarnation": 1, "generation": 1, "codec": "list"}
    return InboxSettings(**{**settings, "slot": slot, "edges": frozenset(edges), **others})


Make = Callable[[Any], dict[int, list[Any]]]


class Replica:
    """A core with user code: `make` gives, for an item, the outputs by edge.

    yields: the outputs are numbered yields, else there is at most one on each edge.
    """

    def __init__(self, core: Core, make: Make, *, yields: bool = False) -> None:
        self.core = core
        self.make = make
        self.yields = yields
        self.got: list[tuple[tuple, Any]] = []  # (unit, item), in the order of execution

    def work(self, now_s: float, chance: random.Random) -> bool:
        """Execute one portion; False if there is nothing to do."""
        if self.core.full():
            return False
        parcel = self.core.next_parcel(now_s)
        if parcel is None:
            return False
        portion = self.core.take(parcel, chance.randrange(1, 50), now_s)
        units = [unit for run in portion.runs for unit in run.units()]
        self.got += zip(units, portion.items, strict=True)
        if self.yields:
            self._yield(portion)
        else:
            self._return(portion)
        return True

    def _return(self, portion: Portion) -> None:
        made = [self.make(item) for item in portion.items]
        outputs = []
        for edge in self.core.outboxes:
            positions = [p for p, some in enumerate(made) if some.get(edge)]
            items = [made[p][edge][0] for p in positions]
            everyone = len(positions) == portion.n
            outputs.append(Output(edge, None if everyone else positions, items))
        self.core.returned(portion, 0, portion.n, outputs)

    def _yield(self, portion: Portion) -> None:
        for position, item in enumerate(portion.items):
            task = self.core.open_task(portion, position)
            for edge, items in self.make(item).items():
                if items:
                    ordinals = range(len(items))
                    self.core.yielded(task, portion, position, edge, ordinals, items)
            self.core.done(task)


class Wire:
    """Joins cores: every frame arrives, in order, as the bytes that it would be."""

    def __init__(self, seed: int = 0) -> None:
        self.now_s = START_S
        self.codec = ListCodec()
        self.replicas: dict[str, Replica] = {}
        self.buried: list[Bury] = []
        self.others: list[Action] = []
        self.chance = random.Random(seed)
        self._tokens = count(1)

    def add(
        self,
        slot: str,
        make: Make = lambda item: {},
        *,
        inputs: tuple[int, ...] = (),
        edges: tuple[EdgeSettings, ...] = (),
        yields: bool = False,
        **inbox: Any,
    ) -> Replica:
        """A replica in `slot`, that expects those added before; a source if it has no inputs."""
        settings = CoreSettings(
            identity=identity(slot, inbox.get("incarnation", 1)),
            inbox=inbox_settings(slot, *inputs, **inbox),
            edges=edges,
            upstream=frozenset(
                (edge, sender)
                for sender, other in self.replicas.items()
                for edge in inputs
                if edge in other.core.outboxes
            ),
        )
        origin = None if inputs else OriginSettings(origin=77, stage=slot, low=0)
        core = Core(
            settings,
            codec=self.codec,
            new_token=lambda: next(self._tokens),
            random=self.chance,
            origin=origin,
        )
        self.replicas[slot] = Replica(core, make, yields=yields)
        return self.replicas[slot]

    def connect(self) -> None:
        for replica in self.replicas.values():
            replica.core.connect(self.now_s)
        self.deliver()

    def deliver(self) -> None:
        """Carry everything that the cores ask for, until they ask for nothing."""
        while busy := [r for r in self.replicas.items() if r[1].core.actions]:
            slot, replica = self.chance.choice(busy)
            self._carry(slot, replica.core.actions.popleft())

    def _carry(self, slot: str, action: Action) -> None:
        peer = self.replicas.get(action.link[1]) if isinstance(action, Send | Reply) else None
        if isinstance(action, Send) and peer is not None:
            frame = data.decode(data.encode(action.frame))
            peer.core.on_frame(frame, action.payload, self.now_s)
        elif isinstance(action, Reply) and peer is not None:
            peer.core.on_reply(data.decode(data.encode(action.frame)), self.now_s)
        elif isinstance(action, Bury):
            self.buried.append(action)
            self.replicas[slot].core.buried(action.ticket)
        elif not isinstance(action, Dial | Hangup):
            self.others.append(action)

    def step(self, seconds: float = 0.006, *, work: bool = True) -> None:
        """Some time passes: every timer is looked at, and every replica may execute."""
        self.now_s += seconds
        for replica in self.replicas.values():
            replica.core.tick(self.now_s)
        self.deliver()
        if work:
            for replica in self.replicas.values():
                while replica.work(self.now_s, self.chance) and self.chance.random() < 0.7:
                    pass
        self.deliver()

    def run(self, *, steps: int = 2000, until: Callable[[], bool] | None = None) -> None:
        """Steps until everything is settled."""
        until = until or self.settled
        for _ in range(steps):
            if until():
                return
            self.step()
        raise AssertionError(f"not settled after {steps} steps: {self.open_units()}")

    def settled(self) -> bool:
        return all(replica.core.settled() for replica in self.replicas.values())

    def open_units(self) -> dict[str, int]:
        cores = {slot: replica.core for slot, replica in self.replicas.items()}
        return {
            slot: sum(outbox.open_units() for outbox in core.outboxes.values())
            for slot, core in cores.items()
        }

    def produce(self, slot: str, items: list[Any], edges: list[int] | None = None) -> None:
        """The source in `slot` yields these items, all to each of its edges."""
        core = self.replicas[slot].core
        outputs = [Output(edge, None, list(items)) for edge in edges or core.outboxes]
        core.produced(outputs, len(items), 0, None)


def units_in(frames: list[data.Data]) -> Iterator[tuple]:
    """The identities in DATA frames, in order."""
    return (unit for frame in frames for run in frame.runs for unit in run.units())

"""One replica's parts in this process: a real core, sockets that swallow everything."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from zflow.clock import Clock
from zflow.protocol.actions import Bury, LinkKey
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import InboxSettings
from zflow.protocol.outbox import EdgeSettings
from zflow.protocol.sender import Identity
from zflow.replica.context import Context
from zflow.replica.counters import Counters
from zflow.replica.emit import Emitter, Keying, Route
from zflow.replica.reactor import Reactor
from zflow.replica.worker import Bench
from zflow.state.blackbox import BlackBox, read_black_box
from zflow.wire import data
from zflow.wire.codec import PickleCodec
from zflow.wire.run import OSEQ, Run, Unit

IN_EDGE = 5
UPSTREAM: LinkKey = (IN_EDGE, "read/0")
HELD_ITEMS = 1_000_000
PARTITIONS = 8


class NullLinks:
    """Stands for DataLinks: every link is answered, and what is sent is kept as items."""

    def __init__(self) -> None:
        self.sent: dict[int, list[Any]] = {}  # edge -> items
        self.runs: dict[int, list[Run]] = {}
        self.replies: list[data.Frame] = []
        self.arrived: deque[data.Frame] = deque()
        self._next: dict[int, int] = {}

    def dial(self, action: Any) -> None:
        """HELLO goes out with it; the answer is in `send`."""

    def hangup(self, action: Any) -> None:
        """There is nothing to close."""

    def send(self, action: Any) -> bool:
        """Take everything; WELCOME what says HELLO."""
        frame, edge = action.frame, action.link[0]
        if isinstance(frame, data.Hello):
            limits = (HELD_ITEMS, 2**40)
            self.arrived.append(data.Welcome(frame.token, action.link[1], 1, *limits, []))
        elif isinstance(frame, data.Data):
            items = PickleCodec().decode(action.payload)
            self.sent.setdefault(edge, []).extend(items)
            self.runs.setdefault(edge, []).extend(frame.runs)
            self._next[frame.token] = frame.first + frame.n
        return True

    def reply(self, action: Any) -> bool:
        """Kept for the test."""
        self.replies.append(action.frame)
        return True

    def receive(self, on_reply: Any, on_frame: Any, known: Any = None) -> int:
        """What waits for the core."""
        waiting = list(self.arrived)
        self.arrived.clear()
        for frame in waiting:
            on_reply(frame, None)
        return len(waiting)

    def settle(self) -> None:
        """Acknowledge everything that was sent."""
        for version, (token, end) in enumerate(self._next.items(), 1):
            limits = (HELD_ITEMS + end, 2**40)
            state = data.State(token, version + end, end, *limits, 1000, [0, end], [], 0.0)
            self.arrived.append(state)


class Workbench:
    """A bench with its core; edges are named by number, each to one slot."""

    def __init__(self, folder: Path, edges: tuple[Route, ...], *, source: bool, low: int) -> None:
        self.clock = Clock()
        self.links = NullLinks()
        self.buried: list[Bury] = []
        self.failed: list[BaseException] = []
        tokens = count(1)
        identity = {"run_id": "run", "slot": "work/0", "incarnation": 1, "generation": 1}
        self.core = Core(
            CoreSettings(
                identity=Identity(**identity, ack_endpoint="ack", codec="pickle5"),
                inbox=InboxSettings(**identity, codec="pickle5", edges=frozenset({IN_EDGE})),
                edges=tuple(
                    EdgeSettings(
                        edge=route.edge,
                        label=f"work->next{route.edge}",
                        stage=f"next{route.edge}",
                        targets=(f"next{route.edge}/0",),
                        partitions=PARTITIONS if route.keyed else 0,
                    )
                    for route in edges
                ),
                upstream=frozenset() if source else frozenset({(IN_EDGE, "read/0")}),
            ),
            codec=PickleCodec(),
            new_token=lambda: next(tokens),
            random=random.Random(1),
            origin=OriginSettings(origin=77, stage="work", low=low) if source else None,
        )
        self.reactor = Reactor(
            self.core,
            self.links,  # type: ignore[arg-type]
            self.clock,
            on_bury=self.buried.append,
            on_fail=lambda action: None,
            on_retire=lambda action: None,
        )
        self.counters = Counters(
            self.core,
            stage="work",
            is_sink=not edges,
            edges={IN_EDGE: "read->work"},
            clock=self.clock,
        )
        self._box = folder / "box"
        self.black_box = BlackBox(self._box, self.counters.names())
        self.counters.attach(self.black_box)
        self.context = Context("work", 0, {}, {IN_EDGE: "read->work"})
        self.bench = Bench(
            reactor=self.reactor,
            black_box=self.black_box,
            counters=self.counters,
            emitter=Emitter(edges),
            context=self.context,
            clock=self.clock,
            entered=lambda begins: None,
        )
        self.core.connect(self.clock.now_s())
        self.turn()
        self.turn()

    def turn(self) -> None:
        """What the data thread does between two slices."""
        with self.reactor.lock:
            self.reactor.receive()
            self.reactor.tick()

    def feed(
        self, items: list[Any], *, run: Run | None = None, runs: list[Run] | None = None
    ) -> None:
        """One message from upstream, in one run or in several."""
        if UPSTREAM not in self.core.inbox.links:
            hello = ("run", "read/0", 1, 1, "ack of read", IN_EDGE, 1, "pickle5", False)
            self.core.on_frame(data.Hello(900, *hello), None, self.clock.now_s())
        payload = PickleCodec().encode(items)
        first = self.core.inbox.links[UPSTREAM].next
        runs = runs or [run or Run(7, 8, OSEQ, 0, first, len(items))]
        frame = data.Data(900, first, len(items), runs, payload.sizes)
        self.core.on_frame(frame, payload, self.clock.now_s())

    def units(self, edge: int = 9) -> dict[Unit, tuple[int, list[Any]]]:
        """What was sent over an edge: unit -> (partition, its items)."""
        found = {}
        runs, items = self.links.runs.get(edge, []), iter(self.links.sent.get(edge, []))
        for run in runs:
            for position, unit in enumerate(run.units()):
                n = run.counts[position] if run.counts else 1
                assert unit not in found, f"{unit} was sent twice"
                found[unit] = run.partition, list(itertools.islice(items, n))
        return found

    def counted(self) -> dict[str, int]:
        """What somebody who reads the black box finds."""
        self.black_box.count(self.counters.values())
        read = read_black_box(self._box)
        assert read is not None
        return read.counters

    def acked(self) -> list[int]:
        """The units that upstream may forget."""
        ranges = list(self.core.inbox.links[UPSTREAM].acked)
        return [unit for begin, end in ranges for unit in range(begin, end)]

    def nacks(self) -> list[tuple[int, str, str]]:
        """(unit, code, error class) of what failed."""
        link = self.core.inbox.links[UPSTREAM]
        return [(nack.first, nack.code, nack.error_class) for _, nack in link.nacks]

    def errors(self) -> list[str]:
        """The tracebacks of what failed."""
        return [nack.error for _, nack in self.core.inbox.links[UPSTREAM].nacks]

    def executing(self) -> list[Run]:
        """What the black box names."""
        reading = read_black_box(self._box)
        return reading.runs if reading is not None else []


def route(
    edge: int = 9,
    output: str | None = None,
    when: Callable[[Any], object] | None = None,
    key: Callable[[Any], Any] | None = None,
):
    """One outgoing edge; with a key, to partitions."""
    keyed = Keying(key, PARTITIONS) if key is not None else None
    return Route(edge=edge, output=output, when=when, keyed=keyed)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Workbench]]:
    """`make_bench(Route(...), ...)`; `source=True` gives the core an origin."""
    made: list[Workbench] = []

    def make(*edges: Route, source: bool = False, low: int = 0) -> Workbench:
        made.append(Workbench(tmp_path, edges, source=source, low=low))
        return made[-1]

    yield make
    for bench in made:
        bench.black_box.close()


@pytest.fixture(name="route")
def _route() -> Callable[..., Route]:
    """`route(9, output="name", when=..., key=...)` is one outgoing edge."""
    return route

"""What must become of every source item, computed before anything runs.

Decides the items, their fates and what each of them still owes: a pure function of the topology
and a random number generator. Knows nothing of the protocol.

An `Item` is what travels on one edge to one stage; executing it means handing out its `kids`. It
owes an effect at a sink or a durable stage, a dead letter if it is doomed, and otherwise what its
kids owe. What lies behind an at_most_once edge, or below a doomed item, may happen but is owed to
nobody above. What a durable stage makes of an item are `rows`: origins of their own, like the
items of a source, owed to nobody above as soon as they are committed.
"""

from enum import Enum
from random import Random
from typing import Any, NamedTuple

from zflow.protocol.identity import PART_UNITS
from zflow.testing.topologies import (
    DURABLE,
    FILTER,
    FLAT,
    SINK,
    STREAM,
    YIELDING,
    Edge,
    Stage,
    Topology,
)
from zflow.wire.data import MAX_FRAME_BYTES
from zflow.wire.payload import DecodeError, EncodeError
from zflow.wire.run import FREE, Unit


class Fate(Enum):
    """What happens whenever the item is executed."""

    WELL = "well"
    FLAKY = "flaky"  # raises in its first `fails` attempts
    ALWAYS = "always"  # raises in every attempt
    FINAL = "final"  # raises what must not be tried again
    POISON = "poison"  # kills the process
    UNSENDABLE = "unsendable"  # one of its kids cannot travel
    UNREADABLE = "unreadable"  # its stage cannot decode it, and no message that it is in
    DRAGGED = "dragged"  # in one unit with an item that takes all of it along


DOOMED = frozenset(set(Fate) - {Fate.WELL, Fate.FLAKY})


DRAGGING = Fate.UNREADABLE, Fate.POISON
BURST = 0.05  # of the worlds have an input that yields more than one part to one partition

TIMED = 0.1  # of the items that a durable stage applies set a timer
TIMER_S = 2.0  # at most, until it fires

FAILS_AGAIN = 0.2  # of the dead letters that are sent again
MORE_LETTERS = 6  # at most, on an edge whose dead letters are sent again

MOST_OF = (Fate.ALWAYS, 3), (Fate.FINAL, 3), (Fate.UNREADABLE, 2), (Fate.POISON, 2)


class Timer:
    """What a durable stage sets when it applies an item. rows: what it makes when it fires.

    fails: attempts that raise, after each start of a process. slot: that set it last.
    """

    __slots__ = ("fails", "item", "key", "rows", "slot", "wait_s")

    def __init__(self, item: "Item", key: int, wait_s: float, fails: int) -> None:
        self.item = item
        self.key = key
        self.wait_s = wait_s
        self.fails = fails
        self.rows: list[Item] = []
        self.slot = ""


class Item:
    """One item on its way to one stage; `edge` is None for what an origin yields.

    kids: per outgoing edge, (ordinal of the yield, item) in order. rows: what a durable stage makes
    of it; timer: what it sets there. partition: on a keyed edge, its own. mates: the items of its
    unit there, if several.
    letter: the dead letter that it was before it was sent again.
    owed: leaves at or below it that are not yet durable; up: who else owes them.
    """

    __slots__ = (
        "broken",
        "done",
        "edge",
        "fails",
        "fate",
        "kids",
        "letter",
        "mates",
        "owed",
        "partition",
        "rows",
        "size_bytes",
        "stage",
        "timer",
        "unit",
        "up",
    )

    def __init__(self, stage: int, edge: Edge | None, size_bytes: int, partition: int) -> None:
        self.stage = stage
        self.edge = edge
        self.partition = partition
        self.size_bytes = size_bytes
        self.rows: list[Item] = []
        self.timer: Timer | None = None
        self.mates: tuple[Item, ...] = ()
        self.kids: list[list[tuple[int, Item]]] = []
        self.letter: Item | None = None
        self.fate = Fate.WELL
        self.fails = 0
        self.broken = False
        self.owed = 0
        self.done = False
        self.up: Item | None = None
        self.unit: Unit | None = None

    @property
    def doomed(self) -> bool:
        """True if it can never be processed."""
        return self.fate in DOOMED

    def settle(self) -> None:
        """Its own effect or dead letter is durable; the first time counts."""
        if self.done:
            return
        self.done = True
        item: Item | None = self
        while item is not None:
            item.owed -= 1
            item = item.up

    def __repr__(self) -> str:
        place = self.edge.settings.label if self.edge else f"stage {self.stage}"
        return f"<{self.fate.value} item {self.unit} on {place}, owes {self.owed}>"


class Harvest(NamedTuple):
    """Source items by slot; all items there can ever be, parents before kids; and what each
    partition (stage, number) of a durable stage makes at its end."""

    roots: dict[str, list[Item]]
    items: list[Item]
    finals: dict[tuple[int, int], list[Item]]


def grow(topology: Topology, random: Random) -> Harvest:
    """Everything that can happen to items in this topology."""
    everything: list[Item] = []
    roots: dict[str, list[Item]] = {}
    for slot, n in topology.items.items():
        index = next(stage.index for stage in topology.stages if slot in stage.slots)
        roots[slot] = [_origin_item(index) for _ in range(n)]
        _grow_all(roots[slot], everything, topology, random)
    finals = {}
    for stage in topology.stages:
        for number in range(stage.partitions if stage.kind == DURABLE else 0):
            rows = [_origin_item(stage.index) for _ in range(random.choice((0, 1, 1, 2)))]
            _grow_all(rows, everything, topology, random)
            finals[stage.index, number] = rows
    if random.random() < BURST:
        _burst(everything, topology, random)
    _doom(everything, topology, random)
    for item in reversed(everything):
        _owe(item, topology.stages[item.stage])
    return Harvest(roots, everything, finals)


def again(letter: Item, stage: Stage, topology: Topology, random: Random) -> list[Item]:
    """What a source of dead letters makes of one, and everything below it, the root first."""
    everything: list[Item] = []
    _grow_all([_origin_item(stage.index)], everything, topology, random)
    item = everything[0].kids[0][0][1]
    item.letter, item.partition, item.size_bytes = letter, letter.partition, letter.size_bytes
    if random.random() < FAILS_AGAIN:
        item.fate = random.choice((Fate.ALWAYS, Fate.FINAL))
    for one in reversed(everything):
        _owe(one, topology.stages[one.stage])
    return everything


def _origin_item(stage: int) -> Item:
    return Item(stage, None, 0, FREE)


def _grow_all(
    roots: list[Item], everything: list[Item], topology: Topology, random: Random
) -> None:
    """The items and everything below them."""
    for root in roots:
        stack = [root]
        while stack:
            item = stack.pop()
            everything.append(item)
            stage = topology.stages[item.stage]
            if stage.kind == DURABLE and item.edge is not None:
                item.kids = [[] for _ in stage.outs]
                item.rows = [_origin_item(stage.index) for _ in range(random.choice((0, 1, 1, 2)))]
                stack.extend(item.rows)
                if random.random() < TIMED:
                    item.timer = _timer(item, random)
                    stack.extend(item.timer.rows)
                continue
            _branch(item, stage, random)
            stack.extend(kid for kids in item.kids for _, kid in kids)


def _timer(item: Item, random: Random) -> Timer:
    """Often of a key that other items of the partition have too: then the last one counts."""
    key = random.choice((random.getrandbits(40), random.getrandbits(40), random.randrange(3)))
    timer = Timer(item, key, random.random() ** 2 * TIMER_S, random.choice((0, 0, 0, 1, 2)))
    timer.rows = [_origin_item(item.stage) for _ in range(random.choice((0, 1, 1, 2)))]
    if timer.rows and random.random() < 0.1:  # it is given up
        timer.rows[0].fate = Fate.FINAL
    return timer


def _branch(item: Item, stage: Stage, random: Random) -> None:
    """The kids that the stage makes of the item, by its kind."""
    yields = 1
    if stage.kind == FLAT:
        yields = random.choice((0, 1, 1, 2, 2, 3))
    elif stage.kind == STREAM:
        yields = random.choice((0, 0, 0, 1, 1, 2, 8))
    elif stage.kind == FILTER:
        yields = int(random.random() < 0.6)
    item.kids = [[] for _ in stage.outs]
    for ordinal in range(yields):
        for kids, edge in zip(item.kids, stage.outs, strict=True):
            if edge.share == 1.0 or random.random() < edge.share:
                kids.append((ordinal, _kid(kids, edge, random)))
    if yields > 1 and stage.kind in YIELDING:
        _unite(item, stage)


def _kid(siblings: list[tuple[int, Item]], edge: Edge, random: Random) -> Item:
    """An item for the edge; on a keyed one often in the partition of the sibling before it."""
    size_bytes = random.choice((10, 40, 40, 40, 200))
    partition = FREE
    if edge.keyed:
        same = siblings and random.random() < 0.5
        partition = (
            siblings[-1][1].partition if same else random.randrange(edge.settings.partitions)
        )
    return Item(edge.target, edge, size_bytes, partition)


def _unite(item: Item, stage: Stage) -> None:
    """What one input yields to one partition makes units of several items."""
    for kids, edge in zip(item.kids, stage.outs, strict=True):
        if not edge.keyed:
            continue
        shared: dict[int, list[Item]] = {}
        for _, kid in kids:
            shared.setdefault(kid.partition, []).append(kid)
        for mates in shared.values():
            for at in range(0, len(mates), PART_UNITS):
                part = tuple(mates[at : at + PART_UNITS])
                for mate in part:
                    mate.mates = part if len(part) > 1 else ()


def _burst(everything: list[Item], topology: Topology, random: Random) -> None:
    """One input yields so much to one partition that it does not fit into one unit."""
    stages = topology.stages
    able = [
        item
        for item in everything
        if stages[item.stage].kind in YIELDING and any(e.keyed for e in stages[item.stage].outs)
    ]
    if not able:
        return
    item = random.choice(able)
    stage = stages[item.stage]
    at = next(at for at, edge in enumerate(stage.outs) if edge.keyed)
    edge, kids = stage.outs[at], item.kids[at]
    first = 1 + max((ordinal for own in item.kids for ordinal, _ in own), default=-1)
    for ordinal in range(first, first + PART_UNITS + 4):
        kid = Item(edge.target, edge, 1, 0)
        kid.kids = [[] for _ in stages[edge.target].outs]
        kids.append((ordinal, kid))
        everything.append(kid)
    _unite(item, stage)


def _doom(everything: list[Item], topology: Topology, random: Random) -> None:
    """A few items of each fate."""
    executed = [item for item in everything if item.edge is not None]
    if not executed:
        return
    for item in random.sample(executed, len(executed) // 25):
        assert item.edge is not None
        item.fails = random.randint(0, item.edge.settings.retries)
        item.fate = Fate.FLAKY
    for fate, most in MOST_OF:
        for item in random.sample(executed, min(len(executed), random.randint(0, most))):
            item.fate = fate
            for mate in item.mates if fate in DRAGGING else ():
                if mate.fate not in DRAGGING:
                    mate.fate = Fate.DRAGGED
    _doom_more(executed, topology, random)
    for item in random.sample(everything, 2):
        if item.edge is None and random.random() < 0.5:  # its origin cannot give it to anybody
            item.fate = Fate.FINAL
    for item in random.sample(everything, min(len(everything), 4)):
        kids = [kid for own in item.kids for _, kid in own]
        if kids and item.fate is Fate.WELL:
            item.fate = Fate.UNSENDABLE
            random.choice(kids).broken = True


def _doom_more(executed: list[Item], topology: Topology, random: Random) -> None:
    """There is something to send again where somebody would."""
    for stage in topology.stages:
        if stage.resends is not None:
            on_edge = [i for i in executed if i.edge is stage.resends and i.fate is Fate.WELL]
            for item in random.sample(on_edge, min(len(on_edge), random.randint(1, MORE_LETTERS))):
                item.fate = random.choice((Fate.ALWAYS, Fate.FINAL))


def _owe(item: Item, stage: Stage) -> None:
    """What is owed at and below the item; its kids are done already."""
    lossy = item.edge is not None and item.edge.lossy
    if item.doomed:
        dropped = item.edge is not None and item.edge.settings.on_error == "drop"
        item.owed = 0 if lossy or dropped else 1
        return
    applied = stage.kind == SINK or (stage.anchor and item.edge is not None)
    item.owed = 1 if applied else 0
    for edge, kids in zip(stage.outs, item.kids, strict=True):
        for _, kid in kids:
            if not edge.lossy:
                kid.up = item
                item.owed += kid.owed


class SimPayload:
    """Items in a message, measured, not encoded. spoiled: their stage cannot read them."""

    __slots__ = ("items", "size_bytes", "sizes", "spoiled")

    def __init__(self, items: list[Item], size_bytes: int, *, spoiled: bool = False) -> None:
        self.items = items
        self.size_bytes = size_bytes
        self.sizes = [size_bytes]
        self.spoiled = spoiled


class SimCodec:
    """The codec of one stage's processes; they can read whatever they have made."""

    def __init__(self, stage: int) -> None:
        self._stage = stage

    def encode(self, items: list[Item]) -> SimPayload:
        """Raises EncodeError, or makes a message that is too large, if an item is broken."""
        size_bytes = 0
        spoiled = False
        for item in items:
            if item.broken:
                # Both ways of not fitting through the wire, chosen by nothing random.
                if item.size_bytes == 10:
                    return SimPayload(items, MAX_FRAME_BYTES + 1)
                raise EncodeError("it cannot travel")
            size_bytes += item.size_bytes
            spoiled = spoiled or item.fate is Fate.UNREADABLE
        return SimPayload(items, size_bytes, spoiled=spoiled)

    def decode(self, payload: Any) -> list[Item]:
        """The items of the message."""
        items: list[Item] = payload.items
        if payload.spoiled and items[0].stage == self._stage:
            raise DecodeError("nobody here can read it")
        return list(items)

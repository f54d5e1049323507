"""Random pipelines for the simulator: which stages and edges, how wide, how small their windows.

Decides declared things only, from a random number generator. Never looks at an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from zflow.hashing import text_hash64
from zflow.protocol.outbox import EdgeSettings

SOURCE, MAP, FILTER, FLAT, STREAM, SINK = "source", "map", "filter", "flat", "stream", "sink"
DURABLE, EXACT = "durable", "exact"  # exact: a sink whose commits apply each item once
ANCHORS = DURABLE, EXACT
YIELDING = FLAT, STREAM
INNER = MAP, MAP, FILTER, FLAT, FLAT, STREAM, DURABLE, DURABLE, DURABLE
LAST = SINK, SINK, EXACT
PARTITIONS = 1, 4, 4, 8  # of a durable stage

ITEMS_MIN, ITEMS_MAX = 100, 130  # that all sources together yield
SOURCE_SERVICES_S = 0.001, 0.01, 0.03  # so that a source lasts for most of the faults
SERVICES_S = 0.0001, 0.0002, 0.0005, 0.002, 0.01
BUSY_ITEMS = 130  # a stage expected to get more of them makes fewer of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One declared edge, as its sender and the simulator know it.

    share: how many of the outputs take it; 1.0 sends it everything.
    """

    source: int
    target: int
    share: float
    settings: EdgeSettings

    @property
    def number(self) -> int:
        """The hash that names it on the wire."""
        return self.settings.edge

    @property
    def lossy(self) -> bool:
        """True if what is on the way may be lost."""
        return self.settings.at_most_once

    @property
    def keyed(self) -> bool:
        """True if every item has a partition, and every partition one owner."""
        return self.settings.partitions > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage. horizon_s: how much work its replicas ask for ahead.

    partitions: of an anchor; 0 of others. replayable: False for a source that cannot go back, and
    whose every incarnation is an origin of its own. resends: the edge whose dead letters a source
    sends again; None for every other stage.
    """

    index: int
    name: str
    kind: str
    slots: tuple[str, ...]
    ins: tuple[Edge, ...]
    outs: tuple[Edge, ...]
    service_s: float
    slice_items: int
    window_items: int
    window_bytes: int
    horizon_s: float
    partitions: int = 0
    replayable: bool = True
    resends: Edge | None = None

    @property
    def anchor(self) -> bool:
        """True if it commits what it applies."""
        return self.kind in ANCHORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Stages in topological order. items: how many each source slot yields."""

    stages: tuple[Stage, ...]
    items: dict[str, int]

    def slots(self) -> list[str]:
        """All slots, sources first."""
        return [slot for stage in self.stages for slot in stage.slots]


class _Draft:
    """A stage before its edges are known."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"s{index}"
        self.kind = ""
        self.parents: list[int] = []
        self.children = 0
        self.load = 0.0
        self.fan = 1.0
        self.slots: tuple[str, ...] = ()
        self.partitions = 0
        self.guarded = False  # an anchor, or one lies behind it before the next origin


def random_topology(random: Random) -> Topology:
    """3 to 8 stages: chains, fan-out, fan-in, diamonds and parallel edges as it falls."""
    n = random.randint(3, 8)
    sources = 2 if n >= 4 and random.random() < 0.3 else 1
    items = random.randint(ITEMS_MIN, ITEMS_MAX)
    drafts = [_Draft(index) for index in range(n)]
    for draft in drafts[:sources]:
        draft.kind, draft.load = SOURCE, items / sources
    for draft in drafts[sources:]:
        _choose_parents(draft, drafts, sources, random)
    for draft in drafts:
        _choose_kind(draft, random)
    _shape(drafts, random)
    stages, counts = _declare(drafts, items, random)
    return Topology(stages=stages, items=counts)


def small_topology(random: Random, items: int = 12) -> Topology:
    """Any topology, whose sources yield few items: for a search with many short runs."""
    topology = random_topology(random)
    return replace(topology, items=dict.fromkeys(topology.items, items))


def _choose_parents(draft: _Draft, drafts: list[_Draft], sources: int, random: Random) -> None:
    """At least one earlier stage; childless ones are preferred, so that sinks stay few."""
    earlier = drafts[: draft.index]
    lonely = [d.index for d in earlier if not d.children]
    must = [index for index in lonely if index < sources]
    if draft.index == sources:
        draft.parents.extend(must)
    elif lonely and random.random() < 0.7:
        draft.parents.append(random.choice(lonely))
    else:
        draft.parents.append(random.choice(earlier).index)
    if random.random() < 0.25:  # the same parent twice makes parallel edges
        draft.parents.append(random.choice(earlier).index)
    for parent in draft.parents:
        drafts[parent].children += 1


def _choose_kind(draft: _Draft, random: Random) -> None:
    if not draft.children:
        draft.kind = random.choice(LAST)
    elif not draft.kind:
        draft.kind = random.choice(INNER)
    if draft.kind in ANCHORS:
        draft.partitions = 1 if draft.kind == EXACT else random.choice(PARTITIONS)


def _shape(drafts: list[_Draft], random: Random) -> None:
    """Loads from the sources down; a stage that would be buried gets to drop something."""
    for draft in drafts:
        if draft.kind != SOURCE:
            draft.load = sum(drafts[parent].load * drafts[parent].fan for parent in draft.parents)
        busy = draft.load > BUSY_ITEMS
        if busy and draft.kind in (FLAT, STREAM, MAP):
            draft.kind = FILTER
        draft.fan = {FILTER: 0.35 if busy else 0.65, FLAT: 1.5, STREAM: 1.5}.get(draft.kind, 1.0)
        replicas = 1 if draft.kind == SOURCE else random.choice((1, 1, 2, 2, 3))
        if draft.kind == SOURCE and random.random() < 0.2:
            replicas = 2
        if draft.kind == EXACT:
            replicas = 1
        draft.slots = tuple(f"{draft.name}/{k}" for k in range(replicas))
    for draft in reversed(drafts):
        behind = (d.guarded for d in drafts if draft.index in d.parents)
        draft.guarded = draft.kind in ANCHORS or (draft.kind != SOURCE and any(behind))


def _declare(
    drafts: list[_Draft], items: int, random: Random
) -> tuple[tuple[Stage, ...], dict[str, int]]:
    edges = [
        _edge(drafts[parent], draft, number, random)
        for draft in drafts
        for number, parent in enumerate(draft.parents)
    ]
    stages = tuple(_stage(draft, edges, random) for draft in drafts)
    slots = [slot for stage in stages if stage.kind == SOURCE for slot in stage.slots]
    return stages, {slot: -(-items // len(slots)) for slot in slots}


def _edge(source: _Draft, target: _Draft, number: int, random: Random) -> Edge:
    label = f"{source.name}>{target.name}.{number}"
    settings = EdgeSettings(
        edge=text_hash64(label),
        label=label,
        stage=target.name,
        targets=target.slots,
        at_most_once=not target.guarded and random.random() < 0.12,
        window_items=random.choice((4, 16, 32, 64, 128)),
        window_bytes=random.choice((500, 3_000, 1 << 20, 1 << 20, 1 << 20)),
        retries=random.choice((0, 1, 2, 3)),
        backoff_s=random.choice((0.01, 0.05, 0.2)),
        on_error=random.choice(("dead_letter",) * 8 + ("drop", "fail")),
        partitions=target.partitions and random.choice((1, *[target.partitions] * 4)),
    )
    share = random.choice((0.5, 0.8)) if source.children > 1 and random.random() < 0.3 else 1.0
    return Edge(source=source.index, target=target.index, share=share, settings=settings)


def _stage(draft: _Draft, edges: Sequence[Edge], random: Random) -> Stage:
    ins = tuple(edge for edge in edges if edge.target == draft.index)
    return Stage(
        index=draft.index,
        name=draft.name,
        kind=draft.kind,
        slots=draft.slots,
        ins=ins,
        outs=tuple(edge for edge in edges if edge.source == draft.index),
        service_s=random.choice(SOURCE_SERVICES_S if draft.kind == SOURCE else SERVICES_S),
        slice_items=random.choice((8, 32, 64) if draft.kind == SOURCE else (1, 4, 8, 16)),
        window_items=random.choice((2, 8, 16, 32, 32)),
        window_bytes=random.choice((200, 1_000, 4_000, 1 << 20, 1 << 20, 1 << 20)),
        horizon_s=random.choice((0.02, 0.5, 2.0)),
        partitions=max((edge.settings.partitions for edge in ins), default=0),
        replayable=draft.kind != SOURCE or random.random() < 0.8,
    )

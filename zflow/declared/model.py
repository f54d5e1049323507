"""The declared graph as frozen data, and the walks over it that everybody needs.

Decides nothing. Never starts, loads or sends anything.
"""

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zflow.stages import StageDecl

Delivery = Literal["at_least_once", "at_most_once"]
Promise = Literal["exactly_once", "at_least_once", "at_most_once"]
Predicate = Callable[[Any], object]
KeyOf = Callable[[Any], object]
Priority = Callable[[Any], int]
Hook = Callable[[Any], object]
OnFull = Literal["block", "drop_oldest", "drop_newest"]

DELIVERIES = typing.get_args(Delivery)
PROMISES = typing.get_args(Promise)
ON_FULL = typing.get_args(OnFull)
FAIR_RATIO = 0.1
WINDOW_ITEMS = 65_536
PARTITIONS = 64  # of a stage with keyed edges; fixed when its files are made


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeDecl:
    """One declared edge between two stages, by name; `when`, `key` and a function for `priority`
    run at the sender.

    priority: from 0, the most urgent, to 7; None: nothing overtakes. fair: the share of the items
    that is kept for those which are overtaken. window: items that may be open on it. on_full: what
    happens to more; `block` stops the sender.
    """

    source: str
    target: str
    output: str | None
    when: Predicate | None
    key: KeyOf | None
    delivery: Delivery
    file: str
    line: int
    priority: int | Priority | None = None
    fair: float = FAIR_RATIO
    window: int = WINDOW_ITEMS
    on_full: OnFull = "block"

    @property
    def label(self) -> str:
        """How people and metrics name it: `parse->enrich` or `parse->enrich:output`."""
        return f"{self.source}->{self.target}" + (f":{self.output}" if self.output else "")

    @property
    def text(self) -> str:
        """How the command line names it: `parse:enrich` or `parse:enrich:output`."""
        return self.label.replace("->", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A topology as data: stages in topological order, edges in the order of declaration.

    hooks: the user's functions by the name of the hook, in the order of declaration.
    """

    name: str
    delivery: Promise
    stages: tuple[StageDecl, ...]
    edges: tuple[EdgeDecl, ...]
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)

    def stage(self, name: str) -> StageDecl:
        """The stage of that name. raises: KeyError."""
        return {stage.name: stage for stage in self.stages}[name]

    def edges_from(self, name: str) -> tuple[EdgeDecl, ...]:
        """The edges out of a stage."""
        return tuple(edge for edge in self.edges if edge.source == name)

    def edges_into(self, name: str) -> tuple[EdgeDecl, ...]:
        """The edges into a stage."""
        return tuple(edge for edge in self.edges if edge.target == name)

    def partitions(self, name: str) -> int:
        """Into how many partitions the state of a durable stage is cut; 0 of any other stage."""
        if not self.stage(name).is_durable:
            return 0
        return PARTITIONS if any(edge.key for edge in self.edges_into(name)) else 1

    def is_unmarked(self, edge: EdgeDecl) -> bool:
        """True if every way from an origin over this edge is at_most_once somewhere.

        No watermark comes over such an edge (R7), so what came over it could never be forgotten.
        """
        if edge.delivery == "at_most_once":
            return True
        stage = self.stage(edge.source)
        above = self.edges_into(edge.source)
        return bool(above) and not stage.is_durable and all(map(self.is_unmarked, above))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What one sink may expect, and why."""

    sink: str
    delivery: Promise
    why: str


def ordered(stages: Mapping[str, StageDecl], edges: Iterable[EdgeDecl]) -> Iterator[StageDecl]:
    """Topological order, ties in the order of declaration; a cycle is entered at its first."""
    waiting = {name: {e.source for e in edges if e.target == name} for name in stages}
    while waiting:
        free = next((name for name in waiting if not waiting[name] & waiting.keys()), None)
        name = free if free is not None else next(iter(waiting))
        del waiting[name]
        yield stages[name]


def neighbours_of(declared: Declared, *, backwards: bool = False) -> dict[str, list[str]]:
    """Each stage with those it sends to, or those that send to it."""
    found: dict[str, list[str]] = {stage.name: [] for stage in declared.stages}
    for edge in declared.edges:
        start, end = (edge.target, edge.source) if backwards else (edge.source, edge.target)
        found[start].append(end)
    return found


def reach(starts: Iterable[str], neighbours: Mapping[str, list[str]]) -> dict[str, str | None]:
    """Everything reachable, breadth first, each with the one it was reached from."""
    reached: dict[str, str | None] = dict.fromkeys(starts)
    queue = list(reached)
    for name in queue:
        for neighbour in neighbours[name]:
            if neighbour not in reached:
                reached[neighbour] = name
                queue.append(neighbour)
    return reached

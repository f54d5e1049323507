"""Outputs on their way out: units with their items and the task that waits for them."""

from collections.abc import Sequence
from typing import Any

from zflow.protocol.task import Task
from zflow.wire.run import SINGLE, SUSPECT, Run, cut_runs, item_span


class Segment:
    """Consecutive outputs of one task on one edge.

    items: of its units, one after the other; None once they are encoded in a message.
    parents: for each unit, the position of its input in the task. gone: of a unit alone, the places
    of items that were given up and no longer travel with it; graves: the tickets of their burial.
    order: on a keyed edge, how many units were made before it.
    """

    __slots__ = ("gone", "graves", "items", "n", "order", "parents", "runs", "task")

    def __init__(
        self, runs: list[Run], items: list[Any] | None, task: Task, parents: Sequence[int]
    ) -> None:
        self.runs = runs
        self.items = items
        self.task = task
        self.parents = parents
        self.n = len(parents)
        self.order = 0
        self.gone: tuple[int, ...] = ()
        self.graves: tuple[int, ...] = ()

    @property
    def suspect(self) -> bool:
        """True if its units run alone; a segment never mixes."""
        return bool(self.runs[0].flags & SUSPECT)

    @property
    def single(self) -> bool:
        """True if each of its units travels in a message of its own."""
        return bool(self.runs[0].flags & SINGLE)

    def part(self, begin: int, end: int, items: list[Any] | None = None) -> "Segment":
        """Units [begin, end); `items` if the segment's own are gone."""
        if items is None and self.items is not None:
            first, last = item_span(self.runs, begin, end)
            items = self.items[first:last]
        part = Segment(cut_runs(self.runs, begin, end), items, self.task, self.parents[begin:end])
        part.gone, part.graves, part.order = self.gone, self.graves, self.order + begin
        return part

    def places(self) -> list[int]:
        """Of a unit alone: which places its items had when it was made."""
        found: list[int] = []
        place = 0
        while len(found) < len(self.items or ()):
            if place not in self.gone:
                found.append(place)
            place += 1
        return found

    def without(self, position: int, ticket: int) -> "Segment":
        """Of a unit alone: the same unit without one of its items, which is buried meanwhile."""
        (run,), items = self.runs, self.items or []
        left = [*items[:position], *items[position + 1 :]]
        rest = Segment([run.holding(len(left))], left, self.task, self.parents)
        rest.gone = (*self.gone, self.places()[position])
        rest.graves = (*self.graves, ticket)
        rest.order = self.order
        return rest

    def marked(self, *, attempt: int | None = None, flags: int = 0) -> "Segment":
        """The same units, in another attempt (None keeps it) or with more flags."""
        runs = [
            run.marked(attempt=run.attempt if attempt is None else attempt, flags=run.flags | flags)
            for run in self.runs
        ]
        marked = Segment(runs, self.items, self.task, self.parents)
        marked.gone, marked.graves, marked.order = self.gone, self.graves, self.order
        return marked

"""Outputs on their way out: units with their items and the task that waits for them."""

from collections.abc import Sequence
from typing import Any

from zflow.protocol.task import Task
from zflow.wire.run import SINGLE, SUSPECT, Run, cut_runs, item_span


class Segment:
    """Consecutive outputs of one task on one edge.

    items: of its units, one after the other; None once they are encoded in a message.
    parents: for each unit, the position of its input in the task.
    """

    __slots__ = ("items", "n", "parents", "runs", "task")

    def __init__(
        self, runs: list[Run], items: list[Any] | None, task: Task, parents: Sequence[int]
    ) -> None:
        self.runs = runs
        self.items = items
        self.task = task
        self.parents = parents
        self.n = len(parents)

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
        return Segment(cut_runs(self.runs, begin, end), items, self.task, self.parents[begin:end])

    def marked(self, *, attempt: int | None = None, flags: int = 0) -> "Segment":
        """The same units, in another attempt (None keeps it) or with more flags."""
        runs = [
            run.marked(attempt=run.attempt if attempt is None else attempt, flags=run.flags | flags)
            for run in self.runs
        ]
        return Segment(runs, self.items, self.task, self.parents)

"""A run: a series of units in one message, the grain of all bookkeeping.

Decides how units are numbered and cut. Never looks at an item.

A unit is `(origin, oseq, path, index)`. The units of a run share origin, path, partition and
attempt and lie along one axis: OSEQ (index is `fixed`) or INDEX (oseq is `fixed`). Their numbers
are `start, start + 1, ...` or, where filters left gaps, the column `numbers`. A unit holds one
item, or as many as the column `counts` says: what one input gives to a partition stays together.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

OSEQ = 0  # wire numbers, never reused
INDEX = 1

SUSPECT = 1  # executing when its process died: runs alone, unit by unit
RESENT = 2  # an earlier copy may have been taken by a receiver that is gone
SINGLE = 4  # travels in a message of its own: in another it could not be read

LANES = 8  # of units that overtake one another, 0 the most urgent
MIDDLE_LANE = 4  # of whatever comes over an edge without `priority=`
_LANE_SHIFT = 4  # in the flags: 0 for none, else the lane + 1

FREE = -1  # the partition of what any replica may take

Unit = tuple[int, int, int, int]  # origin, oseq, path, index


class Run(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """One series of units. Treated as frozen; every change makes a new run.

    born_ns: the monotonic time the source yielded the first of them; only for one machine.
    """

    origin: int
    path: int
    axis: Annotated[int, msgspec.Meta(ge=OSEQ, le=INDEX)]
    fixed: int
    start: int
    n: Annotated[int, msgspec.Meta(ge=1)]
    born_ns: int = 0
    attempt: int = 0
    flags: int = 0
    numbers: list[int] | None = None
    partition: int = FREE
    counts: list[int] | None = None

    @property
    def lane(self) -> int:
        """How urgent its units are, 0 the most."""
        return (self.flags >> _LANE_SHIFT) - 1 if self.flags >> _LANE_SHIFT else MIDDLE_LANE

    @property
    def items(self) -> int:
        """How many items its units hold together."""
        return self.n if self.counts is None else sum(self.counts)

    def cut(self, begin: int, end: int) -> "Run":
        """The units [begin, end) of this run, by position."""
        numbers, counts = self.numbers, self.counts
        if numbers is not None:
            numbers = numbers[begin:end]
            start = numbers[0]
        else:
            start = self.start + begin
        if counts is not None:
            counts = counts[begin:end]
        return self.renewed(start=start, n=end - begin, numbers=numbers, counts=counts)

    def holding(self, items: int) -> "Run":
        """The same unit alone, with that many items."""
        counts = None if items == 1 else [items]
        return self.renewed(start=self.start, n=1, numbers=None, counts=counts)

    def kept(self, positions: Sequence[int]) -> "Run":
        """Only the units at `positions` (not empty); their numbers stay what they were.

        Of units of one item: only those are ever chosen from.
        """
        start, known = self.start, self.numbers
        numbers = [known[p] for p in positions] if known else [start + p for p in positions]
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return self.renewed(start=numbers[0], n=len(numbers), numbers=None)
        return self.renewed(start=numbers[0], n=len(numbers), numbers=numbers)

    def renewed(
        self, *, start: int, n: int, numbers: list[int] | None, counts: list[int] | None = None
    ) -> "Run":
        """The same series with other numbers."""
        return Run(
            self.origin,
            self.path,
            self.axis,
            self.fixed,
            start,
            n,
            self.born_ns,
            self.attempt,
            self.flags,
            numbers,
            self.partition,
            counts,
        )

    def marked(self, *, attempt: int, flags: int) -> "Run":
        """The same units in another attempt or with other flags."""
        return Run(
            self.origin,
            self.path,
            self.axis,
            self.fixed,
            self.start,
            self.n,
            self.born_ns,
            attempt,
            flags,
            self.numbers,
            self.partition,
            self.counts,
        )

    def number(self, position: int) -> int:
        """The number along the axis of the unit at `position`."""
        return self.numbers[position] if self.numbers else self.start + position

    def unit(self, position: int) -> Unit:
        """The identity of the unit at `position`."""
        number = self.number(position)
        if self.axis == OSEQ:
            return (self.origin, number, self.path, self.fixed)
        return (self.origin, self.fixed, self.path, number)

    def units(self) -> Iterator[Unit]:
        """All identities, in order; off the hot path only."""
        return (self.unit(position) for position in range(self.n))


def lane_flags(lane: int) -> int:
    """The flags of a run on that lane."""
    return (lane + 1) << _LANE_SHIFT


def cut_runs(runs: list[Run], begin: int, end: int) -> list[Run]:
    """The units [begin, end) of several runs laid end to end."""
    if begin == 0 and len(runs) == 1 and runs[0].n == end:
        return runs
    parts = []
    at = 0
    for run in runs:
        low, high = max(begin - at, 0), min(end - at, run.n)
        if low < high:
            parts.append(run if high - low == run.n else run.cut(low, high))
        at += run.n
        if at >= end:
            break
    return parts


def item_span(runs: list[Run], begin: int, end: int) -> tuple[int, int]:
    """Which items, counted through all of `runs`, the units [begin, end) hold."""
    for run in runs:
        if run.counts is not None:
            break
    else:  # nearly always
        return begin, end
    return _items_before(runs, begin), _items_before(runs, end)


def _items_before(runs: list[Run], unit: int) -> int:
    items = 0
    for run in runs:
        if unit < run.n:
            return items + (unit if run.counts is None else sum(run.counts[:unit]))
        unit -= run.n
        items += run.items
    return items

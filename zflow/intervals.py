"""A set of integers kept as sorted, disjoint, half-open ranges.

Decides nothing. Cost is per range, never per integer: acknowledgements come in long stretches.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

Range = tuple[int, int]

_FEW = 16  # ranges passed over for each that is added, until single insertions are cheaper


class IntervalSet:
    """Ranges [start, end). Adjacent ranges are merged, so equal sets have equal ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add [start, end); an empty range changes nothing."""
        if start >= end:
            return
        if self._ends and start == self._ends[-1]:  # the usual case: the next stretch
            self._ends[-1] = end
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def add_all(self, ranges: Sequence[Range]) -> None:
        """Add many ranges, sorted, not empty and apart, at the cost of looking once for all."""
        if not ranges:
            return
        if not self._ends or self._ends[-1] < ranges[0][0]:  # the usual case: all of them above
            self._starts += [start for start, _ in ranges]
            self._ends += [end for _, end in ranges]
            return
        low = bisect_left(self._ends, ranges[0][0])
        high = bisect_right(self._starts, ranges[-1][1])
        if len(ranges) == 1 or high - low > _FEW * len(ranges):
            for start, end in ranges:
                self.add(start, end)
            return
        among = zip(self._starts[low:high], self._ends[low:high], strict=True)
        starts: list[int] = []
        ends: list[int] = []
        last = 0
        for start, end in sorted([*among, *ranges]) if low < high else ranges:
            if starts and start <= last:
                if end > last:
                    ends[-1] = last = end
            else:
                starts.append(start)
                ends.append(end)
                last = end
        self._starts[low:high] = starts
        self._ends[low:high] = ends

    def missing(self, start: int, end: int) -> list[Range]:
        """The parts of [start, end) that are not in the set, in order."""
        gaps: list[Range] = []
        at = bisect_right(self._ends, start)
        while start < end and at < len(self._starts) and self._starts[at] < end:
            if start < self._starts[at]:
                gaps.append((start, self._starts[at]))
            start = self._ends[at]
            at += 1
        if start < end:
            gaps.append((start, end))
        return gaps

    def contiguous_end(self, start: int) -> int:
        """The end of the unbroken stretch that begins at `start`; `start` itself if absent."""
        at = bisect_right(self._starts, start) - 1
        if at >= 0 and self._ends[at] > start:
            return self._ends[at]
        return start

    def is_below(self, value: int) -> bool:
        """True if no member is as high as `value`."""
        return not self._ends or self._ends[-1] <= value

    def drop_below(self, mark: int) -> None:
        """Forget everything below `mark`."""
        at = bisect_right(self._ends, mark)
        del self._starts[:at], self._ends[:at]
        if self._starts and self._starts[0] < mark:
            self._starts[0] = mark

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._ends[at]

    def __iter__(self) -> Iterator[Range]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        """How many ranges, not how many integers."""
        return len(self._starts)

    def total(self) -> int:
        """How many integers."""
        return sum(self._ends) - sum(self._starts)

"""One partition of an anchor: which units were applied, and what waits for its commit.

Decides what is a duplicate and when a unit may be acknowledged. Never applies anything itself and
knows no file: a driver applies what `fresh` gives it, stores what `take` gives it in one
transaction, and says `stored`.

Rules:
1. A unit below the watermark of its origin, or applied before, is a duplicate, for ever (R7, H4).
   It is looked up along both axes: a copy of it may have been cut into another kind of run.
2. A unit is acknowledged when the commit that it is in is stored; a duplicate, when everything
   that was applied before it is (its first copy may be in a commit under way).
3. Commits are stored in the order in which they were taken.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zflow.intervals import IntervalSet, Range
from zflow.wire.run import INDEX, OSEQ, Run

Name = tuple[int, int, int]  # path, axis, what is fixed along it


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Numbers along one axis that one commit applies; the record that is stored."""

    origin: int
    path: int
    axis: int
    fixed: int
    ranges: list[Range]

    @property
    def top(self) -> int:
        """The highest oseq among them: below its origin's watermark the record says nothing."""
        return self.fixed if self.axis == INDEX else self.ranges[-1][1] - 1

    def goes_on_with(self, other: "Applied") -> bool:
        """True if the other one has the same name, and all its numbers lie above these."""
        return (
            self.ranges[-1][1] <= other.ranges[0][0]
            and self.fixed == other.fixed
            and self.path == other.path
            and self.axis == other.axis
            and self.origin == other.origin
        )


class Dedupe:
    """Which units of which origins a partition has applied. One thread owns it."""

    def __init__(
        self, watermarks: Mapping[int, int] | None = None, applied: Iterable[Applied] = ()
    ) -> None:
        self.watermarks = dict(watermarks or {})
        self._seen: dict[int, dict[Name, IntervalSet]] = {}
        self._axes: dict[int, dict[int, int]] = {}  # origin -> path -> bits of the axes seen
        for record in applied:
            into = self._set_of(record.origin, record.path, record.axis, record.fixed)
            into.add_all(record.ranges)
        for origin, names in self._seen.items():
            self._forget(origin, names, self.watermarks.get(origin, 0))

    def _set_of(self, origin: int, path: int, axis: int, fixed: int) -> IntervalSet:
        names = self._seen.setdefault(origin, {})
        found = names.get((path, axis, fixed))
        if found is None:
            found = names[path, axis, fixed] = IntervalSet()
            axes = self._axes.setdefault(origin, {})
            axes[path] = axes.get(path, 0) | 1 << axis
        return found

    def fresh(self, run: Run) -> list[Range]:
        """The positions [begin, end) of the run that were never applied, in order."""
        found = self._fresh_along(run)
        across = INDEX if run.axis == OSEQ else OSEQ
        if found and self._axes.get(run.origin, {}).get(run.path, 0) & 1 << across:
            positions = (p for begin, end in found for p in range(begin, end))
            return _stretches(
                p for p in positions if not self._seen_across(run, run.number(p), across)
            )
        return found

    def _fresh_along(self, run: Run) -> list[Range]:
        """The same, looked up along the run's own axis only."""
        mark = self.watermarks.get(run.origin, 0)
        if run.axis == INDEX and run.fixed < mark:
            return []
        begin = _first_position(run, mark) if run.axis == OSEQ else 0
        if begin == run.n:
            return []
        known = self._seen.get(run.origin, {}).get((run.path, run.axis, run.fixed))
        if known is None or known.is_below(run.number(begin)):  # nearly always: nothing so high
            return [(begin, run.n)]
        numbers, start = run.numbers, run.start
        if numbers is not None:
            return _stretches(p for p in range(begin, run.n) if numbers[p] not in known)
        gaps = known.missing(start + begin, start + run.n)
        return [(low - start, high - start) for low, high in gaps]

    def _seen_across(self, run: Run, number: int, axis: int) -> bool:
        """The unit is (origin, number, path, fixed) along OSEQ; the other axis swaps the two."""
        known = self._seen[run.origin].get((run.path, axis, number))
        return known is not None and run.fixed in known

    def add(self, run: Run) -> Applied:
        """All units of the run are applied; what is to be stored of it."""
        dense = run.numbers is None
        found = [(run.start, run.start + run.n)] if dense else _stretches(run.numbers or ())
        self._set_of(run.origin, run.path, run.axis, run.fixed).add_all(found)
        return Applied(
            origin=run.origin, path=run.path, axis=run.axis, fixed=run.fixed, ranges=found
        )

    def raise_to(self, watermarks: Mapping[int, int]) -> dict[int, int]:
        """Take in watermarks of origins known here, and forget what lies below; what has risen."""
        risen = {}
        for origin, names in self._seen.items():
            mark = watermarks.get(origin, 0)
            if mark > self.watermarks.get(origin, 0):
                self.watermarks[origin] = risen[origin] = mark
                self._forget(origin, names, mark)
        return risen

    def _forget(self, origin: int, names: dict[Name, IntervalSet], mark: int) -> None:
        gone = []
        for name, known in names.items():
            _, axis, fixed = name
            if axis == OSEQ:
                known.drop_below(mark)
            if fixed < mark if axis == INDEX else not known:
                gone.append(name)
        for name in gone:
            del names[name]
        axes: dict[int, int] = {}
        for path, axis, _ in names:
            axes[path] = axes.get(path, 0) | 1 << axis
        self._axes[origin] = axes

    def size(self) -> int:
        """How many ranges are remembered."""
        return sum(len(one) for names in self._seen.values() for one in names.values())


def _first_position(run: Run, mark: int) -> int:
    """Of the first unit whose number is not below the mark; run.n if there is none."""
    if run.start >= mark:
        return 0
    if run.numbers is not None:
        return bisect_left(run.numbers, mark)
    return min(mark - run.start, run.n)


def _stretches(numbers: Iterable[int]) -> list[Range]:
    """Rising numbers as ranges [begin, end), neighbours together."""
    found: list[Range] = []
    begin = end = -1
    for number in numbers:
        if number != end:
            if begin >= 0:
                found.append((begin, end))
            begin = number
        end = number + 1
    if begin >= 0:
        found.append((begin, end))
    return found


def _join(ranges: list[Range], higher: list[Range]) -> None:
    """Append ranges that lie above; two that touch become one."""
    (begin, end), (next_begin, next_end) = ranges[-1], higher[0]
    if end == next_begin:
        ranges[-1] = (begin, next_end)
        ranges += higher[1:]
    else:
        ranges += higher


@dataclass(slots=True)
class Commit:
    """What one transaction stores of a partition. first: oseq of its first output.

    units: (owner, first, n) that may be acknowledged once it is stored.
    """

    applied: list[Applied] = field(default_factory=list)
    watermarks: dict[int, int] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    first: int = 0
    low: int = 0  # outputs below it are settled
    units: list[tuple[Any, int, int]] = field(default_factory=list)
    done: bool = False  # `finish` has run
    n: int = 0  # units applied


class Partition:
    """What an owner keeps of one partition between acquiring and releasing it.

    One thread owns it. next: oseq of the next output; done: `finish` has been committed or is on
    its way. Invariant: `stored` follows `take` in the same order.
    """

    def __init__(self, number: int, *, dedupe: Dedupe, next_oseq: int, done: bool) -> None:
        self.number = number
        self.dedupe = dedupe
        self.next = next_oseq
        self.done = done
        self.under_way: deque[Commit] = deque()
        self._open = Commit(first=next_oseq)

    @property
    def waiting(self) -> int:
        """Units applied and not yet taken for a commit."""
        return self._open.n

    @property
    def dirty(self) -> bool:
        """True if there is something to commit."""
        commit = self._open
        return bool(commit.n or commit.outputs or commit.units or commit.done)

    def applied(self, run: Run, outputs: list[Any], *, remembered: bool = True) -> None:
        """User code has applied every unit of the run, and made these outputs of them.

        remembered: False for units that nobody will ever send again.
        """
        commit = self._open
        commit.outputs += outputs
        commit.n += run.n
        if not remembered:
            return
        made = self.dedupe.add(run)
        last = commit.applied[-1] if commit.applied else None
        if last is not None and last.goes_on_with(made):
            _join(last.ranges, made.ranges)  # one row, not one for each message
        else:
            commit.applied.append(made)

    def owes(self, owner: Any, first: int, n: int) -> bool:
        """These units are through here; False if they may be acknowledged at once."""
        if not self.dirty and not self.under_way:
            return False
        units = self._open.units
        if units and units[-1][0] is owner and units[-1][1] + units[-1][2] == first:
            units[-1] = (owner, units[-1][1], units[-1][2] + n)
        else:
            units.append((owner, first, n))
        return True

    def fired(self, outputs: list[Any]) -> None:
        """A timer has made these outputs."""
        self._open.outputs += outputs

    def finished(self, outputs: list[Any]) -> None:
        """`finish` has run and made these outputs; it never runs again once this is stored."""
        self._open.outputs += outputs
        self._open.done = self.done = True

    def take(self, watermarks: Mapping[int, int], low: int) -> Commit:
        """What is open, to be stored now; the next commit begins behind it.

        low: of the outputs, the end of the unbroken settled stretch.
        """
        commit, self._open = self._open, Commit()
        commit.watermarks = self.dedupe.raise_to(watermarks)
        commit.first = self.next
        commit.low = low
        self.next += len(commit.outputs)
        self.under_way.append(commit)
        return commit

    def stored(self) -> Commit:
        """The oldest commit under way is durable: acknowledge its units, send its outputs."""
        return self.under_way.popleft()

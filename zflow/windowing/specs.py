"""Which windows there are: `tumbling`, `sliding` and `session`, by event time or by count.

Decides which sizes are valid, and which windows hold a time. Never keeps an item.

Windows of time begin at the multiples of their hop, below 0 too, and hold the times
start <= time < end. Window number n begins at n * hop.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from zflow.shapes import Fault

SMALLER_HOP = "give a hop of at most the size"


class Window(NamedTuple):
    """From start up to, and not including, end: in seconds; of counts, in items of the key."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Times:
    """Windows of `size_s` seconds, one every `hop_s` seconds."""

    size_s: float
    hop_s: float

    def window(self, n: int) -> Window:
        """Window number n. Whole seconds stay whole numbers."""
        start = n * self.hop_s
        if self.size_s == self.hop_s:
            return Window(start, (n + 1) * self.hop_s)  # where the next begins, also in floats
        return Window(start, start + self.size_s)

    def numbers(self, time_s: float) -> tuple[int, int]:
        """The first and the last of the windows that hold a time; first > last if none does."""
        last = math.floor(time_s / self.hop_s)
        # The quotient of two floats may be rounded across the border that the product respects.
        while last * self.hop_s > time_s:
            last -= 1
        while (last + 1) * self.hop_s <= time_s:
            last += 1
        first = last - math.ceil(self.size_s / self.hop_s) - 1
        while self.window(first).end <= time_s:
            first += 1
        return first, last


@dataclass(frozen=True, slots=True)
class Counts:
    """Windows of `count` items of a key, one every `hop` items."""

    count: int
    hop: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """The items of a key between two pauses of `gap_s` seconds or more."""

    gap_s: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """What was asked for is no window."""

    message: str
    fix: str


Spec = Times | Counts | Sessions | Wrong


def tumbling(size_s: float | None = None, *, count: int | None = None) -> Spec:
    """Windows that follow one another: of `size_s` seconds, or of `count` items of a key.

    >>> tumbling(60).window(2)
    Window(start=120, end=180)
    """
    if (size_s is None) == (count is None):
        return Wrong(
            "tumbling() takes a size or a count", "write tumbling(60) or tumbling(count=60)"
        )
    return Counts(count, count) if count is not None else Times(size_s or 0, size_s or 0)


def sliding(
    size_s: float | None = None,
    hop_s: float | None = None,
    *,
    count: int | None = None,
    hop: int | None = None,
) -> Spec:
    """Windows that overlap: one every `hop_s` seconds, or every `hop` items of a key."""
    if size_s is not None and hop_s is not None and count is None and hop is None:
        return Times(size_s, hop_s)
    if count is not None and hop is not None and size_s is None and hop_s is None:
        return Counts(count, hop)
    fix = "write sliding(60, 10) or sliding(count=60, hop=10)"
    return Wrong("sliding() takes a size and a hop, both in seconds or both in items", fix)


def session(gap_s: float) -> Spec:
    """Windows of activity: a key's items, as long as each comes less than `gap_s` after another.

    Such a window begins with its first item and ends `gap_s` after its last.
    """
    return Sessions(gap_s)


def spec_faults(spec: Any) -> Iterator[Fault]:
    """All that is wrong with the first argument of `@window`."""
    match spec:
        case Wrong():
            yield spec.message, spec.fix
        case Times():
            yield from _times_faults(spec)
        case Counts():
            if not _is_count(spec.count) or not _is_count(spec.hop):
                message = f"a window of count={spec.count!r}, hop={spec.hop!r} is not valid"
                yield message, "give whole numbers, at least 1"
            elif spec.hop > spec.count:
                yield _gaps(spec.hop, spec.count), SMALLER_HOP
        case Sessions():
            if not is_seconds(spec.gap_s) or spec.gap_s == 0:
                yield f"a gap of {spec.gap_s!r} is not valid", "give seconds, more than 0"
        case _:
            fix = "write @window(tumbling(60), time=...), or sliding(...) or session(...)"
            yield f"{spec!r} is no window", fix


def _times_faults(spec: Times) -> Iterator[Fault]:
    sizes = {"size": spec.size_s, "hop": spec.hop_s}
    if spec.hop_s is spec.size_s:  # NaN is not equal to itself
        del sizes["hop"]
    wrong = [name for name, value in sizes.items() if not is_seconds(value) or value == 0]
    for name in wrong:
        yield f"a {name} of {sizes[name]!r} is not valid", "give seconds, more than 0"
    if not wrong and spec.hop_s > spec.size_s:
        yield _gaps(spec.hop_s, spec.size_s), SMALLER_HOP


def _gaps(hop: float, size: float) -> str:
    return f"a hop of {hop!r} leaves out what lies between windows of {size!r}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_seconds(value: Any) -> bool:
    """True for a finite number of seconds that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < math.inf

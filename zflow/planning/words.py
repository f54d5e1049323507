"""How numbers and lists read in a sentence. Decides wording only."""

from collections.abc import Sequence

SHOWN = 3  # of a list; the rest is counted


def count(n: int, word: str) -> str:
    """`1 item`, `2,000 items`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def rate(rate_per_s: float) -> str:
    """`1,480 items/s`, `0.5 items/s`."""
    return f"{rate_per_s:,.0f} items/s" if rate_per_s >= 10 else f"{rate_per_s:.2g} items/s"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and 3 more`; "" of none."""
    if len(words) > SHOWN:
        words = [*words[: SHOWN - 1], f"{len(words) - SHOWN + 1} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def first_line(text: str) -> str:
    """The first line of how a process ended."""
    return text.strip().partition("\n")[0]

"""The topologies with keyed state on disk that `scripts/chaos` runs: what the user writes.

What they make does not depend on the order in which replicas work, so that `chaos_campaigns.exact`
can say in plain Python what their sinks and their state must hold, to the last row.
"""

import ctypes
import os
from collections.abc import Iterator

from chaos_topologies import numbers

from zflow import DurableStage, Topology, sink, source, stage
from zflow.connectors.sqlite import SqliteTable

KEYS = 499
RUNNING_EVERY = 50  # counts of a key between two running values
COLUMNS = ("kind", "key", "n", "total")
PoisonItem = tuple[int, int, str]  # key, its number within the key, what is wrong with it


def pieces_of(number: int) -> list[tuple[int, int]]:
    """Key and value of what becomes of a number: nothing, one piece or two."""
    return [((number * 31 + k * 17) % KEYS, number) for k in range(number % 3)]


def is_running(key: int, n: int) -> bool:
    """Whether a key has a running value at that count; the keys not all at once."""
    return n % RUNNING_EVERY == key % RUNNING_EVERY


def key_of(piece: tuple[int, int]) -> str:
    return f"k{piece[0]}"


@stage(replicas=2)
def spread(number: int) -> Iterator[tuple[int, int]]:
    """The flat map."""
    if number < 0:
        raise ValueError(f"{number} is a poison item")
    yield from pieces_of(number)


@stage(replicas=2)
class Tally(DurableStage):
    """Count and sum of each key; a running count now and then, the totals at the end."""

    def process(self, piece: tuple[int, int]) -> Iterator[tuple[str, str, int, int]]:
        key = key_of(piece)
        n, total = self.state.get(key, (0, 0))
        self.state[key] = n + 1, total + piece[1]
        if is_running(piece[0], n + 1):
            yield "running", key, n + 1, 0

    def finish(self) -> Iterator[tuple[str, str, int, int]]:
        for key, (n, total) in self.state.items():
            yield "total", key, n, total


@sink
class Rows(SqliteTable):
    """One row for each item, so that whatever came twice is there twice."""

    def __init__(self, path: str):
        super().__init__(path, table="rows", columns=COLUMNS)


exact = Topology("exact", delivery="exactly_once")
exact.connect(numbers, spread)
exact.connect(spread, Tally, key=key_of)
exact.connect(Tally, Rows)


# --- items that fail on their way, one now and then ----------------------------------------------

BAD_EVERY = 500


@source
def partly_bad(n: int, gate: str) -> Iterator[int]:
    """0, 1, ... below n as the gate lets them through; of every 500 one is negative."""
    for number in numbers(n, gate):
        yield -number if number % BAD_EVERY == BAD_EVERY - 1 else number


@stage(replicas=2, retries=0)
def picky(number: int) -> Iterator[tuple[int, int]]:
    yield from spread(number)


complaining = Topology("complaining", delivery="exactly_once")
complaining.connect(partly_bad, picky)
complaining.connect(picky, Tally, key=key_of)
complaining.connect(Tally, Rows)


# --- order per key, and poison in the durable stage itself ---------------------------------------

ORDER_KEYS = 64
POISON = {
    "raise": lambda: int("this is no number"),
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
}
POISON_FIRST, POISON_STEP = 1013, 4001  # the places of poison items, one kind after the other
POISON_OF_A_KIND = 2
ONCE_EVERY = 1000  # of so many numbers one fails at its first attempt, and not at the next one


def poisoned() -> dict[int, str]:
    """Which numbers are poison, and of which kind."""
    kinds = list(POISON) * POISON_OF_A_KIND
    return {POISON_FIRST + k * POISON_STEP: kind for k, kind in enumerate(kinds)}


@source
def sequences(n: int, gate: str, poison: bool) -> Iterator[PoisonItem]:
    """Numbers 0, 1, 2, ... of each key, the keys in turn."""
    bad = poisoned() if poison else {}
    for number in numbers(n, gate):
        once = "once" if number % ONCE_EVERY == ONCE_EVERY // 2 else ""
        yield number % ORDER_KEYS, number // ORDER_KEYS, bad.get(number, once)


def first_of(item: PoisonItem) -> str:
    return str(item[0])


@stage(replicas=2, retries=1, backoff_s=0.2)
class Ordered(DurableStage):
    """Gives each number with the one before it of its key; refuses one that comes too late."""

    def open(self) -> None:
        self.tried: set[PoisonItem] = set()  # in this process

    def process(self, item: PoisonItem) -> tuple[str, str, int, int]:
        key, number, poison = item
        before = self.state.get(key, -1)
        if number <= before:
            raise AssertionError(f"key {key}: {number} came after {before}")
        if poison in POISON:
            POISON[poison]()
        if poison and item not in self.tried:
            self.tried.add(item)
            raise TimeoutError("for once")
        self.state[key] = number
        return "order", str(key), number, before


ordered = Topology("ordered", delivery="exactly_once")
ordered.connect(sequences, Ordered, key=first_of)
ordered.connect(Ordered, Rows)

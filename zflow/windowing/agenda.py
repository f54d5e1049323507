"""What will be due in one partition, earliest first. A hint: what is true stands in the state.

Decides nothing. It is made anew from the state when a partition is opened, and whenever the state
says another watermark than the agenda does: an item that moved it has failed and was undone.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

from zflow.errors import StageError
from zflow.hashing import key_bytes

State = MutableMapping[Any, Any]
Token = tuple[int, ...]  # which of the windows of a key

# The first part of a key of the state. Rows sort by it: small ones come before all the items.
MARK, SMALL, ITEM = 0, 1, 2


class Due(NamedTuple):
    """Sorts by time, then by the canonical bytes of the key."""

    due_s: float
    rank: bytes
    token: Token
    key: Any


class Agenda:
    """Of one partition and side; one thread owns it. mark: the watermark that it was made for."""

    def __init__(self, state: State, side: int, mark: float) -> None:
        self.state = state
        self.mark = mark
        self._side = side
        self._heap: list[Due] = []
        self._known: set[tuple[bytes, Token]] = set()

    def add(self, due_s: float, key: Any, token: Token) -> None:
        """It is due then; said again, it changes nothing."""
        rank = key_bytes(key)
        if (rank, token) not in self._known:
            self._known.add((rank, token))
            heapq.heappush(self._heap, Due(due_s, rank, token, key))

    def advance(self, mark: float) -> float:
        """Move the watermark, here and in the state; what it was."""
        before, self.mark = self.mark, mark
        self.state[MARK, self._side] = mark
        return before

    def pop(self, until_s: float) -> Iterator[Due]:
        """Everything that is due by then, in order; what is added meanwhile too."""
        heap = self._heap
        while heap and heap[0].due_s <= until_s:
            due = heapq.heappop(heap)
            self._known.discard((due.rank, due.token))
            yield due

    def is_empty(self) -> bool:
        """Nothing will ever be due."""
        return not self._heap

    def fill(self, dues: Iterable[tuple[float, Any, Token]]) -> "Agenda":
        """With all that is open in the state."""
        for due in dues:
            self.add(*due)
        return self


def watermark(state: State, side: int) -> float:
    """The highest event time that has come on a side; -inf before the first, inf at the end."""
    return float(state.get((MARK, side), -math.inf))


def small_rows(state: State) -> Iterator[tuple[Any, Any]]:
    """The rows about open windows, without a look at the items."""
    for row in state:
        if row[0] == SMALL:
            yield row, state[row]
        elif row[0] > SMALL:
            return


def seconds(time: Any, item: Any) -> float:
    """What `time=` says of an item; raises StageError for what is no time."""
    found = time(item)
    if isinstance(found, int | float) and math.isfinite(found):
        return found
    raise StageError(f"time= gives the seconds of an item, a finite number; got {found!r}")

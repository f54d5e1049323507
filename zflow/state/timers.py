"""What a durable stage sees as `self.timers`: when to be called again about a key.

Decides what a commit gets, and what is due. Never calls anybody. All timers of a partition are in
memory, so that the earliest is known without a look at the file.

Two layers: what the running item has set or deleted, which `undo` forgets, and everything else.
"""

import heapq
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from zflow.hashing import key_bytes
from zflow.state.entries import Row, pack_row, unpack_row

Timer = tuple[Any, float]  # key, seconds of the wall clock


class Timers(MutableMapping[Any, float]):
    """The timers of one partition, by key: seconds of the wall clock. One thread owns it.

    Keys are those of keyed edges. raises: TypeError or ValueError for another key or time.
    """

    def __init__(self, rows: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._set: dict[bytes, Timer] = {raw: unpack_row(raw, row)[:2] for raw, row in rows}
        self._item: dict[bytes, Timer | None] = {}
        self._changed: set[bytes] = set()  # since the last `take`
        self._heap = [(due_s, raw) for raw, (_, due_s) in self._set.items()]
        heapq.heapify(self._heap)

    # --- a dict -----------------------------------------------------------------------------

    def _found(self, raw: bytes) -> Timer | None:
        return self._item[raw] if raw in self._item else self._set.get(raw)

    def __getitem__(self, key: Any) -> float:
        found = self._found(key_bytes(key))
        if found is None:
            raise KeyError(key)
        return found[1]

    def __setitem__(self, key: Any, wall_s: float) -> None:
        due_s = float(wall_s)
        if due_s != due_s:
            raise ValueError(f"a timer is set to seconds of the wall clock; got {wall_s!r}")
        self._item[key_bytes(key)] = (key, due_s)

    def __delitem__(self, key: Any) -> None:
        raw = key_bytes(key)
        if self._found(raw) is None:
            raise KeyError(key)
        self._item[raw] = None

    def __iter__(self) -> Iterator[Any]:
        raws = sorted(self._set.keys() | self._item.keys())
        return iter([found[0] for raw in raws if (found := self._found(raw)) is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # --- for whoever runs the items and commits -----------------------------------------------

    def seal(self) -> None:
        """The running item has ended: what it did is to be stored."""
        if not self._item:
            return
        for raw, timer in self._item.items():
            self._changed.add(raw)
            if timer is None:
                self._set.pop(raw, None)
            else:
                self._set[raw] = timer
                heapq.heappush(self._heap, (timer[1], raw))
        self._item = {}

    def undo(self) -> None:
        """The running item failed: forget what it did since the last `seal`."""
        self._item = {}

    def take(self) -> list[Row]:
        """What changed since the last `take`, for a commit."""
        changed, self._changed = self._changed, set()
        return [
            (raw, pack_row(*timer) if (timer := self._set.get(raw)) is not None else None)
            for raw in sorted(changed)
        ]

    def first(self) -> Timer | None:
        """The earliest one; None if there is none."""
        heap = self._heap
        while heap:
            due_s, raw = heap[0]
            timer = self._set.get(raw)
            if timer is not None and timer[1] == due_s:
                return timer
            heapq.heappop(heap)  # it was deleted, or set to another time
        return None

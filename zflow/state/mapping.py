"""What a durable stage sees as `self.state`: the mapping of one partition, larger than memory.

Decides which rows a commit gets, and what is true before, while and after it is written. Never
writes to the file: rows leave by `take`, and the caller says how their commit ended.

Four layers, the newest first; a key is what the first layer that has it says, else the file:

    item     what the items that run have read or written; `undo` forgets it
    batch    sealed by items that have ended, not taken yet; `rollback` forgets it too
    flights  taken and not committed yet, several, in order; only `reset` forgets them
    cache    what the file says, bounded

A value that can change in place is kept below `item` only as decoded from its own row, and is
decoded again once it may differ: so neither a failed item nor a second name for the same object
changes what is stored, and a stage behaves after a crash as it would have without one. For that
`seal` must follow each item that was given such a value, or gave one, as `exposed` says; after
others it may wait for more items.
"""

from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from typing import Any, Protocol

from zflow.hashing import key_bytes
from zflow.state.entries import (
    ATOMS,
    GONE,
    MISSING,
    STALE,
    Cache,
    Entry,
    Row,
    is_held,
    is_plain,
    pack_row,
    raw_key,
    unpack_row,
)
from zflow.state.timers import Timers
from zflow.wire.codec import pack

DEFAULT_CACHE_BYTES = 64 * 1024 * 1024
DEFAULT_CACHE_ENTRIES = 1_000_000
_MAX_PENDING = 4096  # values of an iteration that are looked at again before they are kept


class Committed(Protocol):
    """What a `State` reads; a `PartitionFile` is one."""

    def get(self, key: bytes) -> bytes | None:
        """The committed row of a key."""

    def page(self, after: bytes | None) -> list[tuple[bytes, bytes]]:
        """The next committed rows behind `after`, in key order; empty at the end."""

    def count(self, keys: Iterable[bytes] = ()) -> tuple[int, int]:
        """How many keys are committed, and how many of `keys` are among them."""


class State(MutableMapping[Any, Any]):
    """The state of one partition as a dict. One thread owns it.

    Keys are told apart by their canonical bytes: `key_bytes`, or a canonical pickle for other
    hashable keys. Iteration goes in the order of these bytes; a key that stays comes exactly once,
    whatever is changed meanwhile; one that is added or deleted may or may not come.

    A value that can change in place (a list, an object) is the running item's from the moment it
    is read: what is done to it before `seal` is stored, what is done later is not. An iteration
    lets go of unchanged values that nobody refers to any more; who keeps only a part of a value
    (`state[k]["part"]`) and changes that after 256 more rows must assign it.

    cache_bytes, cache_entries: limits of the cache; bytes as pickled, with about 200 for each key.
    timers: rows of the timers, which are sealed and undone with the state.

    exposed: the running item has its hands on a value that can change in place.

    raises: StateError for a key or a value that cannot be stored or read again, Unavailable if
    the file cannot be read.
    """

    def __init__(
        self,
        committed: Committed,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        cache_entries: int = DEFAULT_CACHE_ENTRIES,
        timers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.timers = Timers(timers)
        self.exposed = False
        self._committed = committed
        self._item: dict[bytes, Entry] = {}
        self._batch: dict[bytes, Entry] = {}
        self._flights: deque[dict[bytes, Entry]] = deque()  # the newest first
        self._rows: deque[list[Row]] = deque()  # of each flight
        self._cache = Cache(max_bytes=cache_bytes, max_entries=cache_entries)
        self._cached = self._cache.peek
        self._began_empty: bool | None = None  # the file held nothing when it was first asked
        self._last_key: Any = GONE
        self._last_raw = b""
        self._version = 0  # rises whenever a row of the file may be newer than one read before

    # --- a dict -----------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        value = self.get(key, GONE)
        if value is GONE:
            raise KeyError(key)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        raw = self._last_raw if key is self._last_key else self._raw(key)
        value = (self._item.get(raw) or self._read(raw))[1]
        return default if value is GONE else value

    def __contains__(self, key: object) -> bool:
        raw = self._raw(key)
        entry = self._item.get(raw) or self._known(raw) or self._fetched(raw)
        return entry[1] is not GONE

    def __setitem__(self, key: Any, value: Any) -> None:
        raw = self._last_raw if key is self._last_key else self._raw(key)
        self._item[raw] = (key, value, None)
        if type(value) not in ATOMS and not is_plain(value):
            self.exposed = True

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._item[self._raw(key)] = (key, GONE, None)

    def __len__(self) -> int:
        there = {
            raw: entry[1] is not GONE
            for layer in (*reversed(self._flights), self._batch, self._item)
            for raw, entry in layer.items()
        }
        total, known = self._committed.count(there)
        return total - known + sum(there.values())

    def __iter__(self) -> Iterator[Any]:
        return (entry[0] for _, entry in self._walk())

    def items(self) -> ItemsView[Any, Any]:
        """A view, in the order of the keys."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """A view, in the order of the keys."""
        return _Values(self)

    def clear(self) -> None:
        """Delete all."""
        for raw, entry in self._walk():
            self._item[raw] = (entry[0], GONE, None)

    # --- for whoever runs the items and commits -----------------------------------------------

    def seal(self) -> None:
        """The items that ran have ended: what they did belongs to the batch.

        raises: StateError, naming the key; nothing is sealed then, and `undo` forgets the items.
        """
        self._batch.update(self._changed() if self.exposed else self._item)
        self._item = {}
        self.exposed = False
        self.timers.seal()

    def _changed(self) -> dict[bytes, Entry]:
        """What the running item did, less the values that it only read."""
        changed = {}
        for raw, entry in self._item.items():
            sealed = entry if is_plain(entry[1]) else self._sealed(raw, entry)
            if sealed is not None:
                changed[raw] = sealed
        return changed

    def take(self) -> list[Row]:
        """Seal, and hand out what changed since the last `take` for a commit; in flight from now.

        Each call is ended by one `committed`, in order, or all by `reset`.
        """
        self.seal()
        batch = self._batch
        rows: list[Row] = []
        for raw, (key, value, row) in batch.items():
            if row is None and value is not GONE:
                row = pack((key, value))  # of a plain value: it cannot fail
            rows.append((raw, row))
        self._flights.appendleft(batch)
        self._rows.appendleft(rows)
        self._batch = {}
        return rows

    def committed(self) -> None:
        """The oldest rows in flight are in the file."""
        self._cache.put_all(self._flights.pop(), self._rows.pop())
        self._version += 1

    def undo(self) -> None:
        """The running item failed: forget what was done since the last `seal`."""
        item, self._item = self._item, {}
        self.exposed = False
        self.timers.undo()
        for raw in item:
            self._spoil(raw)

    def rollback(self) -> None:
        """Forget everything that was not taken."""
        self.undo()
        batch, self._batch = self._batch, {}
        for raw in batch:
            self._spoil(raw)

    def reset(self) -> None:
        """Forget everything, in flight or not: only the file is true, after a failed commit."""
        self._item, self._batch = {}, {}
        self.exposed = False
        self._flights.clear()
        self._rows.clear()
        self._cache.clear()
        self._version += 1

    # --- layers -----------------------------------------------------------------------------

    def _raw(self, key: Any) -> bytes:
        if key is self._last_key:  # get and set of one key come in pairs
            return self._last_raw
        try:
            raw = key_bytes(key)
        except (TypeError, ValueError):
            raw = raw_key(key)
        self._last_raw = raw
        self._last_key = key
        return raw

    def _read(self, raw: bytes) -> Entry:
        """What the layers below the item say, as the item sees it from now on."""
        entry = self._batch.get(raw) or self._below(raw) or self._fetched(raw)
        if entry[2] is not None:  # from here on the item may change it in place
            entry = self._item[raw] = self._fresh(raw, entry)
            self.exposed = True
        return entry

    def _known(self, raw: bytes) -> Entry | None:
        """What the layers below the item say, without asking the file."""
        return self._batch.get(raw) or self._below(raw)

    def _below(self, raw: bytes) -> Entry | None:
        """What the layers below the batch say."""
        for flight in self._flights:
            entry = flight.get(raw)
            if entry is not None:
                return entry
        entry = self._cached(raw)
        if entry is not None:
            self._cache.touch(raw)
        return entry

    def _fetched(self, raw: bytes) -> Entry:
        """From the file, into the cache."""
        if self._began_empty is None:
            self._began_empty = self._committed.count()[0] == 0
        if self._began_empty and not self._cache.lost:
            return MISSING  # all that has been stored since is still in a layer
        row = self._committed.get(raw)
        entry = MISSING if row is None else unpack_row(raw, row)
        self._cache.put(raw, entry, len(row or b""))
        return entry

    def _fresh(self, raw: bytes, entry: Entry) -> Entry:
        """With its object; decoded, in the layer that has it, if it is stale."""
        if entry[1] is not STALE or entry[2] is None:
            return entry
        fresh = unpack_row(raw, entry[2])
        for layer in (self._batch, *self._flights):
            if raw in layer:
                layer[raw] = fresh
                return fresh
        self._cache.replace(raw, fresh)
        return fresh

    def _spoil(self, raw: bytes) -> None:
        """The object of this key may have been changed: only its row is true."""
        for layer in (self._batch, *self._flights):
            entry = layer.get(raw)
            if entry is not None and entry[2] is not None:
                layer[raw] = (entry[0], STALE, entry[2])
        entry = self._cached(raw)
        if entry is not None and entry[2] is not None:
            self._cache.replace(raw, (entry[0], STALE, entry[2]))

    def _sealed(self, raw: bytes, entry: Entry) -> Entry | None:
        """With its row; None if that is what the layers below say."""
        key, value, base = entry
        row = pack_row(key, value)
        known = self._known(raw)
        if row != (base if known is None else known[2]):
            return (key, STALE, row)
        if known is not entry or is_held(value, ours=1):
            self._spoil(raw)  # who still refers to it could change it when it is nobody's turn
        return None

    # --- iteration --------------------------------------------------------------------------

    def _walk(self, *, handing_out: bool = False) -> Iterator[tuple[bytes, Entry]]:
        """All present entries in the order of their keys, the file's a page at a time."""
        after: bytes | None = None
        pending: deque[bytes] = deque()
        while True:
            page = dict(self._committed.page(after))
            last = next(reversed(page), None)
            version = self._version
            for raw in self._between(page, after, last):
                if version != self._version:
                    break  # the rest of the page may be older than what was committed since
                after = raw
                entry = self._item.get(raw) or self._scanned(raw, page.get(raw))
                if handing_out and entry[2] is not None and raw not in self._item:
                    self._item[raw] = entry
                    self.exposed = True
                    pending.append(raw)
                if entry[1] is not GONE:
                    yield raw, entry
            else:
                if last is None:
                    return
                after = last
            self._let_go(pending)

    def _between(
        self, page: Iterable[bytes], after: bytes | None, last: bytes | None
    ) -> list[bytes]:
        """The keys of a page and of the layers above the file, behind `after`, up to `last`."""
        raws = set(page)
        for layer in (self._item, self._batch, *self._flights):
            raws.update(
                raw
                for raw in layer
                if (after is None or raw > after) and (last is None or raw <= last)
            )
        return sorted(raws)

    def _scanned(self, raw: bytes, row: bytes | None) -> Entry:
        """Without filling the cache with what is looked at once."""
        entry = self._known(raw)
        if entry is not None:
            return self._fresh(raw, entry)
        return MISSING if row is None else unpack_row(raw, row)

    def _let_go(self, pending: deque[bytes]) -> None:
        """Give back values that were handed out, are unchanged, and nobody refers to."""
        for _ in range(len(pending)):
            raw = pending.popleft()
            entry = self._item.get(raw)
            if entry is None or entry[2] is None:
                continue  # sealed or assigned since
            value = entry[1]
            if is_held(value, ours=1):  # the entry, which the layer below shares
                pending.append(raw)
            elif pack_row(entry[0], value) == entry[2]:
                del self._item[raw]
        while len(pending) > _MAX_PENDING:
            pending.popleft()  # kept for good: the stage's code holds them anyway


class _Items(ItemsView[Any, Any]):
    _mapping: State

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return ((entry[0], entry[1]) for _, entry in self._mapping._walk(handing_out=True))


class _Values(ValuesView[Any]):
    _mapping: State

    def __iter__(self) -> Iterator[Any]:
        return (entry[1] for _, entry in self._mapping._walk(handing_out=True))

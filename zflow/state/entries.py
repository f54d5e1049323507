"""How the state of a stage is told apart, compared and kept in memory: keys, values, the cache.

Decides which bytes a key has, which values cannot change in place, and what a full cache lets go.
Never decides what is stored when: that is `mapping`.

An entry is (key, value, row). row: the bytes of a value that may change in place, as they are
stored or will be; None where the value cannot change.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from sys import getrefcount
from typing import Any

from zflow.errors import StageError
from zflow.hashing import key_bytes
from zflow.wire.codec import canonical_bytes, load_item, pack
from zflow.wire.payload import DecodeError, EncodeError

_PLAIN_DEPTH = 4  # tuples in tuples; deeper ones are treated like values that may change
_ENTRY_BYTES = 200  # of the objects around a cached value, about
_PICKLED = b"~"  # begins the bytes of a key that `key_bytes` has none for
_MAX_SHOWN_CHARS = 80


class _Mark:
    """A value that no user code ever sees."""


GONE = _Mark()  # the key was deleted, or is known to be missing
STALE = _Mark()  # the object is not what the row says: decode it again

# Types whose values cannot change and can always be pickled.
ATOMS = frozenset({type(None), bool, int, float, str, bytes, _Mark})
Entry = tuple[Any, Any, bytes | None]
Row = tuple[bytes, bytes | None]  # for a commit: raw key and stored form, None deletes
MISSING: Entry = (None, GONE, None)


class StateError(StageError):
    """A key or a value that cannot be stored, or read again; the stage's code is at fault."""

    def __init__(self, key: Any, problem: str) -> None:
        self.key = key
        super().__init__(f"state[{_shown(key)}] {problem}")


def _shown(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - the key's own code; the error about it is worth more
        text = f"<{type(key).__qualname__}>"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."


def raw_key(key: Any) -> bytes:
    """What tells a key apart from all others, in the file too.

    raises: TypeError if it is not hashable, as a dict does, else StateError.
    """
    try:
        return key_bytes(key)
    except TypeError:
        hash(key)
    except ValueError as error:
        raise StateError(key, f"cannot be used: {error}") from error
    has_equals = any("__eq__" in vars(kind) for kind in type(key).__mro__[:-1])
    if not has_equals and not callable(key):
        raise StateError(key, "cannot be found again: the key is equal only to itself")
    try:
        return _PICKLED + canonical_bytes(key)
    except EncodeError as error:
        raise StateError(key, f"cannot be used: the key {error}") from error


def pack_row(key: Any, value: Any) -> bytes:
    """The stored form; raises StateError."""
    try:
        return pack((key, value))
    except EncodeError as error:
        raise StateError(key, f"cannot be stored: the value {error}") from error


def unpack_row(raw: bytes, row: bytes) -> Entry:
    """The inverse of `pack_row`; raises StateError."""
    try:
        key, value = load_item(row)
    except DecodeError as error:
        raise StateError(raw, f"cannot be read: {error}") from error
    return (key, value, None if is_plain(value) else row)


def is_plain(value: Any, depth: int = _PLAIN_DEPTH) -> bool:
    """True for a value that cannot change in place, and can always be pickled."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind is not tuple and kind is not frozenset:
        return False
    return depth > 0 and all(is_plain(part, depth - 1) for part in value)


def _references(value: Any) -> int:
    return getrefcount(value)


def _references_to_one_name() -> int:
    value = object()
    return _references(value)  # as a caller of `is_held` passes it on


_OF_ONE_NAME = _references_to_one_name()  # differs between Pythons


def is_held(value: Any, ours: int) -> bool:
    """True if somebody refers to an object, apart from `ours` tuples and the caller's one name."""
    return getrefcount(value) > _OF_ONE_NAME + ours


class Cache:
    """Committed entries, those used last; bounded in number and in bytes of their rows."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.size_bytes = 0
        self.lost = False  # something that was put here is not here any more
        # Asked several times for every item: the functions themselves, without a call around them.
        self.peek = self._entries.get
        self.touch = self._entries.move_to_end

    def put(self, raw: bytes, entry: Entry, row_bytes: int) -> None:
        """Remember an entry as the newest and let the oldest go if it is too much."""
        size_bytes = len(raw) + _ENTRY_BYTES + row_bytes
        self.size_bytes += size_bytes - self._sizes.get(raw, 0)
        self._sizes[raw] = size_bytes
        self._entries[raw] = entry
        self._entries.move_to_end(raw)
        self._shrink()

    def put_all(self, entries: Mapping[bytes, Entry], rows: Iterable[Row]) -> None:
        """Remember what was committed. rows: of the entries, in their order."""
        known, sizes, touch, grown = self._entries, self._sizes, self.touch, 0
        for (raw, entry), (_, row) in zip(entries.items(), rows, strict=True):
            size_bytes = len(raw) + _ENTRY_BYTES + (len(row) if row is not None else 0)
            before = sizes.get(raw, 0)
            if size_bytes != before:
                grown += size_bytes - before
                sizes[raw] = size_bytes
            known[raw] = entry
            touch(raw)
        self.size_bytes += grown
        self._shrink()

    def _shrink(self) -> None:
        while self.size_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self.lost = True
            oldest, _ = self._entries.popitem(last=False)
            self.size_bytes -= self._sizes.pop(oldest)

    def replace(self, raw: bytes, entry: Entry) -> None:
        """Another value of the same size; it must be there."""
        self._entries[raw] = entry

    def clear(self) -> None:
        """Forget all."""
        self.lost = True
        self._entries.clear()
        self._sizes.clear()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

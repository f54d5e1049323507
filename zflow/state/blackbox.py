"""The black box: a small mmap per incarnation that survives SIGKILL.

Says what was executing, since when, and how far the counters had come. Written by one process
between two machine instructions at a time; read by its supervisor, alive or dead.

    | magic 8s | size of names u32 | JSON of the names, padded to HEAD_BYTES                      |
    | beat_ns u64 | started_ns u64 | alone u8 | pad 1 | place i16 | length u32 | list of runs     |
    | which u64 | counters, one i64 each | the same once more |
    | cells, one i64 each | spare cells, one i64 each |
    | the name of each spare cell: length u16, UTF-8, padded to SPARE_BYTES |

`length` is written last and zeroed first, so a half-written slice reads as none. Counters are
written as a whole, into the copy that `which` does not name, then it names that one: a process
that is killed meanwhile leaves the state before. Cells are added to in place, one at a time. The
name of a spare cell is there once its length is: that is written last.
"""

import mmap
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from zflow.wire.run import Run

_MAGIC = b"zflowbb2"
_HEAD_BYTES = 64 * 1024
_SLICE_BYTES = 1024 * 1024  # of which only what was named is ever on a page
_SPARE_BYTES = 192
MAX_SPARE_NAME_BYTES = _SPARE_BYTES - 2
_SLICE = struct.Struct("<QBxhI")
_PLACE = struct.Struct("<h")
_STARTED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_NAME_LENGTH = struct.Struct("<H")
_AT_BEAT = _HEAD_BYTES
_AT_SLICE = _HEAD_BYTES + 8
_AT_PLACE = _AT_SLICE + 10
_AT_LENGTH = _AT_SLICE + 12
_AT_RUNS = _AT_SLICE + _SLICE.size
_AT_WHICH = _HEAD_BYTES + _SLICE_BYTES
_AT_COUNTERS = _AT_WHICH + 8
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Run])


class Cells(Protocol):
    """Numbers to add to, in a black box or in a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, at: int, /) -> int: ...
    def __setitem__(self, at: int, value: int, /) -> None: ...


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What the numbers of a black box are called, all but those of the spare cells.

    cells: (name, count) of blocks; those of a block of several are `name:0`, `name:1`, ...
    """

    counters: list[str]
    cells: list[tuple[str, int]] = []
    spare: int = 0

    def cell_names(self) -> list[str]:
        """One for each cell."""
        return [
            name if count == 1 else f"{name}:{k}"
            for name, count in self.cells
            for k in range(count)
        ]


_NAMES = msgspec.json.Decoder(Names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A black box as read from outside. started_ns is 0 when no user code was running; place is
    that of the item in its unit, -1 if it was not named.

    counters: all of `Names.counters`, and the cells that are not 0.
    """

    beat_ns: int
    started_ns: int
    alone: bool
    place: int
    runs: list[Run]
    counters: dict[str, int]


class BlackBox:
    """The writing side; owned by the data thread, except for `beat` and `call`.

    cells, spare: to add to, in place; the order of the cells is that of `Names.cells`.
    """

    def __init__(self, path: Path, names: Names) -> None:
        head = msgspec.json.encode(names)
        if len(head) > _HEAD_BYTES - 12:
            raise ValueError(f"{len(names.counters)} counters do not fit a black box")
        cells = sum(count for _, count in names.cells)
        self._counters = struct.Struct(f"<{len(names.counters)}q")
        self._at_cells = _AT_COUNTERS + 2 * self._counters.size
        self._at_names = self._at_cells + 8 * (cells + names.spare)
        size_bytes = self._at_names + _SPARE_BYTES * names.spare
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size_bytes)
            self._map = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        self._map[8 : 12 + len(head)] = _LENGTH.pack(len(head)) + head
        self._map[0:8] = _MAGIC
        self._which = 0
        self._called = 0
        self._calling = threading.Lock()
        self._view = memoryview(self._map)
        numbers = self._view[self._at_cells : self._at_names].cast("q")
        self.cells = numbers[:cells]
        self.spare = numbers[cells:]
        numbers.release()

    def enter(self, runs: list[Run], *, alone: bool, now_ns: int) -> None:
        """User code is about to execute these units."""
        raw = _ENCODER.encode(runs)
        if _AT_RUNS + len(raw) > _AT_WHICH:
            raise ValueError(f"{len(runs)} runs do not fit a black box")
        _LENGTH.pack_into(self._map, _AT_LENGTH, 0)
        self._map[_AT_RUNS : _AT_RUNS + len(raw)] = raw
        _SLICE.pack_into(self._map, _AT_SLICE, now_ns, alone, -1, len(raw))

    def renew(self, now_ns: int) -> None:
        """User code that executes these units goes on from now; 0: it waits and is not stuck."""
        _STARTED.pack_into(self._map, _AT_SLICE, now_ns)

    def at(self, place: int) -> None:
        """Which item of the unit that runs alone is executing from now on."""
        _PLACE.pack_into(self._map, _AT_PLACE, place)

    def leave(self) -> None:
        """User code is through."""
        _SLICE.pack_into(self._map, _AT_SLICE, 0, 0, -1, 0)

    def beat(self, now_ns: int) -> None:
        """The process lives; from the control thread."""
        _STARTED.pack_into(self._map, _AT_BEAT, now_ns)

    def count(self, values: Sequence[int]) -> None:
        """The counters now, in the order of the names."""
        other = 1 - self._which
        at = _AT_COUNTERS + other * self._counters.size
        self._map[at : at + self._counters.size] = self._counters.pack(*values)
        self._map[_AT_WHICH] = self._which = other

    def call(self, name: str) -> int | None:
        """The next spare cell gets this name, cut to MAX_SPARE_NAME_BYTES; None if there is none.

        For what is known only later, such as the classes of exceptions. From any thread.
        """
        with self._calling:
            number = self._called
            if number >= len(self.spare):
                return None
            self._called += 1
        raw = name.encode(errors="replace")[:MAX_SPARE_NAME_BYTES]
        at = self._at_names + number * _SPARE_BYTES
        self._map[at + 2 : at + 2 + len(raw)] = raw
        self._map[at : at + 2] = _NAME_LENGTH.pack(len(raw))
        return number

    def close(self) -> None:
        """Unmap; the file stays for the supervisor. Nothing may be added to its cells any more."""
        for view in (self.cells, self.spare, self._view):
            view.release()
        self._map.close()


def read_black_box(path: Path) -> Reading | None:
    """What the file at `path` says; None if its process died before it had written the head."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        head = os.pread(descriptor, 12, 0)
        size_bytes = os.fstat(descriptor).st_size
        if len(head) < 12 or head[:8] != _MAGIC or size_bytes <= _AT_COUNTERS:
            return None
        # Not the whole file: most of it is room that is hardly ever used.
        names = _NAMES.decode(os.pread(descriptor, _LENGTH.unpack_from(head, 8)[0], 12))
        times = os.pread(descriptor, _AT_RUNS - _AT_BEAT, _AT_BEAT)
        (beat_ns,) = _STARTED.unpack_from(times)
        started_ns, alone, place, length = _SLICE.unpack_from(times, _AT_SLICE - _AT_BEAT)
        runs = _runs(os.pread(descriptor, length, _AT_RUNS)) if length else []
        numbers = os.pread(descriptor, size_bytes - _AT_WHICH, _AT_WHICH)
    finally:
        os.close(descriptor)
    return Reading(
        beat_ns=beat_ns,
        started_ns=started_ns,
        alone=bool(alone),
        place=place,
        runs=runs,
        counters=_numbers(numbers, names),
    )


def _runs(raw: bytes) -> list[Run]:
    try:
        return _DECODER.decode(raw)
    except msgspec.DecodeError:  # read while a living process was writing it
        return []


def _numbers(raw: bytes, names: Names) -> dict[str, int]:
    """The counters and the cells by name, from _AT_WHICH on."""
    block = struct.Struct(f"<{len(names.counters)}q")
    at = _AT_COUNTERS - _AT_WHICH
    values = block.unpack_from(raw, at + (raw[0] & 1) * block.size)
    found = dict(zip(names.counters, values, strict=True))
    at += 2 * block.size
    cell_names = names.cell_names()
    cells = struct.unpack_from(f"<{len(cell_names)}q", raw, at)
    found.update((name, value) for name, value in zip(cell_names, cells, strict=True) if value)
    at += 8 * len(cells)
    spare = struct.unpack_from(f"<{names.spare}q", raw, at)
    at += 8 * len(spare)
    for number, value in enumerate(spare):
        if value:
            name = _spare_name(raw, at + number * _SPARE_BYTES)
            if name:
                found[name] = value
    return found


def _spare_name(raw: bytes, at: int) -> str:
    (length,) = _NAME_LENGTH.unpack_from(raw, at)
    return raw[at + 2 : at + 2 + length].decode(errors="replace")

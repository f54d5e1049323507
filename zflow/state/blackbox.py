"""The black box: a small mmap per incarnation that survives SIGKILL.

Says what was executing, since when, and how far the counters had come. Written by one process
between two machine instructions at a time; read by its supervisor, alive or dead.

    | magic 8s | size of names u32 | JSON list of counter names, padded to HEAD_BYTES |
    | beat_ns u64 | started_ns u64 | alone u8 | pad 1 | place i16 | length u32 | list of runs |
    | counters, one i64 each |

`length` is written last and zeroed first, so a half-written slice reads as none.
"""

import json
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zflow.wire.run import Run

_MAGIC = b"zflowbb1"
_HEAD_BYTES = 32 * 1024
_SLICE_BYTES = 128 * 1024
_SLICE = struct.Struct("<QBxhI")
_PLACE = struct.Struct("<h")
_STARTED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_AT_BEAT = _HEAD_BYTES
_AT_SLICE = _HEAD_BYTES + 8
_AT_PLACE = _AT_SLICE + 10
_AT_LENGTH = _AT_SLICE + 12
_AT_RUNS = _AT_SLICE + _SLICE.size
_AT_COUNTERS = _HEAD_BYTES + _SLICE_BYTES
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Run])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A black box as read from outside. started_ns is 0 when no user code was running; place is
    that of the item in its unit, -1 if it was not named."""

    beat_ns: int
    started_ns: int
    alone: bool
    place: int
    runs: list[Run]
    counters: dict[str, int]


class BlackBox:
    """The writing side; owned by the data thread, except for `beat`."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        head = json.dumps(list(names)).encode()
        if len(head) > _HEAD_BYTES - 12:
            raise ValueError(f"{len(names)} counters do not fit a black box")
        self._counters = struct.Struct(f"<{len(names)}q")
        size_bytes = _AT_COUNTERS + self._counters.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size_bytes)
            self._map = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        self._map[8 : 12 + len(head)] = _LENGTH.pack(len(head)) + head
        self._map[0:8] = _MAGIC

    def enter(self, runs: list[Run], *, alone: bool, now_ns: int) -> None:
        """User code is about to execute these units."""
        raw = _ENCODER.encode(runs)
        if _AT_RUNS + len(raw) > _AT_COUNTERS:
            raise ValueError(f"{len(runs)} runs do not fit a black box")
        _LENGTH.pack_into(self._map, _AT_LENGTH, 0)
        self._map[_AT_RUNS : _AT_RUNS + len(raw)] = raw
        _SLICE.pack_into(self._map, _AT_SLICE, now_ns, alone, -1, len(raw))

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
        self._counters.pack_into(self._map, _AT_COUNTERS, *values)

    def close(self) -> None:
        """Unmap; the file stays for the supervisor."""
        self._map.close()


def read_black_box(path: Path) -> Reading | None:
    """What the file at `path` says; None if its process died before it had written the head."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < _AT_COUNTERS or raw[:8] != _MAGIC:
        return None
    (head_bytes,) = _LENGTH.unpack_from(raw, 8)
    names = json.loads(raw[12 : 12 + head_bytes])
    (beat_ns,) = _STARTED.unpack_from(raw, _AT_BEAT)
    started_ns, alone, place, length = _SLICE.unpack_from(raw, _AT_SLICE)
    values = struct.unpack_from(f"<{len(names)}q", raw, _AT_COUNTERS)
    try:
        runs = _DECODER.decode(raw[_AT_RUNS : _AT_RUNS + length]) if length else []
    except msgspec.DecodeError:  # read while a living process was writing it
        runs = []
    return Reading(
        beat_ns=beat_ns,
        started_ns=started_ns,
        alone=bool(alone),
        place=place,
        runs=runs,
        counters=dict(zip(names, values, strict=True)),
    )

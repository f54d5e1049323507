"""The partitions that a durable replica owns: their files, their state and what waits in each.

Decides which are opened, and when: at the start those that exist, since outputs of a predecessor
may be waiting in them; others with their first unit. Runs no user code.
"""

import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from zflow.hashing import text_hash64
from zflow.ids import Slot
from zflow.paths import StateDirectory
from zflow.protocol.anchor import Applied, Dedupe, Partition
from zflow.protocol.core import Core, OriginSettings
from zflow.protocol.keyed import Owners
from zflow.protocol.origin import Origin
from zflow.state.mapping import State
from zflow.state.partition import OutboxRow, PartitionFile, SeenRow, decode_numbers
from zflow.wire.codec import load_item
from zflow.wire.control import StageConfig

CACHE_BYTES = 256 * 1024 * 1024  # of decoded values, shared by the partitions of a replica

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[bytes])


class Owned:
    """One partition of this replica.

    low: of its outputs, the low mark on disk. held: work that waits for a unit that failed. done:
    `finish` has run and is durable.
    """

    def __init__(
        self, number: int, file: PartitionFile, state: State, logic: Partition, origin: Origin
    ) -> None:
        self.number = number
        self.file = file
        self.state = state
        self.logic = logic
        self.origin = origin
        self.low = origin.low
        self.held: deque[Any] = deque()
        self.done = logic.done


class Partitions:
    """All partitions of one slot. lock: the reactor's; held while the core gets or loses one.

    waiting: of those that were opened, outputs that are committed and not settled; whoever opens
    a partition sends them. birth: instead of those in the files, so that names are always the same.
    """

    def __init__(
        self,
        core: Core,
        lock: threading.Lock,
        stage: StageConfig,
        slot: Slot,
        state: StateDirectory,
        birth: int | None = None,
    ) -> None:
        self._birth = birth
        self._core = core
        self._lock = lock
        self._stage = stage
        self._slot = slot
        self._state = state
        self.owners = Owners(stage.partitions, stage.replicas)
        self._owned: dict[int, Owned] = {}
        self.waiting: deque[tuple[Owned, list[Any]]] = deque()
        mine = max(1, stage.partitions // stage.replicas)
        self._cache_bytes = CACHE_BYTES // mine
        state.make_partitions(stage.name)

    def closed(self) -> list[int]:
        """Those of this slot that have a file and are not open; the only one there is, always."""
        alone = self._stage.partitions == 1  # its `finish` runs even if nothing ever came
        return [
            number
            for number in range(self._stage.partitions)
            if self.is_mine(number)
            and number not in self._owned
            and (alone or self._path(number).exists())
        ]

    def is_mine(self, number: int) -> bool:
        """True if this slot is to own it, by the newest word."""
        return self.owners.slots[number] == self._slot.index

    def _path(self, number: int) -> Path:
        return self._state.partition(self._stage.name, number)

    def owned(self, number: int) -> Owned:
        """The partition of that number; blocks for the disk when it is opened."""
        found = self._owned.get(number)
        return self._open(number) if found is None else found

    def released(self, owned: Owned) -> None:
        """Let the next owner have it: all of it is in the file."""
        del self._owned[owned.number]
        with self._lock:
            self._core.released(owned.number)
        owned.file.close()

    def all(self) -> Iterable[Owned]:
        """Those that are open."""
        return self._owned.values()

    def _open(self, number: int) -> Owned:
        stage = self._stage
        file = PartitionFile(
            self._path(number),
            stage=stage.name,
            partition=number,
            partitions=stage.partitions,
            durability="process" if stage.durability == "process" else "power",
        )
        loaded = file.loaded
        logic = Partition(
            number,
            dedupe=Dedupe(loaded.watermarks, map(_applied, loaded.seen)),
            next_oseq=loaded.next_oseq,
            done=loaded.done,
        )
        birth = loaded.birth if self._birth is None else self._birth
        name = text_hash64(stage.name, str(number), str(birth))
        settings = OriginSettings(origin=name, stage=stage.name, low=loaded.outbox_low)
        with self._lock:  # the control thread may be going through the others
            origin = self._core.acquired(number, settings)
        state = State(file, cache_bytes=self._cache_bytes, timers=loaded.timers)
        owned = self._owned[number] = Owned(number, file, state, logic, origin)
        outputs = _unsettled(loaded.outbox, loaded.outbox_low)
        if outputs:
            self.waiting.append((owned, outputs))
        return owned

    def close(self) -> None:
        """Let the next owners have them."""
        for owned in self._owned.values():
            owned.file.close()


def pack_outputs(outputs: list[bytes]) -> bytes:
    """The outputs of one commit, each pickled, as one row."""
    return _ENCODER.encode(outputs)


def _unsettled(rows: list[OutboxRow], low: int) -> list[Any]:
    """The outputs from `low` on; the row that it lies in may begin below."""
    outputs: list[Any] = []
    for row in rows:
        blobs = _DECODER.decode(row.raw)
        outputs.extend(map(load_item, blobs[max(0, low - row.first) :]))
    return outputs


def _applied(row: SeenRow) -> Applied:
    return Applied(
        origin=row.origin,
        path=row.path,
        axis=row.axis,
        fixed=row.fixed,
        ranges=decode_numbers(row.numbers),
    )

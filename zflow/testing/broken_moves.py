"""Partitions that move, without the protection that their moves are in need of.

Decides nothing; `mutants` puts these in place. Each says what it no longer does by its name, and
does everything else as the original does.
"""

from collections.abc import Sequence

from zflow.protocol.inbox import ReceiverLink
from zflow.protocol.keyed import KeyedOutbox, Owners
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import SenderLink
from zflow.testing.anchors import AnchorWorker, Owned

_release = AnchorWorker._release
_own = AnchorWorker._own
_seen = ReceiverLink.seen


def keep(self: AnchorWorker, own: Owned) -> None:
    """Remember what was known of a partition when it left."""
    self.__dict__.setdefault("left", {})[own.partition.number] = own
    _release(self, own)


def own_as_before(self: AnchorWorker, own: Owned) -> None:
    """Go on with what was known then."""
    before = self.__dict__.get("left", {}).get(own.partition.number)
    if before is not None:
        own.partition.dedupe = before.partition.dedupe
    _own(self, own)


def at_rest_always(self: AnchorWorker, own: Owned) -> bool:
    """Let go in the middle of a commit."""
    return self._core.partitions[own.partition.number].empty()


def assign_anything(self: Owners, generation: int, slots: Sequence[int]) -> list[int]:
    """Believe the word that came last."""
    before, self.slots = self.slots, list(slots[: len(self.slots)])
    self.generation = generation
    return [p for p, slot in enumerate(before) if slot != self.slots[p]]


def hold_nothing(self: KeyedOutbox, partition: int, slot: int) -> None:
    """Send new units to the new owner at once; those in the old queue stay in it."""


def nothing_open(self: SenderLink) -> set[int]:
    """Do not wait for what is on its way."""
    return set()


def in_front(self: KeyedOutbox, segments: Sequence[Segment]) -> None:
    """Put what comes back in front of what came back before it."""
    Outbox._to_front(self, segments)


def seen_without_end(self: ReceiverLink, version: int) -> None:
    """Take the partition's units again as soon as the sender knows that some went back."""
    _seen(self, version)
    for partition, stray in list(self.strays.items()):
        if stray.version <= version:
            del self.strays[partition]

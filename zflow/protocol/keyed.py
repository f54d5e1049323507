"""Keyed edges: every partition has one owner, and its units go nowhere else (R8).

Decides to which slot a partition belongs, and on the sending side what waits while one moves. A
queue per slot keeps the order of each partition, and what comes back goes to its front.

A partition moves in three steps. Whoever sends to it holds back what is new as soon as it knows of
another owner, or a receiver says that it is not the owner. The old owner gives back what it has not
applied, commits, and lets go of the file. When every unit that was on its way has been acknowledged
or given back, all of them go to the new owner, in the order in which they were made (H27).

Slots come and go, and a word on owners may come before the word on slots. What belongs to a slot
that has no link waits until it has one, or until the partition belongs to another.
"""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from zflow.ids import Slot
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import SenderLink
from zflow.wire.data import NOT_OWNER, Nack

LOOK_EVERY_S = 0.005  # at what is held back
REFUSED_S = 0.02  # before units go again to an owner that does not know yet that it is the owner


def owner_of(partition: int, slots: int) -> int:
    """The index of the slot that owns a partition until one is moved."""
    return partition % slots


class Owners:
    """Which slot owns each partition of one stage, as one process knows it.

    slots: the index of the owner, of each partition; the declared ones until a word comes.
    generation: of the newest word on it; words may come twice and in any order.
    """

    def __init__(self, partitions: int, slots: int) -> None:
        self.generation = 0
        self.slots = [owner_of(partition, slots) for partition in range(partitions)]

    def assign(self, generation: int, slots: Sequence[int]) -> list[int]:
        """A word of the coordinator; the partitions that have another owner now."""
        if generation <= self.generation:
            return []
        before, self.slots = self.slots, list(slots[: len(self.slots)])
        self.generation = generation
        return [p for p, slot in enumerate(before) if slot != self.slots[p]]


class KeyedOutbox(Outbox):
    """An outbox with a queue for each slot; otherwise as its base."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        declared = self.settings.declared or len(self.settings.targets)
        self.owners = Owners(self.settings.partitions, declared)
        self._lanes: dict[int, deque[Segment]] = {}  # by index of the slot, also without a link
        self._routes: list[tuple[SenderLink, deque[Segment]]] = []
        self._links_changed()
        self._held: dict[int, deque[Segment]] = {}  # of partitions that move, oldest first
        self._free_s: dict[int, float] = {}  # not before, after a refusal
        self._look_s = 0.0
        self._made = 0

    # -- queues ------------------------------------------------------------------------------

    def enqueue(self, segment: Segment) -> None:
        """New outputs; each has its number on this edge, so that order can be restored."""
        segment.order = self._made
        self._made += segment.n
        super().enqueue(segment)

    def _queue_of(self, segment: Segment) -> deque[Segment]:
        partition = segment.runs[0].partition
        held = self._held.get(partition)
        return self._lanes[self.owners.slots[partition]] if held is None else held

    def _queues(self) -> Sequence[deque[Segment]]:
        return [*self._lanes.values(), *self._held.values()]

    def _to_front(self, segments: Sequence[Segment]) -> None:
        for segment in reversed(segments):
            held = self._held.get(segment.runs[0].partition)
            if held is None:
                self._queue_of(segment).appendleft(segment)
            else:  # before what is newer, whatever came back first
                insort(held, segment, key=attrgetter("order"))
            self.queued += segment.n

    def _dispatch(self, now_s: float) -> None:
        if self._held and now_s >= self._look_s:
            self._look_s = now_s + LOOK_EVERY_S
            self._release(now_s)
        for link, lane in self._routes:
            while lane and (room := link.room()) > 0:
                segments = self._take(lane, min(room, self._message_items(link)))
                if segments:
                    self._send(link, segments, now_s)

    def _links_changed(self) -> None:
        """A lane for every slot that has a link, owns something, or is still waited for."""
        links = {Slot.parse(link.key[1]).index: link for link in self.links}
        before = self._lanes
        waited = {slot for slot, lane in before.items() if lane}
        slots = {**dict.fromkeys(links), **dict.fromkeys([*self.owners.slots, *waited])}
        self._lanes = {slot: before.get(slot, deque()) for slot in slots}
        self._routes = [(link, self._lanes[slot]) for slot, link in links.items()]

    # -- partitions that move ----------------------------------------------------------------

    def assign(self, generation: int, slots: Sequence[int]) -> None:
        """The coordinator's word on who owns what; what goes elsewhere now is held back."""
        before = self.owners.slots
        for partition in self.owners.assign(generation, slots):
            self._hold(partition, before[partition])
        self._links_changed()  # an owner may be a slot that nobody here knows yet

    def _hold(self, partition: int, slot: int) -> None:
        """What waits for the slot waits for its successor."""
        if partition in self._held:
            return
        held = self._held[partition] = deque()
        lane = self._lanes[slot]
        for _ in range(len(lane)):
            segment = lane.popleft()
            (held if segment.runs[0].partition == partition else lane).append(segment)

    def nacked(self, segment: Segment, nack: Nack, now_s: float) -> None:
        """As the base; a unit that came to a slot which is not its owner goes to whoever is."""
        if nack.code != NOT_OWNER:
            super().nacked(segment, nack, now_s)
            return
        partition = segment.runs[0].partition
        self._hold(partition, self.owners.slots[partition])
        self._free_s[partition] = now_s + REFUSED_S
        self.returned([segment], NOT_OWNER)

    def _release(self, now_s: float) -> None:
        """Send on what waited for units of its partition that are all accounted for."""
        under_way = set().union(*(link.open_partitions() for link in self.links))
        for partition in list(self._held):
            if partition not in under_way and now_s >= self._free_s.get(partition, 0.0):
                self._free_s.pop(partition, None)
                self._lanes[self.owners.slots[partition]].extend(self._held.pop(partition))

    def due_s(self) -> float:
        """The next moment at which `tick` or `dispatch` has something to do."""
        due_s = super().due_s()
        return min(due_s, self._look_s) if self._held else due_s

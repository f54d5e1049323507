"""The sending side of a keyed edge: every partition has one owner, and its units go nowhere else.

Decides to which slot a partition belongs. A queue per slot keeps the order of each partition,
and what comes back goes to the front of the queue of the slot that owns it (R8).
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment


def owner_of(partition: int, slots: int) -> int:
    """The index of the slot that owns a partition, the same for everybody in a run."""
    return partition % slots


class KeyedOutbox(Outbox):
    """An outbox with a queue for each link; otherwise as its base."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lanes: list[deque[Segment]] = [deque() for _ in self.links]

    def _queue_of(self, segment: Segment) -> deque[Segment]:
        return self._lanes[owner_of(segment.runs[0].partition, len(self._lanes))]

    def _queues(self) -> Sequence[deque[Segment]]:
        return self._lanes

    def _dispatch(self, now_s: float) -> None:
        for link, lane in zip(self.links, self._lanes, strict=True):
            while lane and (room := link.room()) > 0:
                segments = self._take(lane, min(room, self._message_items(link)))
                if segments:
                    self._send(link, segments, now_s)

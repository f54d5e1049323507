"""The sending side of an edge that drops what it cannot hold, instead of stopping its stage.

Decides which units go: the newest, or the oldest of those that still wait. What is on its way to a
receiver stays. Each is settled as dropped by reason `full`, so that the books balance and whatever
it was made from is done.
"""

from zflow.protocol.lanes import PriorityOutbox
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment


class DroppingOutbox(Outbox):
    """An outbox that is never full; otherwise as its base."""

    def full(self) -> bool:
        """Never: what is too much is dropped."""
        return False

    def enqueue(self, segment: Segment) -> None:
        """New outputs, as far as there is room for them; the caller has counted them."""
        fitting = self._made_to_fit(segment)
        if fitting is not None:
            super().enqueue(fitting)

    def _made_to_fit(self, segment: Segment) -> Segment | None:
        """What of the segment may wait, after what waits has made room for it by policy."""
        excess = self._excess(segment.n)
        if self.settings.on_full == "drop_oldest":
            excess -= self._drop_oldest(excess)
        if excess <= 0:
            return segment
        kept = max(0, segment.n - excess)
        # Of what is new, the last are the newest.
        oldest = self.settings.on_full == "drop_oldest"
        self._drop(segment.part(0, segment.n - kept) if oldest else segment.part(kept, segment.n))
        if not kept:
            return None
        return segment.part(segment.n - kept, segment.n) if oldest else segment.part(0, kept)

    def _excess(self, n: int) -> int:
        """How many units too many there would be with `n` more; all, once bytes are too many."""
        items, size_bytes = self.retained()
        if size_bytes >= self.settings.window_bytes:
            return n
        return min(self.queued + n, items + n - self.settings.window_items)

    def _drop_oldest(self, n: int) -> int:
        """Drop up to `n` units that wait, the least urgent and oldest first; how many."""
        left = n
        for queue in reversed(self._queues()):
            while left > 0 and queue:
                segment = queue.popleft()
                if segment.n > left:
                    queue.appendleft(segment.part(left, segment.n))
                    segment = segment.part(0, left)
                self.queued -= segment.n
                left -= segment.n
                self._drop(segment)
        return n - max(0, left)

    def _drop(self, segment: Segment) -> None:
        """Units that go nowhere, by declared policy; in the books they were sent."""
        self.ledger.sent += segment.n
        self.ledger.dropped("full", segment.n)
        segment.task.settled(segment.n)


class DroppingPriorityOutbox(DroppingOutbox, PriorityOutbox):
    """The least urgent are dropped first."""

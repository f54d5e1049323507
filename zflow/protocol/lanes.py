"""The sending side of an edge with priorities: a queue for each lane; see `turns` for the order."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.turns import Turns
from zflow.wire.run import LANES


class PriorityOutbox(Outbox):
    """An outbox with a queue for each lane; otherwise as its base."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lanes: tuple[deque[Segment], ...] = tuple(deque() for _ in range(LANES))
        self._turns = Turns(self.settings.fair_ratio)

    def _queue_of(self, segment: Segment) -> deque[Segment]:
        return self._lanes[segment.runs[0].lane]

    def _queues(self) -> Sequence[deque[Segment]]:
        return self._lanes

    def _waiting(self) -> list[int]:
        return [lane for lane, queue in enumerate(self._lanes) if queue]

    def _next_queue(self) -> deque[Segment]:
        waiting = self._waiting()
        return self._lanes[self._turns.next(waiting) if waiting else 0]

    def _take(self, queue: deque[Segment], n: int) -> list[Segment]:
        waiting = self._waiting()
        if not queue:
            return []
        lane = queue[0].runs[0].lane
        taken = super()._take(queue, max(1, self._turns.most(lane, waiting, n)))
        self._turns.served(lane, waiting, sum(segment.n for segment in taken))
        return taken

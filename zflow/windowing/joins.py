"""Joins of two streams: pairs of a left and a right item of one key, near in event time.

Decides which pairs there are, and how long an item can still find a partner.

Each side of a partition has a watermark of its own, the highest event time that has come on its
edge: two edges are never in step. With a distance d and a lateness l, an item of time t is late
once the watermark of its own side is above t + d + l. It is kept until the watermark of the other
side is above t + 2d + l: by then every partner would be late. Two items that are not late therefore
always find each other, whichever comes first and however far one side is ahead. While nothing comes
on one side, all of the other is kept, on disk.

    (SMALL, key, side, bucket)        how many items lie in it; a bucket is a stretch of d seconds
    (ITEM, key, side, bucket, i)      (time, item), i counted from 0
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from zflow.stages import StageOptions
from zflow.windowing.agenda import ITEM, SMALL, Agenda, State, Token, seconds, small_rows
from zflow.windowing.stage import Timed

LEFT, RIGHT = 0, 1
LEAST_BUCKET_S = 1e-3  # for a distance of 0, too: many times may share a bucket


class JoinStage(Timed):
    """The first edge that was connected into it is the left one."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: StageOptions,
        time: Callable[[Any], Any],
        *,
        within_s: float,
        lateness_s: float,
    ) -> None:
        super().__init__(function, options, time)
        self._within_s = within_s
        self._late_after_s = within_s + lateness_s
        self._bucket_s = max(within_s, LEAST_BUCKET_S)

    def process(self, item: Any) -> Iterator[Any]:
        """Pair the item with those of the other side, and keep it for those to come."""
        side = LEFT if self.context.edge == self.context.edges[LEFT] else RIGHT
        agenda = self.agenda(side)
        time_s = seconds(self._time, item)
        if time_s + self._late_after_s < agenda.mark:
            yield self.late(item)
            return
        key = self.context.key
        for partner in self._partners(key, 1 - side, time_s):
            yield from self.call(key, *((item, partner) if side == LEFT else (partner, item)))
        self._keep(key, side, time_s, item)
        if time_s > agenda.mark:
            agenda.advance(time_s)
            self._forget(agenda, time_s)

    def _partners(self, key: Any, side: int, time_s: float) -> list[Any]:
        """The items of a side that are near enough, by time, then in order of arrival."""
        # What the comparison below accepts may lie a rounding error outside of the sums here.
        reach_s = self._within_s + 4 * sys.float_info.epsilon * (abs(time_s) + self._within_s)
        found = []
        for bucket in range(self._bucket(time_s - reach_s), self._bucket(time_s + reach_s) + 1):
            for i in range(self.state.get((SMALL, key, side, bucket), 0)):
                pair = self.state[ITEM, key, side, bucket, i]
                if abs(pair[0] - time_s) <= self._within_s:
                    found.append(pair)
        found.sort(key=lambda pair: pair[0])
        return [item for _, item in found]

    def _keep(self, key: Any, side: int, time_s: float, item: Any) -> None:
        bucket, agenda = self._bucket(time_s), self.agenda(1 - side)
        if self._due_s(bucket) <= agenda.mark:
            return  # the other side is so far that no partner can come
        n = self.state.get((SMALL, key, side, bucket), 0)
        self.state[SMALL, key, side, bucket] = n + 1
        self.state[ITEM, key, side, bucket, n] = (time_s, item)
        if n == 0:
            agenda.add(self._due_s(bucket), key, (side, bucket))

    def _bucket(self, time_s: float) -> int:
        return math.floor(time_s / self._bucket_s)

    def _due_s(self, bucket: int) -> float:
        # One bucket later than it need be, so that no rounding of sums and quotients matters.
        return (bucket + 2) * self._bucket_s + self._within_s + self._late_after_s

    def pending(self, state: State, side: int, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """The buckets of the other side, each at the time when nothing in it can find a partner."""
        for (_, key, other, bucket), _ in small_rows(state):
            if other != side:
                yield self._due_s(bucket), key, (other, bucket)

    def _forget(self, agenda: Agenda, time_s: float) -> None:
        for due in agenda.pop(time_s):
            side, bucket = due.token
            for i in range(self.state.pop((SMALL, due.key, side, bucket), 0)):
                del self.state[ITEM, due.key, side, bucket, i]

"""The durable stages that run a function under `@window`.

Decides when a window fires, and what is late. Keeps nothing outside `self.state` but hints.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from zflow.clock import Clock
from zflow.stages import Emit, StageOptions
from zflow.windowing.agenda import Agenda, Due, State, Token, seconds, watermark
from zflow.windowing.calls import Calls
from zflow.windowing.specs import Window

IDLE = None  # the key of the only timer of a partition
LATE = "late"  # the output for items whose windows have all fired


class Open(Protocol):
    """What one kind of stage keeps until it is due."""

    def add(self, agenda: Agenda, key: Any, time_s: float, item: Any) -> bool:
        """Keep an item; False if it is late."""

    def pending(self, state: State, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """All that will be due, as the state says."""

    def close(self, agenda: Agenda, due: Due) -> tuple[Window, list[Any]] | None:
        """A window that fires now, with its items; None if there is none of them."""


class Timed(Calls, ABC):
    """What windows of time and joins have in common: a watermark, an agenda, the function."""

    def __init__(
        self, function: Callable[..., Any], options: StageOptions, time: Callable[[Any], Any]
    ) -> None:
        super().__init__(function, options)
        self._time = time
        # By the identity of the partition's state, which lives as long as its agenda.
        self._agendas: dict[tuple[int, int], Agenda] = {}

    def agenda(self, side: int = 0) -> Agenda:
        """Of the partition in hand, moved on by the watermark of that side."""
        state = self.state
        mark = watermark(state, side)
        found = self._agendas.get((id(state), side))
        if found is None or found.mark != mark:
            found = Agenda(state, side, mark).fill(self.pending(state, side, mark))
            self._agendas[id(state), side] = found
        return found

    def _partition_left(self) -> None:
        super()._partition_left()
        for state, side in list(self._agendas):
            if state == id(self.state):
                del self._agendas[state, side]

    @abstractmethod
    def pending(self, state: State, side: int, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """All that this watermark will make due in a partition, as its state says."""

    def late(self, item: Any) -> Emit:
        """Count an item that came too late."""
        self.context.late += 1
        return Emit(LATE, item)


class WindowStage(Timed):
    """Windows of event time. windows: which kind. idle_s: see `on_timer`; None for never."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: StageOptions,
        time: Callable[[Any], Any],
        windows: Open,
        *,
        idle_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(function, options, time)
        self._windows = windows
        self._idle_s = idle_s
        self.clock = clock or Clock()  # a run with virtual time puts its own here
        self._highest_s = -math.inf  # event time, in all partitions since this process began
        self._touched: dict[int, float] = {}  # when the last item came, by partition

    def pending(self, state: State, side: int, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """All windows that are open in a partition, as its state says."""
        return self._windows.pending(state, mark)

    def process(self, item: Any) -> Iterator[Any]:
        """Keep the item, and fire what its time makes due."""
        agenda = self.agenda()
        time_s = seconds(self._time, item)
        if self._idle_s is not None:
            self._watch(self._idle_s, time_s)
        if not self._windows.add(agenda, self.context.key, time_s, item):
            yield self.late(item)
        elif time_s > agenda.mark:
            yield from self._advance(agenda, time_s)

    def _partition_left(self) -> None:
        super()._partition_left()
        self._touched.pop(id(self.state), None)

    def _watch(self, idle_s: float, time_s: float) -> None:
        """Something has come to this partition; one timer says when it has been too long ago."""
        self._highest_s = max(self._highest_s, time_s)
        now_s = self._touched[id(self.state)] = self.clock.wall_s()
        if IDLE not in self.timers:
            self.timers[IDLE] = now_s + idle_s

    def on_timer(self, _: None) -> Iterator[Any]:
        """Go on without items: to the highest time that any partition of this replica has seen."""
        assert self._idle_s is not None, "only with idle_s is there a timer"
        agenda, now_s = self.agenda(), self.clock.wall_s()
        # After a restart it is as if something had just come: it may be on its way again.
        quiet_at_s = self._touched.setdefault(id(self.state), now_s) + self._idle_s
        if now_s < quiet_at_s:
            self.timers[IDLE] = quiet_at_s
            return
        if self._highest_s > agenda.mark:
            yield from self._advance(agenda, self._highest_s)
        if not agenda.is_empty():
            self.timers[IDLE] = now_s + self._idle_s

    def finish(self) -> Iterator[Any]:
        """Fire everything that is open; what comes later is late."""
        yield from self._advance(self.agenda(), math.inf)

    def _advance(self, agenda: Agenda, time_s: float) -> Iterator[Any]:
        before = agenda.advance(time_s)
        for due in agenda.pop(time_s):
            closed = self._windows.close(agenda, due) if due.due_s > before else None
            if closed is not None:
                window, items = closed
                yield from self.fire(due.key, window, items)
        self.ended()

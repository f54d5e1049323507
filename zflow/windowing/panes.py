"""Tumbling and sliding windows of event time.

Decides where an item is kept: once, in the pane of all times that lie in the same windows.

    (SMALL, key, first, last)         how many items the pane has; it is in windows first..last
    (ITEM, key, first, last, i)       (time, item), i counted from 0
"""

import math
from collections.abc import Iterator
from typing import Any

from zflow.windowing.agenda import ITEM, SMALL, Agenda, Due, State, Token, small_rows
from zflow.windowing.specs import Times, Window


class Panes:
    """All windows of one stage."""

    def __init__(self, spec: Times, lateness_s: float) -> None:
        self._spec = spec
        self._lateness_s = lateness_s

    def add(self, agenda: Agenda, key: Any, time_s: float, item: Any) -> bool:
        """Keep an item; False if all its windows have fired."""
        first, last = self._spec.numbers(time_s)
        if self._due_s(last) <= agenda.mark:
            return False
        pane = (SMALL, key, first, last)
        n = agenda.state.get(pane, 0)
        agenda.state[pane] = n + 1
        agenda.state[ITEM, key, first, last, n] = (time_s, item)
        if n == 0:
            for due in self._open(agenda.mark, key, first, last):
                agenda.add(*due)
        return True

    def pending(self, state: State, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """All that is open, as the state says."""
        for (_, key, first, last), _ in small_rows(state):
            yield from self._open(mark, key, first, last)

    def _open(
        self, mark: float, key: Any, first: int, last: int
    ) -> Iterator[tuple[float, Any, Token]]:
        for n in range(first, last + 1):
            due_s = self._due_s(n)
            if due_s > mark:
                yield due_s, key, (n,)

    def _due_s(self, n: int) -> float:
        return self._spec.window(n).end + self._lateness_s

    def close(self, agenda: Agenda, due: Due) -> tuple[Window, list[Any]] | None:
        """A window with its items, which leave with their last window; None if it has none."""
        (n,) = due.token
        found: list[tuple[float, Any]] = []
        for first, last in self._panes_of(n):
            found += self._items(agenda.state, due.key, first, last, keep=last > n)
        found.sort(key=lambda pair: pair[0])
        return (self._spec.window(n), [item for _, item in found]) if found else None

    def _panes_of(self, n: int) -> Iterator[tuple[int, int]]:
        """The panes that a window may have, by time: one per hop, two where a window ends in it."""
        spec, last = self._spec, n
        while (first := spec.numbers(last * spec.hop_s)[0]) <= n:
            end_s = (last + 1) * spec.hop_s
            until = spec.numbers(math.nextafter(end_s, -math.inf))[0]
            yield from ((one, last) for one in range(first, min(until, n) + 1))
            last += 1

    @staticmethod
    def _items(
        state: State, key: Any, first: int, last: int, *, keep: bool
    ) -> Iterator[tuple[float, Any]]:
        pane = (SMALL, key, first, last)
        for i in range(state.get(pane, 0)):
            row = (ITEM, key, first, last, i)
            yield state[row]
            if not keep:
                del state[row]
        if not keep:
            state.pop(pane, None)

"""Session windows.

Decides which items belong together: an item joins every session of its key that it is less than
the gap away from, and makes one of several. The items stay where they are.

    (SMALL, key)                  (next number, (session, ...)); a session is flat, so that it is
                                  a plain value: number, first time, last time, then a chunk and
                                  the count of its items, repeated
    (ITEM, key, chunk, i)         (time, item), i counted from 0
"""

from collections.abc import Iterator
from typing import Any

from zflow.windowing.agenda import ITEM, SMALL, Agenda, Due, State, Token, small_rows
from zflow.windowing.specs import Sessions, Window

Session = tuple[Any, ...]  # (number, first time, last time, chunk, n, chunk, n, ...)
NUMBER, FIRST, LAST, CHUNKS = range(4)


class SessionWindows:
    """All sessions of one stage."""

    def __init__(self, spec: Sessions, lateness_s: float) -> None:
        self._gap_s = spec.gap_s
        self._lateness_s = lateness_s

    def add(self, agenda: Agenda, key: Any, time_s: float, item: Any) -> bool:
        """Keep an item; False if it came too late for a session of its own, and joins none."""
        state, gap_s = agenda.state, self._gap_s
        number, sessions = state.get((SMALL, key), (0, ()))
        near = [s for s in sessions if s[FIRST] - gap_s < time_s < s[LAST] + gap_s]
        if near:
            session = _joined(near, time_s)
        elif time_s + gap_s + self._lateness_s <= agenda.mark:
            return False
        else:
            session = (number, time_s, time_s, number, 0)
            number += 1
        *before, chunk, n = session
        others = [one for one in sessions if one not in near]
        state[SMALL, key] = (number, (*others, (*before, chunk, n + 1)))
        state[ITEM, key, chunk, n] = (time_s, item)
        agenda.add(self._due_s(session), key, (session[NUMBER],))
        return True

    def _due_s(self, session: Session) -> float:
        return float(session[LAST] + self._gap_s + self._lateness_s)

    def pending(self, state: State, mark: float) -> Iterator[tuple[float, Any, Token]]:
        """All that is open, as the state says."""
        for (_, key), (_, sessions) in small_rows(state):
            for session in sessions:
                yield self._due_s(session), key, (session[NUMBER],)

    def close(self, agenda: Agenda, due: Due) -> tuple[Window, list[Any]] | None:
        """A session with its items; None if it has become part of another, or has gone on."""
        number, sessions = agenda.state.get((SMALL, due.key), (0, ()))
        session = next((one for one in sessions if one[NUMBER] == due.token[0]), None)
        if session is None:
            return None
        if self._due_s(session) > due.due_s:  # every new item moves it, the agenda follows here
            agenda.add(self._due_s(session), due.key, due.token)
            return None
        others = tuple(one for one in sessions if one is not session)
        if others:
            agenda.state[SMALL, due.key] = (number, others)
        else:
            del agenda.state[SMALL, due.key]
        found = sorted(_items(agenda.state, due.key, session), key=lambda pair: pair[0])
        window = Window(session[FIRST], session[LAST] + self._gap_s)
        return window, [item for _, item in found]


def _joined(sessions: list[Session], time_s: float) -> Session:
    """One session of several, which also holds that time."""
    # What comes next goes into the last chunk: so items of one time stay in order of arrival.
    chunks = [part for session in sessions for part in session[CHUNKS:]]
    first_s = min(time_s, *(session[FIRST] for session in sessions))
    last_s = max(time_s, *(session[LAST] for session in sessions))
    return (sessions[0][NUMBER], first_s, last_s, *chunks)


def _items(state: State, key: Any, session: Session) -> Iterator[tuple[float, Any]]:
    chunks = iter(session[CHUNKS:])
    for chunk, n in zip(chunks, chunks, strict=True):
        for i in range(n):
            yield state.pop((ITEM, key, chunk, i))

"""What windows and joins must give, said as plainly as lists allow.

Everything is looked at again for every item; nothing is ever forgotten early.
"""

import math

from zflow.hashing import key_bytes


def event_time(item):
    return item[1]


def by_time(items):
    return sorted(items, key=event_time)


class Answer:
    """outputs: (key, start, end, numbers) in order; late: items."""

    def __init__(self):
        self.outputs = []
        self.late = []


def of_time(items, *, size_s, hop_s, lateness_s=0.0):
    """Tumbling and sliding windows of time."""
    answer, mark, windows = Answer(), -math.inf, {}

    def fire():
        due = [one for one in windows if one[0] + lateness_s <= mark]
        for end, rank, start in sorted(due):
            key, found = windows.pop((end, rank, start))
            numbers = [number for _, _, number in by_time(found)]
            answer.outputs.append((key, start, end, numbers))

    for item in items:
        key, time_s, _ = item
        around = range(int(time_s // hop_s) - int(size_s // hop_s) - 2, int(time_s // hop_s) + 3)
        holding = [n * hop_s for n in around if n * hop_s <= time_s < n * hop_s + size_s]
        still = [start for start in holding if start + size_s + lateness_s > mark]
        if not still:
            answer.late.append(item)
        for start in still:
            place = (start + size_s, key_bytes(key), start)
            windows.setdefault(place, (key, []))[1].append(item)
        mark = max(mark, time_s)
        fire()
    mark = math.inf
    fire()
    return answer


def of_sessions(items, *, gap_s, lateness_s=0.0):
    """Session windows."""
    answer, mark, sessions = Answer(), -math.inf, []  # each (key, [item in order of arrival])

    def end_of(session):
        return max(map(event_time, session[1])) + gap_s

    def fire():
        due = [one for one in sessions if end_of(one) + lateness_s <= mark]
        for session in sorted(due, key=lambda one: (end_of(one), key_bytes(one[0]))):
            sessions.remove(session)
            key, found = session
            ordered = by_time(found)
            numbers = [number for _, _, number in ordered]
            answer.outputs.append((key, ordered[0][1], end_of(session), numbers))

    for at, item in enumerate(items):
        key, time_s, _ = item
        near = [
            one
            for one in sessions
            if key_bytes(one[0]) == key_bytes(key)
            and any(abs(other[1] - time_s) < gap_s for other in one[1])
        ]
        if not near and time_s + gap_s + lateness_s <= mark:
            answer.late.append(item)
            continue
        joined = [other for one in near for other in one[1]] + [item]
        joined.sort(key=items[: at + 1].index)
        sessions = [one for one in sessions if one not in near] + [(key, joined)]
        mark = max(mark, time_s)
        fire()
    mark = math.inf
    fire()
    return answer


def of_counts(items, *, count, hop):
    """Windows of a number of items; those that are not full come at the end."""
    answer, had, rest = Answer(), {}, []
    for item in items:
        key = item[0]
        mine = had.setdefault(key_bytes(key), (key, []))[1]
        mine.append(item)
        start = len(mine) - count
        if start >= 0 and start % hop == 0:
            answer.outputs.append((key, start, len(mine), numbers_of(mine[start:])))
    for rank, (key, mine) in had.items():
        for start in range(0, len(mine), hop):
            if start + count > len(mine):
                rest.append((len(mine), rank, start, (key, start, len(mine), mine[start:])))
    for *_, (key, start, end, found) in sorted(rest, key=lambda one: one[:3]):
        answer.outputs.append((key, start, end, numbers_of(found)))
    return answer


def numbers_of(items):
    return [number for _, _, number in by_time(items)]


def of_join(items, *, within_s, lateness_s=0.0):
    """Pairs, as (key, left number, right number); each item comes with its side.

    Late is what is late on its own side.
    """
    answer, marks, known = Answer(), [-math.inf, -math.inf], []
    for item, side in items:
        key, time_s, number = item
        if time_s + within_s + lateness_s < marks[side]:
            answer.late.append(item)
            continue
        near = [
            other
            for other, other_side in known
            if other_side != side
            and key_bytes(other[0]) == key_bytes(key)
            and abs(other[1] - time_s) <= within_s
        ]
        for other in by_time(near):
            pair = (number, other[2]) if side == 0 else (other[2], number)
            answer.outputs.append((key, *pair))
        known.append((item, side))
        marks[side] = max(marks[side], time_s)
    return answer

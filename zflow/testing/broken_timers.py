"""Timers of durable stages, without the protection that they are there for.

Decides nothing; `mutants` puts these in place. Each says what it no longer does by its name, and
does everything else as the original does.
"""

from zflow.state.entries import Row
from zflow.testing.anchors import Owned
from zflow.testing.disk import Alarm, Contents
from zflow.testing.items import Item
from zflow.testing.timers import NEVER_S, Alarms, Armed

_armed = Armed.__init__
_take = Armed.take
_due_s = Alarms._due_s


def rows_kept(self: Contents, rows: list[Row]) -> None:
    """Leave the rows of timers that have fired."""
    self.timers.update((raw, row) for raw, row in rows if row is not None)


def rows_not_stored(self: Contents, rows: list[Row]) -> None:
    """Leave out the timers that a commit sets."""
    for raw, row in rows:
        if row is None:
            self.timers.pop(raw, None)


def armed_with_nothing(self: Armed, contents: Contents) -> None:
    """Begin without the timers of the file."""
    _armed(self, Contents(alarms=contents.alarms))


def take_rows_later(self: Armed) -> tuple[list[Row], list[Alarm]]:
    """Delete the row of a timer one commit after that which has its outputs."""
    rows, alarms = _take(self)
    late = self.__dict__.pop("late", [])
    self.__dict__["late"] = [(raw, row) for raw, row in rows if row is None]
    return [*late, *((raw, row) for raw, row in rows if row is not None)], alarms


def fails_and_stays(self: Armed, item: Item, now_s: float) -> None:
    """Keep what an item set before it raised."""
    if item.timer is not None:
        self.timers[item.timer.key] = now_s
        self.timers.seal()


def due_behind_finish(self: Alarms, own: Owned) -> float:
    """Fire what is due, whether `finish` has run or not."""
    timer = own.armed.timers.first()
    return _due_s(self, own) if timer is None or not own.partition.done else timer[1]


def fire_before_time(self: Alarms, own: Owned) -> float:
    """Fire timers as soon as they are set."""
    due_s = _due_s(self, own)
    return due_s if due_s == NEVER_S else due_s - 0.1

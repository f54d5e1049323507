"""The timers of one simulated replica of a durable stage: it sets them with items, and they fire.

Decides when one fires and what becomes of one that fails, as the alarms of a replica do: in the
commit that deletes its row, once its time has come, and not once all has come that will come. What
is set and due is kept by the real `state.timers`.
"""

from typing import TYPE_CHECKING

from zflow.state.entries import Row, unpack_row
from zflow.state.timers import Timers
from zflow.testing.disk import Alarm, Contents
from zflow.testing.invariants import Violation
from zflow.testing.items import Item, Timer

if TYPE_CHECKING:
    from zflow.testing.anchors import AnchorWorker, Owned
    from zflow.testing.process import Process

BACKOFF_S = 0.05
OVERDUE_S = 1.0  # that nobody who may fire a timer leaves it for
NEVER_S = float("inf")


class Armed:
    """The timers of one partition: those in its file, and what was done since the last commit."""

    def __init__(self, contents: Contents) -> None:
        self.timers = Timers(contents.timers.items())
        self.set = dict(contents.alarms)
        self._changes: list[Alarm] = []

    @property
    def dirty(self) -> bool:
        """There is something to commit."""
        return bool(self._changes)

    def sets(self, item: Item, now_s: float, slot: str) -> None:
        """An item that is applied may set one; an earlier one of the same key is forgotten."""
        timer = item.timer
        if timer is not None:
            due_s = now_s + timer.wait_s
            timer.slot = slot
            self.timers[timer.key] = due_s
            self.timers.seal()
            self.set[timer.key] = timer
            self._changes.append((timer.key, timer, due_s))

    def fails(self, item: Item, now_s: float) -> None:
        """An item sets one and then raises: nothing of it stays."""
        if item.timer is not None:
            self.timers[item.timer.key] = now_s
            self.timers.undo()

    def fired(self, key: int, now_s: float) -> Timer | None:
        """Its row goes in the commit that has its outputs."""
        self.timers.seal()
        self._changes.append((key, None, now_s))
        return self.set.pop(key, None)

    def take(self) -> tuple[list[Row], list[Alarm]]:
        """What is to be stored now: rows for the file, and the same for an onlooker."""
        changes, self._changes = self._changes, []
        return self.timers.take(), changes


class Alarms:
    """Fires the timers of one replica's partitions."""

    def __init__(self, process: "Process", worker: "AnchorWorker") -> None:
        self._process = process
        self._worker = worker
        self._failing: dict[int, tuple[int, float]] = {}  # partition -> failures, not before

        self._free_s = NEVER_S  # since when they may fire, as far as an onlooker saw

    def fire(self, now_s: float) -> float:
        """Those that are due; when the next one will be."""
        first_s = NEVER_S
        for own in self._worker.owned.values():
            while (due_s := self._due_s(own)) <= now_s:
                if not self._may_fire():
                    return NEVER_S  # whatever changes that wakes the process
                self._fire(own, now_s)
            first_s = min(first_s, due_s)
        return first_s

    def _may_fire(self) -> bool:
        core = self._process.core
        return not core.full() and not core.inbox.ended()

    def _due_s(self, own: "Owned") -> float:
        timer = own.armed.timers.first()
        if timer is None or own.partition.done or not self._worker.is_mine(own.partition.number):
            return NEVER_S
        _, not_before_s = self._failing.get(own.partition.number, (0, 0.0))
        return max(timer[1], not_before_s)

    def _fire(self, own: "Owned", now_s: float) -> None:
        armed, number, world = own.armed, own.partition.number, self._process.world
        due = armed.timers.first()
        assert due is not None, "one is due"
        key = due[0]
        del armed.timers[key]
        failures, _ = self._failing.pop(number, (0, 0.0))
        timer = armed.set.get(key)
        if timer is not None and failures < timer.fails:
            world.count("timer tried again")
            armed.timers.undo()
            self._failing[number] = failures + 1, now_s + BACKOFF_S * 2.0**failures
            return
        armed.fired(key, now_s)
        own.partition.fired(timer.rows if timer is not None else [])
        if timer is not None:
            elsewhere = timer.slot != self._process.slot
            world.count("timer fired where its partition went" if elsewhere else "timer fired")
        self._worker.commit_soon(own)
        world.nemesis.fires(self._process)

    def check(self, now_s: float) -> None:
        """A timer in a file does not wait for ever if nothing keeps it from firing (I13)."""
        process, worker = self._process, self._worker
        if not worker.idle() or now_s < process.paused_until_s or not self._may_fire():
            self._free_s = NEVER_S
            return
        self._free_s = min(self._free_s, now_s)
        for own in worker.owned.values():
            if own.at_rest() and not own.partition.done and worker.is_mine(own.partition.number):
                rows = own.disk.contents.timers.items()
                due_s = min((unpack_row(raw, row)[1] for raw, row in rows), default=NEVER_S)
                if now_s - max(due_s, self._free_s, own.since_s) > OVERDUE_S:
                    raise Violation("I13", f"{own.disk}: a timer of {due_s:.3f} s does not fire")

"""The dead letters of one simulated process on their way to its store, as a keeper writes them.

Decides how long a commit takes, whether it fails and is tried again, and when the owner hears of
it. All that wait are committed together, in the order they were asked for; the units stay open
until then, however long the disk is full.
"""

from collections import deque
from typing import TYPE_CHECKING

from zflow.protocol.actions import Bury

if TYPE_CHECKING:
    from zflow.testing.process import Process

AGAIN_FIRST_S = 0.1  # after a commit that failed, and twice as long after each other
AGAIN_MOST_S = 1.0
TOLD_S = 0.001  # between a commit and the moment that its owner hears of it


class Graves:
    """See the module. It goes on while the process does; a pause holds it up too."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self._waiting: deque[Bury] = deque()
        self._again_s = AGAIN_FIRST_S

    def bury(self, letter: Bury) -> None:
        """Commit it some time, then tell the core."""
        self._world.count(f"bury {letter.code}")
        self._waiting.append(letter)
        if len(self._waiting) == 1:
            self._write_in(self._process.disk_s * (0.5 + self._world.random.random()))

    def _write_in(self, wait_s: float) -> None:
        self._world.at(self._world.now_s + wait_s, self._write, ())

    def _write(self) -> None:
        process, world = self._process, self._world
        if not process.alive:
            world.count("died before a dead letter was committed")
        elif world.now_s < process.paused_until_s:
            world.at(process.paused_until_s, self._write, ())
        elif world.nemesis.graves_fail and world.random.random() < world.nemesis.graves_fail:
            self._failed()
        else:
            self._commit()

    def _failed(self) -> None:
        """The disk is full: nothing is committed, and everything is tried again."""
        self._world.count("commit of a dead letter failed")
        if self._holds_up():
            self._world.count("stage stopped by dead letters")
        self._write_in(self._again_s)
        self._again_s = min(AGAIN_MOST_S, self._again_s * 2)

    def _holds_up(self) -> bool:
        """An edge is full, and would not be without what waits here."""
        return any(
            box.full() and len(box.burying) > box.retained()[0] - box.settings.window_items
            for box in self._process.core.outboxes.values()
        )

    def _commit(self) -> None:
        """The store commits; the core hears of it a moment later."""
        world = self._world
        self._again_s = AGAIN_FIRST_S
        letters = self._take()
        for letter in letters:
            rows = world.effects.rows.get(letter.run.origin, ())
            items = letter.items if letter.edge else [rows[letter.run.start]]
            world.invariants.buried(items, letter.run.unit(0))
        self._tell(letters)

    def _take(self) -> list[Bury]:
        letters = list(self._waiting)
        self._waiting.clear()
        return letters

    def _tell(self, letters: list[Bury]) -> None:
        self._world.at(self._world.now_s + TOLD_S, self._told, (letters,))

    def _told(self, letters: list[Bury]) -> None:
        process = self._process
        if process.alive:
            for letter in letters:
                process.core.buried(letter.ticket)
            process.wake(self._world.now_s)

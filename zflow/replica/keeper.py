"""The thread that waits for the disk, so that no reactor step does (R11).

Commits dead letters and positions in the order they were asked for. Never gives up: a disk that
is full or broken means an alarm and another try, and the units stay open meanwhile (H16).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.state.deadletter import DeadLetter, DeadLetterStore
from zflow.state.positions import Mark, PositionFile

_LOG = logging.getLogger("zflow.keeper")
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 1.0
MAX_LETTERS_PER_COMMIT = 256

PositionRow = tuple[int, bool, Mark | None]


class Keeper:
    """One per process; its thread starts with the first thing to keep.

    done: tickets whose dead letters are committed. stored_low: the mark that is on disk.
    wake: called from the keeper's thread after every commit.
    """

    def __init__(
        self, dead_path: Path, position: PositionFile | None, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self.done: deque[int] = deque()
        self.stored_low = position.load().low if position else 0
        self._dead_path = self._writing = dead_path  # what is being written, for the alarm
        self._store: DeadLetterStore | None = None
        self._position = position
        self._repeating = Repeating(_LOG, clock)
        self._wake = wake
        self._letters: deque[tuple[int, list[DeadLetter]]] = deque()
        self._row: PositionRow | None = None
        self._asked = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def bury(self, ticket: int, letters: list[DeadLetter]) -> None:
        """Commit the letters of a unit, then put `ticket` into `done`. Returns at once."""
        self._letters.append((ticket, letters))
        self._ask()

    def store_position(self, low: int, *, ended: bool, mark: Mark | None) -> None:
        """Commit the newest mark; one that has been overtaken is not written. Returns at once."""
        self._row = (low, ended, mark)
        self._ask()

    def idle(self) -> bool:
        """Nothing is waiting to be committed."""
        return self._row is None and not self._letters

    def _ask(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="zflow-keeper", daemon=True)
            self._thread.start()
        with self._asked:
            self._asked.notify()

    def _run(self) -> None:
        wait_s = RETRY_FIRST_S
        while True:
            with self._asked:
                self._asked.wait_for(lambda: self._letters or self._row or self._closing)
                if self._closing and not self._letters and not self._row:
                    return
            try:
                self._commit()
                wait_s = RETRY_FIRST_S
            except Unavailable as error:
                self._repeating.warning(
                    "cannot write to %s: %s; nothing is lost, the stage waits and tries again",
                    self._writing.parent,
                    error,
                )
                if self._closing:
                    return
                with self._asked:
                    self._asked.wait_for(lambda: self._closing, timeout=wait_s)
                wait_s = min(RETRY_MAX_S, wait_s * 2)
            self._wake()

    def _commit(self) -> None:
        batch = [self._letters[k] for k in range(min(len(self._letters), MAX_LETTERS_PER_COMMIT))]
        if batch:
            self._writing = self._dead_path
            if self._store is None:
                self._store = DeadLetterStore(self._dead_path)
            self._store.bury([letter for _, letters in batch for letter in letters])
            for ticket, _ in batch:
                self._letters.popleft()
                self.done.append(ticket)
        row = self._row
        if row is not None and self._position is not None:
            low, ended, mark = row
            self._writing = self._position.path
            self._position.store(low, ended=ended, mark=mark)
            self.stored_low = low
            if self._row is row:
                self._row = None

    def close(self) -> None:
        """Write what is left and end the thread; blocks for the disk."""
        if self._thread is not None:
            with self._asked:
                self._closing = True
                self._asked.notify()
            self._thread.join()
        if self._store is not None:
            self._store.close()
        if self._position is not None:
            self._position.close()

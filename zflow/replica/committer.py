"""The threads that wait for the disk on behalf of partitions, so that no data thread does (R11).

Commits in the order in which each partition asks. Never gives up: a disk that is full or broken
means an alarm and another try of the same commit, and its units stay unacknowledged meanwhile.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.state.partition import Batch, Fenced, PartitionFile

_LOG = logging.getLogger("zflow.committer")
THREADS = 2  # a disk takes several syncs at once; more would only take turns with user code
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0


class Committed(Protocol):
    """Whose file it is; given back in `done`."""

    file: PartitionFile


P = TypeVar("P", bound=Committed)


class Committer(Generic[P]):
    """One per durable replica. done: whose commits are durable, oldest first.

    wake: called from the threads after every commit. failure: why nothing can be committed any
    more: somebody else owns a partition, or a commit raised what is no fault of the disk.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self.done: deque[P] = deque()
        self.failure: BaseException | None = None
        self._wake = wake
        self._repeating = Repeating(_LOG, clock)
        self._asked: SimpleQueue[tuple[P, Batch] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, owned: P, batch: Batch) -> None:
        """Commit; a partition asks again only when this is done. Returns at once."""
        if not self._threads:
            self._start()
        self._asked.put((owned, batch))

    def _start(self) -> None:
        for number in range(THREADS):
            name = f"zflow-commit-{number}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            owned, batch = asked
            try:
                if self._commit(owned.file, batch):
                    self.done.append(owned)
            except BaseException as error:  # noqa: BLE001 - the data thread raises it
                self.failure = error
            self._wake()

    def _commit(self, file: PartitionFile, batch: Batch) -> bool:
        """True once the batch is durable; False if the process ends before."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                file.commit(batch)
                return True
            except Fenced:
                raise
            except Unavailable as error:
                self._repeating.warning(
                    "cannot commit: %s; nothing is lost, the stage waits and tries again", error
                )
            if self._closing.wait(wait_s):
                return False
            wait_s = min(RETRY_MAX_S, wait_s * 2)
            if self._is_stored(file, batch):
                return True

    def _is_stored(self, file: PartitionFile, batch: Batch) -> bool:
        """A commit may have reached the disk before it failed: outputs are never stored twice.

        All else that a batch holds may be stored again.
        """
        try:
            return bool(batch.outbox) and file.next_oseq() >= batch.next_oseq
        except Unavailable:
            return False

    def close(self) -> None:
        """End the threads; blocks for a commit that is under way, not for a broken disk."""
        self._closing.set()
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()

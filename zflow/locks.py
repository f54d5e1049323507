"""A file that one process at a time holds.

Decides how a lock ends with its process: a child that user code forks does not keep it. Never
waits for a lock.
"""

import fcntl
import os
from pathlib import Path

from zflow.errors import Unavailable

_held: "set[FileLock]" = set()  # keeps them: a lock is held until `release` or the end


class FileLock:
    """An flock, taken at once or refused; the operating system frees it when the process dies.

    held: the sentence for the person who finds it held elsewhere.
    """

    def __init__(self, path: Path, held: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise Unavailable(held) from error
        _held.add(self)

    def release(self) -> None:
        """Give it up; more than once is harmless."""
        if self in _held:
            _held.discard(self)
            os.close(self._descriptor)

    def _forget(self) -> None:
        """In a forked child: closing it here takes nothing from the parent."""
        self.release()


def _forget_all() -> None:
    # A forked child shares the open file and with it the lock: it would keep it when its parent
    # dies (F12).
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)

"""The border between a replica and its operating system: parent, signals, lock.

Decides how a process makes sure that it does not outlive its supervisor or share its slot.
"""

import ctypes
import faulthandler
import fcntl
import os
import signal
import sys
from pathlib import Path

from zflow.errors import Unavailable

_PR_SET_PDEATHSIG = 1


def settle_in(parent: int) -> None:
    """Die with the supervisor, leave Ctrl-C to it, and show where a crash happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        raise Unavailable("the supervisor is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    faulthandler.enable()


class SlotLock:
    """The flock that makes a slot one process's: taken before bind, held until the end (F16)."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise Unavailable(
                f"another process holds this slot ({path}): it must be dead before a successor "
                "may start"
            ) from error
        # A child that user code forks shares the open file and with it the lock: it would keep
        # the slot when this process dies (F12).
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        os.close(self._descriptor)

    def release(self) -> None:
        """Give the slot up; the operating system does the same when the process dies."""
        os.close(self._descriptor)

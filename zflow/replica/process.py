"""The border between a replica and its operating system: parent, signals, lock.

Decides how a process makes sure that it does not outlive its supervisor or share its slot.
"""

import ctypes
import faulthandler
import os
import signal
import sys
from pathlib import Path

from zflow.errors import Unavailable
from zflow.locks import FileLock

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


class SlotLock(FileLock):
    """The flock that makes a slot one process's: taken before bind, held until the end (F16)."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            f"another process holds this slot ({path}): it must be dead before a successor "
            "may start",
        )

"""What Ctrl-C means to a verb that runs in the foreground."""

import signal
from collections.abc import Callable
from types import FrameType


def on_interrupts(first: Callable[[], None], then: Callable[[], None]) -> None:
    """The first Ctrl-C (or SIGTERM, or the terminal's end) calls `first`, all others `then`."""
    asked = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        (first if asked == 1 else then)()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, on_signal)

"""How zflow's processes log: lines on stderr, and repeating warnings held back.

Importing it configures nothing; a process calls `configure` once.
"""

import logging

from zflow.clock import Clock

REPEAT_S = 5.0  # a repeating warning appears at most this often, with its count


def configure(level: str, name: str) -> None:
    """Send the log of this process to stderr, each line led by `name`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name} %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("zflow")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


class Repeating:
    """A warning that may come thousands of times a second and is written every 5 s."""

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._quiet_until_s: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def warning(self, message: str, *args: object) -> None:
        """Write it now, or count it if the same message was written less than 5 s ago."""
        now_s = self._clock.now_s()
        if now_s < self._quiet_until_s.get(message, 0.0):
            self._held[message] = self._held.get(message, 0) + 1
            return
        self._quiet_until_s[message] = now_s + REPEAT_S
        held = self._held.pop(message, 0)
        suffix = f" ({held} more in the last {REPEAT_S:g} s)" if held else ""
        self._logger.warning(message + suffix, *args)

"""Waiting for sockets and wake-ups at once."""

import os
from collections.abc import Iterable
from typing import Any

import zmq


class Waiter:
    """What one thread sleeps on; any thread may wake it."""

    def __init__(self, sockets: "Iterable[zmq.Socket[bytes]]") -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._sockets = list(sockets)
        self._watched: list[tuple[Any, int]] = [(self._event, zmq.POLLIN)]
        self._watched += [(socket, zmq.POLLIN) for socket in self._sockets]
        self.woken = False  # the last wait was ended by `wake`, or would have been

    def wait(self, timeout_s: float) -> "list[tuple[Any, int]]":
        """Block until something arrives, `wake` is called, or the time is up.

        The sockets that have something, with their events.
        """
        # Rounded up: waking a little late is one step, waking early is a spin until then.
        ready = zmq.zmq_poll(self._watched, int(max(0.0, timeout_s) * 1000 + 0.999))
        self.woken = bool(ready) and ready[0][0] == self._event
        if self.woken:
            os.eventfd_read(self._event)
            del ready[0]
        return ready

    def descriptors(self) -> list[int]:
        """Readable as soon as `wait` may have something. Those of sockets are edge-triggered: they
        say nothing of what had come when the sockets were last looked at."""
        return [self._event, *(int(socket.getsockopt(zmq.FD)) for socket in self._sockets)]

    def wake(self) -> None:
        """End the wait, or the next one."""
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._event)

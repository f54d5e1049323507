"""Waiting for sockets and wake-ups at once."""

import os
from collections.abc import Iterable
from typing import Any

import zmq


class Waiter:
    """What one thread sleeps on; any thread may wake it."""

    def __init__(self, sockets: "Iterable[zmq.Socket[bytes]]") -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: list[tuple[Any, int]] = [(self._event, zmq.POLLIN)]
        self._watched += [(socket, zmq.POLLIN) for socket in sockets]

    def wait(self, timeout_s: float) -> "list[tuple[Any, int]]":
        """Block until something arrives, `wake` is called, or the time is up.

        The sockets that have something, with their events.
        """
        # Rounded up: waking a little late is one step, waking early is a spin until then.
        ready = zmq.zmq_poll(self._watched, int(max(0.0, timeout_s) * 1000 + 0.999))
        if ready and ready[0][0] == self._event:
            os.eventfd_read(self._event)
            del ready[0]
        return ready

    def wake(self) -> None:
        """End the wait, or the next one."""
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._event)

"""Waiting for sockets, wake-ups and an asyncio event loop at once.

Decides when the loop sleeps, and when it gives the thread back. Never zmq.asyncio: the sockets are
the reactor's, and the loop only watches their descriptors.

The loop runs inside `wait` and `turn`. Its selector is where it sleeps, so that is where this
module looks: how long it may sleep, who is told before and after. The descriptor of a ZeroMQ
socket is edge-triggered: it says nothing of messages that were there when somebody last looked at
the socket. Nobody does while the loop sleeps; the other thread may while a callback blocks, so
after AWAKE_S the loop does not go to sleep again before the sockets have been asked.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable
from typing import Any

from zflow.clock import Clock
from zflow.net.poll import Waiter

# Less than the time after which the control thread touches the sockets (`controller`).
AWAKE_S = 0.002


class _Selector(selectors.EpollSelector):
    """Asks before it sleeps how long it may, and tells when it has slept."""

    before: Callable[[float | None], float | None] | None = None
    after: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> Any:
        """As the loop calls it, once per turn."""
        if self.before is None or self.after is None:
            return super().select(timeout)
        timeout = self.before(timeout)
        ready = super().select(timeout)
        if timeout is None or timeout > 0.0:
            self.after()
        return ready


class LoopWaiter:
    """Takes the place of the `Waiter` it is made of. The data thread owns it and the loop.

    lock: that of the reactor, held while sockets are looked at. awake, asleep: told when callbacks
    of the loop, which are user code, begin and end; they take turns.
    """

    def __init__(
        self,
        waiter: Waiter,
        lock: threading.Lock,
        clock: Clock,
        *,
        awake: Callable[[], None],
        asleep: Callable[[], None],
    ) -> None:
        self._waiter = waiter
        self._lock = lock
        self._clock = clock
        self._tell_awake = awake
        self._tell_asleep = asleep
        self._awake_s = 0.0  # since when callbacks may be running; 0 while they are not
        self._until_s = 0.0
        self._selector = _Selector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self.wake = waiter.wake
        self._watch()

    def _watch(self) -> None:
        for descriptor in self._waiter.descriptors():
            self.loop.add_reader(descriptor, self.stop)

    def wait(self, timeout_s: float) -> list[tuple[Any, int]]:
        """Run the loop until something arrives, `wake` or `stop` is called, or the time is up.

        The sockets that have something, with their events.
        """
        ready = self._look()
        at_once = bool(ready) or self._waiter.woken
        self._run(0.0 if at_once else self._clock.now_s() + max(0.0, timeout_s))
        return ready or self._look()

    def turn(self) -> None:
        """Run the callbacks that are ready, once."""
        self._run(0.0)

    def _run(self, until_s: float) -> None:
        self._until_s = until_s
        self._selector.before, self._selector.after = self._before_sleep, self._wake_up
        try:
            self.loop.run_forever()
        finally:
            self._selector.before = self._selector.after = None
            self._fall_asleep()

    def stop(self) -> None:
        """End the wait once the callbacks that are ready have run. From one of them."""
        if self._selector.before is not None:
            self.loop.stop()

    def complete(self, made: Any) -> Any:
        """What a coroutine gives, run to its end; nothing else is looked at meanwhile."""
        for descriptor in self._waiter.descriptors():
            self.loop.remove_reader(descriptor)
        try:
            return self.loop.run_until_complete(made)
        finally:
            self._watch()

    def close(self) -> None:
        """Close the loop; the waiter it was made of stays."""
        self.loop.close()

    def _look(self) -> list[tuple[Any, int]]:
        with self._lock:
            return self._waiter.wait(0.0)

    # -- called by the selector, once per turn of the loop -----------------------------------

    def _before_sleep(self, timeout_s: float | None) -> float | None:
        """For how long the loop may sleep now."""
        now_s = self._clock.now_s()
        left_s = self._until_s - now_s
        away = bool(self._awake_s) and now_s - self._awake_s > AWAKE_S
        if left_s <= 0.0 or away:
            self.loop.stop()
            timeout_s = 0.0
        if timeout_s is not None and timeout_s <= 0.0:  # callbacks are ready
            if not self._awake_s:
                self._wake_up()
            return 0.0
        self._fall_asleep()
        return left_s if timeout_s is None else min(timeout_s, left_s)

    def _wake_up(self) -> None:
        self._awake_s = now_s = self._clock.now_s()
        self._tell_awake()
        if now_s >= self._until_s:
            self.loop.stop()

    def _fall_asleep(self) -> None:
        if self._awake_s:
            self._awake_s = 0.0
            self._tell_asleep()

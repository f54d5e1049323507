"""One replica's reactor: the core, its sockets, and the one lock between the two threads.

Decides nothing: a step receives what has come, lets the core decide, and does what it asks. A
step never blocks (R11).
"""

import threading
from collections.abc import Callable

from zflow.clock import Clock
from zflow.net.links import DataLinks, Ready
from zflow.protocol.actions import Bury, Dial, Fail, Hangup, Reply, Retire, Send
from zflow.protocol.core import Core
from zflow.wire.codec import Parts
from zflow.wire.data import Frame


class Reactor:
    """`lock` is held during a step and while results are handed to the core, never longer.

    on_bury, on_fail, on_retire: called under the lock; they must not block.
    """

    def __init__(
        self,
        core: Core,
        links: DataLinks,
        clock: Clock,
        *,
        on_bury: Callable[[Bury], None],
        on_fail: Callable[[Fail], None],
        on_retire: Callable[[Retire], None],
    ) -> None:
        self.core = core
        self.links = links
        self.lock = threading.Lock()
        self.messages = 0  # that ever arrived
        self._clock = clock
        self._now_s = clock.now_s()
        self._on_bury = on_bury
        self._on_fail = on_fail
        self._on_retire = on_retire

    def receive(self, known: Ready | None = None) -> None:
        """Take in what has arrived, or the first of what a wait has found. Under the lock."""
        self._now_s = self._clock.now_s()
        self.messages += self.links.receive(self._on_reply, self._on_frame, known)
        if self.core.actions:
            self.perform()

    def tick(self) -> None:
        """Timers, and everything that credit allows. Under the lock."""
        self._now_s = self._clock.now_s()
        self.core.tick(self._now_s)
        self.perform()

    def flush(self) -> None:
        """Send what user code has just given, without looking for arrivals. Under the lock."""
        self._now_s = now_s = self._clock.now_s()
        for outbox in self.core.outboxes.values():
            outbox.dispatch(now_s)
        self.perform()

    def _on_frame(self, frame: Frame, payload: Parts | None) -> None:
        self.core.on_frame(frame, payload, self._now_s)

    def _on_reply(self, frame: Frame, payload: Parts | None) -> None:
        self.core.on_reply(frame, self._now_s)

    def perform(self) -> None:
        """Do what the core asks, in order. Under the lock."""
        core, links = self.core, self.links
        actions = core.actions
        while actions:
            action = actions.popleft()
            match action:
                case Send():
                    # After a refusal the link has another token, and what was still to be
                    # sent under the old one is in the queue again.
                    if core.current(action.link, action.frame.token) and not links.send(action):
                        core.refused_send(action.link, action.frame, self._now_s)
                case Reply():
                    if not links.reply(action):
                        core.refused_reply(action.frame, self._now_s)
                case Dial():
                    links.dial(action)
                case Hangup():
                    links.hangup(action)
                case Bury():
                    self._on_bury(action)
                case Fail():
                    self._on_fail(action)
                case Retire():
                    self._on_retire(action)

"""The control thread: the coordinator's orders, the beat, and the reactor while user code runs.

Decides when user code has kept the data thread for too long (R11). Never runs user code and never
touches the data sockets without the reactor's lock.
"""

import logging
import os
import threading
from typing import Protocol

from zflow.clock import Clock
from zflow.net.control import ControlClient
from zflow.wire import control

_LOG = logging.getLogger("zflow.replica")

BEAT_S = 1.0
AWAY_S = 0.02  # user code may keep the data thread that long before steps are taken for it
AWAY_WAITING_S = 0.005  # ... if something waits to be sent
LONG_AWAY_S = 0.2  # then nothing new comes from user code, and steps may be rarer
STEP_LONG_S = 0.02
ARMED_S = 1.0  # stay watchful that long after user code ran last
SILENCE_S = 3.0  # without an update: ask for a snapshot again


class Driven(Protocol):
    """What the control thread does to its replica."""

    def on_message(self, message: control.Message) -> None:
        """An order or a snapshot has come."""

    def step_for(self, away_s: float) -> None:
        """Take a reactor step in the data thread's place."""

    def report(self) -> control.Report | None:
        """The state to report, None before there is one."""

    def beat(self) -> None:
        """Once a second."""

    def parent_lives(self) -> bool:
        """False once the supervisor is gone."""


class Controller:
    """The thread and its sockets. `entered` and `nudge` are called from the data thread."""

    def __init__(
        self, client: ControlClient, driven: Driven, register: control.Register, clock: Clock
    ) -> None:
        self._client = client
        self._driven = driven
        self._register = register
        self._clock = clock
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        client.watch(self._wake)
        self._entered_s = 0.0  # 0 while no user code runs
        self._last_entered_s = 0.0
        self._asleep = False
        self._stopping = False
        self._reported: control.Report | None = None
        self._heard_s = clock.now_s()
        self._thread = threading.Thread(target=self._run, name="zflow-control", daemon=True)

    def start(self) -> None:
        """Register and run."""
        self._client.send(self._register)
        self._thread.start()

    def stop(self) -> None:
        """Send the last report and end; blocks until the thread has ended."""
        self._stopping = True
        self.nudge()
        self._thread.join()
        os.close(self._wake)

    def nudge(self) -> None:
        """Look at once: there is something to report."""
        os.eventfd_write(self._wake, 1)

    def register_again(self) -> None:
        """An update was missed: ask for a snapshot. From the control thread."""
        self._client.send(self._register)

    def entered(self, begins: bool) -> None:
        """User code begins or ends."""
        if not begins:
            self._entered_s = 0.0
            return
        self._entered_s = self._last_entered_s = self._clock.now_s()
        if self._asleep:
            self.nudge()

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        beat_s = self._clock.now_s()
        while not self._stopping:
            now_s = self._clock.now_s()
            if now_s >= beat_s:
                beat_s = now_s + BEAT_S
                self._beat(now_s)
            if self._wake in self._client.wait(self._patience_s(now_s, beat_s)):
                os.eventfd_read(self._wake)
            self._asleep = False
            for message in self._client.receive():
                self._heard_s = self._clock.now_s()
                self._driven.on_message(message)
            self._report(force=False)
            self._step_if_away()
        self._report(force=True)

    def _patience_s(self, now_s: float, beat_s: float) -> float:
        """How long to wait: 5 ms while user code runs often, until the beat otherwise."""
        if now_s - self._last_entered_s < ARMED_S or self._entered_s:
            away_s = now_s - self._entered_s if self._entered_s else 0.0
            return STEP_LONG_S if away_s > LONG_AWAY_S else AWAY_WAITING_S
        self._asleep = True
        # The data thread may have gone in between the two lines above; it looks at `_asleep`
        # after it has set `_entered_s`, so one of the two sees the other.
        return 0.0 if self._entered_s else max(0.0, beat_s - now_s)

    def _step_if_away(self) -> None:
        entered_s = self._entered_s
        if entered_s:
            away_s = self._clock.now_s() - entered_s
            if away_s >= AWAY_WAITING_S:
                self._driven.step_for(away_s)

    def _beat(self, now_s: float) -> None:
        self._driven.beat()
        self._report(force=True)
        if now_s - self._heard_s > SILENCE_S:
            self._heard_s = now_s
            self._client.send(self._register)
        if not self._driven.parent_lives():
            _LOG.warning("the supervisor is gone: ending")
            os._exit(1)

    def _report(self, *, force: bool) -> None:
        report = self._driven.report()
        if report is not None and (force or report != self._reported):
            self._reported = report
            self._client.send(report)

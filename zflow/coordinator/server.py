"""The coordinator of one run: answers registrations, publishes numbered updates.

Decides nothing itself (`state` does). Blocks nowhere but in `wait`.
"""

from zflow.clock import Clock
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.state import RunState
from zflow.net.control import ControlServer
from zflow.wire.control import Look, Move, Register, Report, Update
from zflow.wire.data import Crash

BEAT_S = 1.0


class Coordinator:
    """One thread owns it; `turn` whenever `server.wait` has returned."""

    def __init__(
        self, state: RunState, gathering: Gathering, server: ControlServer, clock: Clock
    ) -> None:
        self.state = state
        self.gathering = gathering
        self._server = server
        self._clock = clock
        self._beat_due_s = 0.0

    def turn(self) -> None:
        """Take in what has come, then move on as far as it goes."""
        for peer, message in self._server.receive():
            if isinstance(message, Register):
                snapshot = self.state.on_register(message)
                if snapshot is not None:
                    self._server.send(peer, snapshot)
            elif isinstance(message, Report):
                self.state.on_report(message)
            elif isinstance(message, Move):
                answer, update = self.state.on_move(message)
                self._publish(update)
                self._server.send(peer, answer)
                if answer.owners is not None:
                    moves = ", ".join(f"{p} to {k}" for p, k in message.to.items())
                    self.gathering.happened("move", f"partitions {moves}", stage=message.stage)
            elif isinstance(message, Look):
                self._server.send(peer, self.gathering.picture())
        self._publish(self.state.advance())
        now_s = self._clock.now_s()
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + BEAT_S
            self._publish(self.state.beat())

    def died(self, slot: str, crash: Crash) -> None:
        """The supervisor has reaped an incarnation."""
        self._publish(self.state.on_death(slot, crash))

    def drain(self) -> None:
        """Let the sources stop and everything settle."""
        self._publish(self.state.drain())

    def _publish(self, update: Update | None) -> None:
        if update is not None:
            self._server.publish(update)

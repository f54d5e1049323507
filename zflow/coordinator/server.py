"""The coordinator of one run: answers registrations and orders, publishes numbered updates.

Decides nothing itself (`state` and `duties` do). Blocks nowhere but in `wait`.
"""

from collections import deque
from collections.abc import Callable

from zflow.clock import Clock
from zflow.coordinator.duties import Duties
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.state import RunState
from zflow.coordinator.taps import Taps
from zflow.ids import Slot
from zflow.net.control import ControlServer, Peer
from zflow.net.permissions import may
from zflow.wire.control import (
    Answer,
    Apply,
    Died,
    Down,
    Look,
    Message,
    Move,
    Pause,
    Register,
    Report,
    Restart,
    Scale,
    Standing,
    Tap,
    Update,
)
from zflow.wire.data import Crash

BEAT_S = 1.0


class Coordinator:
    """One thread owns it; `turn` whenever `server.wait` has returned.

    forced: somebody has ordered that the run ends at once. keep_version: stores another version
    of the topology, for processes that start from now on; None where code does not travel.
    """

    def __init__(
        self,
        state: RunState,
        duties: Duties,
        gathering: Gathering,
        server: ControlServer,
        clock: Clock,
        *,
        keep_version: Callable[[Apply], None] | None,
    ) -> None:
        self.state = state
        self.duties = duties
        self.gathering = gathering
        self.drained = False
        self.forced = False
        self.forbidden = 0  # messages of those that may not send them
        self._server = server
        self._clock = clock
        self._keep_version = keep_version
        self._beat_due_s = 0.0
        self._to_restart: deque[str] = deque()
        self._taps = Taps(state)

    def turn(self) -> None:
        """Take in what has come, then move on as far as it goes."""
        now_s = self._clock.now_s()
        for peer, message in self._server.receive():
            answer = self._on_message(peer, message, now_s)
            if answer is not None:
                self._server.send(peer, answer)
        for slot, given_up in self.duties.turn(now_s):
            self.gathering.happened("lost", "its supervisor is not heard", Slot.parse(slot))
            self._publish(given_up)
        self._restart_next()
        while (update := self.state.advance()) is not None:
            if update.roster is not None:
                slots = ", ".join(map(str, sorted(update.roster.slots)))
                self.gathering.happened("scale", f"replicas {slots}", stage=update.roster.stage)
            self._publish(update)
        self._taps.turn(now_s)
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + BEAT_S
            if self.state.phase != "gather":  # who is new does not know yet if its run is paused
                self._publish(self.state.beat())
            self.gathering.handshakes(self._server.handshake_failures())

    def _on_message(self, peer: Peer, message: Message, now_s: float) -> Message | None:
        if not may(peer.identity, message):
            self._forbid(str(peer.identity), message)
            return None
        match message:
            case Register():
                return self.state.on_register(message)
            case Report():
                self.state.on_report(message)
                return None
            case Standing():
                return self.on_standing(message, now_s)
            case Died(slot=slot, crash=crash):
                if slot in self.state.slots:
                    self.died(slot, crash)
                    self.gathering.happened("death", crash.cause, Slot.parse(slot))
                return None
            case Look():
                return self.gathering.picture()
            case Move():
                answer, update = self.state.on_move(message)
                self._publish(update)
                if answer.owners is not None:
                    moves = ", ".join(f"{p} to {k}" for p, k in message.to.items())
                    self.gathering.happened("move", f"partitions {moves}", stage=message.stage)
                return answer
            case Apply():
                return self.apply(message)
            case Tap():
                tapped = self._taps.on_tap(message, now_s)
                self._publish(self.state.beat())
                return tapped
            case Scale() | Pause() | Restart() | Down():
                return self._on_order(message)
        return None

    def _forbid(self, identity: str, message: Message) -> None:
        """Somebody with a good key has said what is not his to say."""
        self.forbidden += 1
        self.gathering.happened("forbidden", f"{type(message).__name__} from {identity}")

    def on_standing(self, standing: Standing, now_s: float) -> Message:
        """A supervisor says what it has; what it has to do."""
        for update in self.duties.on_standing(standing, now_s):
            self._publish(update)
        duty = self.duties.duty(standing.supervisor)
        if not duty.refusal:
            self.gathering.take(standing.census)
        return duty

    # -- orders ------------------------------------------------------------------------------

    def _on_order(self, order: Scale | Pause | Restart | Down) -> Answer:
        match order:
            case Scale():
                answer = self.state.on_scale(order)
                if not answer.refusal:
                    text = f"{order.replicas} replicas wanted"
                    self.gathering.happened("scale", text, stage=order.stage)
                return answer
            case Pause(paused=paused):
                self.gathering.happened("pause" if paused else "resume", "ordered")
                self._publish(self.state.pause(paused))
            case Restart():
                return self._on_restart(order)
            case Down(now=now):
                self.gathering.happened("down", "now" if now else "drained")
                self.forced |= now
                self.drain()
        return Answer()

    def _on_restart(self, order: Restart) -> Answer:
        unknown = [slot for slot in order.slots if slot not in self.state.slots]
        if unknown:
            known = ", ".join(self.state.slots)
            return Answer(f"there is no replica {', '.join(unknown)}; there are: {known}")
        if order.rolling:
            self._to_restart += [slot for slot in order.slots if slot not in self._to_restart]
        else:
            for slot in order.slots:
                self._restart(slot)
        return Answer()

    def apply(self, order: Apply) -> Answer:
        """Another version: its code is kept first, then processes are replaced one by one."""
        if self._keep_version is None:
            return Answer("without keys nobody knows who sends code: it stays the version it is")
        answer, update = self.state.on_apply(order.config)
        if not answer.refusal:
            self._keep_version(order)
            self.duties.apply(order.code, order.digest)
            self._publish(update)
            self.gathering.applied(order.digest)
            restart = [s for s in self.state.slots if Slot.parse(s).stage in order.restart]
            self._on_restart(Restart(restart, rolling=True))
        return answer

    def _restart(self, slot: str) -> None:
        self.duties.restart[slot] = self.state.slots[slot].incarnation
        self.gathering.happened("restart", "ordered", Slot.parse(slot))

    def _restart_next(self) -> None:
        """The next of a rolling restart, once all others run."""
        if not self._to_restart or self.duties.restart:
            return
        if all(view.state in ("running", "finished") for view in self.state.slots.values()):
            slot = self._to_restart.popleft()
            if slot in self.state.slots:
                self._restart(slot)

    def died(self, slot: str, crash: Crash) -> None:
        """A supervisor has reaped an incarnation."""
        self._publish(self.state.on_death(slot, crash))

    def drain(self) -> None:
        """Let the sources stop and everything settle; before any has started there is nothing to
        settle, and whoever leads the run ends it."""
        self.drained = True
        if not self.state.begins():
            self._publish(self.state.drain())

    def _publish(self, update: Update | None) -> None:
        if update is not None:
            self._server.publish(update)

"""The coordinator's side of a run, wherever its replicas are: from its start to its exit code.

Decides when the run is over and how it ended. Shows it to an observer; starts no process.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from zflow.clock import Clock
from zflow.coordinator.duties import Duties
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.server import Coordinator
from zflow.coordinator.state import RunState
from zflow.errors import ExitCode, Unavailable
from zflow.ids import Slot
from zflow.local.plan import Plan
from zflow.local.result import RunResult, hot_keys, make_result
from zflow.net.control import ControlServer
from zflow.net.sockets import Sockets
from zflow.state.runs import RunFolder, RunLock
from zflow.supervisor.attending import versions
from zflow.supervisor.member import Death
from zflow.wire.control import Ended
from zflow.wire.picture import StagePicture, added, totals_of

TURN_S = 0.05
HOT_KEYS = 10  # per edge
PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One stage now. running: how many of its replicas run."""

    stage: str
    kind: str
    replicas: int
    running: int
    items: int
    queued: int
    retrying: int
    restarts: int
    errors: int


class Observer(Protocol):
    """Who shows the run to people. Called from the run's own thread; may not block for long."""

    def on_phase(self, phase: str) -> None:
        """gather, bind, connect, run, drain, finish."""

    def on_waiting(self, what: str) -> None:
        """What a run that has not begun waits for, whenever that changes."""

    def on_progress(self, stages: list[Progress], elapsed_s: float) -> None:
        """Twice a second."""

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """A replica printed a line."""

    def on_death(self, death: Death) -> None:
        """A replica died and will be replaced."""


class Lead:
    """Coordinates a plan to its end. `drain` and `stop` may be called from a signal handler.

    endpoints: where the coordinator answers, beside the run directory.
    """

    def __init__(
        self, plan: Plan, observer: Observer, clock: Clock, *, endpoints: tuple[str, ...] = ()
    ) -> None:
        self._plan = plan
        self._observer = observer
        self._clock = clock
        self._endpoints = endpoints
        self._has_begun = False
        self._drain_asked = False
        self._stop_asked = False
        self._verdict: tuple[ExitCode, str] | None = None
        self._phase = ""
        self._waits_for = ""
        self._began_s = clock.now_s()
        self._progress_due_s = 0.0

    def drain(self) -> None:
        """Let the sources stop and everything settle."""
        self._drain_asked = True

    def stop(self) -> None:
        """End everything now; `--resume` continues."""
        self._stop_asked = True

    def run(self, timeout_s: float | None = None) -> RunResult:
        """Blocks until the run is over; raises Unavailable if it cannot start."""
        plan = self._plan
        self._check()
        lock = RunLock(plan.state)
        folder = RunFolder(plan.run)  # not before the user's signals are ours: it is left below
        sockets = Sockets()
        try:
            self._server = ControlServer(sockets, plan.run.control, *self._endpoints)
            self._coordinator = self._make_coordinator()
            self._has_begun = True
            self._lead(timeout_s)
            result = self._result()
        finally:
            sockets.close_all()
            folder.leave()
            lock.release()
        if plan.config.redrive:  # sending some letters again does not end the run itself
            return result
        try:
            plan.stored.finish(result.outcome, result.exit_code)
        except Unavailable as error:  # a full disk may be why it was stopped
            result = replace(result, outcome=f"{result.outcome} (not written down: {error})")
        return result

    def _make_coordinator(self) -> Coordinator:
        plan = self._plan
        state = RunState(plan.config, epoch=plan.epoch)
        duties = Duties(
            state,
            versions=versions(),
            code=plan.state.code.read_bytes() if plan.config.target.path else b"",
            digest=plan.stored.record.digest,
        )
        gathering = Gathering(state, plan.stored.record.digest, self._clock)
        return Coordinator(state, duties, gathering, self._server, self._clock)

    def _check(self) -> None:
        """Refuse what cannot work here, before anything is made."""

    def _lead(self, timeout_s: float | None) -> None:
        """Take turns until the run is over."""
        self._began_s = self._clock.now_s()
        while not self._is_over():
            self._server.wait(TURN_S)
            self._coordinator.turn()
            self._judge(timeout_s)
            self._show()
        self._tell_the_end()
        self._show_progress()

    def _is_over(self) -> bool:
        """Every replica has ended in an orderly way, or there is a verdict."""
        if self._verdict is not None:
            return True
        state = self._coordinator.state
        return state.phase == "finish" and all(view.ended for view in state.slots.values())

    def _judge(self, timeout_s: float | None) -> None:
        """What the user, the clock and the replicas ask for."""
        coordinator = self._coordinator
        failures = coordinator.state.failures()
        looping = coordinator.duties.looping()
        if failures:
            report = failures[0]
            self._verdict = (ExitCode.FAILED, f"{report.slot} failed: {report.error}")
        elif looping:
            self._verdict = (ExitCode.CRASH_LOOP, looping)
        elif self._stop_asked or coordinator.forced:
            self._verdict = (ExitCode.FORCED, "stopped before everything was settled")
        elif timeout_s is not None and self._clock.now_s() - self._began_s > timeout_s:
            self._verdict = (ExitCode.TIMED_OUT, f"not finished after {timeout_s:g} s")
        elif self._is_drained and coordinator.state.phase in ("gather", "bind", "connect"):
            self._verdict = (ExitCode.INTERRUPTED, "interrupted before any source had started")
        elif self._drain_asked:
            coordinator.drain()

    @property
    def _is_drained(self) -> bool:
        return self._drain_asked or self._coordinator.drained

    def _tell_the_end(self) -> None:
        """Supervisors elsewhere hear how it ended."""

    def _ending(self) -> Ended:
        result = self._result()
        return Ended(result.exit_code, result.outcome)

    # -- showing -----------------------------------------------------------------------------

    def _show(self) -> None:
        phase = self._coordinator.state.phase
        if phase != self._phase:
            self._phase = phase
            self._coordinator.gathering.happened("phase", phase)
            self._observer.on_phase(phase)
        waits_for = self._coordinator.duties.waits_for()
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            self._observer.on_waiting(waits_for)
        now_s = self._clock.now_s()
        if now_s >= self._progress_due_s:
            self._progress_due_s = now_s + PROGRESS_S
            self._show_progress()

    def _show_progress(self) -> None:
        elapsed_s = self._clock.now_s() - self._began_s
        self._observer.on_progress(list(self._progress()), elapsed_s)

    def _progress(self) -> Iterator[Progress]:
        for stage in self._coordinator.gathering.picture().stages:
            totals = added(*map(totals_of, stage.slots), stage.gone)
            yield Progress(
                stage=stage.name,
                kind=stage.kind,
                replicas=stage.desired,
                running=self._running(stage),
                items=totals.get("processed", 0),
                queued=totals.get("inbox", 0) + totals.get("queued", 0),
                retrying=totals.get("retrying", 0),
                restarts=sum(sum(slot.restarts.values()) for slot in stage.slots),
                errors=totals.get("errors", 0),
            )

    def _running(self, stage: StagePicture) -> int:
        views = self._coordinator.state.slots
        return sum(views[slot.slot].state == "running" for slot in stage.slots)

    def _result(self) -> RunResult:
        gathering = self._coordinator.gathering
        return make_result(
            self._plan,
            gathering.books(),
            verdict=self._verdict,
            drained=self._is_drained,
            restarts=gathering.restarts(),
            keys=hot_keys((self._plan.run.root / "b").glob("*.keys"), HOT_KEYS),
            seconds=self._clock.now_s() - self._began_s,
        )

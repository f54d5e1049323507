"""One run on this machine: coordinator and supervisor in one loop, in the foreground.

Decides when the run is over and what its exit code is. The data never passes through here.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from zflow.clock import Clock
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.server import Coordinator
from zflow.coordinator.state import RunState
from zflow.coordinator.web.server import WebServer
from zflow.errors import ExitCode, Unavailable
from zflow.ids import Slot
from zflow.local.plan import Plan
from zflow.local.relay import Relay
from zflow.local.result import HotKey, RunResult, hot_keys, make_result
from zflow.net.control import ControlServer
from zflow.net.sockets import Sockets, check_fds
from zflow.state.runs import RunLock
from zflow.supervisor import Death, Supervisor

TURN_S = 0.05
HOT_KEYS = 10  # per edge
PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One stage now. state: how many replicas are in which state."""

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
        """bind, connect, run, drain, finish."""

    def on_progress(self, stages: list[Progress], elapsed_s: float) -> None:
        """Twice a second."""

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """A replica printed a line."""

    def on_death(self, death: Death) -> None:
        """A replica died and will be replaced."""


class LocalRun:
    """Runs a plan to its end. `drain` and `stop` may be called from a signal handler."""

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        clock: Clock,
        *,
        log_level: str = "WARNING",
        web: WebServer | None = None,
    ) -> None:
        self._plan = plan
        self._observer = observer
        self._clock = clock
        self._log_level = log_level
        self._web = web
        self._drain_asked = False
        self._stop_asked = False
        self._restarts: dict[str, int] = {}
        self._verdict: tuple[ExitCode, str] | None = None
        self._phase = ""
        self._keys: dict[str, list[HotKey]] = {}
        self._began_s = clock.now_s()
        self._progress_due_s = 0.0

    def drain(self) -> None:
        """Let the sources stop and everything settle."""
        self._drain_asked = True

    def stop(self) -> None:
        """Kill everything now; `--resume` continues."""
        self._stop_asked = True

    def run(self, timeout_s: float | None = None) -> RunResult:
        """Blocks until the run is over; raises Unavailable if it cannot start."""
        plan = self._plan
        check_fds(_most_links(plan))
        lock = RunLock(plan.state)
        plan.run.make()  # not before the user's signals are ours: it is removed below
        sockets = Sockets()
        try:
            server = ControlServer(sockets, plan.run.control, plan.run.updates)
            self._supervisor = Supervisor(
                plan.config,
                self._clock,
                log_level=self._log_level,
                watch=server.watch,
                unwatch=server.unwatch,
            )
            self._server = server
            state = RunState(plan.config)
            gathering = Gathering(state, plan.stored.record.digest, self._clock)
            self._coordinator = Coordinator(state, gathering, server, self._clock)
            self._relay = Relay(_logs(plan), self._observer.on_line)
            self._loop(timeout_s)
        finally:
            if hasattr(self, "_supervisor"):
                self._end()
            sockets.close_all()
            shutil.rmtree(plan.run.root, ignore_errors=True)
            lock.release()
        result = self._result()
        if plan.config.redrive:  # sending some letters again does not end the run itself
            return result
        try:
            plan.stored.finish(result.outcome, result.exit_code)
        except Unavailable as error:  # a full disk may be why it was stopped
            result = replace(result, outcome=f"{result.outcome} (not written down: {error})")
        return result

    # -- the loop ----------------------------------------------------------------------------

    def _loop(self, timeout_s: float | None) -> None:
        members = self._supervisor.members.values()
        while self._verdict is None and not all(m.finished for m in members):
            for slot in self._supervisor.start_due():
                incarnation = self._supervisor.members[str(slot)].incarnation
                self._coordinator.gathering.happened("start", f"incarnation {incarnation}", slot)
            self._server.wait(TURN_S)
            self._coordinator.turn()
            self._handle_deaths()
            self._relay.turn()
            self._supervisor.kill_stuck()
            self._obey(timeout_s)
            self._show()

    def _handle_deaths(self) -> None:
        for death in self._supervisor.reap():
            slot = str(death.slot)
            if death.orderly and self._coordinator.state.phase == "finish":
                continue
            self._restarts[death.slot.stage] = self._restarts.get(death.slot.stage, 0) + 1
            self._coordinator.died(slot, death.crash)
            self._coordinator.gathering.happened("death", death.cause, death.slot)
            self._relay.turn()
            self._observer.on_death(death)
        looping = self._supervisor.crash_looping()
        if looping is not None:
            self._verdict = (
                ExitCode.CRASH_LOOP,
                f"{looping.slot} died {looping.fruitless} times before it had done anything:\n"
                f"{looping.last_tail}",
            )

    def _obey(self, timeout_s: float | None) -> None:
        """What the user, the clock and the replicas ask for."""
        failures = self._coordinator.state.failures()
        if failures:
            report = failures[0]
            self._verdict = (ExitCode.FAILED, f"{report.slot} failed: {report.error}")
        elif self._stop_asked:
            self._verdict = (ExitCode.FORCED, "stopped before everything was settled")
        elif timeout_s is not None and self._clock.now_s() - self._began_s > timeout_s:
            self._verdict = (ExitCode.TIMED_OUT, f"not finished after {timeout_s:g} s")
        elif self._drain_asked and self._coordinator.state.phase in ("bind", "connect"):
            self._verdict = (ExitCode.INTERRUPTED, "interrupted before any source had started")
        elif self._drain_asked:
            self._coordinator.drain()

    def _show(self) -> None:
        phase = self._coordinator.state.phase
        if phase != self._phase:
            self._phase = phase
            self._coordinator.gathering.happened("phase", phase)
            self._observer.on_phase(phase)
        now_s = self._clock.now_s()
        if now_s >= self._progress_due_s:
            self._progress_due_s = now_s + PROGRESS_S
            self._supervisor.count()
            self._take_census()
            self._show_to_web()
            self._observer.on_progress(list(self._progress()), now_s - self._began_s)

    def _take_census(self) -> None:
        views = self._coordinator.state.slots.items()
        states = {name: view.state for name, view in views}
        self._coordinator.gathering.take(self._supervisor.census(states))

    def _show_to_web(self) -> None:
        if self._web is not None:
            self._web.show(self._coordinator.gathering.picture())

    def _progress(self) -> Iterator[Progress]:
        for stage in self._plan.config.stages:
            totals = self._supervisor.books.stage(stage.name)
            views = [
                self._coordinator.state.slots[str(Slot(stage.name, k))]
                for k in range(stage.replicas)
            ]
            yield Progress(
                stage=stage.name,
                kind=stage.kind,
                replicas=stage.replicas,
                running=sum(view.state == "running" for view in views),
                items=totals.get("processed", 0),
                queued=totals.get("inbox", 0) + totals.get("queued", 0),
                retrying=totals.get("retrying", 0),
                restarts=self._restarts.get(stage.name, 0),
                errors=totals.get("errors", 0),
            )

    # -- the end -----------------------------------------------------------------------------

    def _end(self) -> None:
        """Kill what is left, close its books, pass on its last words."""
        self._supervisor.kill_all()
        self._supervisor.reap()
        self._relay.finish()
        self._take_census()
        self._show_to_web()  # the last; it stays until the process ends
        self._keys = hot_keys((self._plan.run.root / "b").glob("*.keys"), HOT_KEYS)
        self._show_last()

    def _show_last(self) -> None:
        elapsed_s = self._clock.now_s() - self._began_s
        self._observer.on_progress(list(self._progress()), elapsed_s)

    def _result(self) -> RunResult:
        return make_result(
            self._plan,
            self._supervisor.books,
            verdict=self._verdict,
            drained=self._drain_asked,
            restarts=self._restarts,
            keys=self._keys,
            seconds=self._clock.now_s() - self._began_s,
        )


def _logs(plan: Plan) -> Iterator[tuple[Slot, str, Path]]:
    for stage in plan.config.stages:
        for index in range(stage.replicas):
            for stream in ("out", "err"):
                yield Slot(stage.name, index), stream, plan.run.log(stage.number, index, stream)


def _most_links(plan: Plan) -> int:
    """The links of the best connected replica; the run's own process has fewer."""
    config = plan.config
    links = dict.fromkeys((stage.name for stage in config.stages), 0)
    for edge in config.edges:
        links[edge.source] += config.stage(edge.target).replicas
        links[edge.target] += config.stage(edge.source).replicas
    return max(*links.values(), sum(stage.replicas for stage in config.stages))

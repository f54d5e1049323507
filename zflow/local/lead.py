"""The coordinator's side of a run, wherever its replicas are: from its start to its exit code.

Decides when the run is over and how it ended. Shows it to an observer; starts no process.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from msgspec.structs import replace as renewed

from zflow.clock import Clock
from zflow.coordinator.duties import Duties
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.server import Coordinator
from zflow.coordinator.state import RunState
from zflow.coordinator.web.server import WebServer
from zflow.errors import ExitCode, Unavailable
from zflow.ids import Slot
from zflow.local.hooks import Hooks
from zflow.local.plan import Plan
from zflow.local.result import RunResult, hot_keys, make_result
from zflow.net.control import ControlServer
from zflow.net.curve import COORDINATOR, OPERATOR, READER, SUPERVISOR
from zflow.net.security import Security
from zflow.net.sockets import Sockets
from zflow.occasions import Run
from zflow.state.runs import RunFolder, RunLock, StoredRun, write_private, write_record
from zflow.supervisor.attending import versions
from zflow.supervisor.member import Death
from zflow.wire.control import MADE_ROOM, Apply, Ended, RunConfig
from zflow.wire.picture import Picture, StagePicture, added, totals_of

TURN_S = 0.05
HOT_KEYS = 10  # per edge
PROGRESS_S = 0.5
ACCEPT_EVERY_S = 1.0  # a key that was taken back delivers nothing more by then


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

    endpoints: where the coordinator answers, beside the run directory. each_turn: called with this
    run between two turns, and may give it orders. web: shows the run to others. security: for
    those who come to `endpoints`.
    """

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        clock: Clock,
        *,
        endpoints: tuple[str, ...] = (),
        each_turn: Callable[["Lead"], None] = lambda _lead: None,
        web: WebServer | None = None,
        security: Security | None = None,
    ) -> None:
        self._plan = plan
        self._observer = observer
        self._clock = clock
        self._endpoints = endpoints
        self._each_turn = each_turn
        self._web = web
        self._security = security or Security()
        self._accepted_s = 0.0
        self._has_begun = False
        self._drain_asked = False
        self._stop_asked = False
        self._verdict: tuple[ExitCode, str] | None = None
        self._over_drained: bool | None = None  # once it is over
        self._phase = ""
        self._told = 0  # the number of the last event that hooks were told of
        self._waits_for = ""
        self._stores = dict(plan.stores)
        self._began_s = clock.now_s()
        self._progress_due_s = 0.0

    def drain(self) -> None:
        """Let the sources stop and everything settle."""
        self._drain_asked = True

    def stop(self) -> None:
        """End everything now; `--resume` continues."""
        self._stop_asked = True

    @property
    def stored(self) -> StoredRun:
        """The run as it is now on disk."""
        return self._plan.stored

    def apply(self, version: RunConfig, code: bytes, digest: str, restart: list[str]) -> str:
        """Go on with another version of the topology; why not, or empty. From `each_turn`."""
        generation = self._coordinator.state.config.generation
        config = renewed(version, generation=generation)
        return self._coordinator.apply(Apply(config, code, digest, restart)).refusal

    def run(self, timeout_s: float | None = None) -> RunResult:
        """Blocks until the run is over; raises Unavailable if it cannot start."""
        plan = self._plan
        self._check()
        with ExitStack() as at_the_end:
            outside = self._security.sockets(COORDINATOR, self._clients())
            at_the_end.callback(outside.close_all)
            at_the_end.callback(RunLock(plan.state).release)
            at_the_end.callback(RunFolder(plan.run).leave)
            inside = Sockets()  # the run directory is this user's alone: nobody needs a key there
            at_the_end.callback(inside.close_all)
            doors = [(outside, endpoint) for endpoint in self._endpoints]
            self._server = ControlServer((inside, plan.run.control), *doors)
            self._coordinator = self._make_coordinator()
            self._has_begun = True
            self._hooks = Hooks(plan, self._observer.on_line, self._clock)
            at_the_end.callback(self._hooks.close)
            self._lead(timeout_s)
            result = self._result()
            self._tell_hooks_the_end(result)
        if plan.config.redrive:  # sending some letters again does not end the run itself
            return result
        try:
            self.stored.finish(result.outcome, result.exit_code)  # of the version that it is now
        except Unavailable as error:  # a full disk may be why it was stopped
            result = replace(result, outcome=f"{result.outcome} (not written down: {error})")
        return result

    def _clients(self, slots: Iterable[str] = ()) -> list[str]:
        """Who may speak to the coordinator: everybody who belongs to the run, and people."""
        names = [stage.name for stage in self._plan.config.stages]
        return [*slots, *(f"{SUPERVISOR}{name}" for name in names), OPERATOR, READER]

    def _accept(self) -> None:
        now_s = self._clock.now_s()
        if now_s - self._accepted_s >= ACCEPT_EVERY_S:
            self._accepted_s = now_s
            self._security.accept(self._clients(self._coordinator.state.slots))

    def _make_coordinator(self) -> Coordinator:
        plan = self._plan
        state = RunState(plan.config, epoch=plan.epoch)
        duties = Duties(
            state,
            versions=versions(),
            code=self._code(),
            digest=plan.stored.record.digest,
            stores=plan.stores,
        )
        gathering = Gathering(
            state, plan.stored.record.digest, self._clock, waits_for=duties.waits_for
        )
        keeps = self._keep_version if self._security.ships_code else None
        return Coordinator(state, duties, gathering, self._server, self._clock, keep_version=keeps)

    def _code(self) -> bytes | None:
        """What supervisors elsewhere are given; None where it may not travel, or is a module."""
        if not self._security.ships_code or not self._plan.config.target.path:
            return None
        return self._plan.state.code.read_bytes()

    def _keep_version(self, order: Apply) -> None:
        """Replicas that start from now on load it, and so does a resumed run."""
        stored = self._plan.stored
        if order.config.target.path:
            write_private(self._plan.state.code, order.code)
        record = replace(
            stored.record, digest=order.digest, parameters=list(order.config.parameters)
        )
        write_record(stored.state, record)
        self._plan = replace(self._plan, stored=replace(stored, record=record))

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
        state = self._coordinator.state
        finished = state.phase == "finish" and all(view.ended for view in state.slots.values())
        if finished or self._verdict is not None:
            self._over_drained = self._is_drained
            return True
        return False

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
        elif self._is_drained and coordinator.state.begins():
            self._verdict = (ExitCode.INTERRUPTED, "interrupted before any source had started")
        elif self._drain_asked:
            coordinator.drain()

    @property
    def _is_drained(self) -> bool:
        if self._over_drained is not None:  # what is asked for once it is over changes nothing
            return self._over_drained
        return self._drain_asked or self._coordinator.drained

    def _tell_the_end(self) -> None:
        """Supervisors elsewhere hear how it ended."""

    def _ending(self) -> Ended:
        result = self._result()
        return Ended(result.exit_code, result.outcome)

    def _tell_hooks_the_end(self, result: RunResult) -> None:
        if result.exit_code not in (ExitCode.OK, ExitCode.INTERRUPTED):
            self._hooks.failed("", result.outcome)
        record = self.stored.record
        run = Run(
            run_id=result.run_id,
            topology=record.topology,
            parameters=tuple(record.parameters),
            exit_code=result.exit_code,
            outcome=result.outcome,
            seconds=result.seconds,
            items=result.items,
            dead_letters=result.dead_letters,
        )
        self._hooks.ended(run, lambda: self._stop_asked)

    def _show_hooks(self) -> None:
        for event in self._coordinator.gathering.events_behind(self._told):
            self._told = event.number
            if event.kind == "death" and event.text != MADE_ROOM:
                self._hooks.failed(event.slot, event.text)
            elif event.kind == "phase" and event.text == "run":
                self._hooks.began()
        self._hooks.turn()

    # -- showing -----------------------------------------------------------------------------

    def _show(self) -> None:
        self._each_turn(self)
        self._accept()
        phase = self._coordinator.state.phase
        if phase != self._phase:
            self._phase = phase
            self._coordinator.gathering.happened("phase", phase)
            self._observer.on_phase(phase)
        self._show_hooks()
        if self._coordinator.duties.stores != self._stores:
            self._stores = dict(self._coordinator.duties.stores)
            write_private(self._plan.state.stores, json.dumps(self._stores).encode())
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
        picture = self._coordinator.gathering.picture()
        if self._web is not None:
            self._web.show(picture)  # the last one stays until the process ends
        self._observer.on_progress(list(self._progress(picture)), elapsed_s)

    def _progress(self, picture: Picture) -> Iterator[Progress]:
        for stage in picture.stages:
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

"""A run taken apart: a coordinator without replicas, and one stage whose coordinator is elsewhere.

Decides how each of the two waits for the other, and when it may end. A stage goes on while no
coordinator is there: what dies is started again, from the newest snapshot.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zflow.clock import Clock, Deadline
from zflow.errors import ConfigError, ExitCode, Unavailable
from zflow.ids import Slot
from zflow.loader import digest_of
from zflow.local.lead import TURN_S, Lead
from zflow.local.relay import Relay
from zflow.local.result import RunResult
from zflow.locks import FileLock
from zflow.net.control import ControlClient
from zflow.net.curve import SUPERVISOR
from zflow.net.security import Security
from zflow.paths import RunDirectory, StateDirectory, run_directory, runs_folder
from zflow.state.runs import RunFolder, RunRecord, read_own, write_private, write_record
from zflow.supervisor.addresses import TcpAddresses, ipc_addresses, outward_host
from zflow.supervisor.attending import Attending, versions
from zflow.supervisor.census import HOST
from zflow.supervisor.member import Death, Posts
from zflow.supervisor.supervise import Supervisor
from zflow.wire import control
from zflow.wire.picture import Census

END_WITHIN_S = 10.0  # for every supervisor to hear how the run ended
ATTEND_EVERY_S = 1.0
SILENCE_S = 30.0  # of the coordinator, once everything here has ended


class CoordinatorRun(Lead):
    """Coordinates a plan whose replicas are run by a `StageRun` each."""

    def run(self, timeout_s: float | None = None) -> RunResult:
        """Blocks until the run is over; raises Unavailable if it cannot start."""
        try:
            return super().run(timeout_s)
        except (ConfigError, Unavailable):
            if not self._has_begun and not self._plan.resumed:
                # `--resume last` goes on with the run of whoever is at the endpoint.
                self._plan.state.record.unlink(missing_ok=True)
            raise

    def _check(self) -> None:
        """A socket file is taken by whoever binds it last (F16): a lock comes first."""
        for endpoint in self._endpoints:
            if endpoint.startswith("ipc://"):
                path = Path(f"{endpoint.removeprefix('ipc://')}.lock")
                try:
                    FileLock(path, f"{endpoint}: another coordinator answers there")
                except OSError as error:
                    raise Unavailable(f"{path}: {error.strerror}") from error

    def _tell_the_end(self) -> None:
        """Supervisors hear it in answer to their standing; those that are lost do not."""
        duties = self._coordinator.duties
        duties.ended = self._ending()
        deadline = Deadline(self._clock, END_WITHIN_S)
        while not duties.all_know_the_end() and not deadline.passed():
            self._server.wait(TURN_S)
            self._coordinator.turn()


class StageObserver(Protocol):
    """Who shows a stage to people. Called from the run's own thread."""

    def say(self, text: str) -> None:
        """A line for people."""

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """A replica printed a line."""

    def on_death(self, death: Death) -> None:
        """A replica died and will be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asks of `zflow stage`.

    replicas: how many to run; None: all that nobody else runs. host: by which others reach this
    machine; empty: found out. state: the state directory; None: below `base`.
    """

    stage: str
    coordinator: str
    replicas: int | None
    host: str
    base: Path
    state: Path | None
    security: Security
    log_level: str = "WARNING"


class StageRun:
    """Replicas of one stage. `leave` and `stop` may be called from a signal handler."""

    def __init__(
        self, wish: Wish, observer: StageObserver, clock: Clock, environment: Mapping[str, str]
    ) -> None:
        self._wish = wish
        self._observer = observer
        self._clock = clock
        self._environment = environment
        self._name = f"{HOST}:{os.getpid()}:{secrets.token_hex(4)}"
        self._leave_asked = False
        self._stop_asked = False
        self._attended_s = float("-inf")
        self._heard_s = clock.now_s()
        self._snapshot: control.Snapshot | None = None
        self._waits_for = ""
        self._door = ""  # why the coordinator does not let it in
        self._verdict: tuple[int, str] | None = None

    def leave(self) -> None:
        """Let the replicas here finish what they have begun, and end; the run waits for others."""
        self._leave_asked = True

    def stop(self) -> None:
        """End at once."""
        self._stop_asked = True

    def run(self) -> tuple[int, str]:
        """Blocks until the run is over or this part of it was ended: exit code and sentence."""
        sockets = self._wish.security.sockets(f"{SUPERVISOR}{self._wish.stage}")
        self._sockets = sockets
        try:
            self._client = ControlClient(sockets, self._wish.coordinator)
            duty = self._join()
            if duty is None:
                return ExitCode.INTERRUPTED, "interrupted before a coordinator was heard"
            if duty.refusal:
                return _refused(duty)
            return self._run(duty)
        finally:
            sockets.close_all()

    # -- joining -----------------------------------------------------------------------------

    def _join(self) -> control.Duty | None:
        """The coordinator's first word; None if somebody lost patience."""
        asked_s, told = float("-inf"), False
        while not (self._leave_asked or self._stop_asked):
            now_s = self._clock.now_s()
            if now_s - asked_s >= ATTEND_EVERY_S:
                if asked_s > 0.0 and not told:
                    told = True
                    self._observer.say(f"waiting for the coordinator at {self._wish.coordinator}")
                asked_s = now_s
                self._client.send(self._first_standing())
                self._look_at_the_door()
            self._client.wait(TURN_S)
            for message in self._client.receive():
                if isinstance(message, control.Duty) and (message.refusal or message.snapshot):
                    return message
        return None

    def _look_at_the_door(self) -> None:
        """About once a second: who was refused is dialled again, since lists are amended."""
        for failure in self._sockets.handshake_failures().values():
            if failure.failing and failure.reason != self._door:
                self._observer.say(f"{self._wish.coordinator}: {failure.reason}")
            self._door = failure.reason if failure.failing else ""

    def _first_standing(self) -> control.Standing:
        return control.Standing(
            supervisor=self._name,
            host=HOST,
            versions=versions(),
            offers={self._wish.stage: self._wish.replicas},
            addresses={},
            incarnations={},
            finished=[],
            census=Census(slots=[]),
        )

    def _run(self, duty: control.Duty) -> tuple[int, str]:
        snapshot = duty.snapshot
        assert snapshot is not None, "a duty without a refusal has a snapshot"
        self._make_directories(snapshot.config, duty)
        self._supervisor = Supervisor(
            snapshot.config,
            self._posts(snapshot.config),
            self._clock,
            log_level=self._wish.log_level,
            watch=self._client.watch,
            unwatch=self._client.unwatch,
        )
        offers = {self._wish.stage: self._wish.replicas}
        run_id = snapshot.config.run_id
        self._attending = Attending(
            self._name,
            self._supervisor,
            offers,
            run_id=run_id,
            store=f"{HOST}:{self._state.root}",
        )
        self._digest = duty.digest
        self._relay = Relay(self._observer.on_line)
        try:
            self._on_duty(duty)
            return self._loop()
        finally:
            self._end()

    def _make_directories(self, config: control.RunConfig, duty: control.Duty) -> None:
        folder = runs_folder(self._wish.base, config.topology) / config.run_id
        self._state = StateDirectory((self._wish.state or folder).absolute())
        self._state.make()
        self._run_directory = run_directory(self._state.root, self._environment)
        self._folder = RunFolder(self._run_directory)
        if config.target.path:
            self._keep_code(duty, Path(config.target.path))
        if not self._state.record.exists():  # a machine without the coordinator's own
            write_record(self._state, self._record(config, duty.digest))

    def _keep_code(self, duty: control.Duty, path: Path) -> None:
        """As it was sent; or, where code does not travel, of the file at the same place here.

        Without keys nobody knows who sent it, whatever it says.
        """
        code = duty.code if self._wish.security.ships_code else None
        if code is None:
            code = read_own(path)
        if digest_of(code) != duty.digest:
            raise Unavailable(f"{path} is another version than the run's ({duty.digest})")
        write_private(self._state.code, code)

    def _record(self, config: control.RunConfig, digest: str) -> RunRecord:
        return RunRecord(
            run_id=config.run_id,
            topology=config.topology,
            target=config.target.target,
            attribute=config.target.attribute or "",
            path=config.target.path,
            digest=digest,
            parameters=config.parameters,
            replicas=[f"{stage.name}={stage.replicas}" for stage in config.stages],
            started_at_s=self._clock.wall_s(),
        )

    def _posts(self, config: control.RunConfig) -> Posts:
        coordinator = self._wish.coordinator
        if coordinator.startswith("ipc://"):
            addresses = ipc_addresses(self._run_directory, config)
        else:
            addresses = TcpAddresses(self._wish.host or outward_host(coordinator))
        return Posts(
            run=self._run_directory,
            state=self._state.root,
            control=coordinator,
            options=tuple(self._wish.security.options()),
            addresses=addresses,
        )

    # -- the loop ----------------------------------------------------------------------------

    def _loop(self) -> tuple[int, str]:
        while True:
            if not self._leave_asked:
                self._supervisor.start_due()
            self._client.wait(TURN_S)
            self._listen()
            self._handle_deaths()
            self._relay.turn()
            self._supervisor.kill_stuck()
            self._attend_if_due()
            ending = self._ending()
            if ending is not None:
                return ending

    def _listen(self) -> None:
        for message in self._client.receive():
            self._heard_s = self._clock.now_s()
            if isinstance(message, control.Duty):
                self._on_duty(message)
            elif isinstance(message, control.Update) and self._is_news(message):
                self._attended_s = float("-inf")  # the answer has all of it

    def _is_news(self, update: control.Update) -> bool:
        known = self._snapshot
        return known is None or (update.epoch, update.number) > (known.epoch, known.number)

    def _on_duty(self, duty: control.Duty) -> None:
        if duty.refusal:
            self._verdict = _refused(duty)
            return
        target = duty.snapshot.config.target if duty.snapshot is not None else None
        if target is not None and target.path and duty.digest != self._digest:
            self._keep_code(duty, Path(target.path))
            self._digest = duty.digest
        if not self._attending.obey(duty):
            stale = self._attending.stale_duties
            if stale & (stale - 1) == 0:  # 1, 2, 4, 8, ...
                self._observer.say(f"ignored {stale} duties of an older coordinator")
            return
        self._keep(duty.snapshot)
        for member in self._supervisor.members.values():
            self._relay.follow(member.slot, self._supervisor.logs(member))
        if duty.waits_for != self._waits_for:
            self._waits_for = duty.waits_for
            if duty.waits_for:
                self._observer.say(f"the run waits for {duty.waits_for}")
        if duty.ended is not None:
            self._attending.ended = True
            self._attend()  # the coordinator waits for it
            self._verdict = duty.ended.exit_code, duty.ended.outcome

    def _keep(self, snapshot: control.Snapshot | None) -> None:
        """For replicas that start while the coordinator is away."""
        if snapshot is None or snapshot == self._snapshot:
            return
        self._snapshot = snapshot
        write_private(self._run_directory.snapshot, control.encode(snapshot))

    def _handle_deaths(self) -> None:
        for death in self._supervisor.reap():
            self._attended_s = float("-inf")
            if death.orderly:
                continue
            self._client.send(control.Died(str(death.slot), death.crash))
            self._relay.turn()
            if death.reason not in ("rollout", "stop"):
                self._observer.on_death(death)

    def _attend_if_due(self) -> None:
        if self._clock.now_s() - self._attended_s >= ATTEND_EVERY_S:
            self._attend()

    def _attend(self) -> None:
        self._attended_s = self._clock.now_s()
        self._look_at_the_door()
        self._client.send(self._attending.standing({}, heard=self._snapshot, digest=self._digest))

    def _ending(self) -> tuple[int, str] | None:
        """Exit code and sentence, once it is time."""
        members = self._supervisor.members.values()
        if self._verdict is not None:
            return self._verdict
        if self._stop_asked:
            return ExitCode.FORCED, "stopped; the run waits for its replicas"
        if self._leave_asked:
            for member in members:
                self._supervisor.roll_out(member)
            if not any(self._supervisor.living()):
                return ExitCode.INTERRUPTED, "interrupted; the run waits for its replicas"
        silent_s = self._clock.now_s() - self._heard_s
        if members and all(m.finished for m in members) and silent_s > SILENCE_S:
            return (
                ExitCode.UNREACHABLE,
                "everything here has finished, and the coordinator is not heard",
            )
        return None

    # -- the end -----------------------------------------------------------------------------

    def _end(self) -> None:
        """Kill what is left, say goodbye, take away what nobody needs any more."""
        self._supervisor.kill_all()
        self._supervisor.reap()
        self._relay.finish()
        self._attending.resign()
        self._attend()
        _clear(self._run_directory, self._supervisor)
        self._folder.leave()


def _refused(duty: control.Duty) -> tuple[int, str]:
    code = ExitCode.INCOMPATIBLE if duty.incompatible else ExitCode.USAGE
    return code, f"the coordinator refuses: {duty.refusal}"


def _clear(run: RunDirectory, supervisor: Supervisor) -> None:
    """Take away the files of the slots here."""
    for member in [*supervisor.members.values(), *supervisor.gone.values()]:
        for path in run.of_slot(member.stage.number, member.slot):
            path.unlink(missing_ok=True)

"""One run on this machine: coordinator and supervisor in one loop, in the foreground."""

from collections.abc import Callable

from zflow.clock import Clock
from zflow.coordinator.web.server import WebServer
from zflow.local.lead import PROGRESS_S, TURN_S, Lead, Observer
from zflow.local.plan import Plan
from zflow.local.relay import Relay
from zflow.net.sockets import check_fds
from zflow.supervisor.addresses import ipc_addresses
from zflow.supervisor.attending import Attending
from zflow.supervisor.census import HOST
from zflow.supervisor.member import Death, Posts
from zflow.supervisor.supervise import Supervisor
from zflow.wire.control import Duty

SUPERVISOR = "local"


class LocalRun(Lead):
    """Runs a plan to its end, every replica a child of this process."""

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        clock: Clock,
        *,
        log_level: str = "WARNING",
        each_turn: Callable[[Lead], None] = lambda _lead: None,
        web: WebServer | None = None,
    ) -> None:
        super().__init__(plan, observer, clock, each_turn=each_turn, web=web)
        self._log_level = log_level
        self._attended_s = 0.0
        self._attended_number = -1

    def _check(self) -> None:
        check_fds(_most_links(self._plan))

    def _lead(self, timeout_s: float | None) -> None:
        plan = self._plan
        posts = Posts(
            run=plan.run,
            state=plan.state.root,
            control=plan.run.control,
            options=(),
            addresses=ipc_addresses(plan.run, plan.config),
        )
        self._supervisor = Supervisor(
            plan.config,
            posts,
            self._clock,
            log_level=self._log_level,
            watch=self._server.watch,
            unwatch=self._server.unwatch,
        )
        offers = dict.fromkeys(stage.name for stage in plan.config.stages)
        self._attending = Attending(
            SUPERVISOR,
            self._supervisor,
            offers,
            run_id=plan.config.run_id,
            store=f"{HOST}:{plan.state.root}",
        )
        self._relay = Relay(self._observer.on_line)
        try:
            self._loop(timeout_s)
        finally:
            self._end()

    # -- the loop ----------------------------------------------------------------------------

    def _loop(self, timeout_s: float | None) -> None:
        while self._coordinator.state.phase == "gather":
            self._attend()
            self._coordinator.turn()
        self._attend()
        self._began_s = self._clock.now_s()
        while not self._is_over():
            self._start_due()
            self._server.wait(TURN_S)
            self._coordinator.turn()
            self._handle_deaths()
            self._relay.turn()
            self._supervisor.kill_stuck()
            if self._is_time_to_attend():
                self._attend()
            self._judge(timeout_s)
            self._show()

    def _is_time_to_attend(self) -> bool:
        """Twice a second, and when something has been ordered."""
        due = self._clock.now_s() - self._attended_s >= PROGRESS_S
        return due or self._coordinator.state.number != self._attended_number

    def _attend(self) -> None:
        """What the supervisor has, and what it has to do."""
        self._attended_s = self._clock.now_s()
        coordinator = self._coordinator
        standing = self._attending.standing(
            {name: view.state for name, view in coordinator.state.slots.items()}
        )
        duty = coordinator.on_standing(standing, self._attended_s)
        self._attended_number = coordinator.state.number
        assert isinstance(duty, Duty), "a standing is answered with a duty"
        if self._attending.obey(duty):
            for member in self._supervisor.members.values():
                self._relay.follow(member.slot, self._supervisor.logs(member))

    def _start_due(self) -> None:
        for slot in self._supervisor.start_due():
            incarnation = self._supervisor.members[str(slot)].incarnation
            self._coordinator.gathering.happened("start", f"incarnation {incarnation}", slot)

    def _handle_deaths(self) -> None:
        for death in self._supervisor.reap():
            self._handle_death(death)

    def _handle_death(self, death: Death) -> None:
        slot, coordinator = str(death.slot), self._coordinator
        view = coordinator.state.slots.get(slot)
        if death.orderly and (coordinator.state.phase == "finish" or view is None or view.leaving):
            coordinator.state.ended(slot)
            return
        coordinator.died(slot, death.crash)
        coordinator.gathering.happened("death", death.cause, death.slot)
        self._relay.turn()
        if death.reason not in ("rollout", "stop"):
            self._observer.on_death(death)

    # -- the end -----------------------------------------------------------------------------

    def _end(self) -> None:
        """Kill what is left, close its books, pass on its last words."""
        self._supervisor.kill_all()
        self._supervisor.reap()
        self._relay.finish()
        self._coordinator.gathering.take(self._attending.standing({}).census)
        self._show_progress()


def _most_links(plan: Plan) -> int:
    """The links of the best connected replica; the run's own process has fewer."""
    config = plan.config
    links = dict.fromkeys((stage.name for stage in config.stages), 0)
    for edge in config.edges:
        links[edge.source] += config.stage(edge.target).replicas
        links[edge.target] += config.stage(edge.source).replicas
    return max(*links.values(), sum(stage.replicas for stage in config.stages))

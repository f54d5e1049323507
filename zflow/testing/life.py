"""One replica of a run in one process: what `replica.life` is to one in a process of its own.

Decides the same order of its life, BOUND -> CONNECTED -> RUNNING -> FINISHED, in steps that a
timeline calls. Core, reactor, workers, counters, black box and files are those of production; only
threads and sockets are not there. Whatever worker `make_worker` gives is driven by its interface.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, cast

from zflow.errors import InternalError
from zflow.protocol.actions import Retire
from zflow.replica.assembly import User, make_core, make_durable, make_emitter, make_worker
from zflow.replica.heard import PHASE, Heard
from zflow.replica.house import House
from zflow.replica.place import Place
from zflow.replica.userside import close_stage, open_stage
from zflow.replica.worker import Worker, describe
from zflow.state.positions import Position, PositionFile
from zflow.testing.kills import Hung, Killed
from zflow.testing.pipes import Pipes, Post
from zflow.testing.usercode import Blocked, UserSide
from zflow.testing.virtual import Timeline, VirtualClock, VirtualCommitter, VirtualKeeper
from zflow.wire import control

if TYPE_CHECKING:
    from zflow.net.links import DataLinks

_LOG = logging.getLogger("zflow.replica")
STEP_NS = 1_000  # what a step takes at least, so that time goes on
IDLE_S = 5.0  # an idle replica looks up at least this often
NEVER_NS = 1 << 62
BIRTH = 1  # of every source and partition: by it items are named, so that names are the same too


@dataclass(frozen=True, slots=True, kw_only=True)
class Stagehands:
    """What all replicas of a run share. wall_s: when the run began."""

    timeline: Timeline
    post: Post
    user: UserSide
    random: Random
    wall_s: float


class Above(Protocol):
    """Who hears of a replica."""

    def reported(self, life: "Life", report: control.Report) -> None:
        """Its state has changed."""

    def died(self, life: "Life", error: BaseException) -> None:
        """Its process would be dead now. error: Killed, Hung when its time was over, or its own."""

    def ended(self, life: "Life") -> None:
        """It has ended in an orderly way."""


class Life:
    """See the module. hung: user code does not return any more."""

    def __init__(
        self, place: Place, snapshot: control.Snapshot, hands: Stagehands, above: Above
    ) -> None:
        self.place = place
        self.alive = True
        self.hung = False
        self.clock = VirtualClock(hands.wall_s)
        self.clock.ns = hands.timeline.now_ns
        self._hands = hands
        self._above = above
        self._heard = Heard(snapshot, place.stage.name)
        self._step_ns, self._busy_ns = NEVER_NS, 0
        self._connecting = False
        self._position: Position | None = None
        self._committer: VirtualCommitter | None = None
        self._instance: Any = None
        self._make()

    def _make(self) -> None:
        place, hands = self.place, self._hands
        stage, slot = place.stage, place.slot
        positions = None
        if stage.kind == "source":
            positions = PositionFile(place.state.position(slot))
            self._position = _reborn(positions.load())
        random = Random(hands.random.getrandbits(64))
        self.core = make_core(
            place, self._position, random=random, token=lambda: random.getrandbits(64) | 1
        )
        self.links = Pipes(hands.post, self.clock, self.wake)
        self.house = House(
            place,
            self.core,
            cast("DataLinks", self.links),
            self.clock,
            self._heard,
            position=positions,
            wake=self.wake,
            told=lambda report: self._above.reported(self, report),
            retired=self._on_retire,
            keeper=VirtualKeeper,
        )
        self._reactor = self.house.reactor

    # -- steps -------------------------------------------------------------------------------

    def wake(self, at_ns: int = 0) -> None:
        """Take a step then, or as soon as the last one is through."""
        at_ns = max(at_ns, self._busy_ns, self._hands.timeline.now_ns)
        if self.alive and at_ns < self._step_ns:
            self._step_ns = at_ns
            self._hands.timeline.at(at_ns, self._step, at_ns)

    def _step(self, at_ns: int) -> None:
        if not self.alive or at_ns != self._step_ns:
            return  # it was called earlier
        self._step_ns = NEVER_NS
        self.clock.ns = at_ns
        try:
            due_s = self._turn()
        except Hung:
            self.hung = True
            stage = self.place.stage
            self._hands.timeline.at(at_ns + int(stage.timeout_s * 1e9), self._hung_too_long)
            due_s = 0.0
        except Killed as killed:
            self._above.died(self, killed)
            return
        except Exception as error:  # noqa: BLE001 - a process would end with it
            self._above.died(self, error)
            return
        self._busy_ns = self.clock.ns + STEP_NS
        if self.house.state != "finished":
            # Rounded up: a step that comes a moment too early finds nothing to do.
            self.wake(int(min(due_s, self.clock.now_s() + IDLE_S) * 1e9) + 1)

    def _hung_too_long(self) -> None:
        if self.alive:
            self._above.died(self, Hung())

    def _turn(self) -> float:
        """One turn of the data thread; when the next one is due."""
        if self.hung:  # the control thread goes on
            self._look_around()
            return self.core.due_s()
        if self.house.worker is None:
            self._open()
        phase = self._heard.phase
        if phase < PHASE["connect"]:
            return float("inf")
        if not self._connecting:
            self._connecting = True
            self.core.connect(self.clock.now_s())
        if phase >= PHASE["finish"]:
            self._finish()
            return float("inf")
        if self.house.state == "running":
            return self._work()
        self._look_around()
        if self.house.state == "bound" and self.core.connected():
            self.house.enter("connected")
        if self.house.state == "connected" and phase >= PHASE["run"]:
            self.house.enter("running")
            self.house.counters.time.begin()
            return 0.0
        return self.house.due_s()

    def _open(self) -> None:
        user = self._hands.user.of(self.place, self.clock)
        self.house.employ(self._make_worker(user))
        self._instance = user.code.instance if user.code is not None else None
        if self.house.source is None:
            self._hands.user.awaited(open_stage(self._instance))
        self.house.enter("bound")

    def _make_worker(self, user: User) -> Worker:
        bench = self.house.bench(user.context, make_emitter(self.place, user), self._entered)
        if self.place.stage.partitions:
            self._committer = VirtualCommitter(
                self.clock, self.wake, self._later, Random(self._hands.random.getrandbits(64))
            )
            return make_durable(
                self.place, user, bench, self.wake, None, committer=self._committer, birth=BIRTH
            )
        return make_worker(
            self.place,
            user,
            bench,
            self._position,
            lambda: self.house.keeper.stored_low,
            self._on_source_failed,
        )

    def _entered(self, begins: bool) -> None:  # noqa: FBT001 - as `Bench` asks for it
        """User code that takes no item, a timer or `finish`, takes time too."""
        if begins:
            self.clock.spend(STEP_NS)

    def _later(self, ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self._hands.timeline.at(self.clock.ns + ns, call, *arguments)

    def _work(self) -> float:
        house = self.house
        assert house.worker is not None, "it runs"
        if house.source is not None:
            house.source.draining = self._heard.phase >= PHASE["drain"] or bool(house.failure)
            house.source.paused = self._heard.paused
        if house.durable is not None:
            house.durable.concluding = self._heard.concluding
        with self._reactor.lock:
            self._reactor.receive()
        more = self._slice(house.worker)
        with self._reactor.lock:
            house.keep()
        return 0.0 if more or house.has_work() or self.links.waiting() else house.due_s()

    def _slice(self, worker: Worker) -> bool:
        try:
            return worker.slice()
        except Blocked:  # as when a generator waits in its own code: what it has given goes on
            source = self.house.source
            assert source is not None, "only a source waits"
            with self._reactor.lock:
                if source.waiting():
                    source.collect(self.clock.now_ns())
                self._reactor.flush()
            return False

    def _look_around(self) -> None:
        with self._reactor.lock:
            self._reactor.receive()
            self.house.keep()

    def _on_retire(self, action: Retire) -> None:
        raise InternalError(f"{self.place.slot} met incarnation {action.current} of itself")

    def _on_source_failed(self, error: BaseException) -> None:
        self.house.failure = describe(error)[1]

    def hear(self, update: control.Update) -> None:
        """A word of the conductor."""
        if not self.alive:
            return
        self._heard.take(update)
        if update.crash is not None:
            self.core.on_crash(update.crash, self._hands.timeline.now_ns / 1e9)
        self.house.hurry()
        self.wake()

    # -- the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        with self._reactor.lock:
            self.house.say_goodbye()
        self._hands.user.awaited(close_stage(self._instance))
        self.house.counters.finished = True
        self.house.count()
        self.house.state = "finished"
        self._let_go()
        self._above.ended(self)

    def die(self) -> None:
        """The process is no more: what was not committed is gone. What its user code had open is
        closed by its own `close()`, as the end of a process would close it."""
        if self._committer is not None:
            self._committer.die()
        try:
            self._hands.user.awaited(close_stage(self._instance))
        except Exception as error:  # noqa: BLE001 - it is dead, and nobody hears of it
            _LOG.info("close() of a replica that was killed: %s", error)
        self._let_go()

    def _let_go(self) -> None:
        self.alive = False
        if self.house.durable is not None:
            self.house.durable.close()
        self.house.keeper.close()
        self.house.black_box.close()

    def open_work(self) -> str:
        """What is open here, for the message of a run that does not end; "" if nothing is."""
        core = self.core
        origins = [core.origin] if core.origin is not None else core.partitions.values()
        numbers = {
            "made and not settled": sum(origin.next - origin.low for origin in origins),
            "in the inbox": sum(link.held for link in core.inbox.links.values()),
            "executing": core.running,
            "queued": sum(outbox.queued for outbox in core.outboxes.values()),
            "sent and not settled": sum(
                link.unacked_items for outbox in core.outboxes.values() for link in outbox.links
            ),
            "waiting for another try": sum(len(o.retrying) for o in core.outboxes.values()),
        }
        found = [f"{number} {what}" for what, number in numbers.items() if number]
        if self.hung:
            found.append("user code does not return")
        house = self.house
        if house.source is not None and not house.source.ended:
            found.append("the source has not ended")
        if house.worker is not None and not house.worker.settled():
            found.append("not committed")
        if house.state != "running":
            found.append(f"is {house.state}")
        return ", ".join(found)


def _reborn(position: Position) -> Position:
    return Position(birth=BIRTH, low=position.low, ended=position.ended, mark=position.mark)

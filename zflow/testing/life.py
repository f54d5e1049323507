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
from zflow.protocol.actions import Bury, Fail, Retire
from zflow.replica.assembly import (
    Place,
    User,
    make_core,
    make_durable,
    make_emitter,
    make_worker,
)
from zflow.replica.counters import Counters
from zflow.replica.durable import DurableWorker
from zflow.replica.heard import PHASE, Heard
from zflow.replica.letters import letters_of
from zflow.replica.reactor import Reactor
from zflow.replica.source import SourceWorker
from zflow.replica.usercounters import UserCounters
from zflow.replica.userside import close_stage, open_stage
from zflow.replica.worker import Bench, StageWorker, Worker, describe
from zflow.state.blackbox import BlackBox
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
BOOKS_EVERY_S = 0.005
POSITION_EVERY_S = 0.25
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
        self._state = "registered"
        self._failure = ""
        self._report: control.Report | None = None
        self._step_ns, self._busy_ns = NEVER_NS, 0
        self._connecting = False
        self._positions: PositionFile | None = None
        self._position: Position | None = None
        self._source: SourceWorker | None = None
        self._durable: DurableWorker | None = None
        self._worker: Worker | None = None
        self._committer: VirtualCommitter | None = None
        self._instance: Any = None
        self._burying: dict[int, tuple[str, str, int]] = {}
        self._position_asked: tuple[int, bool] | None = None
        self._position_due_s = 0.0
        self._books_due_s = 0.0
        self._books_stale = False
        self._make()

    def _make(self) -> None:
        place, hands = self.place, self._hands
        stage, slot = place.stage, place.slot
        if stage.kind == "source":
            self._positions = PositionFile(place.state.position(slot))
            self._position = _reborn(self._positions.load())
        random = Random(hands.random.getrandbits(64))
        self.core = make_core(
            place, self._position, random=random, token=lambda: random.getrandbits(64) | 1
        )
        self.links = Pipes(hands.post, self.clock, self.wake)
        self._reactor = Reactor(
            self.core,
            cast("DataLinks", self.links),
            self.clock,
            on_bury=self._on_bury,
            on_fail=self._on_fail,
            on_retire=self._on_retire,
        )
        config = place.config
        self._counters = Counters(
            self.core,
            stage=stage.name,
            is_sink=stage.kind == "sink",
            edges={edge.edge: edge.label for edge in config.edges if edge.target == stage.name},
            clock=self.clock,
        )
        self.box_path = place.run.black_box(stage.number, slot.index, place.incarnation)
        self.black_box = BlackBox(self.box_path, self._counters.names())
        self._counters.attach(self.black_box)
        dead = place.state.dead_letters(slot)
        self._keeper = VirtualKeeper(dead, self._positions, self.clock, self.wake)

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
        if self._state != "finished":
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
        if self._worker is None:
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
        if self._state == "running":
            return self._work()
        self._look_around()
        if self._state == "bound" and self.core.connected():
            self._enter("connected")
        if self._state == "connected" and phase >= PHASE["run"]:
            self._enter("running")
            self._counters.time.begin()
            return 0.0
        return self._due_s()

    def _open(self) -> None:
        user = self._hands.user.of(self.place, self.clock)
        user.context.counters = UserCounters(self.black_box)
        self._worker = self._make_worker(user)
        self._instance = user.code.instance if user.code is not None else None
        if self._source is None:
            self._hands.user.awaited(open_stage(self._instance))
        self._enter("bound")

    def _make_worker(self, user: User) -> Worker:
        bench = Bench(
            reactor=self._reactor,
            black_box=self.black_box,
            counters=self._counters,
            emitter=make_emitter(self.place, user),
            context=user.context,
            clock=self.clock,
            entered=self._entered,
            unmarked=frozenset(edge.edge for edge in self.place.config.edges if edge.unmarked),
        )
        if self.place.stage.partitions:
            self._committer = VirtualCommitter(
                self.clock, self.wake, self._later, Random(self._hands.random.getrandbits(64))
            )
            self._durable = make_durable(
                self.place, user, bench, self.wake, None, committer=self._committer, birth=BIRTH
            )
            return self._durable
        worker = make_worker(
            self.place,
            user,
            bench,
            self._position,
            lambda: self._keeper.stored_low,
            self._on_source_failed,
        )
        if isinstance(worker, SourceWorker):
            self._source = worker
        return worker

    def _entered(self, begins: bool) -> None:  # noqa: FBT001 - as `Bench` asks for it
        """User code that takes no item, a timer or `finish`, takes time too."""
        if begins:
            self.clock.spend(STEP_NS)

    def _later(self, ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self._hands.timeline.at(self.clock.ns + ns, call, *arguments)

    def _work(self) -> float:
        worker = self._worker
        assert worker is not None, "it runs"
        if self._source is not None:
            self._source.draining = self._heard.phase >= PHASE["drain"] or bool(self._failure)
            self._source.paused = self._heard.paused
        if self._durable is not None:
            self._durable.concluding = self._heard.concluding
        with self._reactor.lock:
            self._reactor.receive()
        more = self._slice(worker)
        with self._reactor.lock:
            self._keep_house()
        has_work = bool(self.core.inbox.parcels) and not self.core.full()
        if isinstance(worker, StageWorker) and worker.waits_as() is not None:
            has_work = False
        return 0.0 if more or has_work or self.links.waiting() else self._due_s()

    def _slice(self, worker: Worker) -> bool:
        try:
            return worker.slice()
        except Blocked:  # as when a generator waits in its own code: what it has given goes on
            assert self._source is not None, "only a source waits"
            with self._reactor.lock:
                if self._source.waiting():
                    self._source.collect(self.clock.now_ns())
                self._reactor.flush()
            return False

    def _due_s(self) -> float:
        due_s = self.core.due_s()
        if self._worker is not None:
            due_s = min(due_s, self._worker.due_s())
        return min(due_s, self._books_due_s) if self._books_stale else due_s

    def _look_around(self) -> None:
        with self._reactor.lock:
            self._reactor.receive()
            self._keep_house()

    # -- the house ---------------------------------------------------------------------------

    def _keep_house(self) -> None:
        while self._keeper.done:
            ticket = self._keeper.done.popleft()
            self._counters.buried(*self._burying.pop(ticket))
            self.core.buried(ticket)
        self._reactor.tick()
        now_s = self.clock.now_s()
        self._books_stale = now_s < self._books_due_s
        if not self._books_stale:
            self._books_due_s = now_s + BOOKS_EVERY_S
            if self._source is not None:
                self._keep_position(self._source)
            self.black_box.count(self._counters.values())
            self._review()

    def _keep_position(self, source: SourceWorker) -> None:
        origin = self.core.origin
        assert origin is not None, "a source has an origin"
        row = (origin.low, source.ended and origin.empty())
        now_s = self.clock.now_s()
        ends = self.core.source_ended and origin.empty()
        if row != self._position_asked and (ends or now_s >= self._position_due_s):
            self._position_due_s = now_s + POSITION_EVERY_S
            self._position_asked = row
            self._keeper.store_position(row[0], ended=row[1], mark=source.mark())

    def _review(self) -> None:
        """Tell the conductor when what it waits for has changed."""
        ended = self.core.quiet()
        settled = ended and self.core.settled() and self._is_kept()
        sent = sum(outbox.ledger.sent for outbox in self.core.outboxes.values())
        report = control.Report(
            str(self.place.slot),
            self.place.incarnation,
            "failed" if self._failure else self._state,
            ended,
            settled,
            self._counters.received + sent if settled else 0,
            self._heard.probe,
            self._failure,
            self._source is None or self._source.ended,
        )
        if report != self._report:
            self._report = report
            self._above.reported(self, report)

    def _is_kept(self) -> bool:
        worker, origin = self._worker, self.core.origin
        if worker is None or not worker.settled():
            return False
        if self._durable is not None and self._heard.concluding > self._durable.concluding:
            return False
        return origin is None or (self._keeper.stored_low >= origin.low and self._keeper.idle())

    def _enter(self, state: str) -> None:
        self._state = state
        self._review()

    def _on_bury(self, action: Bury) -> None:
        letters = letters_of(action, version="", now_s=self.clock.wall_s())
        self._burying[action.ticket] = (action.stage, action.code, len(letters))
        self._keeper.bury(action.ticket, letters)

    def _on_fail(self, action: Fail) -> None:
        self._failure = f"{action.stage} failed on an item (on_error='fail'):\n{action.error}"

    def _on_retire(self, action: Retire) -> None:
        raise InternalError(f"{self.place.slot} met incarnation {action.current} of itself")

    def _on_source_failed(self, error: BaseException) -> None:
        self._failure = describe(error)[1]

    def hear(self, update: control.Update) -> None:
        """A word of the conductor."""
        if not self.alive:
            return
        self._heard.take(update)
        if update.crash is not None:
            self.core.on_crash(update.crash, self._hands.timeline.now_ns / 1e9)
        self._books_due_s = 0.0  # it is answered at once
        self.wake()

    # -- the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        with self._reactor.lock:
            if not self.core.settled():
                raise InternalError(f"{self.place.slot} was told to finish with units open")
            self.core.finish()
            self._reactor.perform()
        self._hands.user.awaited(close_stage(self._instance))
        self._counters.finished = True
        self.black_box.count(self._counters.values())
        self._state = "finished"
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
        if self._durable is not None:
            self._durable.close()
        self._keeper.close()
        self.black_box.close()

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
        if self._source is not None and not self._source.ended:
            found.append("the source has not ended")
        if self._worker is not None and not self._worker.settled():
            found.append("not committed")
        if self._state != "running":
            found.append(f"is {self._state}")
        return ", ".join(found)


def _reborn(position: Position) -> Position:
    return Position(birth=BIRTH, low=position.low, ended=position.ended, mark=position.mark)

"""What a replica keeps in order beside its items: storage, timers, its books, what it reports.

Decides when others see what has happened here. The same for a process of its own (`life`) and for a
replica of a run in one process (`zflow.testing`); all of it under the reactor's lock.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from zflow.clock import Clock
from zflow.errors import InternalError
from zflow.net.links import DataLinks
from zflow.protocol.actions import Bury, Fail, Retire
from zflow.protocol.core import Core
from zflow.replica.context import Context
from zflow.replica.counters import Counters
from zflow.replica.durable import DurableWorker
from zflow.replica.emit import Emitter
from zflow.replica.heard import Heard
from zflow.replica.keeper import Keeper
from zflow.replica.letters import letters_of
from zflow.replica.place import Place
from zflow.replica.reactor import Reactor
from zflow.replica.source import SourceWorker
from zflow.replica.usercounters import UserCounters
from zflow.replica.worker import Bench, Worker
from zflow.state.blackbox import BlackBox
from zflow.state.positions import PositionFile
from zflow.wire.control import Report

BOOKS_EVERY_S = 0.005  # while items come one by one, to count after each would cost as much as they
POSITION_EVERY_S = 0.25  # a commit delays an item or two; a restart repeats at most this much


class MakeKeeper(Protocol):
    """`Keeper`, or one like it."""

    def __call__(
        self, dead_path: Path, position: PositionFile | None, clock: Clock, wake: Callable[[], None]
    ) -> Keeper: ...


class House:
    """Of one replica. told: called when there is another `report`.

    state, failure: as they are reported; version: of the user's code, once it is loaded.
    alarm, tap: asked for with every report. buried: told of each unit that is given up.
    """

    def __init__(
        self,
        place: Place,
        core: Core,
        links: DataLinks,
        clock: Clock,
        heard: Heard,
        *,
        position: PositionFile | None,
        wake: Callable[[], None],
        told: Callable[[Report], None],
        retired: Callable[[Retire], None],
        keeper: MakeKeeper = Keeper,
    ) -> None:
        stage, slot = place.stage, place.slot
        self.place = place
        self.core = core
        self.clock = clock
        self.state = "registered"
        self.failure = ""
        self.version = ""
        self.report: Report | None = None
        self.worker: Worker | None = None
        self.source: SourceWorker | None = None
        self.durable: DurableWorker | None = None
        self.alarm: Callable[[], str] = str
        self.tap: Callable[[], str] = str
        self.buried: Callable[[Bury], None] = lambda _action: None
        self._heard = heard
        self._told = told
        self.reactor = Reactor(
            core, links, clock, on_bury=self._on_bury, on_fail=self._on_fail, on_retire=retired
        )
        self.counters = Counters(
            core,
            stage=stage.name,
            is_sink=stage.kind == "sink",
            edges={e.edge: e.label for e in place.config.edges if e.target == stage.name},
            clock=clock,
        )
        self.box_path = place.run.black_box(stage.number, slot.index, place.incarnation)
        self.black_box = BlackBox(self.box_path, self.counters.names())
        self.counters.attach(self.black_box)
        self.keeper = keeper(place.state.dead_letters(slot), position, clock, wake)
        self._burying: dict[int, tuple[str, str, int]] = {}  # ticket -> stage, code, letters
        self._position_asked: tuple[int, bool] | None = None
        self._position_due_s = 0.0
        self._books_due_s = 0.0
        self._stale = False  # something may have happened since the books were kept

    # -- who works here ----------------------------------------------------------------------

    def bench(self, context: Context, emitter: Emitter, entered: Callable[[bool], None]) -> Bench:
        """What the worker works with."""
        context.counters = UserCounters(self.black_box)
        return Bench(
            reactor=self.reactor,
            black_box=self.black_box,
            counters=self.counters,
            emitter=emitter,
            context=context,
            clock=self.clock,
            entered=entered,
            unmarked=frozenset(edge.edge for edge in self.place.config.edges if edge.unmarked),
        )

    def employ(self, worker: Worker) -> None:
        """It works here from now on."""
        self.worker = worker
        self.source = worker if isinstance(worker, SourceWorker) else None
        self.durable = worker if isinstance(worker, DurableWorker) else None

    def has_work(self) -> bool:
        """Units wait that the worker would take now."""
        if not self.core.inbox.parcels or self.core.full():
            return False
        return self.worker is not None and self.worker.waits_as() is None

    def due_s(self) -> float:
        """When there is something to do here even if nothing arrives."""
        due_s = self.core.due_s()
        if self.worker is not None:
            due_s = min(due_s, self.worker.due_s())
        return min(due_s, self._books_due_s) if self._stale else due_s

    # -- keeping it --------------------------------------------------------------------------

    def keep(self) -> None:
        """Storage and timers; now and then the books."""
        while self.keeper.done:
            ticket = self.keeper.done.popleft()
            self.counters.buried(*self._burying.pop(ticket))
            self.core.buried(ticket)
        self.reactor.tick()
        now_s = self.clock.now_s()
        self._stale = now_s < self._books_due_s
        if not self._stale:
            self._books_due_s = now_s + BOOKS_EVERY_S
            if self.source is not None:
                self._keep_position(self.source)
            self.count()
            self.review()

    def hurry(self) -> None:
        """Somebody waits for an answer: the books are kept in the next step."""
        self._books_due_s = 0.0

    def count(self) -> None:
        """What has happened, where the supervisor finds it."""
        self.black_box.count(self.counters.values())

    def _keep_position(self, source: SourceWorker) -> None:
        """Ask for the newest low mark to be stored: lazily, and at once at the end."""
        origin = self.core.origin
        assert origin is not None, "a source has an origin"
        ended = source.ended and origin.empty()
        row = (origin.low, ended)
        if row == self._position_asked:
            return
        now_s = self.clock.now_s()
        if now_s >= self._position_due_s or (self.core.source_ended and origin.empty()):
            self._position_due_s = now_s + POSITION_EVERY_S
            self._position_asked = row
            self.keeper.store_position(origin.low, ended=ended, mark=source.mark())

    def enter(self, state: str) -> None:
        """The next state of its life."""
        self.state = state
        self.review()

    def review(self) -> None:
        """Report what the coordinator waits for, whenever that changes."""
        ended = self.core.quiet()
        state = "failed" if self.failure else self.state
        released = self.durable.moving.released if self.durable is not None else 0
        alarm, tap = self.alarm(), self.tap()
        known = self.report
        if not ended and known is not None and not known.ended:
            said = known.probe, known.state, known.owners, known.alarm, known.tap
            if said == (self._heard.probe, state, released, alarm, tap):
                return
        settled = ended and self.core.settled() and self.is_kept()
        report = Report(
            str(self.place.slot),
            self.place.incarnation,
            state,
            ended,
            settled,
            self._activity() if settled else 0,
            self._heard.probe,
            self.failure,
            self.source is None or self.source.ended,
            released,
            alarm,
            tap,
        )
        if report != known:
            self.report = report
            self._told(report)

    def is_kept(self) -> bool:
        """What must be on disk is there, and `finish` has run if it was this stage's turn."""
        worker, origin = self.worker, self.core.origin
        if worker is None or not worker.settled():
            return False
        if self.durable is not None and self._heard.concluding > self.durable.concluding:
            return False  # the order has come, the data thread has not taken it yet
        return origin is None or (self.keeper.stored_low >= origin.low and self.keeper.idle())

    def _activity(self) -> int:
        sent = sum(outbox.ledger.sent for outbox in self.core.outboxes.values())
        return self.counters.received + sent

    def say_goodbye(self) -> None:
        """BYE to everybody downstream; raises InternalError if something is open."""
        if not self.core.settled():
            raise InternalError(f"{self.place.slot} was told to finish with units open")
        self.core.finish()
        self.reactor.perform()

    # -- what the core asks ------------------------------------------------------------------

    def _on_bury(self, action: Bury) -> None:
        self.buried(action)
        letters = letters_of(action, version=self.version, now_s=self.clock.wall_s())
        self._burying[action.ticket] = (action.stage, action.code, len(letters))
        self.keeper.bury(action.ticket, letters)

    def _on_fail(self, action: Fail) -> None:
        self.failure = f"{action.stage} failed on an item (on_error='fail'):\n{action.error}"

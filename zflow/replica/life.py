"""One process of one stage, from its configuration to its last word.

Decides the order of its life: BOUND -> CONNECTED -> RUNNING -> FINISHED, or FAILED. All slots bind
before any connects, and all are connected before a source starts. The data thread is this one;
the other is in `controller`.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from zflow.clock import Clock
from zflow.errors import InternalError, Unavailable
from zflow.log import Repeating
from zflow.net.control import ControlClient
from zflow.net.links import DataLinks, Ready
from zflow.net.poll import Waiter
from zflow.net.security import Security
from zflow.net.sockets import Sockets
from zflow.protocol.actions import Bury, Fail, Retire
from zflow.replica.assembly import (
    Place,
    User,
    load_user,
    make_core,
    make_durable,
    make_emitter,
    make_worker,
)
from zflow.replica.concurrent import ConcurrentWorker, Waits
from zflow.replica.controller import AWAY_S, Controller
from zflow.replica.counters import Counters
from zflow.replica.doors import Doors
from zflow.replica.durable import DurableWorker
from zflow.replica.emit import Emitter
from zflow.replica.heard import PHASE, Heard
from zflow.replica.keeper import Keeper
from zflow.replica.letters import letters_of
from zflow.replica.reactor import Reactor
from zflow.replica.source import SourceWorker
from zflow.replica.tapping import Tapping
from zflow.replica.timebook import BLOCKED, BUSY, STARVED
from zflow.replica.usercounters import UserCounters
from zflow.replica.userside import close_stage, open_stage
from zflow.replica.worker import Bench, StageWorker, Worker, describe
from zflow.state.blackbox import BlackBox
from zflow.state.positions import PositionFile
from zflow.wire import control

_LOG = logging.getLogger("zflow.replica")

HOT_KEYS = 10  # per edge, told at the end
IDLE_S = 1.0  # an idle data thread looks up at least this often
AT_ONCE_NS = 30_000  # a wait as short as that has not slept
BOOKS_EVERY_S = 0.005  # while items come one by one, to count after each would cost as much as they
POSITION_EVERY_S = 0.25  # a commit delays an item or two; a restart repeats at most this much
LAST_WORDS_S = 0.05  # at rest, before it goes: what it has settled is acknowledged meanwhile
PATIENCE_S = 0.5  # for a source that blocks when the run is over


class Replica:
    """Everything of one replica. Made and run by the data thread."""

    _books_due_s = 0.0
    _books_stale = False  # something may have happened since they were kept
    _concurrent: ConcurrentWorker | None = None
    _retired = False  # somebody else has this slot
    _bed: Waits | None = None  # what the data thread sleeps on, if it is more than the waiter

    def __init__(
        self,
        place: Place,
        snapshot: control.Snapshot,
        sockets: Sockets,
        clock: Clock,
        security: Security,
    ) -> None:
        stage, slot, run = place.stage, place.slot, place.run
        self.place = place
        self._clock = clock
        self._sockets = sockets
        self.made_room = False
        self._room_asked = False
        self._rested_s = float("inf")  # since when nothing is open here, once room is asked for
        self._leaving = False
        self._heard = Heard(snapshot, stage.name)
        self._complain = Repeating(_LOG, clock)
        self._state = "registered"
        self._failure = ""
        self._version = ""  # of the user's code, once it is loaded
        self._parent = os.getppid()
        position_file = None
        self._position = None
        if stage.kind == "source":
            position_file = PositionFile(place.state.position(slot))
            self._position = position_file.load()
        self._core = make_core(place, self._position)
        self._links = DataLinks(sockets, place.endpoint_of_link)
        self._reactor = Reactor(
            self._core,
            self._links,
            clock,
            on_bury=self._on_bury,
            on_fail=self._on_fail,
            on_retire=self._on_retire,
        )
        self._counters = self._make_counters()
        self._doors = Doors(place, security, sockets, self._links)
        self._tapping = Tapping(place, self._links, self._reactor.lock, clock)
        box = run.black_box(stage.number, slot.index, place.incarnation)
        self._black_box = BlackBox(box, self._counters.names())
        self._counters.attach(self._black_box)
        self._bind()
        self._waiter = Waiter(self._links.pollable())
        dead_path = place.state.dead_letters(slot)
        self._keeper = Keeper(dead_path, position_file, clock, self._waiter.wake)
        self._position_asked: tuple[int, bool] | None = None
        self._position_due_s = 0.0
        self._burying: dict[int, tuple[str, str, int]] = {}  # ticket -> stage, code, letters
        self._report: control.Report | None = None
        self._controller: Controller | None = None
        self._worker: Worker | None = None
        self._emitter: Emitter | None = None
        self._source: SourceWorker | None = None
        self._durable: DurableWorker | None = None
        self._learn(snapshot.owners)
        self._leave_if_left()

    def _make_counters(self) -> Counters:
        name = self.place.slot.stage
        return Counters(
            self._core,
            stage=name,
            is_sink=self.place.stage.kind == "sink",
            edges={e.edge: e.label for e in self.place.config.edges if e.target == name},
            clock=self._clock,
        )

    def _bind(self) -> None:
        place = self.place
        here = place.slot
        takes = any(edge.target == here.stage for edge in place.config.edges)
        gives = any(edge.source == here.stage for edge in place.config.edges)
        self._links.bind(
            place.into if takes else None,
            place.ack if gives else None,
        )

    # -- the data thread ---------------------------------------------------------------------

    def run(self, client: ControlClient) -> None:
        """Live until the run is over; raises what the user's import, open() or close() raises."""
        register = control.Register(str(self.place.slot), self.place.incarnation, os.getpid())
        controller = Controller(client, self, register, self._clock)
        self._controller = controller
        controller.start()
        try:
            user = load_user(self.place)
            self._version = user.version
            user.context.counters = UserCounters(self._black_box)
            worker = self._make_worker(user)
            instance = user.code.instance if user.code is not None else None
            if self._source is None:
                self._complete(open_stage(instance))
            self._enter("bound")
            self._until_connected()
            self._work(worker)
            self._finish(instance)
        except BaseException as error:
            self._failure = self._failure or "".join(describe(error))
            raise
        finally:
            controller.stop()
            if self._concurrent is not None:
                self._concurrent.close()

    def _complete(self, made: Any) -> None:
        """What `open()` or `close()` has given; an async one gives a coroutine."""
        if self._concurrent is not None:
            self._concurrent.complete(made)

    def _make_worker(self, user: User) -> Worker:
        assert self._controller is not None
        self._emitter = make_emitter(self.place, user)
        bench = Bench(
            reactor=self._reactor,
            black_box=self._black_box,
            counters=self._counters,
            emitter=self._emitter,
            context=user.context,
            clock=self._clock,
            entered=self._entered if self._position is None else self._controller.entered,
            unmarked=frozenset(edge.edge for edge in self.place.config.edges if edge.unmarked),
        )
        worker: Worker
        if self.place.stage.partitions:
            worker = self._durable = make_durable(
                self.place,
                user,
                bench,
                self._waiter.wake,
                self._heard.owners.get(self.place.stage.name),
            )
        else:
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
        if isinstance(worker, ConcurrentWorker):
            self._concurrent = worker
            self._bed = worker.attach(self._waiter)
        self._worker = worker
        self._learn(())  # what has come meanwhile
        return worker

    def _entered(self, begins: bool) -> None:
        """User code begins or ends; a source keeps its own account of its time."""
        assert self._controller is not None
        self._controller.entered(begins)
        if begins:
            self._counters.time.enter(BUSY)
        else:
            self._counters.time.leave()

    def _until_connected(self) -> None:
        while self._heard.phase < PHASE["connect"]:
            self._wait()
        with self._reactor.lock:
            self._core.connect(self._clock.now_s())
        while not self._core.connected() and self._heard.phase < PHASE["finish"]:
            self._turn()
            self._wait()
        self._enter("connected")
        while self._heard.phase < PHASE["run"]:
            self._turn()
            self._wait()
        self._enter("running")
        self._counters.time.begin()

    def _work(self, worker: Worker) -> None:
        ready: Ready | None = None
        while self._heard.phase < PHASE["finish"] and not self._retired and not self._is_through():
            if self._source is not None:
                self._source.draining = self._heard.phase >= PHASE["drain"] or bool(self._failure)
                self._source.paused = self._heard.paused or self._room_asked
            if self._durable is not None:
                self._durable.concluding = self._heard.concluding
            # What has come is executed and sent on before anything that can wait.
            with self._reactor.lock:
                self._reactor.receive(ready)
            ready = None
            more = worker.slice()
            with self._reactor.lock:
                self._keep_house()
            if not more and not self._has_work():
                self._counters.time.enter(self._idle_state())
                found = self._wait()
                # A wait that found something at once: there is a backlog, so take all of it.
                ready = found if self._counters.time.leave() > AT_ONCE_NS else None

    def _idle_state(self) -> int:
        """What the time is called while the data thread sleeps now."""
        if self._concurrent is not None:
            return self._concurrent.idle_state()
        if self._core.full():
            return BLOCKED
        return (self._stage.waits_as() if self._stage is not None else None) or STARVED

    def _is_through(self) -> bool:
        """This process may end before its run does."""
        if self._room_asked:
            now_s = self._clock.now_s()
            self._rested_s = min(self._rested_s, now_s) if self._is_at_rest() else float("inf")
            self.made_room = now_s - self._rested_s >= LAST_WORDS_S
            return self.made_room
        return self._leaving and self._core.retired() and self._is_kept()

    def _is_at_rest(self) -> bool:
        """What was begun here is settled and stored; what has not been waits at its senders."""
        with self._reactor.lock:
            self._core.pause_intake(True)
            if self._stage is not None:
                self._stage.forget()
            return self._core.at_rest() and self._is_kept()

    @property
    def _stage(self) -> StageWorker | None:
        return self._worker if isinstance(self._worker, StageWorker) else None

    def _has_work(self) -> bool:
        core = self._core
        if not core.inbox.parcels or core.full() or self._room_asked:
            return False
        if self._concurrent is not None and not self._concurrent.has_room():
            return False
        return self._stage is None or self._stage.waits_as() is None

    def _alarm(self) -> str:
        """What people should know of this replica, a sentence."""
        return self._doors.alarm or (self._stage.alarm() if self._stage is not None else "")

    def _wait(self) -> Ready:
        """Sleep until something arrives or a timer is due; what has arrived."""
        due_s = self._core.due_s()
        if self._worker is not None:
            due_s = min(due_s, self._worker.due_s())
        if self._books_stale:
            due_s = min(due_s, self._books_due_s)
        if self._room_asked:
            due_s = min(due_s, self._clock.now_s() + LAST_WORDS_S)
        return (self._bed or self._waiter).wait(min(IDLE_S, due_s - self._clock.now_s()))

    def _turn(self) -> None:
        with self._reactor.lock:
            self._reactor.receive()
            self._keep_house()

    def _keep_house(self) -> None:
        """Timers and storage; now and then the books. Under the lock, from either thread."""
        while self._keeper.done:
            ticket = self._keeper.done.popleft()
            self._counters.buried(*self._burying.pop(ticket))
            self._core.buried(ticket)
        self._reactor.tick()
        now_s = self._clock.now_s()
        self._books_stale = now_s < self._books_due_s
        if not self._books_stale:
            self._books_due_s = now_s + BOOKS_EVERY_S
            self._keep_books()

    def _keep_books(self) -> None:
        """What others see of this process: position, counters, reports."""
        if self._source is not None:
            self._keep_position()
        self._count()
        self._review()

    def _finish(self, instance: Any) -> None:
        """Refuse new, all is in: say BYE, close the user's instance, leave the books."""
        if self._retired:
            raise Unavailable("a newer process has this slot")
        if not self.made_room:
            self._say_goodbye()
        self._complete(close_stage(instance))
        if self._durable is not None:
            self._durable.close()
        self._keeper.close()
        if not self.made_room:
            self._enter("finished")
        self._leave_books()

    def _say_goodbye(self) -> None:
        with self._reactor.lock:
            if not self._core.settled():
                raise InternalError(f"{self.place.slot} was told to finish with units open")
            self._core.finish()
            self._reactor.perform()

    def _leave_books(self) -> None:
        if self._emitter is not None:
            found = self._emitter.hot_keys(HOT_KEYS)
            if found:
                labels = {edge.edge: edge.label for edge in self.place.config.edges}
                path = self.place.run.hot_keys(self.place.stage.number, self.place.slot.index)
                path.write_text(json.dumps({labels[edge]: one for edge, one in found.items()}))
        self._counters.finished = not self.made_room
        self._black_box.count(self._counters.values())

    def _finish_for_source(self) -> None:
        """The generator still blocks and the run is over: end in its place, from the control
        thread. Everything is settled and stored, and what it still yields is not taken."""
        if self._source is None:
            return
        self._say_goodbye()
        self._keeper.close()
        self._leave_books()
        os._exit(0)

    # -- what a step does beside the sockets -------------------------------------------------

    def _keep_position(self) -> None:
        """Ask for the newest low mark to be stored: lazily, and at once at the end."""
        source, origin = self._source, self._core.origin
        assert source is not None, "only a source has a position"
        assert origin is not None, "a source has an origin"
        ended = source.ended and origin.empty()
        row = (origin.low, ended)
        if row == self._position_asked:
            return
        now_s = self._clock.now_s()
        if now_s >= self._position_due_s or (self._core.source_ended and origin.empty()):
            self._position_due_s = now_s + POSITION_EVERY_S
            self._position_asked = row
            self._keeper.store_position(origin.low, ended=ended, mark=source.mark())

    def _count(self) -> None:
        values = self._counters.values()
        self._black_box.count(values)

    def _review(self) -> None:
        """Tell the coordinator when what it waits for has changed."""
        ended = self._core.quiet()
        state = "failed" if self._failure else self._state
        released = self._durable.moving.released if self._durable is not None else 0
        known = self._report
        if not ended and known is not None and not known.ended:
            said = known.probe, known.state, known.owners, known.alarm, known.tap
            seen = self._alarm(), self._tapping.endpoint
            if said == (self._heard.probe, state, released, *seen):
                return
        settled = ended and self._core.settled() and self._is_kept()
        report = control.Report(
            str(self.place.slot),
            self.place.incarnation,
            state,
            ended,
            settled,
            self._activity() if settled else 0,
            self._heard.probe,
            self._failure,
            self._source is None or self._source.ended,
            released,
            self._alarm(),
            self._tapping.endpoint,
        )
        if report != self._report:
            self._report = report
            if self._controller is not None:
                self._controller.nudge()

    def _is_kept(self) -> bool:
        """What must be on disk is there, and `finish` has run if it was this stage's turn."""
        worker, origin = self._worker, self._core.origin
        if worker is None or not worker.settled():
            return False
        if self._durable is not None and self._heard.concluding > self._durable.concluding:
            return False  # the order has come, the data thread has not taken it yet
        return origin is None or (self._keeper.stored_low >= origin.low and self._keeper.idle())

    def _activity(self) -> int:
        sent = sum(outbox.ledger.sent for outbox in self._core.outboxes.values())
        return self._counters.received + sent

    def _enter(self, state: str) -> None:
        self._state = state
        with self._reactor.lock:
            self._review()

    # -- called by the control thread --------------------------------------------------------

    def on_message(self, message: control.Message) -> None:
        """An update or a snapshot."""
        if not isinstance(message, control.Update | control.Snapshot):
            return
        missed = isinstance(message, control.Update) and self._heard.missed_before(message)
        if not self._heard.take(message):
            self._complain.warning("ignored a word of an older coordinator")
            return
        if missed and self._controller is not None:
            self._controller.register_again()
        if isinstance(message, control.Update):
            self._on_update(message)
        else:
            self._learn(message.owners, message.rosters)
        with self._reactor.lock:
            # Peers of a newer version say HELLO with its generation; they are refused until now.
            self._core.inbox.generation = max(self._core.inbox.generation, self._heard.generation)
        self._waiter.wake()

    def _on_update(self, update: control.Update) -> None:
        self._tapping.learn(update.taps)
        self._learn(
            [update.owners] if update.owners is not None else [],
            [update.roster] if update.roster is not None else [],
        )
        if update.crash is not None:
            with self._reactor.lock:
                self._core.on_crash(update.crash, self._clock.now_s())

    def _learn(
        self, words: Iterable[control.Ownership], rosters: Iterable[control.Roster] = ()
    ) -> None:
        """Who is there, and who owns the partitions of this stage and of those it sends to."""
        for roster in rosters:
            self._learn_roster(roster)
        for word in words:
            self._heard.own(word)
        with self._reactor.lock:
            for word in self._heard.owners.values():
                self._core.assign(word.stage, word.generation, word.slots)
        mine = self._heard.owners.get(self.place.stage.name)
        if mine is not None and self._durable is not None:
            self._durable.moving.assign(mine.generation, mine.slots)

    def _learn_roster(self, roster: control.Roster) -> None:
        """A stage has grown or shrunk, or a slot of it is somewhere else now."""
        if roster.generation <= self.place.rosters[roster.stage].generation:
            return
        self.place.rosters[roster.stage] = roster
        with self._reactor.lock:
            self._core.resize(roster.stage, roster.generation, roster.names(), self._clock.now_s())
        self._leave_if_left()

    def _leave_if_left(self) -> None:
        """This slot is not one of its stage's any more."""
        here = self.place.slot
        if here.index not in self.place.rosters[here.stage].slots and not self._leaving:
            self._leaving = True
            with self._reactor.lock:
                self._core.leave()

    def make_room(self) -> None:
        """Finish what has begun and end, for a successor; from a signal handler."""
        self._room_asked = True
        self._waiter.wake()

    def step_for(self, away_s: float) -> None:
        """User code has the data thread: take a step for it, if there is reason enough."""
        source, core = self._source, self._core
        takes = source is not None and not core.source_ended
        if not takes and self._heard.phase >= PHASE["finish"] and away_s > PATIENCE_S:
            self._finish_for_source()
        if self._room_asked and takes and away_s > PATIENCE_S and self._is_at_rest():
            self._keeper.close()  # the generator blocks; what it yields now it yields again
            os._exit(control.EXIT_ROLLOUT)
        waiting = (source is not None and takes and source.waiting()) or any(
            outbox.queued for outbox in core.outboxes.values()
        )
        if away_s < AWAY_S and not waiting:
            return
        with self._reactor.lock:
            if source is not None and takes:
                if source.waiting():
                    source.collect(self._clock.now_ns())
                core.source_ended = (
                    self._heard.phase >= PHASE["drain"]
                )  # then nothing more is taken
            self._reactor.receive()
            self._keep_house()
        if self._concurrent is not None:
            self._waiter.wake()  # its loop may sleep by now, and no socket tells it twice

    def report(self) -> control.Report | None:
        """The newest."""
        return self._report

    def beat(self) -> None:
        """The process lives."""
        with self._reactor.lock:
            self._doors.turn()
        self._black_box.beat(self._clock.now_ns())
        self._tapping.turn()

    def parent_lives(self) -> bool:
        """The supervisor started this process and is its parent as long as it lives."""
        return os.getppid() == self._parent

    # -- called under the reactor's lock -----------------------------------------------------

    def _on_bury(self, action: Bury) -> None:
        _LOG.warning(
            "dead letter: %s gave up an item after %d attempts: %s",
            action.stage,
            action.attempts,
            action.error.strip().rpartition("\n")[2],
        )
        letters = letters_of(action, version=self._version, now_s=self._clock.wall_s())
        self._burying[action.ticket] = (action.stage, action.code, len(letters))
        self._keeper.bury(action.ticket, letters)

    def _on_fail(self, action: Fail) -> None:
        self._failure = f"{action.stage} failed on an item (on_error='fail'):\n{action.error}"

    def _on_retire(self, action: Retire) -> None:
        _LOG.warning("incarnation %d of this slot is known: ending", action.current)
        self._retired = True

    def _on_source_failed(self, error: BaseException) -> None:
        self._failure = describe(error)[1]
        print(self._failure, file=sys.stderr)  # noqa: T201 - the log the supervisor shows

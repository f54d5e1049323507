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
from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.net.control import ControlClient
from zflow.net.links import DataLinks, Ready
from zflow.net.poll import Waiter
from zflow.net.security import Security
from zflow.net.sockets import Sockets
from zflow.protocol.actions import Bury, Retire
from zflow.replica.assembly import (
    User,
    load_user,
    make_core,
    make_durable,
    make_emitter,
    make_worker,
)
from zflow.replica.concurrent import ConcurrentWorker, Waits
from zflow.replica.controller import AWAY_S, Controller
from zflow.replica.doors import Doors
from zflow.replica.emit import Emitter
from zflow.replica.heard import PHASE, Heard
from zflow.replica.house import House
from zflow.replica.place import Place
from zflow.replica.tapping import Tapping
from zflow.replica.timebook import BUSY
from zflow.replica.userside import close_stage, open_stage
from zflow.replica.worker import Worker, describe
from zflow.state.positions import PositionFile
from zflow.wire import control

_LOG = logging.getLogger("zflow.replica")

HOT_KEYS = 10  # per edge, told at the end
IDLE_S = 1.0  # an idle data thread looks up at least this often
AT_ONCE_NS = 30_000  # a wait as short as that has not slept
LAST_WORDS_S = 0.05  # at rest, before it goes: what it has settled is acknowledged meanwhile
PATIENCE_S = 0.5  # for a source that blocks when the run is over


class Replica:
    """Everything of one replica. Made and run by the data thread."""

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
        self.place = place
        self._clock = clock
        self.made_room = False
        self._room_asked = False
        self._rested_s = float("inf")  # since when nothing is open here, once room is asked for
        self._leaving = False
        self._heard = Heard(snapshot, place.stage.name)
        self._complain = Repeating(_LOG, clock)
        self._parent = os.getppid()
        file = PositionFile(place.state.position(place.slot)) if self._is_source else None
        self._position = file.load() if file is not None else None
        self._core = make_core(place, self._position)
        self._links = DataLinks(sockets, place.endpoint_of_link)
        self._bind()
        self._waiter = Waiter(self._links.pollable())
        self._house = House(
            place,
            self._core,
            self._links,
            clock,
            self._heard,
            position=file,
            wake=self._waiter.wake,
            told=self._on_report,
            retired=self._on_retire,
        )
        self._house.alarm, self._house.tap = self._alarm, self._endpoint_of_tap
        self._house.buried = _warn_of
        self._reactor = self._house.reactor
        self._doors = Doors(place, security, sockets, self._links)
        self._tapping = Tapping(place, self._links, self._reactor.lock, clock)
        self._controller: Controller | None = None
        self._emitter: Emitter | None = None
        self._learn(snapshot.owners)
        self._leave_if_left()

    @property
    def _is_source(self) -> bool:
        return self.place.stage.kind == "source"

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
            self._house.version = user.version
            worker = self._make_worker(user)
            instance = user.code.instance if user.code is not None else None
            if not self._is_source:
                self._complete(open_stage(instance))
            self._enter("bound")
            self._until_connected()
            self._work(worker)
            self._finish(instance)
        except BaseException as error:
            self._house.failure = self._house.failure or "".join(describe(error))
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
        entered = self._controller.entered if self._is_source else self._entered
        bench = self._house.bench(user.context, self._emitter, entered)
        worker: Worker
        if self.place.stage.partitions:
            owners = self._heard.owners.get(self.place.stage.name)
            worker = make_durable(self.place, user, bench, self._waiter.wake, owners)
        else:
            worker = make_worker(
                self.place,
                user,
                bench,
                self._position,
                lambda: self._house.keeper.stored_low,
                self._on_source_failed,
            )
        if isinstance(worker, ConcurrentWorker):
            self._concurrent = worker
            self._bed = worker.attach(self._waiter)
        self._house.employ(worker)
        self._learn(())  # what has come meanwhile
        return worker

    def _entered(self, begins: bool) -> None:
        """User code begins or ends; a source keeps its own account of its time."""
        assert self._controller is not None
        self._controller.entered(begins)
        if begins:
            self._house.counters.time.enter(BUSY)
        else:
            self._house.counters.time.leave()

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
        self._house.counters.time.begin()

    def _work(self, worker: Worker) -> None:
        ready: Ready | None = None
        while self._heard.phase < PHASE["finish"] and not self._retired and not self._is_through():
            house = self._house
            if house.source is not None:
                house.source.draining = self._heard.phase >= PHASE["drain"] or bool(house.failure)
                house.source.paused = self._heard.paused or self._room_asked
            if house.durable is not None:
                house.durable.concluding = self._heard.concluding
            # What has come is executed and sent on before anything that can wait.
            with self._reactor.lock:
                self._reactor.receive(ready)
            ready = None
            more = worker.slice()
            with self._reactor.lock:
                house.keep()
            if not more and not (house.has_work() and not self._room_asked):
                self._house.counters.time.enter(worker.idles_as())
                found = self._wait()
                # A wait that found something at once: there is a backlog, so take all of it.
                ready = found if self._house.counters.time.leave() > AT_ONCE_NS else None

    def _is_through(self) -> bool:
        """This process may end before its run does."""
        if self._room_asked:
            now_s = self._clock.now_s()
            self._rested_s = min(self._rested_s, now_s) if self._is_at_rest() else float("inf")
            self.made_room = now_s - self._rested_s >= LAST_WORDS_S
            return self.made_room
        return self._leaving and self._core.retired() and self._house.is_kept()

    def _is_at_rest(self) -> bool:
        """What was begun here is settled and stored; what has not been waits at its senders."""
        with self._reactor.lock:
            self._core.pause_intake(True)
            if self._house.worker is not None:
                self._house.worker.forget()
            return self._core.at_rest() and self._house.is_kept()

    def _alarm(self) -> str:
        """What people should know of this replica, a sentence."""
        worker = self._house.worker
        return self._doors.alarm or (worker.alarm() if worker is not None else "")

    def _endpoint_of_tap(self) -> str:
        return self._tapping.endpoint

    def _wait(self) -> Ready:
        """Sleep until something arrives or a timer is due; what has arrived."""
        due_s = self._house.due_s()
        if self._room_asked:
            due_s = min(due_s, self._clock.now_s() + LAST_WORDS_S)
        return (self._bed or self._waiter).wait(min(IDLE_S, due_s - self._clock.now_s()))

    def _turn(self) -> None:
        with self._reactor.lock:
            self._reactor.receive()
            self._house.keep()

    def _finish(self, instance: Any) -> None:
        """Refuse new, all is in: say BYE, close the user's instance, leave the books."""
        if self._retired:
            raise Unavailable("a newer process has this slot")
        if not self.made_room:
            with self._reactor.lock:
                self._house.say_goodbye()
        self._complete(close_stage(instance))
        if self._house.durable is not None:
            self._house.durable.close()
        self._house.keeper.close()
        if not self.made_room:
            self._enter("finished")
        self._leave_books()

    def _leave_books(self) -> None:
        if self._emitter is not None:
            found = self._emitter.hot_keys(HOT_KEYS)
            if found:
                labels = {edge.edge: edge.label for edge in self.place.config.edges}
                path = self.place.run.hot_keys(self.place.stage.number, self.place.slot.index)
                path.write_text(json.dumps({labels[edge]: one for edge, one in found.items()}))
        self._house.counters.finished = not self.made_room
        self._house.count()

    def _finish_for_source(self) -> None:
        """The generator still blocks and the run is over: end in its place, from the control
        thread. Everything is settled and stored, and what it still yields is not taken."""
        if self._house.source is None:
            return
        with self._reactor.lock:
            self._house.say_goodbye()
        self._house.keeper.close()
        self._leave_books()
        os._exit(0)

    def _enter(self, state: str) -> None:
        with self._reactor.lock:
            self._house.enter(state)

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
        self._house.hurry()
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
        durable = self._house.durable
        if mine is not None and durable is not None:
            durable.moving.assign(mine.generation, mine.slots)

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
        source, core = self._house.source, self._core
        takes = source is not None and not core.source_ended
        if not takes and self._heard.phase >= PHASE["finish"] and away_s > PATIENCE_S:
            self._finish_for_source()
        if self._room_asked and takes and away_s > PATIENCE_S and self._is_at_rest():
            self._house.keeper.close()  # the generator blocks; what it yields now it yields again
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
            self._house.keep()
        if self._concurrent is not None:
            self._waiter.wake()  # its loop may sleep by now, and no socket tells it twice

    def report(self) -> control.Report | None:
        """The newest."""
        return self._house.report

    def beat(self) -> None:
        """The process lives."""
        with self._reactor.lock:
            self._doors.turn()
        self._house.black_box.beat(self._clock.now_ns())
        self._tapping.turn()

    def parent_lives(self) -> bool:
        """The supervisor started this process and is its parent as long as it lives."""
        return os.getppid() == self._parent

    # -- called under the reactor's lock -----------------------------------------------------

    def _on_report(self, _report: control.Report) -> None:
        if self._controller is not None:
            self._controller.nudge()

    def _on_retire(self, action: Retire) -> None:
        _LOG.warning("incarnation %d of this slot is known: ending", action.current)
        self._retired = True

    def _on_source_failed(self, error: BaseException) -> None:
        self._house.failure = describe(error)[1]
        print(self._house.failure, file=sys.stderr)  # noqa: T201 - the log the supervisor shows


def _warn_of(action: Bury) -> None:
    _LOG.warning(
        "dead letter: %s gave up an item after %d attempts: %s",
        action.stage,
        action.attempts,
        action.error.strip().rpartition("\n")[2],
    )

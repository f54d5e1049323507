"""One incarnation in the simulated world: the core, its sockets, its mail and its user code.

Decides when to wake, nothing else: it is the driver of `protocol.core` with virtual sockets. After
every step it asks the invariants about what the step touched.
"""

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING

from zflow.ids import Slot
from zflow.protocol.actions import Bury, Dial, Fail, Hangup, LinkKey, Reply, Retire, Send
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import InboxSettings, Portion
from zflow.protocol.keyed import KeyedOutbox
from zflow.protocol.ledger import COLUMNS
from zflow.protocol.sender import STUCK_S, Identity, SenderLink
from zflow.testing.anchors import AnchorWorker
from zflow.testing.graves import Graves
from zflow.testing.invariants import Heard, Violation
from zflow.testing.items import SimCodec, SimPayload
from zflow.testing.network import Letter, Socket
from zflow.testing.rescales import Word
from zflow.testing.topologies import DURABLE, EXACT, FLAT, SOURCE, STREAM, Stage
from zflow.testing.worker import Worker
from zflow.testing.yields import YieldWorker
from zflow.wire.data import Crash, Data, Frame, Heartbeat, Hello, Refuse, Reset, State, Welcome
from zflow.wire.run import SUSPECT

if TYPE_CHECKING:
    from zflow.testing.world import Seat, World

RUN_ID, CODEC, GENERATION = "simulated", "items", 1
WORKERS: dict[str, type[Worker]] = {
    FLAT: YieldWorker,
    STREAM: YieldWorker,
    DURABLE: AnchorWorker,
    EXACT: AnchorWorker,
}
STEP_S = 0.002  # between two steps of a busy process; what arrives meanwhile is read together


class Process:
    """See the module. `alive` is False for ever after `die`."""

    def __init__(self, world: "World", stage: Stage, seat: "Seat") -> None:
        self.world = world
        self.stage = stage
        self.slot = seat.slot
        self.seat = seat
        self.incarnation = seat.incarnation
        self.alive = True
        self.zombie = False
        self.roots = world.roots.get(seat.slot, [])[seat.gone :]
        self.mail: list[Letter] = []
        self.sockets: dict[LinkKey, Socket] = {}
        self.replies: dict[tuple[str, int], Socket] = {}
        self.heard: dict[int, Heard] = {}
        self.hello: dict[LinkKey, int] = {}  # the token said last
        self.newest: dict[LinkKey, tuple[int, int]] = {}  # whose link it is, incarnation and dial
        self.words = self._birth_words()  # the newest that it was told on neighbouring stages
        self.leaving = False
        self.resting = False
        self.paused_until_s = 0.0
        self.disk_s = 0.002  # that a commit takes
        self.disk_fails = 0.0  # the chance that one fails
        self.core = self._new_core()
        self.core.inbox.window.HORIZON_S = stage.horizon_s
        self.graves = Graves(self)
        self.worker = WORKERS.get(stage.kind, Worker)(self)
        self._wake_s = float("inf")

    def _birth_words(self) -> dict[str, Word]:
        stages, stage = self.world.topology.stages, self.stage
        near = {edge.source for edge in stage.ins} | {edge.target for edge in stage.outs}
        return {stages[k].name: self.world.rescales.birth(stages[k]) for k in sorted(near)}

    def expected(self) -> set[LinkKey]:
        """The links from upstream that there should be, by what the process was told."""
        return {
            (edge.number, slot)
            for edge in self.stage.ins
            for slot in self.words[self.world.topology.stages[edge.source].name][1]
        }

    def _new_core(self) -> Core:
        stage, seat, world = self.stage, self.seat, self.world
        inbox = InboxSettings(
            run_id=RUN_ID,
            slot=self.slot,
            incarnation=self.incarnation,
            generation=GENERATION,
            codec=CODEC,
            edges=frozenset(edge.number for edge in stage.ins),
            window_items=stage.window_items,
            window_bytes=stage.window_bytes,
            crashes=tuple(seat.crashes),
            fair_ratio=max(
                (e.settings.fair_ratio for e in stage.ins if e.settings.lanes), default=None
            ),
        )
        identity = Identity(
            run_id=RUN_ID,
            slot=self.slot,
            incarnation=self.incarnation,
            ack_endpoint=self.slot,
            generation=GENERATION,
            codec=CODEC,
        )
        settings = CoreSettings(
            identity=identity,
            inbox=inbox,
            edges=tuple(
                replace(edge.settings, targets=self.words[edge.settings.stage][1])
                for edge in stage.outs
            ),
            upstream=frozenset(self.expected()),
            anchor=stage.kind == DURABLE,
            generations={name: generation for name, (generation, _) in self.words.items()},
        )
        origin = None
        if stage.kind == SOURCE:
            origin = OriginSettings(origin=seat.origin, stage=stage.name, low=seat.low)
        return Core(
            settings,
            codec=SimCodec(stage.index),
            new_token=world.new_token,
            random=world.random,
            origin=origin,
        )

    # -- waking ----------------------------------------------------------------------------------

    def receive(self, letter: Letter) -> None:
        """A frame is on its way here."""
        heapq.heappush(self.mail, letter)
        self.wake(letter[0])

    def wake(self, at_s: float) -> None:
        """Take a step at that time, or sooner."""
        if at_s < self._wake_s:
            self._wake_s = at_s
            self.world.at(at_s, self._woken, (at_s,))

    def _woken(self, at_s: float) -> None:
        if self.alive and at_s == self._wake_s:
            if at_s < self.paused_until_s:
                self._wake_s = float("inf")
                self.wake(self.paused_until_s)
                return
            self.step(at_s)

    def step(self, now_s: float) -> None:
        """What a data thread does between two slices, and the slices."""
        core, mail = self.core, self.mail
        while mail and mail[0][0] <= now_s:
            _, _, epoch, socket, frame, payload = heapq.heappop(mail)
            if epoch == socket.epoch:
                self._read(socket, frame, payload, now_s)
        self.worker.advance(now_s)
        if not self.alive:
            return
        core.tick(now_s)
        self.act(now_s)
        self.worker.begin(now_s)
        self.act(now_s)
        self._check()
        if core.retired():
            self.world.rescales.retired(self)
        elif self.resting and core.at_rest():
            self.world.at(now_s, self.world.relieve, (self,))
        due_s = min(core.due_s(), self.worker.due_s, self.worker.alarm_s)
        if mail and mail[0][0] < due_s:
            due_s = mail[0][0]
        self._wake_s = float("inf")
        self.wake(max(due_s, now_s + STEP_S))

    def _check(self) -> None:
        core, world = self.core, self.world
        world.invariants.conserved(core.outboxes.values())
        if self.stage.ins and core.quiet():
            world.invariants.quiet(core, self.expected(), leaving=self.leaving)
        origins = core.partitions.values() if core.origin is None else (core.origin,)
        for origin in origins:
            world.effects.low(origin.origin, origin.low, self)

    # -- frames in -------------------------------------------------------------------------------

    def _read(self, socket: Socket, frame: Frame, payload: SimPayload | None, now_s: float) -> None:
        world = self.world
        world.note(now_s, self, "<-", frame)
        world.frames[type(frame)] += 1
        if socket.upward:
            self._read_reply(frame, now_s)
        elif type(frame) is Data and payload is not None:
            self._read_data(socket.key, frame, payload, now_s)
        elif type(frame) is Hello:
            self._read_hello(frame, now_s)
        else:
            self.core.on_frame(frame, None, now_s)

    def _read_hello(self, frame: Hello, now_s: float) -> None:
        self.core.on_frame(frame, None, now_s)
        key = frame.edge, frame.sender
        link = self.core.inbox.links.get(key)
        if link is None:
            return
        now = link.incarnation, link.dial
        if now < self.newest.get(key, now):
            raise Violation("I9", f"the link of {self.newest[key]} was given to {now}")
        self.newest[key] = now

    def _read_data(self, key: LinkKey, frame: Data, payload: SimPayload, now_s: float) -> None:
        inbox = self.core.inbox
        link = inbox.links.get(key)
        if link is None or link.token != frame.token:
            self._read_stale_data(frame, payload, now_s)
            return
        before = len(inbox.parcels)
        heard = self._heard(frame.token)
        self.core.on_frame(frame, payload, now_s)
        parcel = None
        if len(inbox.parcels) > before:
            parcel = next(p for p in inbox.parcels if p.link is link and p.first == frame.first)
        self.world.invariants.accepted(frame, parcel, heard)
        if parcel is not None:
            self.world.invariants.inbox(self.core, parcel)
        if link.next != heard.next:
            raise Violation("I8", f"the link has accepted {link.next} units, not {heard.next}")

    def _read_stale_data(self, frame: Data, payload: SimPayload, now_s: float) -> None:
        inbox = self.core.inbox
        before = len(inbox.parcels), [link.next for link in inbox.links.values()]
        self.core.on_frame(frame, payload, now_s)
        if before != (len(inbox.parcels), [link.next for link in inbox.links.values()]):
            raise Violation("I9", f"DATA of another token was taken: {frame}")
        self.world.count("stale DATA ignored")

    def _heard(self, token: int) -> Heard:
        heard = self.heard.get(token)
        if heard is None:
            heard = self.heard[token] = Heard()
        return heard

    def _read_reply(self, frame: Frame, now_s: float) -> None:
        links = [link for box in self.core.outboxes.values() for link in box.links]
        for link in links:
            if link.token == frame.token:
                self._told(link, frame)
                self.core.on_reply(frame, now_s)
                return
        before = [_facts(link) for link in links]
        self.core.on_reply(frame, now_s)
        if before != [_facts(link) for link in links]:
            raise Violation("I9", f"a reply of another token was heard: {frame}")
        self.world.count("stale reply ignored")

    def _told(self, link: SenderLink, frame: Frame) -> None:
        """Count what the reply is to the link, and remember its limits."""
        if isinstance(frame, State | Welcome):
            invariants = self.world.invariants
            invariants.told(frame.token, frame.limit_items, frame.limit_bytes)
        if isinstance(frame, State):
            newer = frame.version > link.version
            if frame.executing_s > STUCK_S:
                self.world.count("STATE says stuck")
            self.world.count(f"STATE {'newer' if newer else 'older'} when {link.state.value}")
        else:
            self.world.count(f"{type(frame).__name__.upper()} when {link.state.value}")

    # -- actions out -----------------------------------------------------------------------------

    def act(self, now_s: float) -> None:
        """Do what the core asks, in order."""
        actions = self.core.actions
        while actions:
            action = actions.popleft()
            if isinstance(action, Send):
                self._send(action, now_s)
            elif isinstance(action, Reply):
                self._reply(action, now_s)
            elif isinstance(action, Dial):
                self._dial(action, now_s)
            elif isinstance(action, Bury):
                self.graves.bury(action)
            elif isinstance(action, Hangup):
                self._hang_up(action.link)
            elif isinstance(action, Retire):
                self.world.count("RETIRE")
                self.world.at(now_s + 0.01, self.world.retire, (self,))
            elif isinstance(action, Fail):
                self.world.count("FAIL")

    def _send(self, action: Send, now_s: float) -> None:
        frame = action.frame
        if not self.core.current(action.link, frame.token):  # behind a refused frame
            return
        self.world.note(now_s, self, "->", frame)
        network, socket = self.world.network, self.sockets[action.link]
        payload: SimPayload | None = action.payload  # type: ignore[assignment]
        if type(frame) is Data and payload is not None:
            self.world.invariants.sent(frame, payload)
            self._check_target(action.link, frame)
        elif type(frame) is Heartbeat:
            self.world.effects.stated(frame.watermarks, self)
        elif type(frame) is Hello:
            again = frame.token == self.hello.get(action.link)
            self.world.count("HELLO again" if again else "HELLO after dial")
            self.hello[action.link] = frame.token
        if not network.send(socket, frame, payload, now_s):
            self.world.note(now_s, self, "refused", frame)
            self.world.count(f"{type(frame).__name__.upper()} refused")
            self.core.refused_send(action.link, frame, now_s)

    def _reply(self, action: Reply, now_s: float) -> None:
        frame = action.frame
        self.world.note(now_s, self, "->", frame)
        if isinstance(frame, State):
            self.world.invariants.stated(frame, self._heard(frame.token))
        elif isinstance(frame, Reset):
            self.world.count(f"RESET for {frame.reason}")
        elif isinstance(frame, Refuse):
            self.world.count(f"REFUSE for {frame.code}")
        where = action.endpoint, action.incarnation
        network = self.world.network
        socket = self.replies.get(where)
        if socket is None:
            socket = network.connect(action.link, action.endpoint, now_s, upward=True)
            seat = self.world.seats.get(action.endpoint)
            if seat is not None:
                socket.peer = seat.zombie_of(action.incarnation)
            self.replies[where] = socket
        if not network.send(socket, frame, None, now_s):
            self.world.count(f"{type(frame).__name__.upper()} refused")
            self.core.refused_reply(frame, now_s)

    def _dial(self, action: Dial, now_s: float) -> None:
        old = self.sockets.get(action.link)
        network = self.world.network
        if old is not None:
            network.close(old)
        edge, slot = action.link
        self.sockets[action.link] = network.connect((edge, self.slot), slot, now_s, upward=False)

    def _hang_up(self, link: LinkKey) -> None:
        socket = self.sockets.pop(link, None)
        if socket is not None:
            self.world.network.close(socket)

    def _check_target(self, link: LinkKey, frame: Data) -> None:
        """R8, I18: by the newest words, the slot is there and owns the partitions."""
        edge, slot = link
        outbox = self.core.outboxes[edge]
        if slot not in self.words[outbox.settings.stage][1]:
            raise Violation("I18", f"{self} sends to {slot}, which has left: {frame}")
        if isinstance(outbox, KeyedOutbox):
            for run in frame.runs:
                owner = outbox.owners.slots[run.partition]
                if owner != Slot.parse(slot).index:
                    raise Violation("I18", f"{self} sends {run.partition} to {slot}, not {owner}")

    # -- what the worker and the world report ------------------------------------------------------

    def made(self, edge: int, n: int) -> None:
        """A slice has put units into an outbox, `n` since there was room."""
        self.world.invariants.retained(self.core.outboxes[edge], n)

    def check_suspect(self, portion: Portion) -> None:
        """A suspect unit leaves the inbox alone."""
        if any(run.flags & SUSPECT for run in portion.runs):
            if portion.n != 1:
                raise Violation("I15", f"{portion.n} units were taken with a suspect among them")
            self.world.count("suspect ran alone")

    def poisoned(self, now_s: float) -> None:
        """The slice under way kills the process."""
        self.world.poisoned(self, now_s)

    def crash(self, strikes: int, cause: str) -> Crash:
        """What the black box says when the process dies now."""
        runs = list(self.worker.executing)
        alone = sum(run.n for run in runs) == 1
        return Crash(self.slot, self.incarnation, runs, alone, strikes, cause)

    def count_ledger(self) -> None:
        """Add what this incarnation's books say to what was seen."""
        for outbox in self.core.outboxes.values():
            for column, n in zip(COLUMNS, outbox.ledger.row(), strict=True):
                self.world.transitions[f"ledger {column}"] += n

    def die(self, now_s: float) -> None:
        """Everything in memory is gone."""
        if not self.alive:
            return
        self.alive = False
        self.worker.died(now_s)
        self.count_ledger()
        self.world.network.died(self, now_s)
        self.mail.clear()

    def assign(self, stage: Stage, generation: int, slots: list[int]) -> None:
        """The coordinator says which slots own the partitions of a stage."""
        if not self.alive:
            return
        if stage is self.stage:
            assert isinstance(self.worker, AnchorWorker), "only an anchor has partitions"
            self.worker.assign(generation, slots)
        self.core.assign(stage.name, generation, slots)
        for outbox in self.core.outboxes.values():
            if isinstance(outbox, KeyedOutbox) and outbox.settings.stage == stage.name:
                there = {Slot.parse(link.key[1]).index for link in outbox.links}
                if not there.issuperset(outbox.owners.slots):
                    self.world.count("partition of a slot without a link")
        self.wake(self.world.now_s)

    def resize(self, stage: Stage, generation: int, slots: tuple[str, ...]) -> None:
        """The coordinator says which slots a neighbouring stage has."""
        if self.alive:
            if generation > self.words[stage.name][0]:
                self.words[stage.name] = generation, slots
            self.core.resize(stage.name, generation, slots, self.world.now_s)
            self.wake(self.world.now_s)

    def leave(self) -> None:
        """The coordinator says that this slot leaves its stage."""
        if self.alive:
            self.leaving = True
            self.core.leave()
            self.wake(self.world.now_s)

    def rest(self) -> None:
        """Somebody wants to start it again, without any hurry."""
        self.resting = True
        self.core.pause_intake(True)
        self.wake(self.world.now_s)

    def on_crash(self, crash: Crash, now_s: float) -> None:
        """The supervisor reports a death downstream."""
        if self.alive:
            self.core.on_crash(crash, now_s)
            self.wake(now_s)

    def __repr__(self) -> str:
        return f"{self.slot}#{self.incarnation}{'z' if self.zombie else ''}"


def _facts(link: SenderLink) -> tuple[object, ...]:
    """What a foreign frame must not change."""
    credit = link.credit
    return link.state, link.token, link.version, link.unacked_items, credit.limit_items

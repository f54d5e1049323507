"""One replica's data plane: its inbox, its outboxes and the tasks between them.

Decides only: frames, refusals, crash reports and the results of user code come in with the time,
`actions` go out in order. The same object runs under real sockets and under the simulator.
One thread at a time owns it.

    frames -> inbox -> Portion -> (user code) -> returned / yielded / failed -> outboxes -> actions
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zflow.protocol.actions import Action, Bury, LinkKey
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, InboxSettings, Parcel, Portion, ReceiverLink
from zflow.protocol.keyed import KeyedOutbox
from zflow.protocol.lanes import PriorityOutbox
from zflow.protocol.origin import Origin
from zflow.protocol.outbox import Chance, EdgeSettings, Outbox
from zflow.protocol.outputs import Output, Share, segments_of, shared
from zflow.protocol.overflow import DroppingOutbox, DroppingPriorityOutbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import Identity, LinkState
from zflow.protocol.task import Task
from zflow.wire.data import (
    DEADLINE_ERROR,
    Bye,
    Crash,
    Data,
    Frame,
    Heartbeat,
    Hello,
    Refuse,
    Reset,
    State,
    Welcome,
)
from zflow.wire.payload import Codec, DecodeError, Payload
from zflow.wire.run import cut_runs, lane_flags


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Everything that one replica's core is told at birth.

    upstream: the links that will come in, (edge, slot of the sender); none at a source. anchor: a
    durable stage, whose partitions are the origins of what it makes. generations: of the words that
    `upstream` and the targets of `edges` come from, by stage; 0 if nobody has rescaled it.
    """

    identity: Identity
    inbox: InboxSettings
    edges: tuple[EdgeSettings, ...]
    upstream: frozenset[LinkKey]
    anchor: bool = False
    generations: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginSettings:
    """A source's origin: its number, and the low mark to begin from."""

    origin: int
    stage: str
    low: int


def _kind_of(edge: EdgeSettings) -> type[Outbox]:
    if edge.partitions:
        return KeyedOutbox
    if edge.on_full != "block":
        return DroppingPriorityOutbox if edge.lanes else DroppingOutbox
    return PriorityOutbox if edge.lanes else Outbox


class Core:
    """See the module. `actions` is drained by the driver after every call."""

    def __init__(
        self,
        settings: CoreSettings,
        *,
        codec: Codec,
        new_token: Callable[[], int],
        random: Chance,
        origin: OriginSettings | None = None,
    ) -> None:
        self.settings = settings
        self.actions: deque[Action] = deque()
        self.inbox = Inbox(settings.inbox, self.actions.append, settings.upstream)
        self.running = 0  # units out of the inbox and not yet returned
        self.source_ended = False
        self._codec = codec
        self._generations = dict(settings.generations)
        self._targets: dict[int, Sequence[str]] = {e.edge: e.targets for e in settings.edges}
        self._connecting = False
        self._leaving = False
        self._parted = False  # it leaves, and nobody needs it any more
        self._paused = False
        self._tickets = 0
        self._graves: dict[int, Callable[[], None]] = {}
        self._reported_dead: set[tuple[str, int]] = set()
        self.partitions: dict[int, Origin] = {}  # of a durable stage: its outputs' origins
        self.outboxes = {
            edge.edge: _kind_of(edge)(
                edge,
                settings.identity,
                codec=codec,
                act=self.actions.append,
                new_token=new_token,
                new_ticket=self._new_ticket,
                random=random,
                watermarks=self._watermarks,
            )
            for edge in settings.edges
        }
        self._branchers = {edge: Brancher(edge) for edge in self.outboxes}
        self._find_links()
        self.origin = self._new_origin(origin) if origin is not None else None

    def _new_origin(self, settings: OriginSettings) -> Origin:
        return Origin(
            settings.origin,
            settings.stage,
            low=settings.low,
            act=self.actions.append,
            new_ticket=self._new_ticket,
        )

    def _find_links(self) -> None:
        self._links = {link.key: link for outbox in self.outboxes.values() for link in outbox.links}

    def _watermarks(self) -> Iterator[tuple[int, int]]:
        """What is stated downstream: the origins here, or those of what passes through (R7)."""
        if self.origin is not None:
            yield self.origin.origin, self.origin.low
        elif self.settings.anchor:
            yield from ((origin.origin, origin.low) for origin in self.partitions.values())
        else:
            yield from self.inbox.watermarks.items()

    def _new_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    # -- events ------------------------------------------------------------------------------

    def connect(self, now_s: float) -> None:
        """Dial every downstream slot. Call it once, when all slots are bound."""
        self._connecting = True
        for link in self._links.values():
            if link.state is LinkState.DOWN:
                link.dial(now_s)

    def on_frame(self, frame: Frame, payload: Payload | None, now_s: float) -> None:
        """A frame that arrived on the `in` socket; `payload` with DATA."""
        kind = type(frame)
        if kind is Data and payload is not None:
            self.inbox.on_data(frame, payload, now_s)  # type: ignore[arg-type]
        elif kind is Heartbeat:
            self.inbox.on_heartbeat(frame, now_s)  # type: ignore[arg-type]
        elif kind is Hello:
            self.inbox.on_hello(frame, now_s)  # type: ignore[arg-type]
        elif kind is Bye:
            self.inbox.on_bye(frame)

    def on_reply(self, frame: Frame, now_s: float) -> None:
        """A frame that arrived on the `ack` socket; its token says which link it is about."""
        for link in self._links.values():
            if link.token == frame.token:
                break
        else:
            return
        if isinstance(frame, State):
            link.on_state(frame, now_s)
        elif isinstance(frame, Welcome):
            link.on_welcome(frame, now_s)
        elif isinstance(frame, Reset):
            link.on_reset(frame, now_s)
        elif isinstance(frame, Refuse):
            link.on_refuse(frame, now_s)

    def current(self, key: LinkKey, token: int) -> bool:
        """False if the link has been dialled again, or let go, since a `Send` was asked for."""
        link = self._links.get(key)
        return link is not None and link.token == token

    def refused_send(self, key: LinkKey, frame: Frame, now_s: float) -> None:
        """The driver could not hand a `Send` to its socket."""
        link = self._links.get(key)
        if link is not None:
            link.refused(frame, now_s)

    def refused_reply(self, frame: Frame, now_s: float) -> None:
        """The driver could not hand a `Reply` to its socket."""
        self.inbox.refused(frame, now_s)

    def on_crash(self, crash: Crash, now_s: float) -> None:
        """The supervisor says that an incarnation is dead (R13): its word is as good as death."""
        death = (crash.slot, crash.incarnation)
        if death in self._reported_dead:
            return
        self._reported_dead.add(death)
        for (edge, slot), link in self._links.items():
            if slot != crash.slot:
                continue
            self.outboxes[edge].accused(crash)
            up = link.state is LinkState.UP
            if up and link.peer_incarnation <= crash.incarnation:
                link.recover("peer_lost", now_s)

    def buried(self, ticket: int) -> None:
        """The dead-letter store has committed what `Bury(ticket)` asked."""
        then = self._graves.pop(ticket, None)
        if then is not None:
            then()
            return
        for origin in self._origins():
            if ticket in origin.burying:
                origin.buried(ticket)
                return
        for outbox in self.outboxes.values():
            if ticket in outbox.burying:
                outbox.buried(ticket)

    def _origins(self) -> Iterable[Origin]:
        return self.partitions.values() if self.origin is None else (self.origin,)

    def tick(self, now_s: float) -> None:
        """Timers, then everything that credit allows."""
        if self.inbox.guests:
            self.inbox.see_off(now_s)
        ended = self.quiet()
        if self._leaving:
            self._part(ended, now_s)
        for outbox in self.outboxes.values():
            for link in outbox.links:
                if link.ended != ended:
                    link.set_ended(ended, now_s)
                link.tick(now_s)
            if outbox.roster.leaving and outbox.part(now_s):
                self._find_links()
            outbox.dispatch(now_s)
        self.inbox.tick(now_s)

    def due_s(self) -> float:
        """When `tick` has something to do even if nothing arrives."""
        due_s = self.inbox.due_s()
        for outbox in self.outboxes.values():
            due_s = min(due_s, outbox.due_s())
        return due_s

    # -- work --------------------------------------------------------------------------------

    def full(self) -> bool:
        """True when no more user code may run before something is settled."""
        for origin in self._origins():
            if origin.full():
                return True
        for outbox in self.outboxes.values():  # noqa: SIM110 - asked for every message
            if outbox.full():
                return True
        return False

    def next_parcel(self, now_s: float) -> Parcel | None:
        """The parcel to execute from next, its items decoded; None if there is nothing to do."""
        while self.inbox.parcels and not self._paused:
            parcel = self.inbox.first()
            if parcel.items is not None:
                return parcel
            try:
                items = self._codec.decode(parcel.payload)
                named = sum(run.items for run in parcel.runs)
                if len(items) != named:
                    raise DecodeError(f"the header names {named} items, the body {len(items)}")
                parcel.items = items
            except DecodeError as error:
                self._refuse_parcel(parcel, error, now_s)
        return None

    def _refuse_parcel(self, parcel: Parcel, error: DecodeError, now_s: float) -> None:
        """Nobody here can read it: every unit goes back, not to be tried again."""
        parcel.items = [None] * parcel.n
        self.inbox.leave(parcel, parcel.n, now_s)
        cause = type(error.__cause__ or error).__name__
        parcel.link.fail_all(parcel.first, parcel.n, "decode", cause, str(error))

    def take(self, parcel: Parcel, n: int, now_s: float) -> Portion:
        """Up to `n` units of the parcel leave the inbox; suspects leave one by one."""
        portion = self.inbox.leave(parcel, 1 if parcel.suspect else n, now_s)
        self.running += portion.n
        return portion

    def returned(self, portion: Portion, begin: int, end: int, outputs: Sequence[Output]) -> None:
        """Inputs [begin, end) of the portion have returned; at most one item each and edge."""
        task = Task(portion.link, portion.first + begin, end - begin)
        runs = portion.runs
        if end - begin != portion.n:
            runs = cut_runs(portion.runs, begin, end)
        for output in outputs:
            made = segments_of(self._branchers[output.edge], task, runs, output)
            self._send(output.edge, task, made)
        self.running -= end - begin
        task.returned()

    def _send(self, edge: int, task: Task, segments: Iterable[Segment]) -> None:
        outbox = self.outboxes[edge]
        for segment in segments:
            task.made(segment.n)
            outbox.enqueue(segment)

    def open_task(self, portion: Portion, position: int) -> Task:
        """A task for one input whose outputs come one after the other (`yielded`)."""
        return Task(portion.link, portion.first + position, 1)

    def yielded(
        self,
        task: Task,
        portion: Portion,
        position: int,
        edge: int,
        ordinals: list[int] | range,
        items: list[Any],
        lane: int | None = None,
    ) -> None:
        """Some of what one input yielded on one free edge; `ordinals` count all of its yields."""
        runs = portion.runs
        at = 0
        for run in runs:
            if position < at + run.n:
                break
            at += run.n
        made = self._branchers[edge].yielded(run, position - at, ordinals)
        if lane is not None:
            made.flags = lane_flags(lane)
        task.made(len(items))
        parents = [portion.first + position - task.first] * len(items)
        self.outboxes[edge].enqueue(Segment([made], items, task, parents))

    def open_tasks(self, portion: Portion, begin: int, end: int) -> Task:
        """One task for several inputs whose outputs go to partitions (`yielded_to`)."""
        return Task(portion.link, portion.first + begin, end - begin)

    def yielded_to(
        self, task: Task, portion: Portion, begin: int, edge: int, shares: Iterable[Share]
    ) -> None:
        """What the inputs of an open task, from `begin` on, yielded on one keyed edge."""
        end = begin + task.n
        whole = begin == 0 and end == portion.n
        runs = portion.runs if whole else cut_runs(portion.runs, begin, end)
        self._send(edge, task, shared(self._branchers[edge], task, runs, shares))

    def done(self, task: Task) -> None:
        """The inputs of an open task have yielded their last."""
        self.running -= task.n
        task.returned()

    def failed(
        self, portion: Portion, position: int, code: str, error_class: str, error: str
    ) -> None:
        """One input failed before anything made from it left."""
        self.running -= 1
        portion.link.fail(portion.first + position, code, error_class, error)

    def expired(self, portion: Portion, begin: int, end: int, code: str, error: str) -> None:
        """Inputs [begin, end) of the portion are too old to be executed: EXPIRED or DEADLINE."""
        self.running -= end - begin
        first = portion.first + begin
        portion.link.fail_all(first, end - begin, code, DEADLINE_ERROR, error)

    def forget(self, portion: Portion) -> None:
        """Units that were taken and not begun with are left to their senders: this process ends."""
        self.running -= portion.n

    def failed_open(self, task: Task, code: str, error_class: str, error: str) -> None:
        """One input failed after some of its outputs had left: told when they are settled."""
        task.failed(0, code, error_class, error)
        self.done(task)

    def produced(self, outputs: Sequence[Output], n: int, born_ns: int, mark: Any) -> None:
        """A source has yielded `n` items; `outputs` are what of them goes to each edge.

        mark: where their end is, for the restart; given back as `origin.mark` once settled.
        """
        assert self.origin is not None, "only a source produces"
        self.produced_at(self.origin, outputs, n, born_ns, mark)

    def produced_at(
        self, origin: Origin, outputs: Sequence[Output], n: int, born_ns: int, mark: Any
    ) -> None:
        """The same at one of several origins: a partition has committed `n` outputs."""
        first = origin.next
        run = origin.yielded(n, born_ns, mark)
        task = Task(origin, first, n)
        for output in outputs:
            made = segments_of(self._branchers[output.edge], task, [run], output)
            self._send(output.edge, task, made)
        task.returned()

    def produced_bad(
        self,
        code: str,
        error_class: str,
        error: str,
        mark: Any,
        origin: Origin | None = None,
        items: Sequence[Any] = (),
    ) -> None:
        """A source, or the origin given, has yielded one item that cannot go anywhere.

        items: what is kept of it.
        """
        origin = origin or self.origin
        assert origin is not None, "only an origin produces"
        first = origin.next
        origin.yielded(1, 0, mark)
        origin.fail(first, code, error_class, error, items=items)

    # -- anchors -----------------------------------------------------------------------------

    def acquired(self, partition: int, settings: OriginSettings) -> Origin:
        """This replica owns the partition from now on."""
        origin = self.partitions[partition] = self._new_origin(settings)
        return origin

    def committed(self, link: ReceiverLink, first: int, n: int) -> None:
        """Units of a portion are applied, durably, with everything made from them."""
        self.running -= n
        link.settle(first, n)

    def released(self, partition: int) -> None:
        """This replica owns the partition no longer; its outputs are settled."""
        origin = self.partitions.pop(partition)
        assert origin.empty(), "a partition is let go of once its outputs are settled"

    def given_back(self, link: ReceiverLink, partition: int, first: int, n: int) -> None:
        """Units of a portion belong to a partition of somebody else, and go to whoever owns it."""
        self.running -= n
        link.give_back(partition, first, n)

    def assign(self, stage: str, generation: int, slots: Sequence[int]) -> None:
        """The coordinator's word on which slot of a stage owns each of its partitions."""
        for outbox in self.outboxes.values():
            if isinstance(outbox, KeyedOutbox) and outbox.settings.stage == stage:
                outbox.assign(generation, slots)

    def bury(self, letter: Bury, then: Callable[[], None]) -> None:
        """Commit a dead letter of this stage's own, whatever its ticket; `then` once it is."""
        letter.ticket = self._new_ticket()
        self._graves[letter.ticket] = then
        self.actions.append(letter)

    # -- slots that come and go --------------------------------------------------------------

    def resize(self, stage: str, generation: int, slots: Sequence[str], now_s: float) -> None:
        """The coordinator's word on which slots a neighbouring stage has from now on.

        Words may come late, twice and in any order: the highest generation of each stage counts.
        """
        if generation <= self._generations.get(stage, 0):
            return
        self._generations[stage] = generation
        self.inbox.expect(stage, slots)
        for outbox in self.outboxes.values():
            if outbox.settings.stage == stage:
                self._targets[outbox.settings.edge] = slots
        self._find_targets(now_s)

    def leave(self) -> None:
        """This slot leaves its stage: `retired` once nobody upstream has a link to it.

        If the slot is wanted again before, its senders go on, and so does this process.
        """
        self._leaving = True
        self.inbox.part_all()

    def _find_targets(self, now_s: float) -> None:
        """Links to whom the newest words name; to nobody once this slot has no more to say."""
        for outbox in self.outboxes.values():
            slots = () if self._parted else self._targets[outbox.settings.edge]
            outbox.resize(slots, now_s, dials=self._connecting)
        self._find_links()

    def _part(self, ended: bool, now_s: float) -> None:  # noqa: FBT001 - as `tick` has found it
        """Once nobody upstream has a link here, end those downstream.

        An old word may bring a sender or a partition back: then it has to be served after all.
        """
        parted = ended and not self.inbox.links and not self.partitions and self.settled()
        if parted != self._parted:
            self._parted = parted
            self._find_targets(now_s)

    def retired(self) -> bool:
        """The slot was told to leave, everything upstream and downstream knows, nothing is open.

        From then on the process may go at any time; `finish` has nothing left to do.
        """
        gone = self._parted and not self._links and not self.inbox.links
        return gone and not self.partitions and self.settled()

    # -- end ---------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """Nothing more will be queued: the inputs have ended and nothing waits here."""
        if self.running or any(o.queued or o.retrying for o in self.outboxes.values()):
            return False
        if self.origin is not None:
            return self.source_ended
        return self.inbox.ended()

    def settled(self) -> bool:
        """Nothing is open anywhere in this process."""
        return not self.inbox.parcels and self.at_rest()

    def at_rest(self) -> bool:
        """Nothing that was begun is open; units that nobody has begun with may wait."""
        if self.running or any(not origin.empty() for origin in self._origins()):
            return False
        return not any(outbox.open_units() for outbox in self.outboxes.values())

    def pause_intake(self, paused: bool) -> None:  # noqa: FBT001 - the name says what is true
        """While it is paused, nothing more is taken out of the inbox.

        What waits there is nobody's loss: its senders keep it, and send it to a successor.
        """
        self._paused = paused

    def connected(self) -> bool:
        """Every downstream link is up, but for those that leave."""
        return all(link.state is LinkState.UP or link.retiring for link in self._links.values())

    def finish(self) -> None:
        """BYE on every link; raises ValueError if anything is still open."""
        if not self.settled():
            raise ValueError("a core with open units cannot finish")
        for link in self._links.values():
            link.close()

"""The receiving side of one replica: links from upstream, and what waits to be executed.

Decides only. Rules: accept `lseq == next` of the current token and nothing else (I8, I9); credit
returns when a unit leaves the inbox (R4); STATE is a snapshot with a version (R3).
What waits under an older token of the same sender is dropped when a new token comes: the sender
still has it and can no longer be told of it, so executing it could only make duplicates.

Slots upstream come and go. The inputs have ended when every expected link has, and there is no
other. A link that nobody expects is a guest: it is served, and dropped once it has said BYE. If the
BYE was lost with its sender, it is dropped after 10 s of silence with nothing waiting: a sender
that lives after all is told so at its next heartbeat, and still has what it needs (R13). To a slot
that leaves all are guests.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zflow.ids import Slot
from zflow.intervals import IntervalSet
from zflow.protocol.actions import Action, LinkKey, Reply
from zflow.protocol.credit import ReceiverCredit, Window
from zflow.protocol.sender import LOST_S
from zflow.protocol.turns import Turns
from zflow.wire.data import (
    MAX_ERROR_BYTES,
    NOT_OWNER,
    Crash,
    Data,
    Frame,
    Heartbeat,
    Hello,
    Nack,
    Refuse,
    Reset,
    State,
    Welcome,
)
from zflow.wire.payload import Payload
from zflow.wire.run import SUSPECT, Run, cut_runs, item_span

STATE_EVERY_S = 0.005
RETRY_REPLY_S = 0.002  # a reply the socket refused: the connection is being made
INCARNATION_SHIFT = 32  # of a statement's version; below it they are counted
RETRY_REPLY_MAX_S = 0.1  # or the sender is dead, and will say HELLO when it is back


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """What one replica declares to everybody upstream."""

    run_id: str
    slot: str
    incarnation: int
    generation: int
    codec: str
    edges: frozenset[int]
    window_items: int = 65_536
    window_bytes: int = 64 * 1024 * 1024
    inbox_bytes: int = 256 * 1024 * 1024
    crashes: tuple[Crash, ...] = field(default=())
    fair_ratio: float | None = None  # None where no edge has priorities: first come, first served


class Parcel:
    """One accepted message, waiting; `taken` of its units have left the inbox.

    suspect: its units run alone (a message mixes no suspects with others).
    """

    __slots__ = (
        *("arrived_s", "first", "items", "lane", "link", "n", "payload", "runs", "size_bytes"),
        *("suspect", "taken"),
    )

    def __init__(
        self, link: "ReceiverLink", frame: Data, payload: Payload, arrived_s: float = 0.0
    ) -> None:
        self.link = link
        self.first = frame.first
        self.n = frame.n
        self.runs = frame.runs
        self.payload = payload
        self.size_bytes = payload.size_bytes
        self.suspect = bool(frame.runs[0].flags & SUSPECT)
        self.items: list[Any] | None = None
        self.lane = frame.runs[0].lane
        self.taken = 0
        self.arrived_s = arrived_s


class Portion:
    """Units taken out of the inbox to be executed now; `items` of one after the other."""

    __slots__ = ("first", "items", "link", "n", "runs")

    def __init__(
        self, link: "ReceiverLink", first: int, n: int, runs: list[Run], items: list[Any]
    ) -> None:
        self.link = link
        self.first = first
        self.n = n
        self.runs = runs
        self.items = items


class Stray:
    """Units of one partition that came to somebody who is not its owner.

    version: of the statement that gives the last of them back. end: where those end which were
    sent before the sender knew; unknown until it has seen that.
    """

    __slots__ = ("end", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.end: float = float("inf")


class ReceiverLink:
    """One token of one (edge, sender slot). It owns the tasks of what came over it."""

    def __init__(self, hello: Hello, credit: ReceiverCredit, incarnation: int) -> None:
        self.key: LinkKey = (hello.edge, hello.sender)
        self.token = hello.token
        self.incarnation = hello.incarnation
        self.dial = hello.dial
        self.ack_endpoint = hello.ack_endpoint
        self.ended = hello.ended
        self.parted = False  # it has said BYE
        self.heard_s = 0.0  # when it last said HELLO, or that it lives
        self.next = 0
        # A late HELLO may give a predecessor's token to us: our statements must outrank its own,
        # and what the sender has seen of them must not count as seen of ours.
        self.version = incarnation << INCARNATION_SHIFT
        self.credit = credit
        self.held = 0  # units in the inbox
        self.changed_s = float("inf")  # when something not yet stated happened
        self.refusals = 0  # replies the socket did not take since the sender was last heard
        self.welcome_due_s = float("inf")
        self.acked = IntervalSet()
        self.nacks: deque[tuple[int, Nack]] = deque()  # with the version that first stated it
        self.strays: dict[int, Stray] = {}  # by partition

    def settle(self, first: int, n: int) -> None:
        """Owner of a task: these units are processed with everything made from them."""
        self.acked.add(first, first + n)
        self.changed_s = 0.0

    def fail(
        self, first: int, code: str, error_class: str, error: str, *, partial: bool = False
    ) -> None:
        """Owner of a task: this unit is the sender's again."""
        self._nack(first, 1, code, error_class, error, partial)

    def fail_all(self, first: int, n: int, code: str, error_class: str, error: str) -> None:
        """Units [first, first + n) failed together, before anything was made of them."""
        self._nack(first, n, code, error_class, error, partial=False)

    def give_back(self, partition: int, first: int, n: int) -> None:
        """Units of a partition that is not owned here, or was not when others of it came."""
        self.strays[partition] = Stray(self.version + 1)
        self._nack(first, n, NOT_OWNER, "NotOwner", "", partial=False)

    def is_stray(self, partition: int, first: int) -> bool:
        """True for units behind some that were given back and that the sender did not know of.

        They go back too, even if the partition has come here meanwhile: order would be lost.
        """
        stray = self.strays.get(partition)
        if stray is None or first < stray.end:
            return stray is not None
        del self.strays[partition]
        return False

    def _nack(
        self, first: int, n: int, code: str, error_class: str, error: str, partial: bool
    ) -> None:
        raw = error.encode(errors="replace")[-MAX_ERROR_BYTES:]
        text = raw.decode(errors="ignore")  # a letter that was cut in two is left out
        name = error_class.encode(errors="replace").decode()
        self.nacks.append((self.version + 1, Nack(first, n, code, name, text, partial)))
        self.changed_s = 0.0

    def seen(self, version: int) -> None:
        """The sender has applied every statement up to `version`."""
        while self.nacks and self.nacks[0][0] <= version:
            _, nack = self.nacks.popleft()
            # The sender has let go of these units on this link, so calling them acknowledged
            # from now on changes nothing and keeps the set one range.
            self.acked.add(nack.first, nack.first + nack.n)
        for stray in self.strays.values():
            if stray.version <= version:  # what is sent from here on was sent knowing it
                stray.end = min(stray.end, self.next)

    def state(self, window: int, executing_s: float) -> State:
        """The next statement."""
        self.version += 1
        self.changed_s = float("inf")
        self.credit.stated(window)
        acked = [bound for pair in self.acked for bound in pair]
        return State(
            self.token,
            self.version,
            self.next,
            self.credit.limit_items,
            self.credit.limit_bytes,
            window,
            acked,
            [nack for _, nack in self.nacks],
            executing_s,
        )


class Inbox:
    """All receiver links of one replica and the queue of parcels. One thread at a time owns it.

    expected: the links that there will be, until a word says otherwise. guests: links that may be
    dropped.
    """

    def __init__(
        self,
        settings: InboxSettings,
        act: Callable[[Action], None],
        expected: Iterable[LinkKey] = (),
    ) -> None:
        self.settings = settings
        self.generation = settings.generation  # rises while this process lives
        self.expected = set(expected)
        self.window = Window(max_items=settings.window_items)
        self.links: dict[LinkKey, ReceiverLink] = {}
        self.parcels: deque[Parcel] = deque()
        self._turns = Turns(settings.fair_ratio) if settings.fair_ratio is not None else None
        self.watermarks: dict[int, int] = {}  # the highest known low mark of each origin (R7)
        self.executing_since_s: float | None = None
        self.stale_frames = 0
        self._tokens: dict[int, ReceiverLink] = {}
        self._stages = {edge: Slot.parse(slot).stage for edge, slot in self.expected}
        self.guests: list[ReceiverLink] = []
        self._leaving = False
        # Of links that have ended: the first (incarnation, dial) that may make another.
        self._first: dict[LinkKey, tuple[int, int]] = {}
        self._act = act

    # -- who there is ------------------------------------------------------------------------

    def expect(self, stage: str, slots: Sequence[str]) -> None:
        """A stage upstream has these slots from now on."""
        edges = [edge for edge, of in self._stages.items() if of == stage]
        self.expected = {key for key in self.expected if key[0] not in edges}
        self.expected.update((edge, slot) for edge in edges for slot in slots)
        self._find_guests()

    def part_all(self) -> None:
        """This slot leaves: whoever says BYE is dropped, expected or not."""
        self._leaving = True
        self._find_guests()

    def _find_guests(self) -> None:
        expected = () if self._leaving else self.expected
        self.guests = [link for key, link in self.links.items() if key not in expected]

    def see_off(self, now_s: float) -> None:
        """Drop the guests that are through; their share of the window goes to the others."""
        for link in self.guests:
            silent = now_s - link.heard_s >= LOST_S
            if not link.held and (link.parted or silent):
                del self.links[link.key]
                self._tokens.pop(link.token, None)
                known = self._first.get(link.key, (0, 0))
                self._first[link.key] = max(known, (link.incarnation, link.dial))
        self._find_guests()

    # -- frames ------------------------------------------------------------------------------

    def on_hello(self, frame: Hello, now_s: float) -> None:
        """A sender makes or repeats a link (the highest (incarnation, dial) wins)."""
        link = self.links.get((frame.edge, frame.sender))
        refusal = self._refusal(frame, link)
        if refusal is not None:
            self._refuse(frame, *refusal)
            return
        if link is None or link.token != frame.token:
            link = self._replace(frame, link)
        link.ended = frame.ended
        link.refusals = 0
        link.heard_s = now_s
        self._welcome(link, now_s)

    def _refusal(self, frame: Hello, link: ReceiverLink | None) -> tuple[str, int] | None:
        mine = self.settings
        if frame.run_id != mine.run_id or frame.edge not in mine.edges:
            return "not_mine", 0
        if frame.codec != mine.codec:
            return "codec", 0
        if frame.generation > self.generation:
            return "generation", 0
        if link is not None and (frame.incarnation, frame.dial) < (link.incarnation, link.dial):
            return "stale_incarnation", link.incarnation
        first = self._first.get((frame.edge, frame.sender))
        if first is not None and (frame.incarnation, frame.dial) < first:
            return "stale_incarnation", first[0]
        return None

    def _refuse(self, frame: Hello, code: str, current: int) -> None:
        answer = Refuse(frame.token, code, current, 1.0)
        key = (frame.edge, frame.sender)
        self._act(Reply(key, frame.ack_endpoint, frame.incarnation, answer))

    def _replace(self, frame: Hello, old: ReceiverLink | None) -> ReceiverLink:
        if old is not None:
            self._tokens.pop(old.token, None)
            self.parcels = deque(p for p in self.parcels if p.link is not old)
        links = len(self.links) + (old is None)
        credit = ReceiverCredit(self.window.items(links), self._window_bytes(links))
        link = ReceiverLink(frame, credit, self.settings.incarnation)
        self.links[link.key] = link
        self._tokens[link.token] = link
        self._find_guests()
        return link

    def _window_bytes(self, links: int) -> int:
        return min(self.settings.window_bytes, self.settings.inbox_bytes // max(1, links))

    def _welcome(self, link: ReceiverLink, now_s: float) -> None:
        mine = self.settings
        limits = link.credit.limit_items, link.credit.limit_bytes
        answer = Welcome(link.token, mine.slot, mine.incarnation, *limits, list(mine.crashes))
        link.welcome_due_s = float("inf")
        self._reply(link, answer)
        self._state(link, now_s)

    def on_data(self, frame: Data, payload: Payload, now_s: float) -> None:
        """Accept exactly the next units of a known token; anything else makes the sender dial."""
        link = self._known(frame)
        if link is None:
            return
        if frame.first < link.next:  # an old copy; what we have, STATE tells
            link.changed_s = min(link.changed_s, now_s)
            return
        if frame.first > link.next or link.next + frame.n > link.credit.limit_items:
            self._reset(link, "gap" if frame.first > link.next else "credit")
            return
        link.next += frame.n
        link.held += frame.n
        parcel = Parcel(link, frame, payload, now_s)
        if self._turns is None:
            self.parcels.append(parcel)
        else:
            self._line_up(parcel)

    def _line_up(self, parcel: Parcel) -> None:
        """Behind whatever is as urgent; there are never more than a window of them."""
        at = len(self.parcels)
        while at and self.parcels[at - 1].lane > parcel.lane:
            at -= 1
        self.parcels.insert(at, parcel)

    def on_heartbeat(self, frame: Heartbeat, now_s: float) -> None:
        """Find a lost tail, and answer with the state."""
        link = self._known(frame)
        if link is None:
            key = (frame.edge, frame.sender)
            lost = Reset(frame.token, "token")
            self._act(Reply(key, frame.ack_endpoint, frame.incarnation, lost))
            return
        link.refusals = 0
        link.heard_s = now_s
        link.seen(frame.version_seen)
        self._raise_watermarks(frame.watermarks)
        if frame.next > link.next:
            self._reset(link, "gap")
            return
        link.ended = frame.ended  # believed only behind everything that was sent
        self._state(link, now_s)

    def _raise_watermarks(self, marks: list[int]) -> None:
        known = self.watermarks
        for origin, low in zip(marks[::2], marks[1::2], strict=False):
            if low > known.get(origin, -1):
                known[origin] = low

    def on_bye(self, frame: Frame) -> None:
        """The sender is through; whatever comes with this token later is told so."""
        link = self._tokens.pop(frame.token, None)
        if link is not None:
            link.ended = link.parted = True
            self._first[link.key] = link.incarnation, link.dial + 1

    def _known(self, frame: Frame) -> ReceiverLink | None:
        link = self._tokens.get(frame.token)
        if link is None:
            # Of a link that was replaced or that a predecessor had. DATA names no address to
            # answer to; the sender's next heartbeat does.
            self.stale_frames += 1
        return link

    # -- statements --------------------------------------------------------------------------

    def _reply(self, link: ReceiverLink, frame: Frame) -> None:
        self._act(Reply(link.key, link.ack_endpoint, link.incarnation, frame))

    def _reset(self, link: ReceiverLink, reason: str) -> None:
        self._reply(link, Reset(link.token, reason))

    def _state(self, link: ReceiverLink, now_s: float) -> None:
        links = len(self.links)
        window = self.window.items(links)
        link.credit.widen(window, self._window_bytes(links))
        since_s = self.executing_since_s
        executing_s = 0.0 if since_s is None else now_s - since_s
        self._reply(link, link.state(window, executing_s))

    def refused(self, frame: Frame, now_s: float) -> None:
        """A reply was not taken: state it again shortly, it is all state."""
        link = self._tokens.get(frame.token)
        if link is None:
            return
        wait_s = min(RETRY_REPLY_MAX_S, RETRY_REPLY_S * 2.0**link.refusals)
        link.refusals = min(link.refusals + 1, 16)
        if type(frame) is Welcome:
            link.welcome_due_s = now_s + wait_s
        else:
            link.changed_s = min(link.changed_s, now_s + wait_s - STATE_EVERY_S)

    def tick(self, now_s: float) -> None:
        """State what has changed, at most every 5 ms or when a quarter of a window is free."""
        for link in self.links.values():
            if link.welcome_due_s <= now_s:
                self._welcome(link, now_s)
            if link.changed_s == 0.0:
                link.changed_s = now_s
            if link.changed_s + STATE_EVERY_S <= now_s:
                self._state(link, now_s)

    def due_s(self) -> float:
        """When `tick` has something to say."""
        links = self.links.values()
        due_s = min(
            (min(k.changed_s + STATE_EVERY_S, k.welcome_due_s) for k in links), default=1e18
        )
        for link in self.guests:
            if not link.held:
                due_s = min(due_s, 0.0 if link.parted else link.heard_s + LOST_S)
        return due_s

    # -- work --------------------------------------------------------------------------------

    def first(self) -> Parcel:
        """The parcel whose turn it is; there is one."""
        if self._turns is not None and len(self.parcels) > 1:
            lane = self._turns.next(self._lanes())
            if lane != self.parcels[0].lane:
                chosen = next(parcel for parcel in self.parcels if parcel.lane == lane)
                self.parcels.remove(chosen)
                self.parcels.appendleft(chosen)
        return self.parcels[0]

    def _lanes(self) -> list[int]:
        return sorted({parcel.lane for parcel in self.parcels})

    def leave(self, parcel: Parcel, n: int, now_s: float) -> Portion:
        """Take the next `n` units of the first parcel out of the inbox; its items are decoded."""
        begin = parcel.taken
        end = begin + n if begin + n < parcel.n else parcel.n
        assert parcel.items is not None, "a parcel is decoded before units leave it"
        link = parcel.link
        items, runs, share = parcel.items, parcel.runs, parcel.size_bytes
        if end - begin != parcel.n:
            first, last = item_span(runs, begin, end)
            items = items[first:last]
            runs = cut_runs(runs, begin, end)
            share = share * end // parcel.n - share * begin // parcel.n
        parcel.taken = end
        if self._turns is not None:
            self._turns.served(parcel.lane, self._lanes(), end - begin)
        if end == parcel.n:
            self.parcels.popleft()
        link.held -= end - begin
        if link.changed_s > now_s:
            link.changed_s = now_s
        if link.credit.free(end - begin, share):
            self._state(link, now_s)
        return Portion(link, parcel.first + begin, end - begin, runs, items)

    def ended(self) -> bool:
        """All expected links exist and have said that nothing more is queued; there is no guest.

        Of a slot that leaves it is enough that nobody is left.
        """
        return not self.parcels and self.complete()

    def complete(self) -> bool:
        """Nothing more comes than what waits here, unless a unit fails and is sent again."""
        return all(link.ended for link in self.links.values()) and (
            self.links.keys() == self.expected or (self._leaving and not self.links)
        )

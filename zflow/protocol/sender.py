"""One sender link: handshake, credit, what is unacknowledged, and the one recovery.

Decides only; never touches a socket or a clock.
Rules: a unit is retained until an ack or nack of *this token* names it (R2, R5); frames with
another token change nothing (I9); the only thing that sends again is `recover` (R10).

| state   | event                             | then                                            |
|---------|-----------------------------------|-------------------------------------------------|
| DOWN    | dial                              | new token, HELLO -> DIALING                      |
| DIALING | WELCOME of our token              | limits, crash reports -> UP                      |
| DIALING | REFUSE, timer                     | back off, HELLO again                            |
| UP      | STATE, our token, newer           | limits, acks, nacks                              |
| UP      | RESET, refused DATA, peer lost    | recover: everything back to the queue -> DIALING |
| UP      | drain, nothing open               | BYE -> CLOSED                                    |
| UP      | retired, nothing open             | BYE, heartbeat -> LEAVING                        |
| LEAVING | timer                             | BYE, heartbeat again                             |
| LEAVING | RESET: the link is forgotten      | hang up -> CLOSED                                |
| any     | retired, nothing open for 10 s    | hang up -> CLOSED                                |

A BYE may be lost like any frame, so it is said until the receiver knows the token no longer. One
that never answers, or is no longer there, forgets a silent link by itself (`protocol.inbox`).
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from zflow.intervals import IntervalSet
from zflow.protocol.actions import Action, Dial, Hangup, LinkKey, Retire, Send
from zflow.protocol.credit import SenderCredit
from zflow.protocol.segment import Segment
from zflow.wire.data import (
    Bye,
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
from zflow.wire.run import item_span

HEARTBEAT_S = 1.0
LOST_S = 10.0
STUCK_S = 30.0
HELLO_FIRST_S = 0.1
HELLO_MAX_S = 2.0
REFUSED_FIRST_S = 0.002  # the connection is usually there a millisecond after the dial
REFUSED_MAX_S = 0.1


class LinkState(Enum):
    """See the module's table."""

    DOWN = "down"
    DIALING = "dialing"
    UP = "up"
    LEAVING = "leaving"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What HELLO says of the sender; the same for all links of one process."""

    run_id: str
    slot: str
    incarnation: int
    ack_endpoint: str
    generation: int
    codec: str


class Sent:
    """One message on the link; `left` of its units are open."""

    __slots__ = ("first", "items", "left", "n", "payload", "segments", "size_bytes")

    def __init__(
        self, first: int, n: int, segments: list[Segment], payload: Payload | None, size_bytes: int
    ) -> None:
        self.first = first
        self.n = n
        self.left = n
        self.segments = segments
        self.payload = payload
        self.size_bytes = size_bytes
        self.items: list[Any] | None = None  # decoded again, once one of them came back


class Queue(Protocol):
    """What a link needs of the edge it belongs to."""

    def settled(self, segment: Segment, begin: int, end: int) -> None:
        """Units [begin, end) of the segment are processed by the receiver."""

    def nacked(self, segment: Segment, nack: Nack, now_s: float) -> None:
        """The segment's one unit failed at the receiver."""

    def returned(self, segments: list[Segment], reason: str) -> None:
        """Units taken back from a link, in send order, to be sent again."""

    def accused(self, crash: Crash) -> None:
        """The receiver reports what its predecessor was executing."""

    def items_of(self, sent: "Sent") -> list[Any]:
        """The items of a message, as it is retained."""


class SenderLink:
    """From one edge of this process to one downstream slot. One thread at a time owns it.

    watermarks: (origin, low) of all that may come over this link, asked for at each heartbeat (R7).
    dials: that there were before, of an earlier link to the same slot.
    """

    def __init__(
        self,
        key: LinkKey,
        queue: Queue,
        identity: Identity,
        act: Callable[[Action], None],
        new_token: Callable[[], int],
        watermarks: Callable[[], Iterable[tuple[int, int]]] = tuple,
        dials: int = 0,
    ) -> None:
        self.key = key
        self.state = LinkState.DOWN
        self.token = 0
        self.dials = dials
        self.credit = SenderCredit()
        self.unacked: deque[Sent] = deque()
        self.unacked_items = 0
        self.unacked_bytes = 0
        self.next = 0
        self.version = 0
        self.peer_incarnation = 0
        self.stuck = False
        self.retiring = False
        self.barred = False  # stuck or retiring: nothing new is sent
        self.ended = False
        self._queue = queue
        self._identity = identity
        self._act = act
        self._new_token = new_token
        self._watermarks = watermarks
        self._acked = IntervalSet()
        self._due_s = 0.0
        self._backoff = 0
        self._heard_s = 0.0
        self._refused_since_s: float | None = None
        self._idle_since_s: float | None = None  # retired, and nothing is open

    # -- handshake ---------------------------------------------------------------------------

    def dial(self, now_s: float) -> None:
        """A new socket and a new token; everything known of the old link is void."""
        self.state = LinkState.DIALING
        self.token = self._new_token()
        self.dials += 1
        self.credit = SenderCredit()
        self.next = 0
        self.version = 0
        self.stuck = False
        self.barred = self.retiring
        self._acked = IntervalSet()
        self._backoff = 0
        self._heard_s = now_s
        self._refused_since_s = None
        self._act(Dial(self.key))
        self._hello(now_s)

    def _hello(self, now_s: float) -> None:
        me = self._identity
        self._act(
            Send(
                self.key,
                Hello(
                    self.token,
                    me.run_id,
                    me.slot,
                    me.incarnation,
                    self.dials,
                    me.ack_endpoint,
                    self.key[0],
                    me.generation,
                    me.codec,
                    self.ended,
                ),
            )
        )
        self._due_s = now_s + min(HELLO_MAX_S, HELLO_FIRST_S * 2**self._backoff)
        self._backoff += 1

    def on_welcome(self, frame: Welcome, now_s: float) -> None:
        """The receiver takes the link; a repeated WELCOME only raises limits."""
        if frame.token != self.token or self.state not in (LinkState.DIALING, LinkState.UP):
            return
        self._heard_s = now_s
        for crash in frame.crashes:
            self._queue.accused(crash)
        self.credit.raise_to(frame.limit_items, frame.limit_bytes)
        self.credit.window_items = max(1, self.credit.window_items, frame.limit_items)
        self.peer_incarnation = frame.incarnation
        if self.state is LinkState.DIALING:
            self.state = LinkState.UP
            self._due_s = now_s + HEARTBEAT_S

    def on_reset(self, frame: Reset, now_s: float) -> None:
        """The receiver has lost the thread of this link, or knows it no longer."""
        if frame.token != self.token:
            return
        if self.state is LinkState.UP:
            self.recover("reset", now_s)
        elif self.state is LinkState.LEAVING:
            self._hang_up()

    def on_refuse(self, frame: Refuse, now_s: float) -> None:
        """Not now: say HELLO again after the time the receiver asks for; or we are a zombie."""
        if frame.token == self.token and self.state is LinkState.DIALING:
            if frame.code == "stale_incarnation" and frame.current > self._identity.incarnation:
                self._act(Retire(frame.current))
            wait_s = min(max(0.0, frame.retry_after_s), HELLO_MAX_S)
            self._due_s = max(self._due_s, now_s + wait_s)

    # -- sending -----------------------------------------------------------------------------

    def room(self) -> int:
        """Units that may be sent now."""
        if self.state is not LinkState.UP or self.barred:
            return 0
        return self.credit.room_items()

    def free_share(self) -> float:
        """Free credit relative to the window: who has most of it is served first."""
        return self.room() / self.credit.window_items

    def push(self, segments: list[Segment], n: int, payload: Payload, *, retain: bool) -> None:
        """Send one message and, unless the edge is at_most_once, keep its payload."""
        size_bytes = payload.size_bytes
        runs = [run for segment in segments for run in segment.runs]
        frame = Data(self.token, self.next, n, runs, payload.sizes)
        for segment in segments:
            segment.items = None
        kept_bytes = size_bytes if retain else 0
        sent = Sent(self.next, n, segments, payload if retain else None, kept_bytes)
        self.unacked.append(sent)
        self.unacked_items += n
        self.unacked_bytes += kept_bytes
        self.next += n
        self.credit.take(n, size_bytes)
        self._act(Send(self.key, frame, payload))

    def refused(self, frame: Frame, now_s: float) -> None:
        """The socket did not take the frame: there is no connection, or the trip-wire was hit."""
        if frame.token != self.token:
            return
        if type(frame) is Data:
            self.recover("peer_lost", now_s)
        elif type(frame) is Hello:
            self._backoff -= 1
            wait_s = REFUSED_FIRST_S * 2 ** min(self.dials_refused(now_s), 6)
            self._due_s = now_s + min(REFUSED_MAX_S, wait_s)
        elif self._refused_since_s is None:
            self._refused_since_s = now_s

    def dials_refused(self, now_s: float) -> int:
        """How long HELLO has been refused, as a power of two of the first wait."""
        waited = (now_s - self._heard_s) / REFUSED_FIRST_S
        return max(0, int(waited).bit_length())

    # -- what the receiver says --------------------------------------------------------------

    def on_state(self, frame: State, now_s: float) -> None:
        """A snapshot of the receiver's side: limits, acks, nacks. Old or foreign ones are void."""
        if frame.token != self.token or self.state is not LinkState.UP:
            return
        self._heard_s = now_s
        self._refused_since_s = None
        if frame.version <= self.version:
            return
        if not self._plausible(frame):
            self.recover("reset", now_s)
            return
        self.version = frame.version
        self.credit.raise_to(frame.limit_items, frame.limit_bytes)
        self.credit.window_items = max(1, frame.window)
        self.stuck = frame.executing_s > STUCK_S
        self.barred = self.stuck or self.retiring
        ranges = frame.acked
        for at in range(0, len(ranges), 2):
            for begin, end in self._acked.missing(ranges[at], ranges[at + 1]):
                self._acked_range(begin, end)
            self._acked.add(ranges[at], ranges[at + 1])
        if frame.nacks:
            for nack in frame.nacks:
                self._on_nack(nack, now_s)
            self.heartbeat(now_s)  # the receiver repeats nacks until it hears that they were seen
        while self.unacked and self.unacked[0].left == 0:
            self.unacked.popleft()

    def _plausible(self, frame: State) -> bool:
        """Nothing that was never sent is acknowledged; the border against a broken peer."""
        ranges = frame.acked
        if len(ranges) % 2 or any(a >= b for a, b in zip(ranges[::2], ranges[1::2], strict=True)):
            return False
        ends = [*ranges[1::2], *(nack.first + nack.n for nack in frame.nacks)]
        return all(end <= self.next for end in ends) and min(ranges, default=0) >= 0

    def _acked_range(self, begin: int, end: int) -> None:
        for sent in self.unacked:
            if sent.first + sent.n <= begin:
                continue
            if sent.first >= end:
                break
            low, high = max(begin, sent.first), min(end, sent.first + sent.n)
            self._close(sent, high - low)
            at = sent.first
            for segment in sent.segments:
                from_, to = max(low, at) - at, min(high, at + segment.n) - at
                if from_ < to:
                    self._queue.settled(segment, from_, to)
                at += segment.n

    def _on_nack(self, nack: Nack, now_s: float) -> None:
        for begin, end in self._acked.missing(nack.first, nack.first + nack.n):
            for sent in self.unacked:
                low, high = max(begin, sent.first), min(end, sent.first + sent.n)
                if low < high:
                    segments = self._extract(sent, low, high)
                    self._close(sent, high - low)
                    for segment in segments:
                        for k in range(segment.n):
                            self._queue.nacked(segment.part(k, k + 1), nack, now_s)
            self._acked.add(begin, end)

    def _close(self, sent: Sent, units: int) -> None:
        """`units` of a message are no longer open; its payload goes with the last."""
        sent.left -= units
        self.unacked_items -= units
        if sent.left == 0:
            self.unacked_bytes -= sent.size_bytes
            sent.payload = None
            sent.items = None

    def _extract(self, sent: Sent, begin: int, end: int) -> list[Segment]:
        """Units [begin, end) of the link, with their items, out of a retained message."""
        if sent.items is None:
            sent.items = self._queue.items_of(sent)
        items = sent.items
        runs = [run for segment in sent.segments for run in segment.runs]
        parts = []
        at = sent.first
        for segment in sent.segments:
            low, high = max(begin, at), min(end, at + segment.n)
            if low < high:
                first, last = item_span(runs, low - sent.first, high - sent.first)
                own = items[first:last]
                parts.append(segment.part(low - at, high - at, own))
            at += segment.n
        return parts

    def open_partitions(self) -> set[int]:
        """Those of which something is on its way, neither acknowledged nor given back."""
        found = set()
        for sent in self.unacked:
            at = sent.first
            for segment in sent.segments if sent.left else ():
                if self._acked.missing(at, at + segment.n):
                    found.add(segment.runs[0].partition)
                at += segment.n
        return found

    # -- recovery ----------------------------------------------------------------------------

    def recover(self, reason: str, now_s: float) -> None:
        """R10: a new token; every open unit goes back to its queue, in send order."""
        back = []
        for sent in self.unacked:
            if sent.left:
                for begin, end in self._acked.missing(sent.first, sent.first + sent.n):
                    back.extend(self._extract(sent, begin, end))
        self.unacked.clear()
        self.unacked_items = 0
        self.unacked_bytes = 0
        self.dial(now_s)
        self._queue.returned(back, reason)

    def tick(self, now_s: float) -> None:
        """HELLO again, heartbeat, or give the peer up; call it when `due_s` has come."""
        if now_s < self._due_s:
            return
        if self.state is LinkState.DIALING:
            self._hello(now_s)
        elif self.state is LinkState.UP:
            refused_s = now_s - (self._refused_since_s or now_s)
            if refused_s >= LOST_S and now_s - self._heard_s >= LOST_S:
                self.recover("peer_lost", now_s)
                return
            self.heartbeat(now_s)
        elif self.state is LinkState.LEAVING:
            self._say_bye(now_s)

    def set_ended(self, ended: bool, now_s: float) -> None:
        """Nothing more is queued for now, or something is again; said at once (H26)."""
        self.ended = ended
        if self.state is LinkState.UP:
            self.heartbeat(now_s)

    def heartbeat(self, now_s: float) -> None:
        """Say how far the link has gone; the answer repeats whatever STATE was lost (R3)."""
        me = self._identity
        marks = [number for pair in self._watermarks() for number in pair]
        frame = Heartbeat(
            self.token,
            self.next,
            self.version,
            self.ended,
            self.key[0],
            me.slot,
            me.incarnation,
            me.ack_endpoint,
            marks,
        )
        self._act(Send(self.key, frame))
        self._due_s = now_s + HEARTBEAT_S

    def due_s(self) -> float:
        """When `tick` has something to do."""
        idle = self.state in (LinkState.DOWN, LinkState.CLOSED)
        return float("inf") if idle else self._due_s

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is open and nothing will come: BYE."""
        if self.unacked_items:
            raise ValueError(f"link {self.key} still has {self.unacked_items} units open")
        if self.state is LinkState.UP:
            self._act(Send(self.key, Bye(self.token)))
        if self.state is not LinkState.CLOSED:
            self._hang_up()

    def retire(self) -> None:
        """Its slot leaves: nothing new goes there."""
        self.retiring = self.barred = True

    def stay(self, now_s: float) -> None:
        """Its slot is there again. A link whose BYE was said is made anew."""
        self.retiring = False
        self.barred = self.stuck
        self._idle_since_s = None
        if self.state in (LinkState.LEAVING, LinkState.CLOSED):
            self.dial(now_s)

    def part(self, now_s: float) -> None:
        """Go on with the end of a retired link; it is CLOSED in the end."""
        if self.unacked_items or self.state is LinkState.CLOSED:
            return
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        if self.state is LinkState.UP:
            self.state = LinkState.LEAVING
            self._say_bye(now_s)
        elif self.state is LinkState.DOWN or now_s - self._idle_since_s >= LOST_S:
            self._hang_up()

    def _say_bye(self, now_s: float) -> None:
        """The heartbeat is answered with RESET once the receiver has heard the BYE before it."""
        self._act(Send(self.key, Bye(self.token)))
        self.heartbeat(now_s)

    def _hang_up(self) -> None:
        self._act(Hangup(self.key))
        self.state = LinkState.CLOSED

"""The sending side of one edge: the queue, whom to send to, retries, and who is given up.

Decides only. Every unit that enters stays until its receiver has processed it, policy has dropped
it, or the dead-letter store has committed it; `full` stops the stage before memory does.
Dispatch is by free credit relative to the window, never round-robin (F5).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zflow.protocol.actions import Action, Bury, Fail
from zflow.protocol.ledger import EdgeLedger
from zflow.protocol.roster import Roster
from zflow.protocol.segment import Segment
from zflow.protocol.sender import Identity, SenderLink, Sent
from zflow.protocol.suspects import Suspects, Suspicion
from zflow.wire.data import DEADLINE, EXPIRED, MAX_FRAME_BYTES, Crash, Nack
from zflow.wire.payload import Codec, DecodeError, EncodeError, Payload
from zflow.wire.run import RESENT, SINGLE, SUSPECT, Run, cut_runs

MAX_MESSAGE_ITEMS = 1024
MAX_MESSAGE_BYTES = 256 * 1024
MAX_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """What is declared of an edge and of the stage it leads to."""

    edge: int
    label: str
    stage: str  # the receiving stage, which owns retries and policies
    targets: tuple[str, ...]  # slots at birth; not always 0, 1, 2 ...
    at_most_once: bool = False
    window_items: int = 65_536
    window_bytes: int = 64 * 1024 * 1024
    retries: int = 3
    backoff_s: float = 0.1
    max_crashes: int = 3
    on_error: str = "dead_letter"
    partitions: int = 0  # of a keyed edge; 0 on a free one, whose units any slot may take
    lanes: bool = False  # its units overtake one another
    fair_ratio: float = 0.1  # of the units, for lanes that are overtaken
    on_full: str = "block"  # or "drop_oldest", "drop_newest": of what waits, once it is full
    declared: int = 0  # over how many slots they were shared out when the run began; 0: the targets


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for an item of a retained message that cannot be decoded."""

    error: str


def _unreadable(segment: Segment) -> bool:
    """True if the segment came out of a message that its own maker cannot read."""
    return segment.items is not None and isinstance(segment.items[0], Unreadable)


Watermarks = Callable[[], Iterable[tuple[int, int]]]


def _death_of(verdict: Suspicion) -> Nack:
    error = f"the process died {verdict.deaths} times while executing this item: {verdict.cause}"
    return Nack(0, 1, "crash", "ProcessDied", error)


class Chance(Protocol):
    """Where jitter comes from: `random.Random`, seeded by whoever owns the core."""

    def random(self) -> float:
        """A number in [0, 1)."""


def _items(sent: Sent) -> int:
    return sum(run.items for segment in sent.segments for run in segment.runs)


class Outbox:
    """One edge's queue and links. One thread at a time owns it."""

    def __init__(
        self,
        settings: EdgeSettings,
        identity: Identity,
        *,
        codec: Codec,
        act: Callable[[Action], None],
        new_token: Callable[[], int],
        new_ticket: Callable[[], int],
        random: Chance,
        watermarks: Watermarks = tuple,
    ) -> None:
        self.settings = settings
        self.ledger = EdgeLedger()
        # What such an edge has sent is settled before it arrives, where the origin's low mark
        # would make a duplicate of it (R7).
        stated: Watermarks = tuple if settings.at_most_once else watermarks

        def make(slot: str, dials: int) -> SenderLink:
            key = settings.edge, slot
            return SenderLink(key, self, identity, act, new_token, stated, dials)

        self.roster = Roster(settings.targets, make)
        self.links = self.roster.links
        self.queue: deque[Segment] = deque()
        self.queued = 0
        self.suspects = Suspects(max_crashes=settings.max_crashes)
        self.item_bytes = 0.0  # smoothed
        self.retrying: list[tuple[float, int, Segment]] = []  # heap by time
        self.burying: dict[int, Segment] = {}
        self._spared: set[int] = set()  # tickets of items whose unit has gone on without them
        self._awaiting: dict[int, Segment] = {}  # units that are through, by such a ticket
        self._codec = codec
        self._act = act
        self._new_ticket = new_ticket
        self._random = random
        self._retry_count = 0

    # -- slots that come and go --------------------------------------------------------------

    def resize(self, slots: Sequence[str], now_s: float, *, dials: bool) -> None:
        """The stage has these slots from now on. dials: those that are new, at once."""
        self.roster.resize(slots, now_s, dials=dials)
        self._links_changed()

    def part(self, now_s: float) -> bool:
        """Go on with the end of links whose slots leave; True if one of them is gone."""
        gone = self.roster.part(now_s)
        if gone:
            self._links_changed()
        return gone

    def _links_changed(self) -> None:
        """There are other links now."""

    # -- what enters -------------------------------------------------------------------------

    def enqueue(self, segment: Segment) -> None:
        """New outputs, at the end of the queue. The caller has counted them in their task."""
        self.queued += segment.n
        queue = self._queue_of(segment)
        if self.suspects:
            queue.extend(self._sorted_out(segment))
        else:
            queue.append(segment)

    def returned(self, segments: list[Segment], reason: str) -> None:
        """Units a link gave back, to the front of the queue in send order (R10)."""
        lost = self.settings.at_most_once
        back: list[Segment] = []
        for segment in segments:
            if lost:
                self.ledger.dropped("lost", segment.n)
                continue
            if _unreadable(segment):
                self._give_up_unreadable(segment)
                continue
            self.ledger.replayed(reason, segment.n)
            back.extend(self._sorted_out(segment.marked(flags=RESENT)))
        self._to_front(back)

    def _queue_of(self, segment: Segment) -> deque[Segment]:
        """Where the segment waits: one queue for all, whoever has room takes from it."""
        del segment
        return self.queue

    def _queues(self) -> Sequence[deque[Segment]]:
        return (self.queue,)

    def _next_queue(self) -> deque[Segment]:
        """From which the next message is filled; empty if nothing waits."""
        return self.queue

    def _to_front(self, segments: Sequence[Segment]) -> None:
        for segment in reversed(segments):
            self._queue_of(segment).appendleft(segment)
            self.queued += segment.n

    def _sorted_out(self, segment: Segment) -> list[Segment]:
        """The segment cut so that suspected units are apart from the others."""
        if not self.suspects or segment.suspect:
            return [segment]
        parts = []
        at = 0
        for run in segment.runs:
            for begin, end, suspected in self.suspects.stretches(run):
                part = segment.part(at + begin, at + end)
                parts.append(part.marked(flags=SUSPECT) if suspected else part)
            at += run.n
        return parts

    def accused(self, crash: Crash) -> None:
        """A receiver died executing these units: wherever they are, they run alone from now on."""
        if not crash.runs or not self.suspects.accuse(crash):
            return
        for queue in self._queues():
            queued = list(queue)
            queue.clear()
            for segment in queued:
                queue.extend(self._sorted_out(segment))

    # -- what leaves -------------------------------------------------------------------------

    def full(self) -> bool:
        """True when the stage must stop executing: retention is at its limit (R4)."""
        items, size_bytes = self.retained()
        return items >= self.settings.window_items or size_bytes >= self.settings.window_bytes

    def retained(self) -> tuple[int, float]:
        """Units held for this edge, and their bytes (exact once encoded, else estimated)."""
        waiting = self.queued + len(self.retrying) + len(self.burying)
        items = waiting
        size_bytes = waiting * self.item_bytes
        for link in self.links:
            items += link.unacked_items
            size_bytes += link.unacked_bytes
        return items, size_bytes

    def dispatch(self, now_s: float) -> None:
        """Send what credit allows; what is due for its next attempt goes first."""
        if self.retrying and self.retrying[0][0] <= now_s:
            self._retry_due(now_s)
        if self.queued:
            self._dispatch(now_s)

    def _dispatch(self, now_s: float) -> None:
        ready = [link for link in self.links if link.room() > 0]
        share = -(-self.queued // max(1, len(ready)))  # what there is, spread over all of them
        while ready and (queue := self._next_queue()):
            link = ready[0] if len(ready) == 1 else max(ready, key=SenderLink.free_share)
            room = link.room()
            if room <= 0:
                ready.remove(link)
                continue
            segments = self._take(queue, min(room, share, self._message_items(link)))
            if segments:
                self._send(link, segments, now_s)

    def _retry_due(self, now_s: float) -> None:
        due: list[Segment] = []
        while self.retrying and self.retrying[0][0] <= now_s:
            _, _, segment = heapq.heappop(self.retrying)
            due += self._sorted_out(segment)
        self._to_front(due)

    def _message_items(self, link: SenderLink) -> int:
        """As many units as make a good message and, by the smoothed size, fit the byte credit."""
        size_bytes = min(MAX_MESSAGE_BYTES, link.credit.room_bytes())
        if self.item_bytes * MAX_MESSAGE_ITEMS <= size_bytes:
            return MAX_MESSAGE_ITEMS
        return max(1, int(size_bytes / self.item_bytes))

    def _take(self, queue: deque[Segment], n: int) -> list[Segment]:
        """At most `n` units from the front, all suspect or none; the guilty are buried here."""
        taken: list[Segment] = []
        while n > 0 and queue:
            segment = queue[0]
            if segment.suspect:
                if taken and not taken[0].suspect:
                    break
                if self._bury_guilty(queue, segment):
                    continue
            elif taken and taken[0].suspect:
                break
            if segment.single:
                if taken:
                    break
                n = 1
            if segment.n > n:
                queue[0] = segment.part(n, segment.n)
                segment = segment.part(0, n)
            else:
                queue.popleft()
            self.queued -= segment.n
            n -= segment.n
            taken.append(segment)
        return taken

    def _bury_guilty(self, queue: deque[Segment], segment: Segment) -> bool:
        """Take the first guilty unit out of the suspect segment at the head of the queue."""
        position = 0
        for run in segment.runs:
            for unit in run.units():
                verdict = self.suspects.verdict(unit)
                if verdict is not None:
                    queue.popleft()
                    rest = [(0, position), (position + 1, segment.n)]
                    parts = [segment.part(a, b) for a, b in rest if a < b]
                    queue.extendleft(reversed(parts))
                    self.queued -= 1
                    self.ledger.sent += 1
                    guilty = segment.part(position, position + 1)
                    if len(guilty.items or ()) > 1 and verdict.place >= 0:
                        self._spare_others(queue, guilty, verdict)
                    else:
                        self._give_up_guilty(guilty, verdict)
                    return True
                position += 1
        return False

    def _send(self, link: SenderLink, segments: list[Segment], now_s: float) -> None:
        """Encode and send; what does not fit is cut in halves, what cannot travel is refused."""
        items = segments[0].items if len(segments) == 1 else None
        if items is None:
            items = [item for segment in segments for item in segment.items or ()]
        n = segments[0].n if len(segments) == 1 else sum(segment.n for segment in segments)
        try:
            payload = self._codec.encode(items)
            if payload.size_bytes > MAX_FRAME_BYTES and n == 1:
                raise EncodeError(
                    f"the item takes {payload.size_bytes} bytes; a message holds at most "
                    f"{MAX_FRAME_BYTES}"
                )
        except EncodeError as error:
            if n == 1:
                self._unsendable(segments[0], error)
                return
            self._halve(link, segments, n, now_s)
            return
        weight = 0.5 if self.item_bytes else 1.0
        self.item_bytes += weight * (payload.size_bytes / n - self.item_bytes)
        if not self._fits(link, n, payload):
            self._halve(link, segments, n, now_s)
            return
        self._push(link, segments, n, payload)

    def _fits(self, link: SenderLink, n: int, payload: Payload) -> bool:
        if n > 1 and payload.size_bytes > 4 * MAX_MESSAGE_BYTES:
            return False
        return link.credit.fits(n, payload.size_bytes)

    def _halve(self, link: SenderLink, segments: list[Segment], n: int, now_s: float) -> None:
        """Put the units back and send the first half; a unit alone always goes or is refused."""
        self._to_front(segments)
        half = self._take(self._queue_of(segments[0]), max(1, n // 2))
        if half and link.room() > 0:
            self._send(link, half, now_s)
        else:
            self._to_front(half)

    def _push(self, link: SenderLink, segments: list[Segment], n: int, payload: Payload) -> None:
        self.ledger.sent += n
        self.ledger.sent_bytes += payload.size_bytes
        lossy = self.settings.at_most_once
        link.push(segments, n, payload, retain=not lossy)
        if lossy:
            for segment in segments:
                segment.task.settled(segment.n)

    # -- what becomes of it ------------------------------------------------------------------

    def settled(self, segment: Segment, begin: int, end: int) -> None:
        """The receiver has processed units [begin, end) and everything made from them."""
        n = end - begin
        self.ledger.processed += n
        if self.suspects:
            for run in cut_runs(segment.runs, begin, end):
                self.suspects.acquit(run)
        if segment.graves:
            self._settle_unit(segment)
        elif not self.settings.at_most_once:
            segment.task.settled(n)

    def nacked(self, segment: Segment, nack: Nack, now_s: float) -> None:
        """One unit failed at the receiver: another attempt later, or the declared policy."""
        if nack.code == EXPIRED:  # it was not called with it, and never will be
            self.ledger.dropped("expired", 1)
            if not self.settings.at_most_once:
                self._acquit(segment)
                self._settle_unit(segment)
            return
        if self.settings.at_most_once:
            self.ledger.dropped("error", 1)
            return
        attempt = segment.runs[0].attempt
        if nack.code == DEADLINE:
            self._bury(segment, nack, attempt)
            return
        if _unreadable(segment):  # there is nothing left to send again
            self._give_up(segment, nack, attempt + 1)
            return
        if nack.code == "decode" and not segment.single:
            # One item that cannot be read spoils its whole message: find it, spare the others.
            self.ledger.replayed("nack", 1)
            self._try_again(segment.marked(flags=SINGLE), now_s)
            return
        if nack.code == "error" and attempt < self.settings.retries:
            self.ledger.replayed("nack", 1)
            self.ledger.retries += 1
            wait_s = min(MAX_BACKOFF_S, self.settings.backoff_s * 2.0**attempt)
            due_s = now_s + wait_s * (0.5 + self._random.random() / 2)
            self._try_again(segment.marked(attempt=attempt + 1), due_s)
            return
        self._give_up(segment, nack, attempt + 1)

    def _try_again(self, segment: Segment, due_s: float) -> None:
        self._retry_count += 1
        heapq.heappush(self.retrying, (due_s, self._retry_count, segment))

    def _give_up(self, segment: Segment, nack: Nack, attempts: int) -> None:
        if self.settings.on_error == "drop":
            self.ledger.dropped("error", 1)
            self._acquit(segment)
            segment.task.settled(1)
            return
        if self.settings.on_error == "fail":
            self._act(Fail(self.settings.stage, nack.error_class, nack.error))
        self._bury(segment, nack, attempts)

    def _give_up_guilty(self, segment: Segment, verdict: Suspicion) -> None:
        self._give_up(segment, _death_of(verdict), verdict.deaths)

    def _spare_others(self, queue: deque[Segment], unit: Segment, verdict: Suspicion) -> None:
        """One item of a unit is guilty: it alone is given up, the others go on without it."""
        at = min(verdict.place, len(unit.items or ()) - 1)
        nack, ticket = _death_of(verdict), 0
        if self.settings.on_error == "drop":
            self.ledger.dropped("error", 1)
        else:
            if self.settings.on_error == "fail":
                self._act(Fail(self.settings.stage, nack.error_class, nack.error))
            ticket = self._new_ticket()
            self.burying[ticket] = unit
            one, place = (unit.items or [])[at], unit.places()[at]
            self._spared.add(ticket)
            self._bury_items(ticket, unit.runs[0], [one], (place,), nack, verdict.deaths, True)
        queue.appendleft(unit.without(at, ticket))
        self.queued += 1
        self.suspects.relieve(unit.runs[0].unit(0))

    def _give_up_unreadable(self, segment: Segment) -> None:
        """Pickled, but nobody can unpickle it: there is nothing left to send again."""
        items = segment.items or []
        for k in range(segment.n):
            nack = Nack(0, 1, "decode", "DecodeError", items[k].error)
            self._give_up(segment.part(k, k + 1), nack, 1)

    def _bury(self, segment: Segment, nack: Nack, attempts: int) -> None:
        ticket = self._new_ticket()
        self.burying[ticket] = segment
        run = segment.runs[0]
        resent = bool(run.flags & RESENT) or nack.code == "crash" or nack.partial
        items = [] if _unreadable(segment) else segment.items or []
        places = tuple(segment.places()) if items else (0,)
        self._bury_items(ticket, run, items, places, nack, attempts, resent)

    def _bury_items(
        self,
        ticket: int,
        run: Run,
        items: list[Any],
        places: tuple[int, ...],
        nack: Nack,
        attempts: int,
        maybe_applied: bool,
    ) -> None:
        where = self.settings.stage, self.settings.label
        why = nack.code, nack.error_class, nack.error
        self._act(Bury(ticket, *where, run, items, attempts, *why, maybe_applied, places))

    def buried(self, ticket: int) -> None:
        """The dead-letter store has committed the unit: only now is it settled (I16)."""
        segment = self.burying.pop(ticket)
        self.ledger.dead_lettered += 1
        if ticket in self._spared:  # one item of a unit whose others have gone on
            self._spared.discard(ticket)
            waiting = self._awaiting.pop(ticket, None)
            if waiting is not None:
                self._settle_unit(waiting)
            return
        self._acquit(segment)
        self._settle_unit(segment)

    def _settle_unit(self, segment: Segment) -> None:
        """A unit alone is done, once the items that it lost on its way are buried."""
        for ticket in segment.graves:
            if ticket in self.burying:
                self._awaiting[ticket] = segment
                return
        segment.task.settled(1)

    def _acquit(self, segment: Segment) -> None:
        """Forget what was against a unit that is settled; one found guilty stays guilty, since
        another copy of it may still be on its way here."""
        run = segment.runs[0]
        if segment.suspect and self.suspects.verdict(run.unit(0)) is None:
            self.suspects.acquit(run)

    def _unsendable(self, segment: Segment, error: EncodeError) -> None:
        """An output that cannot travel fails the input it was made from."""
        cause = type(error.__cause__).__name__ if error.__cause__ else "EncodeError"
        segment.task.failed(segment.parents[0], "encode", cause, str(error))
        segment.task.settled(1)

    def items_of(self, sent: Sent) -> list[Any]:
        """The items of a message; UNREADABLE for each if even its maker cannot read it."""
        if sent.payload is None:
            return [None] * _items(sent)
        try:
            return self._codec.decode(sent.payload)
        except DecodeError as error:
            return [Unreadable(str(error))] * _items(sent)

    # -- time --------------------------------------------------------------------------------

    def open_units(self) -> int:
        """Everything not settled: queued, on the way, waiting for an attempt, being buried."""
        return (
            self.queued
            + len(self.retrying)
            + len(self.burying)
            + sum(link.unacked_items for link in self.links)
        )

    def due_s(self) -> float:
        """The next moment at which `tick` or `dispatch` has something to do."""
        due_s = min((link.due_s() for link in self.links), default=float("inf"))
        return min(due_s, self.retrying[0][0]) if self.retrying else due_s

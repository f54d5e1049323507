"""What must hold after every step, whatever the faults.

Decides only whether it holds; changes nothing in the processes it looks at. Each check names the
invariant it is part of:

| I1  | below a persisted low mark everything is durable or declared dropped          |
| I2  | a unit that a receiver calls acknowledged is durable with everything below it |
| I3  | a task is told once, after it has returned and its outputs are settled        |
| I4  | sent = settled + open on each edge, and at the end over all source items      |
| I8  | what a token's receiver has accepted is a prefix of what was sent on it       |
| I9  | frames of other tokens change nothing                                         |
| I10 | sent <= the limit that was told, in units and bytes; inbox <= its window      |
| I11 | retention is at most the edge's window and what one slice makes               |
| I13 | once faults have stopped, everything drains in bounded time                   |
| I15 | a poison item kills few processes; no innocent item is dead-lettered          |
| I16 | what a durable stage gives up is committed as a dead letter before the ack    |
| I17 | at the end every origin is empty and every link can be closed                 |
| I17 | the inputs have ended when each link that should be there has, and no other is |
| I18 | units go to slots that are there, and to the owner of their partition          |
| unit | a unit names one item for ever, and an item has one name                     |

Those of anchors (I5, I6, I7, I14) are in `effects`.

I12, that statements may be lost, repeated and reordered, is a property of one link and held by
`tests/protocol/test_sender.py`.
"""

from collections.abc import Iterable

from zflow.intervals import IntervalSet
from zflow.protocol.actions import LinkKey
from zflow.protocol.core import Core
from zflow.protocol.inbox import Parcel, Portion
from zflow.protocol.ledger import COLUMNS
from zflow.protocol.outbox import Outbox
from zflow.testing.items import Item, SimPayload
from zflow.wire.data import Data, State
from zflow.wire.run import Run, Unit

SETTLED = COLUMNS.index("sent_bytes")  # the columns before it, but the first, hold settled units


class Violation(AssertionError):
    """An invariant does not hold; the world adds seed, time and trace."""

    def __init__(self, invariant: str, facts: str) -> None:
        self.invariant = invariant
        self.facts = facts
        super().__init__(f"{invariant}: {facts}")


def by_unit(runs: list[Run], items: list[Item]) -> "list[Item | tuple[Item, ...]]":
    """One entry for each unit of the runs: its item, or its items if it has several."""
    if all(run.counts is None for run in runs):
        return list(items)
    entries: list[Item | tuple[Item, ...]] = []
    at = 0
    for run in runs:
        for n in run.counts or (1,) * run.n:
            entries.append(items[at] if n == 1 else tuple(items[at : at + n]))
            at += n
    return entries


def _owing(unit: "Item | tuple[Item, ...]") -> Item | None:
    """An item of the unit that is not durable."""
    for item in unit if isinstance(unit, tuple) else (unit,):
        if item.owed:
            return item
    return None


class Book:
    """What went over the wire under one token, as an onlooker sees it."""

    __slots__ = ("sent_bytes", "told_bytes", "told_items", "units")

    def __init__(self) -> None:
        self.units: list[Item | tuple[Item, ...]] = []
        self.sent_bytes = 0
        self.told_items = 0
        self.told_bytes = 0


class Heard:
    """What one receiver has accepted and stated of one token."""

    __slots__ = ("acked", "nacked", "next")

    def __init__(self) -> None:
        self.next = 0
        self.acked = IntervalSet()
        self.nacked: set[int] = set()


class Invariants:
    """The onlooker's own books of one world, and the checks against them."""

    def __init__(self) -> None:
        self.books: dict[int, Book] = {}
        self.poison: dict[Item, tuple[int, set[tuple[str, int]]]] = {}
        self.names: dict[tuple[int, Unit, int], Item] = {}
        self.dead: set[Item] = set()

    def book(self, token: int) -> Book:
        """The books of a token, from its first mention on."""
        book = self.books.get(token)
        if book is None:
            book = self.books[token] = Book()
        return book

    # -- one link --------------------------------------------------------------------------------

    def sent(self, frame: Data, payload: SimPayload) -> None:
        """A message left its sender (I8: numbered without gaps, I10: within the limits)."""
        book = self.book(frame.token)
        units = by_unit(frame.runs, payload.items)
        n = len(units)
        if frame.first != len(book.units) or frame.n != n or sum(r.n for r in frame.runs) != n:
            raise Violation("I8", f"units {frame.first}+{frame.n} sent after {len(book.units)}")
        if frame.first + n > book.told_items:
            raise Violation("I10", f"unit {frame.first + n - 1} sent, limit {book.told_items}")
        before, book.sent_bytes = book.sent_bytes, book.sent_bytes + payload.size_bytes
        # One unit may overshoot; several must fit.
        if before >= book.told_bytes or (n > 1 and book.sent_bytes > book.told_bytes):
            raise Violation("I10", f"{before}+{payload.size_bytes} B, limit {book.told_bytes} B")
        book.units.extend(units)

    def told(self, token: int, limit_items: int, limit_bytes: int) -> None:
        """WELCOME or STATE reached the sender."""
        book = self.book(token)
        book.told_items = max(book.told_items, limit_items)
        book.told_bytes = max(book.told_bytes, limit_bytes)

    def stated(self, frame: State, heard: Heard) -> None:
        """A receiver makes a statement (I2)."""
        units = self.book(frame.token).units
        for nack in frame.nacks:
            heard.nacked.update(range(nack.first, nack.first + nack.n))
        ranges = frame.acked
        for at in range(0, len(ranges), 2):
            begin, end = ranges[at], ranges[at + 1]
            for low, high in heard.acked.missing(begin, end):
                for lseq in range(low, high):
                    self._acked(lseq, units, heard)
            heard.acked.add(begin, end)

    @staticmethod
    def _acked(lseq: int, units: "list[Item | tuple[Item, ...]]", heard: Heard) -> None:
        if lseq >= len(units) or lseq >= heard.next:
            raise Violation("I8", f"unit {lseq} acked; {heard.next} accepted, {len(units)} sent")
        open_item = _owing(units[lseq])
        if open_item is not None and lseq not in heard.nacked:
            raise Violation("I2", f"unit {lseq} acked but not durable: {open_item}")

    def accepted(self, frame: Data, parcel: Parcel | None, heard: Heard) -> None:
        """DATA was handled by its receiver; `parcel` if it was accepted (I8)."""
        if parcel is None:
            return
        units = self.book(frame.token).units
        first = heard.next
        if parcel.link.token != frame.token or frame.first != first:
            raise Violation("I8", f"unit {frame.first} accepted, {first} is next")
        heard.next = first + frame.n
        came = by_unit(parcel.runs, parcel.payload.items)  # type: ignore[attr-defined]
        if came != units[first : heard.next]:
            raise Violation("I8", f"units {first}+{frame.n} are not the ones that were sent")

    @staticmethod
    def inbox(core: Core, parcel: Parcel) -> None:
        """I10: what waits from one slot, over all its tokens, is at most one window."""
        key = parcel.link.key
        waiting = sum(p.n - p.taken for p in core.inbox.parcels if p.link.key == key)
        window = max(core.inbox.window.MIN_ITEMS, core.settings.inbox.window_items)
        if waiting > window:
            raise Violation("I10", f"{waiting} units of {key} wait, window {window}")

    # -- one process -----------------------------------------------------------------------------

    @staticmethod
    def quiet(core: Core, expected: set[LinkKey], *, leaving: bool) -> None:
        """I17: the process says that nothing more will come; `expected` is who could send it."""
        links = core.inbox.links
        there = links.keys() == expected or (leaving and not links)
        if not there or not all(link.ended for link in links.values()):
            ended = {key: link.ended for key, link in links.items()}
            raise Violation("I17", f"quiet with {ended}, expected {sorted(expected)}")

    @staticmethod
    def conserved(outboxes: Iterable[Outbox]) -> None:
        """I4: every unit that left is settled in one column or open."""
        for outbox in outboxes:
            books = outbox.ledger
            settled = sum(books.row()[1:SETTLED])
            opened = len(outbox.burying)
            for link in outbox.links:
                opened += link.unacked_items
            if books.sent != settled + opened:
                label = outbox.settings.label
                raise Violation("I4", f"{label}: sent {books.sent}, {settled} + {opened} open")

    @staticmethod
    def retained(outbox: Outbox, made: int) -> None:
        """I11, after a slice that made `made` units; it began when there was room."""
        units, _ = outbox.retained()
        if units > outbox.settings.window_items + made:
            raise Violation("I11", f"{outbox.settings.label}: {units} units after {made} new ones")

    def named(self, portion: Portion) -> None:
        """A unit names one item, and an item has one name, whatever died or was cut."""
        position = 0
        for run in portion.runs:
            counts = run.counts
            for at, unit in enumerate(run.units()):
                for place in range(1 if counts is None else counts[at]):
                    self.name(portion.items[position], unit, place)
                    position += 1

    def name(self, item: Item, unit: Unit, place: int = 0) -> None:
        """`item` goes by the name of `unit`, at this place in it."""
        if item.unit is None:
            item.unit = unit
            edge = item.edge.number if item.edge else 0
            if self.names.setdefault((edge, unit, place), item) is not item:
                raise Violation("unit", f"two items are named {unit}: {item}")
        elif item.unit != unit:
            raise Violation("unit", f"{item} is now named {unit}")

    # -- what is final ---------------------------------------------------------------------------

    @staticmethod
    def low_mark(items: list[Item], begin: int, end: int) -> None:
        """I1: a source's low mark goes from `begin` to `end`."""
        for oseq in range(begin, end):
            if items[oseq].owed:
                raise Violation("I1", f"low mark {end} but {oseq} is not durable: {items[oseq]}")

    def buried(self, items: Iterable[Item], unit: Unit) -> None:
        """The dead letter of a unit is committed (I15)."""
        for place, item in enumerate(items):
            self.name(item, unit, place)
            self.given_up(item)

    def given_up(self, item: Item) -> None:
        """The dead letter of an item is committed (I15)."""
        if not item.doomed:
            raise Violation("I15", f"an innocent was dead-lettered: {item}")
        self.dead.add(item)
        item.settle()

    def killed(self, item: Item, sender: tuple[str, int], replicas: int, limit: int) -> None:
        """A poison item, sent by this incarnation, killed a process (I15).

        Replicas that run copies at once die before any of them can be told of the others, so
        each may add one death.
        """
        deaths, senders = self.poison.get(item, (0, set()))
        senders.add(sender)
        self.poison[item] = deaths + 1, senders
        if deaths + 1 > limit * len(senders) + replicas - 1:
            raise Violation("I15", f"{deaths + 1} deaths, {len(senders)} senders: {item}")

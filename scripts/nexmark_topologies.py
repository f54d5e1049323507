"""The Nexmark queries 0 to 8 as topologies: what the user writes.

`scripts/nexmark` runs them and compares what they find with `nexmark_reference`. Every answer is
found while the stream goes on, except where a query is about all of it (q4, q6) or needs the counts
of all auctions side by side (q5): that is said when the sources have ended.

Order holds on an edge, not between two. A window over two kinds of events therefore has one edge
with both; a join has a watermark for each of its two.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nexmark_data
from nexmark_data import MEAN_LIFE_EVENTS, Auction, Bid, Person
from nexmark_reference import (
    EUROS_PER_DOLLAR,
    HOP_S,
    LOCAL_CATEGORY,
    LOCAL_STATES,
    SALES_OF_SELLER,
    SELECTED_EVERY,
    WINDOW_S,
    mean,
)

from zflow import DurableStage, Topology, emit, join, sliding, source, stage, tumbling, window
from zflow.connectors.sqlite import SqliteTable

RATE_PER_S = 100.0  # of event time
DISORDER_S = 0.5  # and with that lateness no event is late
LONGEST_LIFE_S = 2 * MEAN_LIFE_EVENTS / RATE_PER_S + DISORDER_S
EVER_S = 1e9
GATE_POLL_S = 0.005
STEP = 200  # events between two looks at the gate


def stream(n: int, seed: int, first: int = 0) -> Iterator[nexmark_data.Event]:
    """The events of all queries, and of the reference."""
    options = {"seed": seed, "rate_per_s": RATE_PER_S, "disorder_s": DISORDER_S, "first": first}
    return nexmark_data.events(n - first, **options)


@source
def events(n: int = 10_000, seed: int = 0, gate: str = "", resume: int = 0):
    """gate: a file with a number; events from that number on wait until it is higher."""
    for k, event in enumerate(stream(n, seed, resume), resume):
        if gate and k % STEP == 0:
            while int(Path(gate).read_text() or 0) <= k:
                time.sleep(GATE_POLL_S)
        yield event


def by_kind(
    n: int = 10_000, seed: int = 0, gate: str = "", resume: int = 0
) -> Iterator[nexmark_data.Event]:
    """The same, each to the edges with the name of its kind: a join has two from one source."""
    for event in events(n, seed, gate, resume):
        yield emit(type(event).__name__, event)


class Answer(SqliteTable):
    """Stores each row of an answer together with what it has taken, so that it is there once."""

    def __init__(self, path: str = "answer.db"):
        super().__init__(path, table="answer", columns=("row",))


def found(row: tuple) -> tuple[str]:
    """A row as text that reads back as the same row."""
    return (repr(tuple(row)),)


def event_time(event: Any) -> float:
    return event.time


def seller_or_id(event: Person | Auction) -> int:
    return event.seller if isinstance(event, Auction) else event.id


def auction_of(event: Auction | Bid) -> int:
    return event.id if isinstance(event, Auction) else event.auction


def first(row: tuple) -> Any:
    return row[0]


def only(kind: type) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, kind)


def topology(name: str) -> Topology:
    return Topology(name, delivery="exactly_once")


def answered(flow: Topology, last: Callable) -> Topology:
    """With the sink behind the last stage."""
    text = flow.stage(found, name="text")
    flow.connect(last, text, flow.sink(Answer, name="answer"))
    return flow


# --- one event at a time ---------------------------------------------------------------------


@stage(replicas=2)
def as_it_came(event: Any):
    return (type(event).__name__, *event)


@stage(replicas=2)
def in_euros(bid: Bid):
    return bid.auction, bid.bidder, bid.price * EUROS_PER_DOLLAR, bid.time


@stage(replicas=2)
def auction_and_price(bid: Bid):
    return bid.auction, bid.price


def selected(event: nexmark_data.Event) -> bool:
    return isinstance(event, Bid) and event.auction % SELECTED_EVERY == 0


def q0() -> Topology:
    flow = topology("q0")
    flow.connect(events, as_it_came)
    return answered(flow, as_it_came)


def q1() -> Topology:
    flow = topology("q1")
    flow.connect(events, in_euros, when=only(Bid))
    return answered(flow, in_euros)


def q2() -> Topology:
    flow = topology("q2")
    flow.connect(events, auction_and_price, when=selected)
    return answered(flow, auction_and_price)


# --- joins -----------------------------------------------------------------------------------


@join(within_s=EVER_S, time=event_time, replicas=2)
def local_item(seller: int, person: Person, auction: Auction):
    return person.name, person.city, person.state, auction.id


def q3() -> Topology:
    flow = topology("q3")
    local = {"when": lambda person: person.state in LOCAL_STATES, "key": seller_or_id}
    suited = {"when": lambda auction: auction.category == LOCAL_CATEGORY, "key": seller_or_id}
    kinds = flow.source(by_kind, name="events")
    flow.connect(kinds, local_item, output="Person", **local)
    flow.connect(kinds, local_item, output="Auction", **suited)
    return answered(flow, local_item)


@join(within_s=LONGEST_LIFE_S, time=event_time, lateness_s=DISORDER_S, replicas=2)
def valid_bid(auction_id: int, auction: Auction, bid: Bid):
    if auction.time <= bid.time < auction.expires:
        return auction, bid
    return None


@stage(replicas=2)
class Winner(DurableStage):
    """The best bid of each auction, which closes when no bid can come any more."""

    def process(self, offer: tuple[Auction, Bid]):
        auction, bid = offer
        place = (-bid.price, bid.time, bid.bidder)
        _, best = self.state.get(auction.id, (auction, place))
        self.state[auction.id] = (auction, min(best, place))

    def finish(self):
        for auction, (below_zero, _, _) in self.state.values():
            yield auction, -below_zero


@stage(replicas=2)
class AverageOfCategory(DurableStage):
    def process(self, sale: tuple[Auction, int]):
        auction, price = sale
        total, n = self.state.get(auction.category, (0, 0))
        self.state[auction.category] = (total + price, n + 1)

    def finish(self):
        for category, (total, n) in self.state.items():
            yield category, total / n


@stage(replicas=2)
class AverageOfSeller(DurableStage):
    """Of his last auctions, in the order in which they closed."""

    def process(self, sale: tuple[Auction, int]):
        auction, price = sale
        known = self.state.get(auction.seller, ())
        closed = sorted([*known, (auction.expires, auction.id, price)])
        self.state[auction.seller] = tuple(closed[-SALES_OF_SELLER:])

    def finish(self):
        for seller, sales in self.state.items():
            yield seller, mean([price for _, _, price in sales])


def with_winners(name: str) -> Topology:
    """Auctions and bids up to the winner of each auction."""
    flow = topology(name)
    kinds = flow.source(by_kind, name="events")
    flow.connect(kinds, valid_bid, output="Auction", key=auction_of)
    flow.connect(kinds, valid_bid, output="Bid", key=auction_of)
    flow.connect(valid_bid, Winner, key=lambda offer: offer[0].id)
    return flow


def q4() -> Topology:
    flow = with_winners("q4")
    flow.connect(Winner, AverageOfCategory, key=lambda sale: sale[0].category)
    return answered(flow, AverageOfCategory)


def q6() -> Topology:
    flow = with_winners("q6")
    flow.connect(Winner, AverageOfSeller, key=lambda sale: sale[0].seller)
    return answered(flow, AverageOfSeller)


# --- windows -----------------------------------------------------------------------------------


@window(sliding(WINDOW_S, HOP_S), time=event_time, lateness_s=DISORDER_S, replicas=2)
def bids_of_auction(auction: int, window, bids):
    return window.start, auction, len(bids)


@stage(replicas=2)
class Hottest(DurableStage):
    """The auctions with most bids of each window."""

    def process(self, count: tuple[int, int, int]):
        start, auction, n = count
        most, auctions = self.state.get(start, (0, ()))
        if n >= most:
            self.state[start] = (n, (auction, *(auctions if n == most else ())))

    def finish(self):
        for start, (n, auctions) in self.state.items():
            for auction in auctions:
                yield start, auction, n


def q5() -> Topology:
    flow = topology("q5")
    flow.connect(events, bids_of_auction, when=only(Bid), key=auction_of)
    flow.connect(bids_of_auction, Hottest, key=first)
    return answered(flow, Hottest)


@window(tumbling(WINDOW_S), time=event_time, lateness_s=DISORDER_S)
def highest(key, window, bids):
    price = max(bid.price for bid in bids)
    for bid in bids:
        if bid.price == price:
            yield window.start, price, bid.auction, bid.bidder, bid.time


def q7() -> Topology:
    flow = topology("q7")
    flow.connect(events, highest, when=only(Bid))
    return answered(flow, highest)


@window(tumbling(WINDOW_S), time=event_time, lateness_s=DISORDER_S, replicas=2)
def new_seller(person: int, window, people_and_auctions):
    kinds = Counter(map(type, people_and_auctions))
    if kinds[Person] and kinds[Auction]:
        for event in people_and_auctions:
            if isinstance(event, Person):
                yield window.start, event.id, event.name


def q8() -> Topology:
    flow = topology("q8")
    flow.connect(events, new_seller, when=only(Person | Auction), key=seller_or_id)
    return answered(flow, new_seller)

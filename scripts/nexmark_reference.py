"""The right answers to the Nexmark queries 0 to 8 over a finite list of events.

Decides what a streaming implementation must find once its stream has ended. Never fast, never
incremental: each query is said as plainly as a list allows. An answer is a sorted list of tuples,
equal to another answer if and only if both found the same, every tuple as often.

What all queries mean by their words:
- Only event times count. The order in which the list has the events changes no answer.
- Each event is in the list once. Two bids that are equal in every field are two bids.
- A window begins at a multiple of its hop, from 0 in both directions, and holds the times
  start <= time < start + size. A window without an event that matters has no answer.
- A bid is valid if it was made while its auction was open: auction.time <= bid.time <
  auction.expires. The reserve and the initial bid do not matter.
- An auction is closed at `until_s` if expires <= until_s; at the end of the stream, which is the
  default, every auction is. It is sold if it is closed and has a valid bid.
- Ties: where several share the highest place in a window, all are answers (q5, q7). An auction
  is won by the highest price, then the earliest time, then the lowest bidder's id. Auctions that
  expire at one time close in the order of their ids.
- An average is the exact sum of whole cents, divided once.

Window sizes in whole seconds are exact; so is any size whose multiples floats represent.

Source: the queries of Tucker, Tufte, Papadimos, Maier, "NEXMark - A Benchmark for Queries over
Data Streams", and q0, which later implementations begin with; where they leave a choice, the list
above.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from nexmark_data import Auction, Bid, Event, Person

EUROS_PER_DOLLAR = 0.908
SELECTED_EVERY = 123
LOCAL_STATES = ("OR", "ID", "CA")
LOCAL_CATEGORY = 10
SALES_OF_SELLER = 10
WINDOW_S, HOP_S = 10, 2

Answer = list[tuple]


class Sale(NamedTuple):
    """An auction that is closed and was won. Sorted, sales are in the order of closing."""

    expires: float
    auction: int
    seller: int
    category: int
    bidder: int
    price: int


def q0(events: Iterable[Event]) -> Answer:
    """Pass-through: every event as it came.

    shape: (name of the kind, *fields), since the kinds do not compare with each other.
    """
    return sorted((type(event).__name__, *event) for event in events)


def q1(events: Iterable[Event]) -> Answer:
    """Currency conversion: every bid with its price in euros.

    shape: (auction, bidder, euro cents, time); the product with EUROS_PER_DOLLAR is not rounded.
    """
    return sorted(
        (bid.auction, bid.bidder, bid.price * EUROS_PER_DOLLAR, bid.time)
        for bid in only(Bid, events)
    )


def q2(events: Iterable[Event], *, every: int = SELECTED_EVERY) -> Answer:
    """Selection: the bids for auctions whose id is a multiple of `every`.

    shape: (auction, price)
    """
    bids = only(Bid, events)
    return sorted((bid.auction, bid.price) for bid in bids if bid.auction % every == 0)


def q3(
    events: Iterable[Event],
    *,
    states: tuple[str, ...] = LOCAL_STATES,
    category: int = LOCAL_CATEGORY,
) -> Answer:
    """Local item suggestion: who in these states has ever sold in this category, and what.

    shape: (name, city, state, auction), once per auction, however far apart person and auction are.
    """
    events = list(events)
    local = {person.id: person for person in only(Person, events) if person.state in states}
    return sorted(
        (seller.name, seller.city, seller.state, auction.id)
        for auction in only(Auction, events)
        if auction.category == category and (seller := local.get(auction.seller))
    )


def q4(events: Iterable[Event], *, until_s: float = math.inf) -> Answer:
    """Average price by category: the mean of the winning bids of all auctions sold so far.

    shape: (category, cents); a category without a sale is missing.
    """
    prices = defaultdict(list)
    for sale in sales(events, until_s=until_s):
        prices[sale.category].append(sale.price)
    return sorted((category, mean(found)) for category, found in prices.items())


def q5(events: Iterable[Event], *, size_s: float = WINDOW_S, hop_s: float = HOP_S) -> Answer:
    """Hot items: in each sliding window, the auctions that have most bids, valid or not.

    shape: (window start, auction, number of its bids there)
    """
    counts = defaultdict(Counter)
    for bid in only(Bid, events):
        for start_s in window_starts(bid.time, size_s=size_s, hop_s=hop_s):
            counts[start_s][bid.auction] += 1
    most = {start_s: max(by_auction.values()) for start_s, by_auction in counts.items()}
    return sorted(
        (start_s, auction, bids)
        for start_s, by_auction in counts.items()
        for auction, bids in by_auction.items()
        if bids == most[start_s]
    )


def q6(
    events: Iterable[Event], *, until_s: float = math.inf, last: int = SALES_OF_SELLER
) -> Answer:
    """Average price by seller: the mean of the winning bids of his `last` auctions sold so far.

    shape: (seller, cents); closed auctions that nobody won are passed over, not counted as one.
    """
    prices = defaultdict(list)
    for sale in sales(events, until_s=until_s):
        prices[sale.seller].append(sale.price)
    return sorted((seller, mean(found[-last:])) for seller, found in prices.items())


def q7(events: Iterable[Event], *, size_s: float = WINDOW_S) -> Answer:
    """Highest bid: in each tumbling window, the bids of the highest price, valid or not.

    shape: (window start, price, auction, bidder, time)
    """
    bids_in = by_window(only(Bid, events), size_s)
    highest = {start_s: max(bid.price for bid in bids) for start_s, bids in bids_in.items()}
    return sorted(
        (start_s, bid.price, bid.auction, bid.bidder, bid.time)
        for start_s, bids in bids_in.items()
        for bid in bids
        if bid.price == highest[start_s]
    )


def q8(events: Iterable[Event], *, size_s: float = WINDOW_S) -> Answer:
    """New users: who registered and opened an auction in the same tumbling window.

    shape: (window start, person, name), once, whatever came first and however many auctions.
    """
    events = list(events)
    auctions_in = by_window(only(Auction, events), size_s)
    sellers_in = {
        start_s: {auction.seller for auction in auctions}
        for start_s, auctions in auctions_in.items()
    }
    return sorted(
        (start_s, person.id, person.name)
        for start_s, people in by_window(only(Person, events), size_s).items()
        for person in people
        if person.id in sellers_in.get(start_s, ())
    )


QUERIES: dict[str, Callable[..., Answer]] = {
    query.__name__: query for query in (q0, q1, q2, q3, q4, q5, q6, q7, q8)
}


# --- what several queries need -----------------------------------------------------------------


def sales(events: Iterable[Event], *, until_s: float = math.inf) -> list[Sale]:
    """The auctions sold until then with their winners, in the order in which they closed."""
    events = list(events)
    bids_for = defaultdict(list)
    for bid in only(Bid, events):
        bids_for[bid.auction].append(bid)
    found = []
    for auction in only(Auction, events):
        valid = [bid for bid in bids_for[auction.id] if auction.time <= bid.time < auction.expires]
        if valid and auction.expires <= until_s:
            won = min(valid, key=lambda bid: (-bid.price, bid.time, bid.bidder))
            found.append(
                Sale(
                    expires=auction.expires,
                    auction=auction.id,
                    seller=auction.seller,
                    category=auction.category,
                    bidder=won.bidder,
                    price=won.price,
                )
            )
    return sorted(found)


def window_starts(time_s: float, *, size_s: float, hop_s: float) -> list[float]:
    """Where the windows begin that hold this time, latest first; below 0 near the start.

    raises: ValueError if size or hop is not positive.
    """
    if size_s <= 0 or hop_s <= 0:
        raise ValueError(f"size and hop must be positive; got size_s={size_s}, hop_s={hop_s}")
    index = int(time_s // hop_s)
    starts = []
    while index * hop_s + size_s > time_s:
        starts.append(index * hop_s)
        index -= 1
    return starts


def by_window(events: Iterable[Event], size_s: float) -> dict[float, list]:
    """{window start: its events} of tumbling windows."""
    found = defaultdict(list)
    for event in events:
        (start_s,) = window_starts(event.time, size_s=size_s, hop_s=size_s)
        found[start_s].append(event)
    return found


def only(kind: type, events: Iterable[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def mean(cents: list[int]) -> float:
    return sum(cents) / len(cents)

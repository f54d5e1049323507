"""The event stream of the Nexmark benchmark: people, their auctions, and bids, by event number.

Decides what event k is, from the seed and k alone, so that a source can go on anywhere. Never keeps
anything from one event to the next, and never reads a clock or `random`.

    k     0        1 2 3     4 ... 49     50       51 52 53   54 ... 99     and so on
    kind  person   auctions  bids         person   auctions   bids

Every 50 events, an epoch, are 1 person, 3 auctions and 46 bids, in this order. A seller, an auction
or a bidder that an event names has therefore come before it.

Times are seconds of event time from the start of the stream; amounts are whole cents.

Sources: Tucker, Tufte, Papadimos, Maier, "NEXMark - A Benchmark for Queries over Data Streams";
the proportions, first ids and hot ratios are the defaults that later implementations share.
What differs: nobody is named ahead of existing, a city lies in its state, no field is there only to
fill a size, and prices, lives and texts are drawn in a way of our own, by integer arithmetic, so
that they are the same on every machine.
"""

from collections.abc import Iterator
from typing import NamedTuple

from zflow.hashing import mix64, splitmix64

EPOCH_EVENTS, EPOCH_AUCTIONS = 50, 3  # the other 47 are one person and 46 bids

FIRST_PERSON_ID = FIRST_AUCTION_ID = 1000
FIRST_CATEGORY_ID, CATEGORIES = 10, 5

# Events name the hot one all but once in HOT_..._RATIO times, and then any of the newest so many.
ACTIVE_PEOPLE, OPEN_AUCTIONS = 1000, 100
HOT_AUCTION_RATIO, HOT_SELLER_RATIO, HOT_BIDDER_RATIO, HOT_CHANNEL_RATIO = 2, 4, 4, 2
HOT_EVERY = 100  # in each hundred, by number, one is hot until the next hundred begins
HOT_SELLER_PLACE, HOT_BIDDER_PLACE = 0, 1  # in its hundred; the two are different people

# With this mean life, in events, the auctions open at one time are as many as can be bid for.
MEAN_LIFE_EVENTS = OPEN_AUCTIONS * EPOCH_EVENTS // EPOCH_AUCTIONS

LOWEST_PRICE, PRICE_DECADES = 100, 6  # from 1 dollar to a million, each power of ten as likely

HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
COLD_CHANNELS = 10_000

# City and state. Half of the people live in the three states that query 3 asks for.
HOMES = (
    *(("Phoenix", "AZ"), ("Los Angeles", "CA"), ("San Francisco", "CA"), ("Boise", "ID")),
    *(("Bend", "OR"), ("Portland", "OR"), ("Kent", "WA"), ("Redmond", "WA"), ("Seattle", "WA")),
    ("Cheyenne", "WY"),
)
FIRST_NAMES = ("Ada", "Blaise", "Carl", "Emmy", "Grace", "Henri", "Kurt", "Leonhard", "Sofia")
LAST_NAMES = ("Baker", "Cooper", "Fisher", "Hunter", "Miller", "Potter", "Smith", "Turner")
TRAITS = ("antique", "blue", "broken", "heavy", "painted", "rare", "small", "wooden")
THINGS = ("bicycle", "camera", "chair", "clock", "lamp", "map", "piano", "radio", "vase")
DESCRIPTION_ITEMS = 5  # how many things an auction's description lists

LATENESS = 1  # a number of its own, so that disorder changes the times and nothing else


# Tuples, not dataclasses: half the time to make and to pickle, a fifth to unpickle (CPython 3.11).
class Person(NamedTuple):
    """Somebody has registered, and may sell and bid from now on."""

    id: int
    name: str
    email: str
    credit_card: str
    city: str
    state: str
    time: float


class Auction(NamedTuple):
    """A seller offers an item until `expires`; `reserve` is the least he hopes for."""

    id: int
    item: str
    description: str
    initial_bid: int
    reserve: int
    time: float
    expires: float
    seller: int
    category: int


class Bid(NamedTuple):
    """A person offers a price for an auction, whether or not it is enough or in time."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    time: float


Event = Person | Auction | Bid


def events(
    n: int,
    *,
    seed: int = 0,
    rate_per_s: float = 1000.0,
    disorder_s: float = 0.0,
    first: int = 0,
) -> Iterator[Event]:
    """The `n` events from number `first` on: first, first + 1, ..., first + n - 1.

    See `event_at` for the parameters. raises: ValueError, at once.
    """
    if n < 0 or first < 0:
        raise ValueError(f"n and first must not be negative; got n={n}, first={first}")
    if rate_per_s <= 0 or disorder_s < 0:
        raise ValueError(
            "rate_per_s must be positive and disorder_s not negative;"
            f" got rate_per_s={rate_per_s}, disorder_s={disorder_s}"
        )
    return (
        event_at(k, seed=seed, rate_per_s=rate_per_s, disorder_s=disorder_s)
        for k in range(first, first + n)
    )


def event_at(
    k: int, *, seed: int = 0, rate_per_s: float = 1000.0, disorder_s: float = 0.0
) -> Event:
    """Event number k, in constant time.

    rate_per_s: of event time, not of real time: event k is due k / rate_per_s after the start.
    disorder_s: an event's time lies up to this much before it is due (never before 0), so that no
    time is more than this much below an earlier event's. What happens stays the same.
    """
    time_s = k / rate_per_s
    if disorder_s:
        late = mix64(0, seed, k, LATENESS) / 2**64
        time_s = max(0.0, time_s - disorder_s * late)
    epoch, place = divmod(k, EPOCH_EVENTS)
    # The seed goes in by a step of its own; seed + k would make one seed the next, shifted by one.
    draws = Draws(mix64(0, seed, k))
    if place == 0:
        return person_of(draws, epoch, time_s)
    if place <= EPOCH_AUCTIONS:
        number = epoch * EPOCH_AUCTIONS + place - 1
        return auction_of(draws, number, epoch, time_s, rate_per_s)
    return bid_of(draws, epoch, time_s)


class Draws:
    """The random choices of one event, one after the other."""

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state

    def below(self, n: int) -> int:
        """0 to n - 1, each as likely."""
        self.state = splitmix64(self.state)
        return self.state * n >> 64

    def one_of(self, choices: tuple):
        return choices[self.below(len(choices))]

    def price(self) -> int:
        decade = LOWEST_PRICE * 10 ** self.below(PRICE_DECADES)
        return decade + self.below(9 * decade)

    def one_named(self, newest: int, *, window: int, hot_ratio: int, hot_place: int = 0) -> int:
        """One of the last `window` numbers up to `newest`, or rather the hot one among them."""
        window = min(window, newest + 1)
        choice = self.below(window * hot_ratio)
        if choice < window:
            return newest - choice
        # Where the hundred has just begun, the hot one may not exist yet.
        return min(newest, newest // HOT_EVERY * HOT_EVERY + hot_place)


def person_of(draws: Draws, number: int, time_s: float) -> Person:
    """The person number `number`, counted from 0."""
    first_name, last_name = draws.one_of(FIRST_NAMES), draws.one_of(LAST_NAMES)
    city, state = draws.one_of(HOMES)
    digits = f"{draws.below(10**16):016d}"
    return Person(
        id=FIRST_PERSON_ID + number,
        name=f"{first_name} {last_name}",
        email=f"{first_name}.{last_name}.{number}@example.com".lower(),
        credit_card=" ".join(digits[start : start + 4] for start in range(0, 16, 4)),
        city=city,
        state=state,
        time=time_s,
    )


def auction_of(
    draws: Draws, number: int, newest_person: int, time_s: float, rate_per_s: float
) -> Auction:
    """The auction number `number`; the people up to number `newest_person` may sell."""
    seller = draws.one_named(
        newest_person,
        window=ACTIVE_PEOPLE,
        hot_ratio=HOT_SELLER_RATIO,
        hot_place=HOT_SELLER_PLACE,
    )
    initial_bid = draws.price()
    life_events = 1 + draws.below(2 * MEAN_LIFE_EVENTS)
    return Auction(
        id=FIRST_AUCTION_ID + number,
        item=thing(draws),
        description=", ".join(thing(draws) for _ in range(DESCRIPTION_ITEMS)),
        initial_bid=initial_bid,
        reserve=initial_bid + draws.price(),
        time=time_s,
        expires=time_s + life_events / rate_per_s,
        seller=FIRST_PERSON_ID + seller,
        category=FIRST_CATEGORY_ID + draws.below(CATEGORIES),
    )


def bid_of(draws: Draws, epoch: int, time_s: float) -> Bid:
    """A bid of this epoch, whose person and auctions exist already."""
    newest_auction = (epoch + 1) * EPOCH_AUCTIONS - 1
    auction = draws.one_named(newest_auction, window=OPEN_AUCTIONS, hot_ratio=HOT_AUCTION_RATIO)
    bidder = draws.one_named(
        epoch, window=ACTIVE_PEOPLE, hot_ratio=HOT_BIDDER_RATIO, hot_place=HOT_BIDDER_PLACE
    )
    choice = draws.below(COLD_CHANNELS * HOT_CHANNEL_RATIO)
    if choice < COLD_CHANNELS:
        channel = f"channel-{choice}"
    else:
        channel = HOT_CHANNELS[choice % len(HOT_CHANNELS)]
    auction_id = FIRST_AUCTION_ID + auction
    return Bid(
        auction=auction_id,
        bidder=FIRST_PERSON_ID + bidder,
        price=draws.price(),
        channel=channel,
        url=f"https://auctions.example/{channel.lower()}/{draws.one_of(THINGS)}?auction={auction_id}",
        time=time_s,
    )


def thing(draws: Draws) -> str:
    return f"{draws.one_of(TRAITS)} {draws.one_of(THINGS)}"

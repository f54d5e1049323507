"""scripts/nexmark_*.py: the stream keeps its promises, and the answers are the ones by hand."""

import hashlib
import itertools
import random
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
QUERY_NAMES = [f"q{number}" for number in range(9)]

# Of the first 1000 events of seed 0. If it changes, nobody's figures compare with older ones.
DIGEST = "15e07318e51ddc49"


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import nexmark_data

    return nexmark_data


@pytest.fixture
def queries(data):
    import nexmark_reference  # found as `data` is

    return nexmark_reference


@pytest.fixture
def person(data):
    """A person of whom a test says only what it is about; `auction` and `bid` likewise."""
    private = {"email": "a@example.com", "credit_card": "1234"}
    return partial(data.Person, name="Ada", **private, city="Bend", state="OR", time=0)


@pytest.fixture
def auction(data):
    amounts = {"initial_bid": 100, "reserve": 200}
    return partial(
        data.Auction, item="lamp", description="", **amounts, time=0, expires=10, category=10
    )


@pytest.fixture
def bid(data):
    return partial(data.Bid, bidder=1, price=100, channel="Apple", url="", time=0)


@pytest.fixture
def generated(data):
    """2,000 events in 40 seconds, half a second out of order: several windows of every size."""
    return list(data.events(2_000, seed=5, rate_per_s=50, disorder_s=0.5))


def only(kind, events):
    return [event for event in events if isinstance(event, kind)]


# --- the stream --------------------------------------------------------------------------------


def test_the_stream_is_the_same_on_every_machine(data):
    events = list(data.events(1_000))
    first_bid = events[4]
    assert events[0].name == "Blaise Cooper"
    assert (events[1].id, events[1].seller) == (1000, 1000)
    assert (first_bid.auction, first_bid.bidder, first_bid.price) == (1000, 1000, 7781)
    assert hashlib.sha256(repr(events).encode()).hexdigest()[:16] == DIGEST


@pytest.mark.parametrize("first", [0, 1, 4, 49, 50, 777])
@pytest.mark.parametrize("disorder_s", [0.0, 0.1])
def test_a_stream_that_starts_anywhere_is_the_rest_of_the_whole(data, first, disorder_s):
    options = {"seed": 3, "disorder_s": disorder_s}
    whole = list(data.events(1_000, **options))
    assert list(data.events(1_000 - first, first=first, **options)) == whole[first:]


def test_starting_far_in_needs_none_of_the_events_before(data):
    (event,) = data.events(1, first=10**15)
    assert event == data.event_at(10**15)
    assert event.id == 1000 + 10**15 // 50


def test_another_seed_is_another_stream_and_not_the_same_one_shifted(data):
    prices = [
        [bid.price for bid in only(data.Bid, data.events(50, seed=seed))] for seed in (0, 1, -1, 50)
    ]
    for one, other in itertools.combinations(prices, 2):
        assert len({*one} & {*other}) < 5


def test_every_fifty_events_are_one_person_three_auctions_and_46_bids(data):
    kinds = [type(event).__name__ for event in data.events(500)]
    epoch = ["Person", *["Auction"] * 3, *["Bid"] * 46]
    assert kinds == epoch * 10


def test_ids_count_up_from_a_thousand_without_holes(data):
    events = list(data.events(500))
    assert [person.id for person in only(data.Person, events)] == list(range(1000, 1010))
    assert [auction.id for auction in only(data.Auction, events)] == list(range(1000, 1030))


def test_whoever_and_whatever_is_named_has_come_before(data):
    people, auctions = set(), set()
    for event in data.events(6_000, seed=2):
        match event:
            case data.Person():
                people.add(event.id)
            case data.Auction():
                assert event.seller in people
                auctions.add(event.id)
            case data.Bid():
                assert event.bidder in people
                assert event.auction in auctions


def test_amounts_and_categories_and_lives_lie_in_their_bounds(data):
    events = list(data.events(3_000, rate_per_s=10))
    for auction in only(data.Auction, events):
        assert 100 <= auction.initial_bid < auction.reserve
        assert auction.category in range(10, 15)
        assert 0 < auction.expires - auction.time < 334
    assert all(100 <= bid.price < 100_000_000 for bid in only(data.Bid, events))


def test_on_average_a_hundred_auctions_are_open(data):
    auctions = only(data.Auction, data.events(20_000, first=100_000))
    middle_s = (auctions[0].time + auctions[-1].time) / 2
    open_then = sum(auction.time <= middle_s < auction.expires for auction in auctions)
    assert 70 < open_then < 130


def test_the_hot_ones_are_named_as_often_as_their_ratios_say(data):
    events = list(data.events(10_000, first=100_000))
    auctions, bids = only(data.Auction, events), only(data.Bid, events)
    hot_sales = sum(auction.seller % 100 == 0 for auction in auctions) / len(auctions)
    hot_bidders = sum(bid.bidder % 100 == 1 for bid in bids) / len(bids)
    hot_auctions = sum(bid.auction % 100 == 0 for bid in bids) / len(bids)
    hot_channels = sum(not bid.channel.startswith("channel-") for bid in bids) / len(bids)
    # The hot ones are among the others as well, one in a hundred.
    assert hot_sales == pytest.approx(0.75, abs=0.05)
    assert hot_bidders == pytest.approx(0.75, abs=0.03)
    assert hot_auctions == pytest.approx(0.505, abs=0.03)
    assert hot_channels == pytest.approx(0.5, abs=0.03)


def test_event_k_is_due_k_divided_by_the_rate_after_the_start(data):
    times = [event.time for event in data.events(200, rate_per_s=50)]
    assert times == [k / 50 for k in range(200)]
    faster = [event.time for event in data.events(200, rate_per_s=100)]
    assert faster == [time_s / 2 for time_s in times]


@pytest.mark.parametrize("disorder_s", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_event_is_later_than_the_disorder_allows(data, seed, disorder_s):
    newest_s, worst_s = 0.0, 0.0
    options = {"seed": seed, "rate_per_s": 100, "disorder_s": disorder_s}
    for k, event in enumerate(data.events(1_000, **options)):
        assert max(0.0, k / 100 - disorder_s) <= event.time <= k / 100, f"seed {seed}, event {k}"
        assert event.time >= newest_s - disorder_s, f"seed {seed}, event {k}"
        worst_s = max(worst_s, newest_s - event.time)
        newest_s = max(newest_s, event.time)
    assert worst_s > 0.5 * disorder_s  # the room is used as well


def test_disorder_moves_times_and_changes_nothing_else(data):
    def timeless(event):
        life = {"expires": event.expires - event.time} if hasattr(event, "expires") else {}
        assert all(value >= 0 for value in life.values())
        kept = event._asdict() | {name: round(value, 9) for name, value in life.items()}
        return kept | {"time": None}

    in_order = data.events(500, seed=1)
    moved = data.events(500, seed=1, disorder_s=0.2)
    assert [timeless(event) for event in in_order] == [timeless(event) for event in moved]


@pytest.mark.parametrize(
    "wrong",
    [{"n": -1}, {"first": -1}, {"rate_per_s": 0}, {"rate_per_s": -1.0}, {"disorder_s": -0.1}],
)
def test_what_makes_no_stream_is_refused_at_once(data, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        data.events(**{"n": 1} | wrong)


# --- the queries, by hand ----------------------------------------------------------------------


def test_q0_is_every_event(queries, person, auction, bid):
    events = [bid(auction=7), person(id=1), auction(id=7, seller=1), bid(auction=7)]
    passed = ("Bid", 7, 1, 100, "Apple", "", 0)
    assert queries.q0(events) == [
        ("Auction", 7, "lamp", "", 100, 200, 0, 10, 1, 10),
        passed,
        passed,
        ("Person", 1, "Ada", "a@example.com", "1234", "Bend", "OR", 0),
    ]


def test_q1_has_each_price_in_euros(queries, person, bid):
    events = [person(id=1), bid(auction=8, price=1_000, time=3), bid(auction=7, price=50, time=4)]
    assert queries.q1(events) == [(7, 1, 45.4, 4), (8, 1, 908.0, 3)]


def test_q2_selects_by_the_auction_of_the_bid(queries, auction, bid):
    events = [
        auction(id=123, seller=1),
        bid(auction=246, price=5),
        bid(auction=123, price=9),
        bid(auction=124, price=7),
        bid(auction=246, price=5),
    ]
    assert queries.q2(events) == [(123, 9), (246, 5), (246, 5)]
    assert queries.q2(events, every=124) == [(124, 7)]


def test_q3_joins_local_people_with_their_auctions_of_the_category(queries, person, auction):
    events = [
        auction(id=70, seller=2),  # before its seller
        person(id=1, state="OR"),
        person(id=2, name="Kurt", city="Boise", state="ID"),
        person(id=3, state="WA"),
        auction(id=71, seller=1, time=500),
        auction(id=72, seller=1, category=11),
        auction(id=73, seller=3),
        auction(id=74, seller=1),
        auction(id=75, seller=4),  # of nobody known
    ]
    assert queries.q3(events) == [
        ("Ada", "Bend", "OR", 71),
        ("Ada", "Bend", "OR", 74),
        ("Kurt", "Boise", "ID", 70),
    ]
    assert queries.q3(events, states=("WA",)) == [("Ada", "Bend", "WA", 73)]
    assert queries.q3(events, category=11) == [("Ada", "Bend", "OR", 72)]


@pytest.fixture
def market(auction, bid):
    """Auctions of sellers 1 and 2; what is wrong with a bid is said beside it."""
    return [
        auction(id=70, seller=1, category=10, time=5, expires=20),
        auction(id=71, seller=1, category=10, time=0, expires=10),
        auction(id=72, seller=2, category=11, time=0, expires=30),
        auction(id=73, seller=2, category=12, time=0, expires=30),
        bid(auction=70, price=900, time=4),  # before the begin
        bid(auction=70, price=50, time=5),
        bid(auction=70, price=30, time=19),
        bid(auction=70, price=901, time=20),  # at the end, which is too late
        bid(auction=71, price=11, time=1),
        bid(auction=72, price=7, bidder=4, time=2),
        bid(auction=72, price=7, bidder=9, time=1),
        bid(auction=72, price=7, bidder=8, time=1),
        bid(auction=73, price=903, time=31),  # the only one, and too late
        bid(auction=74, price=904, time=1),  # of no auction
    ]


def test_an_auction_is_won_by_the_highest_price_then_the_earliest_then_the_lowest_bidder(
    queries, market
):
    assert queries.sales(market) == [
        (10, 71, 1, 10, 1, 11),
        (20, 70, 1, 10, 1, 50),
        (30, 72, 2, 11, 8, 7),
    ]


def test_q4_is_the_mean_of_the_winning_bids_of_a_category(queries, market):
    assert queries.q4(market) == [(10, 30.5), (11, 7.0)]


@pytest.mark.parametrize(
    ("until_s", "averages"),
    [(9.9, []), (10, [(10, 11.0)]), (29, [(10, 30.5)]), (30, [(10, 30.5), (11, 7.0)])],
)
def test_q4_until_some_time_has_the_auctions_that_are_closed_then(
    queries, market, until_s, averages
):
    assert queries.q4(market, until_s=until_s) == averages


def test_q5_has_the_auctions_with_most_bids_in_each_sliding_window(queries, bid):
    events = [bid(auction=7, time=1), bid(auction=7, time=1.5), bid(auction=8, time=2)]
    events += [bid(auction=8, time=9)]
    assert queries.q5(events, size_s=4, hop_s=2) == [
        *((-2, 7, 2), (0, 7, 2), (2, 8, 1)),
        *((6, 8, 1), (8, 8, 1)),  # nobody bid from 4 to 8
    ]
    # 7 leads where the windows end before 9; the one from 0 has a tie, and 8 is alone later.
    assert queries.q5(events) == [
        *((-8, 7, 2), (-6, 7, 2), (-4, 7, 2), (-2, 7, 2)),
        *((0, 7, 2), (0, 8, 2), (2, 8, 2), (4, 8, 1), (6, 8, 1), (8, 8, 1)),
    ]


def test_q6_is_the_mean_of_the_last_sales_of_a_seller(queries, market):
    assert queries.q6(market) == [(1, 30.5), (2, 7.0)]
    assert queries.q6(market, last=1) == [(1, 50.0), (2, 7.0)]
    assert queries.q6(market, until_s=10) == [(1, 11.0)]


def test_q6_passes_over_what_nobody_won_and_closes_by_time_then_id(queries, auction, bid):
    events = [auction(id=id, seller=1, expires=10 + id // 2) for id in range(20, 0, -1)]
    events += [bid(auction=id, price=id) for id in range(1, 21) if id != 15]
    # The last ten that were sold: 10 to 20 without 15; 10 and 11 closed at one time.
    assert queries.q6(events) == [(1, (sum(range(10, 21)) - 15) / 10)]
    assert queries.q6(events, last=9) == [(1, (sum(range(11, 21)) - 15) / 9)]


def test_q7_has_every_bid_of_the_highest_price_of_a_tumbling_window(queries, bid):
    events = [
        bid(auction=7, price=5, time=0),
        bid(auction=8, price=9, time=9.5),
        bid(auction=6, price=9, bidder=2, time=3),
        bid(auction=7, price=4, time=10),
        bid(auction=7, price=3, time=39.9),
    ]
    assert queries.q7(events) == [
        (0, 9, 6, 2, 3),
        (0, 9, 8, 1, 9.5),
        (10, 4, 7, 1, 10),
        (30, 3, 7, 1, 39.9),
    ]
    assert queries.q7(events, size_s=40) == [(0, 9, 6, 2, 3), (0, 9, 8, 1, 9.5)]


def test_q8_has_who_sold_in_the_window_in_which_they_registered(queries, person, auction):
    events = [
        auction(id=70, seller=1, time=1),  # before its seller, in the same window
        person(id=1, time=9),
        auction(id=71, seller=1, time=9.5),
        person(id=2, time=9.5),
        auction(id=72, seller=2, time=10),  # the window is over
        person(id=3, name="Kurt", time=10),
        auction(id=73, seller=3, time=19.9),
        person(id=4, time=10),
    ]
    assert queries.q8(events) == [(0, 1, "Ada"), (10, 3, "Kurt")]
    assert queries.q8(events, size_s=20) == [(0, 1, "Ada"), (0, 2, "Ada"), (0, 3, "Kurt")]


@pytest.mark.parametrize("name", QUERY_NAMES)
def test_nothing_has_no_answer(queries, name):
    assert queries.QUERIES[name]([]) == []


@pytest.mark.parametrize(
    ("time_s", "size_s", "hop_s", "starts"),
    [
        (0, 10, 10, [0]),
        (9.99, 10, 10, [0]),
        (10, 10, 10, [10]),
        (10, 10, 2, [10, 8, 6, 4, 2]),
        (11.5, 10, 2, [10, 8, 6, 4, 2]),
        (3, 5, 2, [2, 0]),
        (4, 5, 2, [4, 2, 0]),
        (-1, 10, 10, [-10]),
        (3, 1, 2, []),  # between two windows
    ],
)
def test_a_window_holds_its_start_and_not_its_end(queries, time_s, size_s, hop_s, starts):
    assert queries.window_starts(time_s, size_s=size_s, hop_s=hop_s) == starts


@pytest.mark.parametrize("wrong", [{"size_s": 0}, {"hop_s": 0}, {"hop_s": -2}])
def test_windows_without_a_size_or_a_hop_are_refused(queries, wrong):
    with pytest.raises(ValueError, match="must be positive"):
        queries.window_starts(1, **{"size_s": 10, "hop_s": 2} | wrong)


# --- the queries, found a second way -------------------------------------------------------------


@pytest.mark.parametrize("name", QUERY_NAMES)
def test_the_order_of_the_events_changes_no_answer(queries, generated, name):
    query = queries.QUERIES[name]
    shuffled = random.Random(name).sample(generated, len(generated))
    assert query(iter(shuffled)) == query(generated) != []


def test_q3_as_a_join_that_remembers_both_sides(data, queries, generated):
    people, waiting, found = {}, defaultdict(list), []
    for event in generated:
        if isinstance(event, data.Person) and event.state in {"OR", "ID", "CA"}:
            people[event.id] = event
            found += [(event, auction) for auction in waiting[event.id]]
        elif isinstance(event, data.Auction) and event.category == 10:
            waiting[event.seller].append(event)
            found += [(people[event.seller], event)] if event.seller in people else []
    shown = [(person.name, person.city, person.state, auction.id) for person, auction in found]
    assert queries.q3(generated) == sorted(shown)


def closings(data, events):
    """(auction, its highest price) in the order of closing, by one pass over event time."""
    closes = [(auction.expires, 0, auction) for auction in only(data.Auction, events)]
    opens = [(auction.time, 1, auction) for auction in only(data.Auction, events)]
    offers = [(bid.time, 2, bid) for bid in only(data.Bid, events)]
    highest: dict[int, int] = {}
    # At one time, what ends comes before what begins, and that before the bids.
    for _, step, event in sorted(closes + opens + offers):
        if step == 1:
            highest[event.id] = 0
        elif step == 2 and event.auction in highest:
            highest[event.auction] = max(highest[event.auction], event.price)
        elif step == 0 and (price := highest.pop(event.id)):
            yield event, price


def test_q4_as_running_sums_over_event_time(data, queries, generated):
    sums, counts = Counter(), Counter()
    for auction, price in closings(data, generated):
        sums[auction.category] += price
        counts[auction.category] += 1
    assert len(sums) == 5
    assert queries.q4(generated) == sorted((key, sums[key] / counts[key]) for key in sums)


@pytest.mark.parametrize("last", [1, 3, 10])
def test_q6_as_a_queue_per_seller_over_event_time(data, queries, generated, last):
    queues = defaultdict(list)
    for auction, price in closings(data, generated):
        queues[auction.seller] = [*queues[auction.seller], price][-last:]
    assert max(map(len, queues.values())) == last
    assert queries.q6(generated, last=last) == sorted(
        (seller, sum(prices) / len(prices)) for seller, prices in queues.items()
    )


@pytest.mark.parametrize(("size_s", "hop_s"), [(10, 2), (4, 4), (5, 2)])
def test_q5_as_a_count_of_each_window_by_itself(data, queries, generated, size_s, hop_s):
    bids = only(data.Bid, generated)
    found = []
    for start_s in range(-20 * hop_s, 100, hop_s):
        counts = Counter(bid.auction for bid in bids if start_s <= bid.time < start_s + size_s)
        most = max(counts.values(), default=0)
        found += [(start_s, auction, most) for auction in counts if counts[auction] == most]
    assert queries.q5(generated, size_s=size_s, hop_s=hop_s) == sorted(found)


def test_q7_as_a_search_for_a_higher_bid(data, queries, generated):
    bids = only(data.Bid, generated)
    best = {}
    for bid in bids:
        best[bid.time // 10] = max(best.get(bid.time // 10, 0), bid.price)
    found = [bid for bid in bids if bid.price == best[bid.time // 10]]
    assert queries.q7(generated) == sorted(
        (bid.time // 10 * 10, bid.price, bid.auction, bid.bidder, bid.time) for bid in found
    )


def test_q8_as_pairs_of_a_person_and_an_auction(data, queries, generated):
    pairs = itertools.product(only(data.Person, generated), only(data.Auction, generated))
    found = {
        (person.time // 10 * 10, person.id, person.name)
        for person, auction in pairs
        if auction.seller == person.id and auction.time // 10 == person.time // 10
    }
    assert queries.q8(generated) == sorted(found)

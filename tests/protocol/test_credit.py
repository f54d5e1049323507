import random

import pytest

from zflow.protocol.credit import ReceiverCredit, SenderCredit, Window

SEEDS = range(50)
STEPS = 200


@pytest.mark.parametrize("seed", SEEDS)
def test_no_unit_leaves_beyond_a_limit_whatever_the_order_of_events(seed):
    chance = random.Random(seed)
    credit = SenderCredit()
    for step in range(STEPS):
        where = f"seed {seed} step {step}"
        before = credit.limit_items, credit.limit_bytes
        if chance.random() < 0.4:
            credit.raise_to(chance.randrange(500), chance.randrange(50_000))
        else:
            items, size_bytes = chance.randrange(1, 20), chance.randrange(2000)
            sent = credit.sent_items, credit.sent_bytes
            if credit.fits(items, size_bytes):
                assert sent[0] < credit.limit_items, where
                assert sent[1] < credit.limit_bytes, where
                credit.take(items, size_bytes)
                assert items == 1 or credit.sent_bytes <= credit.limit_bytes, where
            assert credit.sent_items <= credit.limit_items, where
            assert credit.sent_bytes < credit.limit_bytes + 2000, where
        assert credit.limit_items >= before[0], where
        assert credit.limit_bytes >= before[1], where
        assert credit.room_items() >= 0, where
        assert credit.room_bytes() >= 0, where


def test_nothing_may_go_before_the_first_limit():
    credit = SenderCredit()
    assert credit.room_items() == 0
    assert not credit.fits(1, 0)


def test_one_unit_may_overshoot_the_bytes_and_two_may_not():
    credit = SenderCredit()
    credit.raise_to(10, 100)
    assert not credit.fits(2, 101)
    assert credit.fits(1, 1_000_000)
    credit.take(1, 1_000_000)
    assert credit.room_items() == 0
    assert credit.room_bytes() == 0
    assert not credit.fits(1, 1)


def test_nothing_may_go_once_the_bytes_are_used_up_to_the_last():
    credit = SenderCredit()
    credit.raise_to(10, 100)
    credit.take(2, 100)
    assert credit.room_items() == 0
    assert not credit.fits(1, 0)
    credit.raise_to(10, 101)
    assert credit.room_items() == 8


def test_statements_in_any_order_end_at_the_same_limit():
    limits = [(5, 100), (9, 80), (2, 300)]
    for order in (limits, limits[::-1], [*limits, *limits]):
        credit = SenderCredit()
        for limit in order:
            credit.raise_to(*limit)
        assert (credit.limit_items, credit.limit_bytes) == (9, 300)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stated_limit_never_falls_and_never_grants_more_than_a_window(seed):
    chance = random.Random(seed)
    widest = 50, 5000
    credit = ReceiverCredit(10, 1000)
    accepted = accepted_bytes = 0
    for step in range(STEPS):
        where = f"seed {seed} step {step}"
        before = credit.limit_items, credit.limit_bytes
        event = chance.randrange(3)
        if event == 0:
            accepted = min(credit.limit_items, accepted + chance.randrange(20))
            accepted_bytes = min(credit.limit_bytes, accepted_bytes + chance.randrange(900))
        elif event == 1:
            items = chance.randint(0, accepted - credit.freed_items)
            credit.free(items, chance.randint(0, accepted_bytes - credit.freed_bytes))
        else:
            credit.widen(chance.randint(1, widest[0]), chance.randint(1, widest[1]))
        assert credit.limit_items >= before[0], where
        assert credit.limit_bytes >= before[1], where
        assert credit.limit_items - credit.freed_items <= widest[0], where
        assert credit.limit_bytes - credit.freed_bytes <= widest[1], where


def test_credit_returns_when_units_have_left_and_not_before():
    credit = ReceiverCredit(8, 800)
    credit.widen(8, 800)
    assert (credit.limit_items, credit.limit_bytes) == (8, 800)
    credit.free(3, 300)
    credit.widen(8, 800)
    assert (credit.limit_items, credit.limit_bytes) == (11, 1100)


def test_a_smaller_window_lets_the_old_limit_be_used_up():
    credit = ReceiverCredit(100, 1000)
    credit.widen(10, 100)
    assert (credit.limit_items, credit.limit_bytes) == (100, 1000)
    credit.free(95, 950)
    credit.widen(10, 100)
    assert (credit.limit_items, credit.limit_bytes) == (105, 1050)


def test_a_quarter_of_the_window_is_worth_a_statement():
    credit = ReceiverCredit(8, 800)
    assert not credit.free(1, 100)
    assert credit.free(1, 100)
    credit.stated(4)
    assert credit.free(1, 100)
    credit.stated(8)
    assert not credit.free(1, 100)


def measured(per_unit_s: float, *, max_items: int = 65_536) -> Window:
    window = Window(max_items=max_items)
    for _ in range(50):
        window.measured(10, 10 * per_unit_s)
    return window


def test_a_window_is_the_work_of_20_milliseconds():
    assert measured(0.001).items(links=1) == 20
    assert measured(0.0001).items(links=1) == 200


def test_a_window_is_shared_by_the_links():
    assert measured(0.0001).items(links=4) == 50
    assert measured(0.0001).items(links=0) == 200


def test_slow_work_still_has_one_unit_running_and_one_waiting():
    assert measured(5.0).items(links=16) == Window.MIN_ITEMS


@pytest.mark.parametrize("max_items", [2, 4, 100])
def test_a_window_is_never_wider_than_declared(max_items):
    assert Window(max_items=max_items).items(links=1) <= max_items
    assert measured(0.000001, max_items=max_items).items(links=1) == max_items


def test_before_the_first_measurement_the_window_is_small():
    window = Window(max_items=65_536)
    assert window.items(links=1) == Window.FIRST_ITEMS
    assert window.service_s == 0.0


def test_work_too_fast_to_be_measured_opens_the_window_no_further_than_declared():
    window = Window(max_items=1000)
    window.measured(10, 0.0)
    assert Window.MIN_ITEMS <= window.items(links=1) <= 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_a_window_stays_between_its_bounds_whatever_is_measured(seed):
    chance = random.Random(seed)
    window = Window(max_items=1000)
    lowest, highest = float("inf"), 0.0
    for _ in range(STEPS):
        items, each_s = chance.randrange(1, 2000), 10 ** chance.uniform(-9, 2)
        window.measured(items, items * each_s)
        lowest, highest = min(lowest, each_s), max(highest, each_s)
        assert lowest * 0.999 <= window.service_s <= highest * 1.001, f"seed {seed}"
        assert Window.MIN_ITEMS <= window.items(chance.randrange(1, 9)) <= 1000, f"seed {seed}"


def test_a_replica_that_works_at_many_at_once_wants_as_many_more_however_slow_one_is():
    window = Window(max_items=1000)
    window.at_least(200)
    assert window.items(1) == 200
    window.measured(1, 60.0)
    assert window.items(1) == 200
    assert window.items(3) == 67  # over all links together
    assert window.items(1000) == Window.MIN_ITEMS
    window.at_least(5000)
    assert window.items(1) == 1000, "never more than the edge allows"


@pytest.mark.parametrize("per_unit_s", [None, 0.000001, 0.001, 5.0])
def test_what_takes_many_at_once_is_sent_that_many_however_slow_it_is(per_unit_s):
    window = Window(max_items=65_536)
    window.floor_items = 64
    if per_unit_s is not None:
        window.measured(10, 10 * per_unit_s)
    assert window.items(links=1) >= 64
    assert window.items(links=16) >= 64

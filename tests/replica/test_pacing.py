"""Rates and breakers, by the numbers; no clock runs here."""

import random

import pytest

from zflow.limits import Breaker
from zflow.replica.pacing import ANY_NUMBER, BURST_S, Circuit, Pace, PerKey, Stand

NOW_S = 1000.0


def driven(pace, *, until_s, step_s, most=ANY_NUMBER, now_s=NOW_S):
    """How many go if somebody asks every `step_s`."""
    gone = 0
    while now_s < until_s:
        n = min(most, pace.allowed(now_s))
        pace.take(n)
        gone += n
        now_s += step_s
    return gone


# --- a pace --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_per_s", [0.5, 1, 7, 99.5, 1000, 30_000])
@pytest.mark.parametrize("step_s", [0.0004, 0.011])
def test_whoever_takes_all_that_it_may_goes_at_the_rate(rate_per_s, step_s):
    gone = driven(Pace(rate_per_s, NOW_S), until_s=NOW_S + 10.0, step_s=step_s)
    assert 10 * rate_per_s * 0.98 - 1 <= gone <= 10 * rate_per_s + 1


def test_it_begins_with_one_item_and_the_next_goes_one_interval_later():
    pace = Pace(4.0, NOW_S)
    assert pace.allowed(NOW_S) == 1
    pace.take(1)
    assert pace.allowed(NOW_S) == 0
    assert pace.due_s() == pytest.approx(NOW_S + 0.25)
    assert pace.allowed(NOW_S + 0.2499) == 0
    assert pace.allowed(pace.due_s()) == 1
    assert pace.interval_s == 0.25


def test_a_pause_is_not_made_up_for_but_for_what_20_milliseconds_give():
    assert Pace(10.0, NOW_S).allowed(NOW_S + 3600.0) == 1
    assert Pace(1000.0, NOW_S).allowed(NOW_S + 3600.0) == 1000 * BURST_S + 1


def test_a_batch_goes_as_a_whole_however_slow_the_rate():
    pace = Pace(100.0, NOW_S, least=32)
    pace.allowed(NOW_S)
    assert pace.due_s(32) == pytest.approx(NOW_S + 0.31)
    assert pace.allowed(pace.due_s(32)) == 32


def test_nobody_waits_for_more_than_can_ever_be_held():
    pace = Pace(10.0, NOW_S, least=4)
    pace.allowed(NOW_S)
    assert pace.allowed(pace.due_s(1_000_000)) == 4


def test_what_did_not_go_after_all_is_given_back():
    pace = Pace(1000.0, NOW_S)
    assert pace.allowed(NOW_S + 1.0) == 21
    pace.take(21)
    pace.take(-15)
    assert pace.allowed(NOW_S + 1.0) == 15


def test_another_rate_counts_from_when_it_is_told():
    pace = Pace(10.0, NOW_S)
    pace.take(1)
    pace.change(1.0, NOW_S + 0.05)  # half an item is there
    pace.allowed(NOW_S + 0.05)
    assert pace.due_s() == pytest.approx(NOW_S + 0.55)
    pace.change(100.0, NOW_S + 0.05)
    assert pace.due_s() == pytest.approx(NOW_S + 0.055)


def test_a_clock_that_is_asked_out_of_order_gives_nothing_away():
    pace = Pace(1.0, NOW_S)
    pace.take(1)
    for at_s in (0.9, 0.1, 0.9, 0.1, 0.9):
        assert pace.allowed(NOW_S + at_s) == 0


@pytest.mark.parametrize("seed", range(20))
def test_in_no_stretch_of_time_do_more_go_than_the_rate_and_one_burst(seed):
    chance = random.Random(seed)
    rate_per_s = chance.choice([3.0, 50.0, 800.0])
    pace = Pace(rate_per_s, NOW_S)
    burst = rate_per_s * BURST_S + 1.0
    gone, now_s = [], NOW_S
    for _ in range(300):
        now_s = max(now_s + chance.random() * 0.05, pace.due_s() if chance.random() < 0.5 else 0.0)
        n = chance.randint(0, pace.allowed(now_s))
        pace.take(n)
        gone.append((now_s, n))
    for begin in range(0, 300, 20):
        for end in range(begin, 300, 20):
            total = sum(n for _, n in gone[begin : end + 1])
            seconds = gone[end][0] - gone[begin][0]
            assert total <= rate_per_s * seconds + burst + 0.01, f"seed {seed}"


# --- a pace for each key -------------------------------------------------------------------------


def test_each_key_has_the_rate_for_itself():
    keyed = PerKey(1.0, room=10)
    assert [keyed.admit(key, NOW_S) for key in "abab"] == [True, True, False, False]
    assert [keyed.admit(key, NOW_S + 1.0) for key in "ab"] == [True, True]


def test_who_waits_goes_in_order_and_other_keys_go_past():
    keyed = PerKey(1.0, room=10)
    assert keyed.admit("a", NOW_S)
    for k in range(3):
        assert not keyed.admit("a", NOW_S)
        keyed.wait("a", k)
    assert keyed.admit("b", NOW_S)
    assert keyed.pop(NOW_S) is None
    assert keyed.due_s() == pytest.approx(NOW_S + 1.0)
    assert not keyed.admit("a", NOW_S + 1.5), "it must not go past those that wait"
    assert keyed.pop(NOW_S + 1.5) == 0
    assert keyed.pop(NOW_S + 1.5) is None
    assert [keyed.pop(NOW_S + s) for s in (2.5, 3.5)] == [1, 2]
    assert (keyed.waiting, keyed.due_s()) == (0, float("inf"))
    assert keyed.admit("a", NOW_S + 4.5)


def test_the_key_whose_turn_comes_first_goes_first():
    keyed = PerKey(1.0, room=10)
    for k, key in enumerate("abc"):
        keyed.admit(key, NOW_S + k / 10)
        keyed.wait(key, key)
    assert [keyed.pop(NOW_S + 2.0) for _ in range(4)] == ["a", "b", "c", None]


def test_a_room_that_is_full_says_so():
    keyed = PerKey(1.0, room=2)
    keyed.admit("a", NOW_S)
    assert not keyed.is_full
    keyed.wait("a", 1)
    keyed.wait("a", 2)
    assert keyed.is_full
    keyed.pop(NOW_S + 1.0)
    assert not keyed.is_full


def test_keys_that_have_not_come_for_a_while_are_forgotten(monkeypatch):
    monkeypatch.setattr(PerKey, "_REMEMBERED", 100)
    keyed = PerKey(10.0, room=10)
    keyed.admit("waits", NOW_S)
    keyed.wait("waits", 1)
    for k in range(10_000):
        assert keyed.admit(k, NOW_S + k)
    assert len(keyed._paces) <= 201
    assert keyed.pop(NOW_S + 10_000) == 1


def test_another_rate_changes_when_those_who_wait_may_go():
    keyed = PerKey(1.0, room=10)
    keyed.admit("a", NOW_S)
    keyed.wait("a", 1)
    keyed.change(10.0, NOW_S)
    assert keyed.due_s() == pytest.approx(NOW_S + 0.1)
    keyed.change(0.5, NOW_S)
    assert keyed.pop(NOW_S + 1.9) is None
    assert keyed.pop(NOW_S + 2.0) == 1


def test_what_cannot_be_a_key_raises():
    with pytest.raises(TypeError, match="unhashable"):
        PerKey(1.0, room=10).admit(["a"], NOW_S)


@pytest.mark.parametrize("seed", range(20))
def test_no_item_is_lost_or_goes_twice_and_no_key_goes_faster(seed):
    chance = random.Random(seed)
    keyed = PerKey(2.0, room=1000)
    gone, waits, now_s = {key: [] for key in "abc"}, 0, NOW_S
    for k in range(400):
        now_s += chance.random() * 0.2
        while (one := keyed.pop(now_s)) is not None:
            gone[one[0]].append((now_s, one[1]))
        key = chance.choice("abc")
        if keyed.admit(key, now_s):
            gone[key].append((now_s, k))
        else:
            keyed.wait(key, (key, k))
            waits += 1
    while keyed.waiting:
        now_s = max(now_s, keyed.due_s())
        one = keyed.pop(now_s)
        assert one is not None, f"seed {seed}: due, and there is none"
        gone[one[0]].append((now_s, one[1]))
    assert waits > 20
    assert sorted(k for items in gone.values() for _, k in items) == list(range(400))
    for items in gone.values():
        assert [k for _, k in items] == sorted(k for _, k in items), f"seed {seed}: order"
        for (first_s, _), (then_s, _) in zip(items, items[2:], strict=False):
            assert then_s - first_s >= 0.5 - 1e-3, f"seed {seed}: three within half a second"


# --- a breaker -----------------------------------------------------------------------------------


def circuit(*, failures=3, reset_s=10.0, retries=100, on=(ConnectionError,)):
    return Circuit(Breaker(failures=failures, reset_s=reset_s, on=on), retries=retries)


def failing(one, times, *, now_s=NOW_S, attempt=0):
    return [one.failed(ConnectionResetError(), attempt, now_s) for _ in range(times)]


def test_it_opens_at_the_last_of_so_many_failures_in_a_row():
    one = circuit()
    assert failing(one, 2) == [False, False]
    assert (one.stand(NOW_S), one.allowed(NOW_S), one.alarm(NOW_S)) == (
        Stand.CLOSED,
        ANY_NUMBER,
        "",
    )
    assert failing(one, 1) == [True]
    assert (one.stand(NOW_S), one.allowed(NOW_S)) == (Stand.OPEN, 0)
    assert one.due_s() == NOW_S + 10.0


def test_a_success_in_between_makes_it_count_anew():
    one = circuit()
    failing(one, 2)
    assert not one.succeeded()
    assert failing(one, 3) == [False, False, True]


def test_other_errors_say_nothing_of_the_dependency():
    one = circuit()
    failing(one, 2)
    assert not one.failed(ValueError(), 0, NOW_S)
    assert failing(one, 1) == [True]
    assert not one.failed(ValueError(), 0, NOW_S + 10.0)
    assert one.stand(NOW_S + 10.0) is Stand.HALF_OPEN


def test_one_item_is_tried_after_a_while_and_closes_it():
    one = circuit()
    failing(one, 3)
    assert one.allowed(NOW_S + 9.9) == 0
    assert one.allowed(NOW_S + 10.0) == 1
    assert one.succeeded()
    assert (one.allowed(NOW_S + 10.0), one.alarm(NOW_S + 10.0)) == (ANY_NUMBER, "")
    assert failing(one, 3, now_s=NOW_S + 11.0) == [False, False, True]


def test_a_trial_that_fails_opens_it_again_however_often_its_item_has_failed():
    one = circuit(retries=3)
    failing(one, 3)
    for k in range(1, 6):
        now_s = NOW_S + 10.0 * k
        assert one.stand(now_s) is Stand.HALF_OPEN
        assert failing(one, 1, now_s=now_s, attempt=3) == [True]
        assert one.allowed(now_s + 9.9) == 0


def test_no_item_is_given_up_because_there_were_too_few_to_open_it():
    one = circuit(failures=5, retries=1)
    assert failing(one, 1, attempt=0) == [False]
    assert failing(one, 1, attempt=1) == [True]


def test_a_single_item_that_has_failed_for_the_last_time_does_not_open_it():
    one = circuit(failures=5, retries=1)
    one.succeeded()
    assert failing(one, 1, attempt=1) == [False]


def test_it_says_how_it_is():
    one = circuit()
    failing(one, 3)
    assert one.alarm(NOW_S) == "breaker open after 3 ConnectionResetError; next try in 10 s"
    assert one.alarm(NOW_S + 9.9) == "breaker open after 3 ConnectionResetError; next try in 1 s"
    assert one.alarm(NOW_S + 10.0) == (
        "breaker half open after 3 ConnectionResetError; the next item is tried"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 1.5},
        {"reset_s": 0},
        {"reset_s": float("inf")},
        {"on": ()},
        {"on": (KeyboardInterrupt,)},
        {"on": "OSError"},
    ],
)
def test_a_breaker_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is "):
        Breaker(**wrong)


def test_one_exception_class_is_kept_as_a_tuple():
    assert Breaker(on=OSError).on == (OSError,)

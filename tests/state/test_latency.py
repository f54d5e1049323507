"""Latencies in buckets: a quantile is never too low and at most 19 % too high."""

import random

import pytest

from zflow.state.latency import BUCKETS, bound_s, bucket_of, quantile_s


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 10e-6])
def test_what_is_shorter_than_10_microseconds_is_in_the_first_bucket(seconds):
    assert bucket_of(seconds) == 0


@pytest.mark.parametrize("seconds", [200.0, 1e9])
def test_what_is_longer_than_the_last_bound_is_in_the_last_bucket(seconds):
    assert bucket_of(seconds) == BUCKETS - 1
    assert bound_s(BUCKETS - 1) > 120


def test_the_bound_of_a_bucket_is_at_most_a_fifth_above_what_is_in_it():
    for seed in range(50):
        chance = random.Random(seed)
        for _ in range(200):
            seconds = 10 ** chance.uniform(-5, 2)
            bound = bound_s(bucket_of(seconds))
            assert seconds <= bound * (1 + 1e-9), (seed, seconds)
            assert bound <= seconds * 1.19 * (1 + 1e-9), (seed, seconds)


def test_a_quantile_is_the_bound_below_which_that_share_lies():
    counters = {"latency:4": 90, "latency:8": 9, "latency:40": 1}
    assert quantile_s(counters, 0.5) == bound_s(4)
    assert quantile_s(counters, 0.9) == bound_s(4)
    assert quantile_s(counters, 0.99) == bound_s(8)
    assert quantile_s(counters, 0.999) == bound_s(40)


def test_without_any_item_there_is_no_quantile():
    assert quantile_s({"processed": 3}, 0.5) is None

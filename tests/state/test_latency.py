"""Latencies in buckets: a quantile is never too low and at most 19 % too high."""

import random

import pytest

from zflow.metrics import BOUNDS_S
from zflow.state.latency import (
    BUCKETS,
    bound_s,
    bucket_of,
    exported_bucket,
    exported_bucket_of_ns,
    quantile_s,
)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 9e-6])
def test_what_is_shorter_than_9_microseconds_is_in_the_first_bucket(seconds):
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
    counters = {"latency:a->b:4": 90, "latency:a->b:8": 5, "latency:c->b:8": 4}
    counters["latency:c->b:40"] = 1
    assert quantile_s(counters, 0.5) == bound_s(4)
    assert quantile_s(counters, 0.9) == bound_s(4)
    assert quantile_s(counters, 0.99) == bound_s(8)
    assert quantile_s(counters, 0.999) == bound_s(40)


def test_without_any_item_there_is_no_quantile():
    assert quantile_s({"processed": 3}, 0.5) is None


def test_every_fourth_bound_is_one_that_is_exported():
    for number, bound in enumerate(BOUNDS_S):
        own = [k for k in range(BUCKETS) if exported_bucket(k) == number]
        assert bound_s(own[-1]) == pytest.approx(bound)
        assert number == 0 or len(own) == 4
    assert exported_bucket(BUCKETS - 1) == len(BOUNDS_S)


def test_a_duration_lies_in_the_same_exported_bucket_whichever_way_it_is_found():
    for seed in range(2000):
        ns = int(10 ** random.Random(seed).uniform(0, 11.2))
        number = exported_bucket_of_ns(ns)
        assert exported_bucket(bucket_of(ns / 1e9)) == number, ns
        assert number == len(BOUNDS_S) or ns / 1e9 <= BOUNDS_S[number], ns
        assert number == 0 or ns / 1e9 > BOUNDS_S[number - 1], ns


@pytest.mark.parametrize(("ns", "bucket"), [(-5, 0), (0, 0), (500_000, 0), (500_001, 1)])
def test_a_bound_belongs_to_its_bucket(ns, bucket):
    assert exported_bucket_of_ns(ns) == bucket

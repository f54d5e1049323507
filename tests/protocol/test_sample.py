"""How much of an edge is mirrored."""

from random import Random

import pytest

from zflow.protocol.sample import (
    BYTES_PER_S,
    ITEMS_PER_S,
    MAX_MIRRORED_BYTES,
    TELL_EVERY_S,
    Bucket,
    Sample,
)

LARGEST_ITEMS, LARGEST_BYTES = 1024, 1024 * 1024


@pytest.mark.parametrize("seed", range(50))
def test_no_more_is_mirrored_than_the_bounds_and_one_message_allow(seed):
    random = Random(seed)
    sample, now_s, size_bytes, seen = Sample(0.0), 0.0, 0, 0
    for _ in range(200):
        now_s += random.expovariate(random.choice([10, 1000, 100_000]))
        items, one_bytes = random.randint(1, LARGEST_ITEMS), random.randint(1, LARGEST_BYTES)
        seen += items
        if sample.takes(items, one_bytes, now_s):
            size_bytes += one_bytes
        assert sample.seen == seen, seed
        assert sample.mirrored <= ITEMS_PER_S * (1 + now_s) + LARGEST_ITEMS, seed
        assert size_bytes <= BYTES_PER_S * (1 + now_s) + LARGEST_BYTES, seed


def test_a_slow_edge_is_mirrored_whole():
    sample = Sample(0.0)
    assert all(sample.takes(10, 1000, at / 100) for at in range(1000))
    assert sample.mirrored == sample.seen == 10_000


def test_a_large_message_passes_and_is_paid_for_afterwards():
    sample = Sample(0.0)
    assert sample.takes(1, int(4 * BYTES_PER_S), 0.0)
    assert not sample.takes(1, 1, 2.9)
    assert sample.takes(1, 1, 3.1)


def test_a_message_that_would_take_too_much_memory_is_left_out():
    assert not Sample(0.0).takes(1, MAX_MIRRORED_BYTES + 1, 0.0)


def test_counts_are_told_only_after_a_silence():
    sample = Sample(0.0)
    sample.takes(1, 1, 5.0)
    assert not sample.is_to_tell(5.0 + TELL_EVERY_S / 2)
    assert sample.is_to_tell(5.0 + TELL_EVERY_S)
    assert not sample.is_to_tell(5.1 + TELL_EVERY_S)


def test_a_rate_below_one_per_second_still_lets_one_pass():
    bucket = Bucket(0.1, 0.0)
    assert bucket.has(0.0)
    bucket.take(1.0)
    assert not bucket.has(8.9)
    assert bucket.has(9.1)

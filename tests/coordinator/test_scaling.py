"""Partitions over slots: even, to those that stay, and with as few moves as can be."""

import random
from collections import Counter

import pytest

from zflow.coordinator.scaling import balanced


def fewest_moves(owners, staying):
    """A plain count: of each slot all that is above its share moves, and all of who leaves; the
    larger shares go to who has most."""
    held = Counter(owner for owner in owners if owner in staying)
    least, with_more = divmod(len(owners), len(staying))
    most = sorted((held[slot] for slot in staying), reverse=True)
    shares = [least + (place < with_more) for place in range(len(staying))]
    return len(owners) - sum(map(min, most, shares))


@pytest.mark.parametrize("seed", range(200))
def test_any_owners_over_any_slots_that_stay(seed):
    dice = random.Random(seed)
    owners = [dice.randrange(dice.randint(1, 12)) for _ in range(dice.randint(1, 128))]
    staying = dice.sample(range(12), dice.randint(1, 12))
    found = balanced(owners, staying)
    held = Counter(found)
    assert set(held) <= set(staying), f"seed {seed}: only who stays"
    counts = [held[slot] for slot in staying]
    assert max(counts) - min(counts) <= 1, f"seed {seed}: even"
    moves = sum(before != after for before, after in zip(owners, found, strict=True))
    assert moves == fewest_moves(owners, set(staying)), f"seed {seed}: as few as can be"
    assert balanced(found, staying) == found, f"seed {seed}: then nothing moves again"


def test_what_is_even_already_stays_as_it_is():
    assert balanced([0, 1, 0, 1], [0, 1]) == [0, 1, 0, 1]


def test_one_more_takes_its_share_and_one_less_gives_its_own():
    assert Counter(balanced([0, 0, 0, 1, 1, 1], [0, 1, 2])) == {0: 2, 1: 2, 2: 2}
    assert balanced([0, 1, 2, 0, 1, 2], [0, 1]) == [0, 1, 0, 0, 1, 1]

import random

import pytest

from zflow.intervals import IntervalSet

SPACE = 60


def ranges_of(model: set[int]) -> list[tuple[int, int]]:
    """The maximal stretches of a set of integers, the slow way."""
    starts = sorted(k for k in model if k - 1 not in model)
    ends = sorted(k + 1 for k in model if k + 1 not in model)
    return list(zip(starts, ends, strict=True))


def holding(*ranges: tuple[int, int]) -> IntervalSet:
    found = IntervalSet()
    for start, end in ranges:
        found.add(start, end)
    return found


@pytest.mark.parametrize("seed", range(50))
def test_it_answers_like_a_plain_set_of_integers(seed):
    chance = random.Random(seed)
    found, model = IntervalSet(), set()
    for step in range(60):
        start, end = chance.randrange(SPACE), chance.randrange(SPACE)
        if chance.random() < 0.15:
            found.drop_below(start)
            model -= set(range(start))
        else:
            end = min(end, start + chance.choice([1, 3, SPACE]))
            found.add(start, end)
            model |= set(range(start, end))
        where = f"seed {seed} step {step}"
        assert list(found) == ranges_of(model), where
        assert len(found) == len(ranges_of(model)), where
        assert found.total() == len(model), where
        for k in (start, end, chance.randrange(-2, SPACE + 2)):
            assert (k in found) == (k in model), where
            contiguous = k
            while contiguous in model:
                contiguous += 1
            assert found.contiguous_end(k) == contiguous, where
        low, high = chance.randrange(-2, SPACE), chance.randrange(SPACE + 2)
        assert found.missing(low, high) == ranges_of(set(range(low, high)) - model), where


@pytest.mark.parametrize("seed", range(50))
def test_equal_sets_have_equal_ranges_in_whatever_order_they_were_made(seed):
    chance = random.Random(seed)
    pieces = [(k, k + chance.randrange(1, 5)) for k in range(0, SPACE, 3)]
    shuffled = chance.sample(pieces, len(pieces))
    assert list(holding(*pieces)) == list(holding(*shuffled)), f"seed {seed}"


@pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4), (5, -5)])
def test_an_empty_range_changes_nothing(start, end):
    found = holding((0, 2), (7, 9))
    found.add(start, end)
    assert list(found) == [(0, 2), (7, 9)]
    assert found.missing(start, end) == []


def test_neighbours_are_merged_and_strangers_are_not():
    assert list(holding((0, 2), (2, 4))) == [(0, 4)]
    assert list(holding((2, 4), (0, 2))) == [(0, 4)]
    assert list(holding((0, 2), (3, 4))) == [(0, 2), (3, 4)]
    assert list(holding((0, 2), (4, 6), (2, 4))) == [(0, 6)]
    assert list(holding((0, 2), (4, 6), (8, 9), (1, 8))) == [(0, 9)]


def test_a_mark_inside_a_range_cuts_it():
    found = holding((0, 10), (20, 30))
    found.drop_below(5)
    assert list(found) == [(5, 10), (20, 30)]
    found.drop_below(10)
    assert list(found) == [(20, 30)]
    found.drop_below(100)
    assert list(found) == []


def test_the_set_may_be_changed_while_it_is_read():
    found = holding((0, 1), (2, 3), (4, 5))
    for start, end in found:
        found.add(start, end + 1)
    assert list(found) == [(0, 6)]


def test_a_million_integers_in_order_are_one_range():
    found = IntervalSet()
    for k in range(0, 1_000_000, 1000):
        found.add(k, k + 1000)
    assert list(found) == [(0, 1_000_000)]
    assert found.total() == 1_000_000


@pytest.mark.parametrize("seed", range(50))
def test_many_ranges_at_once_are_the_same_as_one_after_the_other(seed):
    chance = random.Random(seed)
    together, single = IntervalSet(), IntervalSet()
    for step in range(30):
        bounds = sorted(chance.sample(range(200), 2 * chance.choice([0, 1, 2, 10, 40])))
        ranges = list(zip(bounds[::2], bounds[1::2], strict=True))
        together.add_all(ranges)
        for start, end in ranges:
            single.add(start, end)
        assert list(together) == list(single), f"seed {seed} step {step}"
        mark = chance.choice([0, 0, chance.randrange(200)])
        together.drop_below(mark)
        single.drop_below(mark)


def test_a_few_ranges_among_very_many_are_the_same_too():
    found, expected = IntervalSet(), IntervalSet()
    for k in range(0, 3000, 3):
        found.add(k, k + 1)
        expected.add(k, k + 1)
    found.add_all([(1, 2), (1501, 1502)])
    expected.add(1, 2)
    expected.add(1501, 1502)
    assert list(found) == list(expected)
    assert list(found)[0] == (0, 2)

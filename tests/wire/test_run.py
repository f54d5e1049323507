"""Runs against the plain thing they stand for: a list of units."""

import random

import pytest

from zflow.wire.run import INDEX, OSEQ, RESENT, SUSPECT, Run, cut_runs, item_span

SEEDS = range(50)


def random_run(chance: random.Random) -> tuple[Run, list[tuple[int, int, int, int]]]:
    """A run on either axis, with or without a column, and the units it stands for."""
    origin, path, fixed = (chance.getrandbits(63) for _ in range(3))
    start, n = chance.randrange(1000), chance.randrange(1, 30)
    numbers = list(range(start, start + n))
    column = None
    if chance.random() < 0.5:
        numbers = column = sorted(chance.sample(range(start, start + 3 * n), n))
    axis = chance.choice([OSEQ, INDEX])
    if axis == OSEQ:
        units = [(origin, number, path, fixed) for number in numbers]
    else:
        units = [(origin, fixed, path, number) for number in numbers]
    counts = [chance.randint(1, 3) for _ in units] if chance.random() < 0.3 else None
    flags = SUSPECT | RESENT
    run = Run(origin, path, axis, fixed, numbers[0], n, 77, 2, flags, column, 5, counts)
    return run, units


def rest_of(run: Run) -> tuple[int, ...]:
    """What no cut may change."""
    named = run.origin, run.path, run.axis, run.fixed, run.partition
    return *named, run.born_ns, run.attempt, run.flags


def assert_sound(run: Run, like: Run, units: list, where: str) -> None:
    assert list(run.units()) == units, where
    assert run.n == len(units), where
    assert run.start == run.number(0), where
    assert [run.unit(k) for k in range(run.n)] == units, where
    assert rest_of(run) == rest_of(like), where


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_run_holds_exactly_the_units_of_its_cut(seed):
    chance = random.Random(seed)
    for _ in range(20):
        run, units = random_run(chance)
        begin = chance.randrange(run.n)
        end = chance.randrange(begin + 1, run.n + 1)
        cut = run.cut(begin, end)
        assert_sound(cut, run, units[begin:end], f"seed {seed}: {run}")
        assert cut.counts == (run.counts[begin:end] if run.counts else None)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_items_of_some_units_lie_behind_the_items_of_those_before(seed):
    chance = random.Random(seed)
    for _ in range(20):
        runs = [random_run(chance)[0] for _ in range(chance.randint(1, 4))]
        units = units_of(runs)
        holders = [
            (k, p)
            for k, run in enumerate(runs)
            for p in range(run.n)
            for _ in range(run.counts[p] if run.counts else 1)
        ]
        begin = chance.randrange(len(units))
        end = chance.randrange(begin + 1, len(units) + 1)
        first, last = item_span(runs, begin, end)
        assert holders[first:last] == [u for u in holders if u in set(units[begin:end])], runs
        assert sum(run.items for run in runs) == len(holders)


def units_of(runs: list[Run]) -> list[tuple[int, int]]:
    """(number of the run, position in it) of every unit."""
    return [(k, p) for k, run in enumerate(runs) for p in range(run.n)]


@pytest.mark.parametrize("seed", SEEDS)
def test_units_that_are_kept_keep_their_numbers(seed):
    chance = random.Random(seed)
    for _ in range(20):
        run, units = random_run(chance)
        positions = sorted(chance.sample(range(run.n), chance.randrange(1, run.n + 1)))
        kept = run.kept(positions)
        assert_sound(kept, run, [units[p] for p in positions], f"seed {seed}: {run} {positions}")


@pytest.mark.parametrize("seed", SEEDS)
def test_cuts_of_cuts_and_filters_of_filters_agree_with_lists(seed):
    chance = random.Random(seed)
    run, units = random_run(chance)
    first = run
    while len(units) > 1:
        if chance.random() < 0.5:
            begin = chance.randrange(run.n - 1)
            end = chance.randrange(begin + 1, run.n + 1)
            run, units = run.cut(begin, end), units[begin:end]
        else:
            positions = sorted(chance.sample(range(run.n), chance.randrange(1, run.n + 1)))
            run, units = run.kept(positions), [units[p] for p in positions]
        assert_sound(run, first, units, f"seed {seed}: {run}")


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_laid_end_to_end_are_cut_like_one_list(seed):
    chance = random.Random(seed)
    made = [random_run(chance) for _ in range(chance.randrange(1, 6))]
    runs = [run for run, _ in made]
    units = [unit for _, some in made for unit in some]
    for _ in range(20):
        begin = chance.randrange(len(units))
        end = chance.randrange(begin, len(units) + 1)
        parts = cut_runs(runs, begin, end)
        found = [unit for part in parts for unit in part.units()]
        assert found == units[begin:end], f"seed {seed}: {begin} {end} {runs}"
        assert all(part.n > 0 for part in parts), f"seed {seed}: {parts}"


def test_a_cut_of_everything_makes_nothing_new():
    runs = [Run(1, 2, OSEQ, 0, 5, 10)]
    assert cut_runs(runs, 0, 10) is runs
    two = [*runs, Run(1, 3, OSEQ, 0, 5, 10)]
    assert all(a is b for a, b in zip(cut_runs(two, 0, 20), two, strict=True))


def test_numbers_without_gaps_need_no_column():
    run = Run(1, 2, INDEX, 0, 100, 10)
    assert run.kept([3, 4, 5]).numbers is None
    assert run.kept([3, 5]).numbers == [103, 105]
    gaps = Run(1, 2, INDEX, 0, 100, 3, numbers=[100, 105, 106])
    assert gaps.kept([1, 2]).numbers is None


def test_a_marked_run_holds_the_same_units():
    run = Run(1, 2, INDEX, 3, 100, 3, 4, numbers=[100, 105, 106])
    marked = run.marked(attempt=5, flags=SUSPECT)
    assert list(marked.units()) == list(run.units())
    assert (marked.attempt, marked.flags, marked.born_ns) == (5, SUSPECT, 4)
    assert (run.attempt, run.flags) == (0, 0)

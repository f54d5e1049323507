"""What a partition of an anchor has applied, against a plain set of units; and when it says so."""

import random
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zflow.protocol.anchor import Applied, Dedupe, Partition
from zflow.wire.run import INDEX, OSEQ, Run, Unit

SEEDS = range(100)
ORIGINS = (1, 2)
PATHS = (5, 6)
OSEQS = 30
INDEXES = 8


def stretches(positions: list[int]) -> list[tuple[int, int]]:
    """The maximal stretches of rising numbers, the slow way."""
    known = set(positions)
    starts = [p for p in positions if p - 1 not in known]
    return list(zip(starts, [p + 1 for p in positions if p + 1 not in known], strict=True))


def run_of(axis: int, fixed: int, numbers: list[int], *, origin: int = 1, path: int = 5) -> Run:
    """A run of these numbers; without a column where they need none."""
    gaps = numbers[-1] - numbers[0] != len(numbers) - 1
    column = numbers if gaps else None
    return Run(origin, path, axis, fixed, numbers[0], len(numbers), numbers=column)


def along(fixed: int, *numbers: int, path: int = 5) -> Run:
    """Units along oseq."""
    return run_of(OSEQ, fixed, list(numbers), path=path)


def across(fixed: int, *numbers: int, path: int = 5) -> Run:
    """Units along index."""
    return run_of(INDEX, fixed, list(numbers), path=path)


class Model:
    """A Dedupe beside the plain thing it stands for: all units applied, and the marks."""

    def __init__(self) -> None:
        self.dedupe = Dedupe()
        self.records: list[Applied] = []  # the rows of the partition's file
        self.marks: dict[int, int] = {}
        self.units: set[Unit] = set()
        self.known: set[int] = set()  # origins with units here

    def old(self, unit: Unit) -> bool:
        return unit in self.units or unit[1] < self.marks.get(unit[0], 0)

    def check(self, run: Run, where: str = "") -> list[tuple[int, int]]:
        """Both must call the same units fresh."""
        found = self.dedupe.fresh(run)
        fresh = [p for p in range(run.n) if not self.old(run.unit(p))]
        assert found == stretches(fresh), f"{where}: {run}"
        return found

    def apply(self, run: Run, where: str = "") -> None:
        """What an anchor does with a run that arrives."""
        for begin, end in self.check(run, where):
            part = run.cut(begin, end)
            record = self.dedupe.add(part)
            numbers = [n for low, high in record.ranges for n in range(low, high)]
            assert numbers == [part.number(p) for p in range(part.n)], where
            assert record.top == max(unit[1] for unit in part.units()), where
            self.records.append(record)
            self.units.update(part.units())
            self.known.add(run.origin)
        assert self.dedupe.fresh(run) == [], where

    def raise_to(self, marks: dict[int, int], where: str = "") -> None:
        rising = {o: m for o, m in marks.items() if o in self.known and m > self.marks.get(o, 0)}
        assert self.dedupe.raise_to(marks) == rising, where
        self.marks |= rising
        assert self.dedupe.watermarks == self.marks, where

    def restart(self) -> None:
        """The file has the marks, and the rows that are not wholly below them."""
        self.records = [r for r in self.records if r.top >= self.marks.get(r.origin, 0)]
        self.known = {r.origin for r in self.records}
        self.dedupe = Dedupe(self.marks, self.records)

    def open_units(self) -> int:
        """A range for each unit that is not below its mark: more is never remembered."""
        return len([unit for unit in self.units if unit[1] >= self.marks.get(unit[0], 0)])


def random_run(chance: random.Random) -> Run:
    axis = chance.choice([OSEQ, INDEX])
    space, fixed = (OSEQS, INDEXES) if axis == OSEQ else (INDEXES, OSEQS)
    low = chance.randrange(space)
    high = chance.randrange(low + 1, space + 1)
    numbers = list(range(low, high))
    if chance.random() < 0.5:
        numbers = sorted(chance.sample(numbers, chance.randint(1, len(numbers))))
    named = {"origin": chance.choice(ORIGINS), "path": chance.choice(PATHS)}
    return run_of(axis, chance.randrange(fixed), numbers, **named)


def turned(run: Run) -> list[Run]:
    """Copies of the same units, one by one, named along the other axis."""
    axis = INDEX if run.axis == OSEQ else OSEQ
    return [
        run_of(axis, run.number(p), [run.fixed], origin=run.origin, path=run.path)
        for p in range(run.n)
    ]


def recut(run: Run, chance: random.Random) -> list[Run]:
    """Copies of the same units in other runs: parts, every second one, each alone, turned."""
    at = chance.randrange(run.n)
    every = [run.kept(list(range(k, run.n, 2))) for k in range(min(2, run.n))]
    return chance.choice(
        [
            [part for part in (run.cut(0, at) if at else None, run.cut(at, run.n)) if part],
            every,
            [run.cut(p, p + 1) for p in range(run.n)],
            turned(run),
        ]
    )


# -- what is a duplicate --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_exactly_the_units_that_were_never_applied_are_fresh(seed):
    chance = random.Random(seed)
    model = Model()
    runs: list[Run] = []
    for step in range(60):
        where = f"seed {seed} step {step}"
        odds = chance.random()
        if odds < 0.1:
            model.raise_to({chance.randrange(4): chance.randrange(OSEQS)}, where)
        elif odds < 0.2:
            model.restart()
        elif odds < 0.5 and runs:
            for copy in recut(chance.choice(runs), chance):
                model.apply(copy, where)
        else:
            runs.append(random_run(chance))
            model.apply(runs[-1], where)
        for _ in range(3):
            model.check(random_run(chance), where)
        assert model.dedupe.size() <= model.open_units(), where


RUNS = st.builds(
    lambda axis, fixed, numbers, origin, path: run_of(
        axis, fixed, sorted(numbers), origin=origin, path=path
    ),
    st.sampled_from([OSEQ, INDEX]),
    st.integers(0, 9),
    st.sets(st.integers(0, 9), min_size=1),
    st.sampled_from(ORIGINS),
    st.sampled_from(PATHS),
)


class AnyOrder(RuleBasedStateMachine):
    """The same under Hypothesis, which finds the shortest story."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(run=RUNS)
    def apply(self, run: Run) -> None:
        self.model.apply(run)

    @rule(run=RUNS)
    def apply_turned(self, run: Run) -> None:
        for copy in turned(run):
            self.model.apply(copy)

    @rule(run=RUNS)
    def ask(self, run: Run) -> None:
        self.model.check(run)

    @rule(origin=st.sampled_from([*ORIGINS, 3]), mark=st.integers(0, 11))
    def raise_to(self, origin: int, mark: int) -> None:
        self.model.raise_to({origin: mark})

    @rule()
    def restart(self) -> None:
        self.model.restart()

    @invariant()
    def no_more_is_kept_than_is_open(self) -> None:
        assert self.model.dedupe.size() <= self.model.open_units()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_unit_is_found_again_along_the_other_axis():
    dedupe = Dedupe()
    dedupe.add(along(4, 10, 11, 12))
    assert dedupe.fresh(across(11, 3, 4, 5)) == [(0, 1), (2, 3)]
    dedupe.add(across(20, 0, 1))
    assert dedupe.fresh(along(1, 19, 20, 21)) == [(0, 1), (2, 3)]


def test_another_path_and_another_origin_are_other_units():
    dedupe = Dedupe()
    dedupe.add(along(0, 1, 2))
    assert dedupe.fresh(along(0, 1, 2, path=6)) == [(0, 2)]
    assert dedupe.fresh(run_of(OSEQ, 0, [1, 2], origin=2)) == [(0, 2)]


def test_everything_below_the_watermark_is_a_duplicate_on_both_axes():
    dedupe = Dedupe({1: 10})
    assert dedupe.fresh(along(0, 8, 9, 10, 11)) == [(2, 4)]
    assert dedupe.fresh(along(0, 2, 9, 12)) == [(2, 3)]
    assert dedupe.fresh(across(9, 0, 1)) == []
    assert dedupe.fresh(across(10, 0, 1)) == [(0, 2)]
    assert dedupe.fresh(along(0, 1, 2)) == []


def test_neighbours_in_a_run_with_gaps_are_one_stretch():
    dedupe = Dedupe()
    dedupe.add(along(0, 5, 30))
    assert dedupe.fresh(along(0, 4, 6, 30, 40, 50)) == [(0, 2), (3, 5)]


# -- what is stored and forgotten -----------------------------------------------------------------


def test_a_record_names_the_ranges_of_its_run():
    dedupe = Dedupe()
    found = dedupe.add(along(7, 3, 4, 5, 9, 11, 12))
    assert (found.origin, found.path, found.axis, found.fixed) == (1, 5, OSEQ, 7)
    assert found.ranges == [(3, 6), (9, 10), (11, 13)]
    assert found.top == 12


def test_a_record_of_one_oseq_ends_there_however_many_indexes_it_has():
    assert Dedupe().add(across(7, *range(1000))).top == 7


def test_a_record_may_go_when_the_mark_is_above_its_top_and_not_before():
    for record in (Dedupe().add(along(0, 3, 9)), Dedupe().add(across(9, 0, 50))):
        unit = along(0, 9)
        assert Dedupe({1: record.top}, [record]).fresh(unit) == []
        assert Dedupe({1: record.top}).fresh(unit) == [(0, 1)]
        assert Dedupe({1: record.top + 1}).fresh(unit) == []


def test_only_what_is_below_the_mark_is_forgotten():
    dedupe = Dedupe()
    dedupe.add(along(0, *range(10)))
    dedupe.add(across(3, 0, 5))
    dedupe.add(across(4, 0, 5))
    dedupe.add(run_of(OSEQ, 0, [0, 1], origin=2))
    assert dedupe.size() == 1 + 2 + 2 + 1
    assert dedupe.raise_to({1: 4, 3: 100}) == {1: 4}
    assert dedupe.size() == 1 + 2 + 1
    assert dedupe.fresh(across(4, 0, 1, 5)) == [(1, 2)]
    assert dedupe.fresh(run_of(OSEQ, 0, [0, 1, 2], origin=2)) == [(2, 3)]


def test_a_mark_never_falls():
    dedupe = Dedupe()
    dedupe.add(along(0, 5))
    assert dedupe.raise_to({1: 9}) == {1: 9}
    assert dedupe.raise_to({1: 9}) == {}
    assert dedupe.raise_to({1: 3}) == {}
    assert dedupe.watermarks == {1: 9}
    assert dedupe.fresh(along(0, 8)) == []


def test_the_axes_of_a_path_are_forgotten_with_its_last_unit_along_them():
    dedupe = Dedupe()
    dedupe.add(across(0, 1, 2))
    dedupe.add(along(0, 1, 2, 3, 4))
    dedupe.raise_to({1: 2})
    assert dedupe.fresh(along(1, 2, 3)) == [(0, 2)]
    assert dedupe.fresh(along(0, 1, 2, 3, 4, 5)) == [(4, 5)]


def test_a_restart_remembers_nothing_below_the_marks():
    records = [
        Dedupe().add(along(0, 0, 2, 4, 6)),
        Dedupe().add(across(3, 1)),
        Dedupe().add(along(1, 2)),
    ]
    dedupe = Dedupe({1: 4}, records)
    assert dedupe.size() == 2
    assert dedupe.fresh(along(0, *range(8))) == [(5, 6), (7, 8)]


# -- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [OSEQ, INDEX])
def test_a_run_without_gaps_costs_the_same_however_long_it_is(axis):
    """Were anything done once per unit, this would not end."""
    huge = 10**15
    dedupe = Dedupe()
    whole = Run(1, 5, axis, 3, 0, huge)
    assert dedupe.fresh(whole) == [(0, huge)]
    record = dedupe.add(whole.cut(10, huge - 10))
    assert dedupe.fresh(whole) == [(0, 10), (huge - 10, huge)]
    assert Dedupe({}, [record]).fresh(whole) == [(0, 10), (huge - 10, huge)]
    if axis == OSEQ:
        dedupe.raise_to({1: 1000})
        assert dedupe.fresh(whole) == [(huge - 10, huge)]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_remembered_is_bounded_by_what_is_open(seed):
    chance = random.Random(seed)
    dedupe = Dedupe()
    most = span = 200
    for begin in range(0, 20_000, 100):
        numbers = sorted(chance.sample(range(begin, begin + 100), 30))
        for part in recut(along(0, *numbers), chance):
            dedupe.add(part)
        dedupe.raise_to({1: begin + 100 - span})
        assert dedupe.size() <= most, f"seed {seed}"
    dedupe.raise_to({1: 20_000})
    assert dedupe.size() == 0


def test_units_that_close_the_gaps_make_one_range_again():
    dedupe = Dedupe()
    dedupe.add(along(0, *range(0, 1000, 2)))
    assert dedupe.size() == 500
    dedupe.add(along(0, *range(1, 1000, 2)))
    assert dedupe.size() == 1


# -- a partition and its commits ------------------------------------------------------------------


def partition(next_oseq: int = 0, **settings) -> Partition:
    options = {"dedupe": Dedupe(), "done": False, **settings}
    return Partition(3, next_oseq=next_oseq, **options)


def test_a_fresh_partition_has_nothing_to_commit():
    found = partition(40)
    assert (found.number, found.next, found.waiting, found.done) == (3, 40, 0, False)
    assert not found.dirty


def test_what_was_applied_waits_for_the_commit_that_takes_it():
    found = partition(40)
    found.applied(along(0, 7, 9), ["a"])
    found.applied(along(0, 10), ["b", "c"])
    assert found.dirty
    assert found.waiting == 3
    assert found.owes("link", 0, 3)
    commit = found.take({}, 38)
    assert [record.ranges for record in commit.applied] == [[(7, 8), (9, 11)]]
    assert (commit.outputs, commit.first, commit.low, commit.n) == (["a", "b", "c"], 40, 38, 3)
    assert commit.units == [("link", 0, 3)]
    assert found.next == 43
    assert found.waiting == 0
    assert not found.dirty
    assert list(found.under_way) == [commit]
    assert found.stored() is commit
    assert not found.under_way


def test_outputs_are_numbered_through_all_commits():
    found = partition(5)
    firsts = []
    for n in (2, 0, 3, 1):
        found.applied(along(0, 10 * found.next), ["x"] * n)
        firsts.append(found.take({}, 5).first)
    assert firsts == [5, 7, 7, 10]
    assert found.next == 11


def test_commits_are_stored_in_the_order_in_which_they_were_taken():
    found = partition()
    taken = []
    for k in range(3):
        found.applied(along(0, k), [])
        taken.append(found.take({}, 0))
    assert [found.stored() for _ in taken] == taken


def test_a_duplicate_is_acknowledged_at_once_if_nothing_waits():
    found = partition()
    assert not found.owes("link", 0, 1)
    assert not found.dirty
    found.applied(along(0, 7), [])
    found.take({}, 0)
    found.stored()
    assert not found.owes("link", 0, 1)


def test_a_duplicate_waits_for_the_commit_under_way_that_may_hold_its_first_copy():
    found = partition()
    found.applied(along(0, 7), [])
    found.owes("link", 0, 1)
    first = found.take({}, 0)
    assert found.owes("other", 5, 1)
    assert found.dirty
    second = found.take({}, 0)
    assert found.stored() is first
    assert found.owes("other", 6, 1)
    assert second.units == [("other", 5, 1)]
    assert second.n == 0


def test_neighbours_of_one_link_are_owed_as_one_range():
    found = partition()
    found.applied(along(0, *range(9)), [])
    one, two = object(), object()
    for owner, first, n in [(one, 0, 2), (one, 2, 3), (two, 5, 1), (one, 5, 1), (one, 7, 1)]:
        assert found.owes(owner, first, n)
    assert found.take({}, 0).units == [(one, 0, 5), (two, 5, 1), (one, 5, 1), (one, 7, 1)]


def test_finishing_is_committed_once_with_its_outputs():
    found = partition(5)
    found.applied(along(0, 1), ["a"])
    found.finished(["total"])
    assert found.done
    commit = found.take({}, 5)
    assert (commit.outputs, commit.done, commit.first) == (["a", "total"], True, 5)
    assert not found.dirty
    assert not found.take({}, 5).done


def test_finishing_without_outputs_is_something_to_commit():
    found = partition()
    found.finished([])
    assert found.dirty


def test_a_partition_that_has_finished_before_its_restart_knows_it():
    assert partition(done=True).done


def test_marks_are_stored_with_the_commit_that_they_came_before():
    found = partition()
    found.applied(along(0, 1, 2), [])
    assert found.take({1: 2, 9: 5}, 0).watermarks == {1: 2}
    assert found.take({1: 2}, 0).watermarks == {}
    assert found.dedupe.watermarks == {1: 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_unit_is_acknowledged_only_when_the_commit_of_its_first_copy_is_stored(seed):
    """And then exactly once, however applying, duplicates, commits and answers of the disk mix."""
    chance = random.Random(seed)
    found = partition()
    stored: set[int] = set()  # oseq of units whose commit is durable
    under_way: deque[set[int]] = deque()
    open_: set[int] = set()
    carried: list[int] = []  # lseq -> oseq
    acked: list[int] = []

    def acknowledge(first: int, n: int) -> None:
        for lseq in range(first, first + n):
            assert carried[lseq] in stored, f"seed {seed}: {carried[lseq]}"
            acked.append(lseq)

    def arrive() -> None:
        begin = chance.randrange(40)
        run = along(0, *range(begin, begin + chance.randint(1, 5)))
        lseq = len(carried)
        carried.extend(number for _, number, _, _ in run.units())
        for low, high in found.dedupe.fresh(run):
            part = run.cut(low, high)
            found.applied(part, ["out"] * part.n)
            open_.update(number for _, number, _, _ in part.units())
        if not found.owes("link", lseq, run.n):
            acknowledge(lseq, run.n)

    def take() -> None:
        under_way.append(set(open_))
        open_.clear()
        found.take({}, 0)

    def store() -> None:
        stored.update(under_way.popleft())
        for _, first, n in found.stored().units:
            acknowledge(first, n)

    for _ in range(100):
        odds = chance.random()
        if odds < 0.5:
            arrive()
        elif odds < 0.75 and found.dirty:
            take()
        elif under_way:
            store()
    take()
    while under_way:
        store()
    assert sorted(acked) == list(range(len(carried))), f"seed {seed}"
    assert found.next == len(set(carried)), f"seed {seed}"

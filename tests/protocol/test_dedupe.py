"""What an anchor has applied, compared with a plain set of units, however they are cut.

No fault of the simulator shows one protection, since there a unit always comes along the same axis:
here a unit comes along both, and a lookup along one axis alone is shown to fail.
"""

from random import Random

import pytest

from zflow.protocol.anchor import Applied, Dedupe, Partition
from zflow.wire.run import INDEX, OSEQ, Run

SEEDS = range(50)
STEPS = 200
ORIGINS, PATHS, OSEQS, INDICES = (7, 8), (1, 2, 3), 30, 12


class Trial:
    """A dedupe, the units that it should know, and what a file would hold of it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.dedupe = Dedupe()
        self.known: set[tuple[int, int, int, int]] = set()
        self.marks = dict.fromkeys(ORIGINS, 0)  # as the dedupe has them
        self.records: list[Applied] = []

    def run(self) -> Run:
        """Units as a message may bring them: along either axis, with gaps or without."""
        random = self.random
        axis = random.choice((OSEQ, INDEX))
        along, across = (OSEQS, INDICES) if axis == OSEQ else (INDICES, OSEQS)
        numbers = sorted(random.sample(range(along), random.randint(1, 8)))
        if random.random() < 0.5:
            numbers = list(range(numbers[0], min(numbers[0] + len(numbers), along)))
        gaps = numbers[-1] - numbers[0] != len(numbers) - 1
        return Run(
            random.choice(ORIGINS),
            random.choice(PATHS),
            axis,
            random.randrange(across),
            numbers[0],
            len(numbers),
            numbers=numbers if gaps else None,
        )

    def arrive(self, run: Run) -> None:
        """Only what is new is applied, and all of it."""
        new = [p for p in range(run.n) if self.is_new(run.unit(p))]
        stretches = self.dedupe.fresh(run)
        assert [p for begin, end in stretches for p in range(begin, end)] == new
        for begin, end in stretches:
            part = run.cut(begin, end)
            self.known.update(part.units())
            self.records.append(self.dedupe.add(part))

    def is_new(self, unit: tuple[int, int, int, int]) -> bool:
        return unit not in self.known and unit[1] >= self.marks[unit[0]]

    def raise_marks(self) -> None:
        """A commit takes in the watermarks, and forgets what they have passed."""
        told = {o: self.marks[o] + self.random.randint(0, 3) for o in ORIGINS}
        risen = self.dedupe.raise_to(told)
        assert all(mark > self.marks[origin] for origin, mark in risen.items())
        self.marks.update(risen)
        self.records = [r for r in self.records if r.top >= self.marks[r.origin]]

    def load(self) -> None:
        """A successor knows what the file says."""
        before = self.dedupe.watermarks
        self.dedupe = Dedupe(before, self.records)


def play(seed: int) -> None:
    trial = Trial(seed)
    for _ in range(STEPS):
        step = trial.random.random()
        if step < 0.03:
            trial.raise_marks()
        elif step < 0.06:
            trial.load()
        else:
            trial.arrive(trial.run())


def play_all() -> None:
    for seed in SEEDS:
        play(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_unit_is_new_once_along_whichever_axis_it_comes(seed):
    play(seed)


def test_a_lookup_along_one_axis_alone_would_be_seen(monkeypatch):
    monkeypatch.setattr(Dedupe, "_seen_across", lambda self, run, number, axis: False)
    with pytest.raises(AssertionError):
        play_all()


def test_forgetting_above_the_watermark_would_be_seen(monkeypatch):
    forget = Dedupe._forget
    monkeypatch.setattr(
        Dedupe, "_forget", lambda self, origin, names, mark: forget(self, origin, names, mark + 1)
    )
    with pytest.raises(AssertionError):
        play_all()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_lies_below_the_marks_is_forgotten(seed):
    trial = Trial(seed)
    for _ in range(STEPS):
        trial.arrive(trial.run())
    marks = dict.fromkeys(ORIGINS, OSEQS)
    assert trial.dedupe.size() > 0
    assert trial.dedupe.raise_to(marks) == marks
    assert trial.dedupe.size() == 0
    assert not trial.dedupe.fresh(Run(ORIGINS[0], 1, OSEQ, 0, 0, OSEQS))


class Owing:
    """A partition to which units come, fresh ones and duplicates, and what each must wait for."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.partition = Partition(0, dedupe=Dedupe(), next_oseq=5, done=False)
        self.link = object()
        self.told = self.applied = self.stored = 0  # units
        self.waits_for: dict[int, int] = {}  # unit -> how many must be stored before it is told
        self.numbered = 5

    def arrive(self) -> None:
        n = self.random.randint(1, 3)
        if self.random.random() < 0.6:
            rows = ["row"] * self.random.randint(0, 2)
            self.partition.applied(Run(1, 2, OSEQ, 0, self.applied, n), rows)
            self.applied += n
        if self.partition.owes(self.link, self.told, n):
            self.waits_for.update(dict.fromkeys(range(self.told, self.told + n), self.applied))
        else:
            assert self.stored == self.applied
        self.told += n

    def take(self) -> None:
        commit = self.partition.take({}, 5)
        assert commit.first == self.numbered
        self.numbered += len(commit.outputs)

    def store(self) -> None:
        commit = self.partition.stored()
        self.stored += commit.n
        for _, first, n in commit.units:
            for unit in range(first, first + n):
                assert self.waits_for.pop(unit) <= self.stored


@pytest.mark.parametrize("seed", SEEDS)
def test_a_unit_is_acknowledged_when_everything_applied_before_it_is_stored(seed):
    owing = Owing(seed)
    for _ in range(STEPS):
        step = owing.random.random()
        if step < 0.5:
            owing.arrive()
        elif step < 0.75 and owing.partition.dirty:
            owing.take()
        elif owing.partition.under_way:
            owing.store()
    if owing.partition.dirty:
        owing.take()
    while owing.partition.under_way:
        owing.store()
    assert not owing.waits_for
    assert owing.stored == owing.applied

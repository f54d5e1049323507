"""What generators yield to partitions: which unit it is part of, and when that unit leaves."""

import random
from collections import defaultdict
from itertools import count

import pytest

from zflow.protocol.identity import PART_UNITS, Branch, place_output
from zflow.protocol.outputs import Output
from zflow.replica import yields as module
from zflow.replica.scatter import Scatter
from zflow.replica.worker import StageWorker
from zflow.replica.yields import STREAM_ITEMS, YieldWorker

EDGE = 9
SEEDS = range(50)


def output(partitions: list[int], items: list) -> Output:
    return Output(EDGE, None, items, partitions)


def units_of(shares) -> dict[tuple[int, int, int], list]:
    """(input, partition, part) -> items."""
    found = {}
    for share in shares:
        items = iter(share.items)
        for k, position in enumerate(share.positions):
            n = share.counts[k] if share.counts else 1
            unit = (position, share.partition, share.part)
            assert unit not in found
            found[unit] = [next(items) for _ in range(n)]
        assert next(items, None) is None
    return found


# -- collecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_input_yields_to_one_partition_is_one_unit_for_every_256(seed):
    chance = random.Random(seed)
    scatter = Scatter(EDGE)
    items = count()
    expected: dict[tuple, list] = {}
    for position in range(chance.randint(1, 12)):
        scatter.begin()
        ordinals: dict[int, int] = defaultdict(int)
        for _ in range(chance.randint(1, 3)):  # several outputs of one input, as a stream has
            n = chance.choice([0, 1, 5, 300, 700])
            partitions = [chance.choice([0, 0, 0, 1, 2]) for _ in range(n)]
            own = [next(items) for _ in range(n)]
            scatter.add(position, output(partitions, own))
            for partition, item in zip(partitions, own, strict=True):
                part = ordinals[partition] // PART_UNITS
                ordinals[partition] += 1
                expected.setdefault((position, partition, part), []).append(item)
    shares = scatter.take(full=False)
    assert units_of(shares) == expected, f"seed {seed}"
    named = [(share.partition, share.part) for share in shares]
    assert len(named) == len(set(named)), f"seed {seed}"
    for share in shares:
        assert share.positions == sorted(set(share.positions)), f"seed {seed}"
        assert share.counts is None or max(share.counts) > 1, f"seed {seed}"
    assert scatter.take(full=False) == [], f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_stream_only_whole_units_leave_before_its_end(seed):
    chance = random.Random(seed)
    scatter = Scatter(EDGE)
    scatter.begin()
    items = count()
    left: list = []
    made: dict[int, list] = defaultdict(list)
    for _ in range(chance.randint(1, 8)):
        partitions = [chance.choice([0, 0, 1]) for _ in range(chance.choice([0, 100, 256, 600]))]
        own = [next(items) for _ in partitions]
        for partition, item in zip(partitions, own, strict=True):
            made[partition].append(item)
        scatter.add(0, output(partitions, own))
        shares = scatter.take(full=True)
        assert all(share.counts == [PART_UNITS] for share in shares), f"seed {seed}"
        left += shares
    for partition, items_made in made.items():
        whole = len([share for share in left if share.partition == partition])
        assert whole == len(items_made) // PART_UNITS, f"seed {seed}"
    expected = {
        (0, partition, at // PART_UNITS): items_made[at : at + PART_UNITS]
        for partition, items_made in made.items()
        for at in range(0, len(items_made), PART_UNITS)
    }
    assert units_of([*left, *scatter.take(full=False)]) == expected, f"seed {seed}"


def test_units_of_one_item_each_need_no_column():
    scatter = Scatter(EDGE)
    for position in range(3):
        scatter.begin()
        scatter.add(position, output([4], ["a"]))
    (share,) = scatter.take(full=False)
    assert (share.positions, share.counts, share.items) == ([0, 1, 2], None, ["a"] * 3)


# -- a generator stage ----------------------------------------------------------------------------


def stage(bench, call, kind=YieldWorker):
    return kind(bench.bench, call, retry_on=(Exception,), positioned=False, is_sink=False)


def work(bench, worker):
    while worker.slice():
        bench.turn()
    bench.turn()


def all_at_once(bench):
    """A slice takes whatever is there."""
    bench.core.inbox.window.measured(1, 1e-7)


def key(item):
    return item[0]


def executed(bench, call, items, kind=YieldWorker):
    all_at_once(bench)
    bench.feed(items)
    work(bench, stage(bench, call, kind))
    return bench.units()


@pytest.fixture
def bench(make_bench, route):
    return make_bench(route(EDGE, key=key))


def some(x):
    """Items to different partitions; the key is their first."""
    for k in range(x % 5):
        yield (x + k) % 3, x, k


def expected_units(bench, call, items, *, edge: int = EDGE, begin: int = 0) -> dict:
    """Item by item, for inputs begin, begin + 1, ... of the run that the bench feeds."""
    keyed = bench.bench.emitter._routes[0].keyed
    branch = Branch(edge=edge, keyed=True, yields=True)
    found: dict = {}
    for oseq, x in enumerate(items, begin):
        ordinals: dict[int, int] = defaultdict(int)
        for item in call(x):
            partition = keyed.partition(item)
            place = place_output(branch, 8, 0, ordinal=ordinals[partition], partition=partition)
            ordinals[partition] += 1
            unit = (7, oseq, place.path, place.index)
            found.setdefault(unit, (partition, []))[1].append(item)
    return found


def test_what_a_stretch_of_inputs_yields_travels_as_one_run_to_each_partition(bench):
    items = list(range(100))
    assert executed(bench, some, items) == expected_units(bench, some, items)
    runs = bench.links.runs[EDGE]
    assert len(runs) == len({run.partition for run in runs}) == 3
    assert sum(run.n for run in runs) > 100


def test_outputs_beyond_256_to_one_partition_are_another_unit(bench):
    def many(x):
        for k in range(x):
            yield "one", k

    items = [3, 700, 256, 257]
    assert executed(bench, many, items) == expected_units(bench, many, items)
    runs = bench.links.runs[EDGE]
    assert [run.counts for run in runs] == [[3, 256, 256, 256], [256, 1], [188]]
    assert len({run.path for run in runs}) == 3


def test_of_very_many_outputs_only_whole_units_leave_before_the_last(bench):
    seen = []

    def stream(x):
        for k in range(3 * STREAM_ITEMS):
            if k % STREAM_ITEMS == 0:
                bench.turn()
                seen.append([run.counts for run in bench.links.runs.get(EDGE, [])])
            yield k % 3, k

    found = executed(bench, stream, ["x"])
    assert [len(sent) for sent in seen] == [0, 3, 6]
    assert all(counts == [PART_UNITS] for sent in seen for counts in sent)
    assert found == expected_units(bench, lambda x: ((k % 3, k) for k in range(3072)), ["x"])
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0]


@pytest.mark.parametrize("seed", SEEDS)
def test_units_are_the_same_however_many_leave_early(make_bench, route, monkeypatch, seed):
    chance = random.Random(seed)
    items = [chance.choice([0, 3, 300, 600]) for _ in range(8)]

    def call(x):
        for k in range(x):
            yield k % (1 + x % 7), k

    bench = make_bench(route(EDGE, key=key))
    monkeypatch.setattr(module, "STREAM_ITEMS", chance.choice([2, 100, 256, 500]))
    assert executed(bench, call, items) == expected_units(bench, call, items), f"seed {seed}"


def test_an_input_that_fails_in_the_middle_changes_no_other_unit(make_bench, route):
    def failing(x):
        for item in some(x):
            yield item
            if x == 7:
                raise KeyError("seven")

    items = list(range(20))
    bench = make_bench(route(EDGE, key=key))
    expected = expected_units(bench, some, items)
    without = {unit: made for unit, made in expected.items() if unit[1] != 7}
    assert executed(bench, failing, items) == without
    assert bench.nacks() == [(7, "error", "KeyError")]
    assert bench.core.running == 0


def test_an_input_that_is_tried_again_makes_the_same_units(make_bench, route, monkeypatch):
    monkeypatch.setattr(module, "STREAM_ITEMS", 300)

    def until(end):
        def call(x):
            yield from ((k % 2, k) for k in range(end))
            if end < 1000:
                raise KeyError("late")

        return call

    found = []
    for end in (800, 1000):
        bench = make_bench(route(EDGE, key=key))
        found.append(executed(bench, until(end), ["x"]))
    assert found[0]
    assert found[0].items() <= found[1].items()
    assert {len(items) for _, items in found[0].values()} == {PART_UNITS}


@pytest.mark.parametrize("stream_items", [2, 3, 1024])
def test_a_free_edge_beside_a_keyed_one_numbers_its_own_yields(
    make_bench, route, monkeypatch, stream_items
):
    monkeypatch.setattr(module, "STREAM_ITEMS", stream_items)
    bench = make_bench(route(EDGE, key=key), route(10))
    items = [3, 0, 4]
    assert executed(bench, some, items) == expected_units(bench, some, items)
    branch = Branch(edge=10, yields=True)
    free = {}
    for oseq, x in enumerate(items):
        for ordinal, item in enumerate(some(x)):
            place = place_output(branch, 8, 0, ordinal=ordinal)
            free[7, oseq, place.path, place.index] = (-1, [item])
    assert bench.units(10) == free


def test_all_outputs_must_be_settled_before_their_inputs_are(bench):
    executed(bench, some, [4, 0, 2])
    assert bench.acked() == []
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 2]


# -- keys that raise ------------------------------------------------------------------------------

WORKERS = {
    "returns": (StageWorker, lambda x: (x, x)),
    "yields": (YieldWorker, lambda x: iter([("first", 1), (x, x)])),
}


def unlucky(bad, raised):
    def keyed(item):
        if item[0] in bad:
            raise raised("no")
        return item[0]

    return keyed


@pytest.mark.parametrize(("kind", "call"), WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("raised", [KeyError, StopIteration, TypeError])
def test_a_key_that_raises_fails_its_input_alone(make_bench, route, kind, call, raised):
    bench = make_bench(route(EDGE, key=unlucky({3, 5}, raised)))
    found = executed(bench, call, list(range(8)), kind)
    assert {unit[1] for unit in found} == {0, 1, 2, 4, 6, 7}
    assert [(first, code) for first, code, _ in bench.nacks()] == [(3, "error"), (5, "error")]
    assert bench.counters.processed == 6
    assert bench.core.running == 0


@pytest.mark.parametrize(("kind", "call"), WORKERS.values(), ids=WORKERS)
def test_hundreds_of_inputs_whose_key_raises_fail_one_by_one(make_bench, route, kind, call):
    bench = make_bench(route(EDGE, key=unlucky(range(1, 600), KeyError)))
    found = executed(bench, call, list(range(600)), kind)
    assert {unit[1] for unit in found} == {0}
    assert len(bench.nacks()) == 599
    assert bench.core.running == 0


@pytest.mark.parametrize(("kind", "call"), WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("unfit", [[1], {}, object(), 1j, (1, [2])])
def test_a_key_that_cannot_be_one_is_told_with_a_sentence(make_bench, route, kind, call, unfit):
    bench = make_bench(route(EDGE, key=lambda item: unfit if item[1] == 1 else 0))
    all_at_once(bench)
    bench.feed([1])
    work(bench, stage(bench, call, kind))
    (error,) = bench.errors()
    assert "TypeError: a key is None, bool, int, float, str, bytes, Enum, UUID" in error
    assert bench.nacks() == [(0, "error", "TypeError")]

import random

import pytest

from zflow.protocol.actions import Bury
from zflow.protocol.origin import SPAN, Origin
from zflow.wire.run import OSEQ, Run

NUMBER = 77


@pytest.fixture
def actions():
    return []


@pytest.fixture
def make_origin(actions):
    tickets = iter(range(1, 1000))

    def make(low: int = 0) -> Origin:
        return Origin(NUMBER, "read", low=low, act=actions.append, new_ticket=lambda: next(tickets))

    return make


def test_items_are_numbered_from_the_low_mark_on(make_origin):
    origin = make_origin(low=500)
    assert origin.yielded(3, 9, 0) == Run(NUMBER, 0, OSEQ, 0, 500, 3, 9)
    assert origin.yielded(2, 10, 0) == Run(NUMBER, 0, OSEQ, 0, 503, 2, 10)
    assert origin.next == 505
    assert origin.low == 500


def test_the_low_mark_waits_for_the_oldest_open_unit(make_origin):
    origin = make_origin()
    origin.yielded(10, 0, 0)
    origin.settle(1, 9)
    assert origin.low == 0
    assert not origin.empty()
    origin.settle(0, 1)
    assert origin.low == 10
    assert origin.empty()


@pytest.mark.parametrize("seed", range(50))
def test_the_low_mark_is_the_end_of_the_unbroken_settled_stretch(seed):
    chance = random.Random(seed)
    origin = Origin(NUMBER, "read", low=40, act=lambda _: None, new_ticket=int)
    open_units: list[int] = []
    settled: set[int] = set(range(40))
    ends = {}
    for step in range(200):
        where = f"seed {seed} step {step}"
        before = origin.low
        if chance.random() < 0.4:
            run = origin.yielded(chance.randrange(1, 6), 0, step)
            open_units += range(run.start, run.start + run.n)
            ends[origin.next] = step
        elif open_units:
            first = chance.choice(open_units)
            n = 1
            while first + n in open_units and chance.random() < 0.7:
                n += 1
            origin.settle(first, n)
            settled |= set(range(first, first + n))
            open_units = [unit for unit in open_units if unit not in settled]
        low = next(k for k in range(10_000) if k not in settled)
        assert origin.low == low >= before, where
        assert origin.empty() == (not open_units), where
        told = max((end for end in ends if end <= low), default=None)
        assert origin.mark == (None if told is None else (told, ends[told])), where


def test_settling_twice_changes_nothing(make_origin):
    origin = make_origin()
    origin.yielded(10, 0, 0)
    for _ in range(2):
        origin.settle(0, 5)
        assert origin.low == 5


def test_a_restart_begins_behind_the_newest_batch_that_is_wholly_settled(make_origin):
    origin = make_origin()
    origin.yielded(10, 0, "behind 9")
    origin.yielded(10, 0, "behind 19")
    origin.settle(0, 9)
    assert origin.mark is None
    origin.settle(9, 5)
    assert origin.mark == (10, "behind 9")
    origin.settle(14, 6)
    assert origin.mark == (20, "behind 19")


def test_a_source_stops_when_its_oldest_open_unit_holds_back_a_span(make_origin):
    origin = make_origin(low=7)
    origin.yielded(SPAN - 1, 0, 0)
    assert not origin.full()
    origin.yielded(1, 0, 0)
    assert origin.full()
    origin.settle(8, SPAN - 1)
    assert origin.full()
    origin.settle(7, 1)
    assert not origin.full()


def test_an_item_that_cannot_travel_is_settled_once_it_is_buried(make_origin, actions):
    origin = make_origin()
    origin.yielded(3, 0, 0)
    origin.settle(0, 1)
    origin.settle(2, 1)
    origin.fail(1, "encode", "TypeError", "cannot pickle")
    (bury,) = actions
    assert isinstance(bury, Bury)
    assert list(bury.run.units()) == [(NUMBER, 1, 0, 0)]
    assert (bury.stage, bury.edge) == ("read", "")
    assert (bury.code, bury.error_class) == ("encode", "TypeError")
    assert not bury.maybe_applied
    assert (origin.low, origin.dead_lettered) == (1, 0)
    origin.buried(bury.ticket)
    assert (origin.low, origin.dead_lettered) == (3, 1)
    assert origin.burying == {}

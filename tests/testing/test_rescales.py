"""Stages that grow and shrink in the simulator: what is ordered, and that it comes to its end."""

import random
from collections import Counter

import pytest

from zflow.testing import Violation, World
from zflow.testing.moves import evened
from zflow.testing.rescales import MOST_SLOTS
from zflow.testing.topologies import EXACT, SOURCE
from zflow.wire.data import Data
from zflow.wire.run import OSEQ, Run

RESCALED = range(1, 5)


@pytest.mark.parametrize("seed", range(100))
def test_partitions_are_spread_evenly_and_as_few_as_can_be_move(seed):
    chance = random.Random(seed)
    slots = chance.sample(range(8), chance.randint(1, 6))
    before = [chance.randrange(8) for _ in range(chance.randint(1, 40))]
    after = evened(before, slots)
    counts = Counter(after)
    assert set(counts) <= set(slots)
    assert max(counts.values()) - min(counts[slot] for slot in slots) <= 1
    least, more = divmod(len(before), len(slots))
    had = Counter(before)
    stay = sum(min(had[slot], least) for slot in slots)
    stay += min(more, sum(had[slot] > least for slot in slots))
    assert sum(a == b for a, b in zip(before, after, strict=True)) == stay


def test_where_all_is_even_nothing_moves():
    assert evened([0, 2, 0, 2, 5], [0, 2, 5]) == [0, 2, 0, 2, 5]


@pytest.mark.slow
@pytest.mark.parametrize("seed", RESCALED)
def test_whatever_is_rescaled_everybody_who_leaves_has_left_in_the_end(seed):
    world = World(seed)
    world.start()
    for k in range(8):
        world.at(0.1 * k, world.rescales.strike, ())
    world.nemesis.schedule()
    world.advance(world.nemesis.ends_s)
    world.drain()
    rescaled = 0
    for stage in world.topology.stages:
        slots = world.rescales.slots(stage)
        assert sorted(seat.slot for seat in world.seats_of(stage)) == sorted(slots)
        assert 1 <= len(slots) <= MOST_SLOTS
        rescaled += len(world.rescales.words[stage.index]) > 1
        assert stage.kind not in (SOURCE, EXACT) or len(world.rescales.words[stage.index]) == 1
        owners = world.moves.owners.get(stage.index)
        assert owners is None or set(owners.slots) <= set(world.rescales.indexes(stage))
    able = [s for s in world.topology.stages if s.kind not in (SOURCE, EXACT)]
    assert rescaled == 0 if not able else rescaled > 0


def process_with_inputs(world: World):
    seats = world.seats.values()
    return next(s.process for s in seats if s.stage.ins and s.process is not None)


def test_who_says_too_soon_that_nothing_more_will_come_is_seen():
    world = World(1)
    world.start()
    process = process_with_inputs(world)
    with pytest.raises(Violation, match="I17"):
        world.invariants.quiet(process.core, process.expected(), leaving=False)
    process.core.inbox.links.clear()
    world.invariants.quiet(process.core, process.expected(), leaving=True)


def test_who_sends_to_a_slot_that_has_left_is_seen():
    world = World(1)
    world.start()
    sender = next(s.process for s in world.seats.values() if s.process and s.process.stage.outs)
    edge = sender.stage.outs[0]
    name = edge.settings.stage
    frame = Data(1, 0, 1, [Run(1, 2, OSEQ, 0, 0, 1)], [10])
    sender.words[name] = 1, (f"{name}/9",)
    with pytest.raises(Violation, match="I18"):
        sender._check_target((edge.number, edge.settings.targets[0]), frame)

"""Dead letters that are sent again in the simulator: by whom, and what must become of them."""

from random import Random

import pytest

from zflow.testing import Violation, World, random_topology
from zflow.testing.items import Fate, grow
from zflow.testing.redrive import with_redrives
from zflow.testing.topologies import SOURCE

SEEDS = range(1, 60)
SENT_AGAIN = 1  # a seed in whose world letters for an anchor are sent again


def redriven(seed: int):
    random = Random(seed)
    before = random_topology(random)
    return before, with_redrives(before, random)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_source_of_dead_letters_sends_what_an_edge_may_bury(seed):
    before, after = redriven(seed)
    for stage in after.stages[len(before.stages) :]:
        (edge,) = stage.outs
        assert stage.kind == SOURCE
        assert stage.resends in before.stages[edge.target].ins
        assert not edge.lossy
        assert edge.settings.on_error != "drop"
        assert edge.number != stage.resends.number
        assert edge.keyed == stage.resends.keyed
        assert edge in after.stages[edge.target].ins


def test_free_edges_and_keyed_ones_have_such_sources_and_some_have_several():
    stages = [stage for seed in SEEDS for stage in redriven(seed)[1].stages if stage.resends]
    assert {stage.resends.keyed for stage in stages} == {False, True}
    assert {len(stage.slots) for stage in stages} == {1, 2}


def test_an_edge_whose_letters_are_sent_again_has_some():
    for seed in SEEDS:
        random = Random(seed)
        topology = with_redrives(random_topology(random), random)
        items = grow(topology, random).items
        for edge in (stage.resends for stage in topology.stages if stage.resends):
            on_edge = [item for item in items if item.edge is edge]
            assert not on_edge or any(i.fate in (Fate.ALWAYS, Fate.FINAL) for i in on_edge)


@pytest.mark.slow
def test_what_is_sent_again_and_does_not_arrive_is_found():
    world = World(SENT_AGAIN)
    seen = world.run().transitions
    assert seen["applied again"] + seen["applied behind its first mark"] >= 1
    world.redrives.ended()
    applied = world.effects.applied
    again = next(i for i in world.items if i in applied and i.letter and not i.letter.letter)
    applied.add(again.letter)
    with pytest.raises(Violation, match="had been applied"):
        world.redrives.ended()
    applied.discard(again)
    with pytest.raises(Violation, match="is lost"):
        world.redrives.ended()

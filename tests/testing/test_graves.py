"""Dead letters in the simulator: while their disk is full, nothing that needs one is over."""

import pytest

from zflow.testing import World

DOOMED = 2  # a seed whose world has dead letters of stages and of anchors


@pytest.mark.slow
def test_a_full_disk_keeps_units_open_until_there_is_room():
    world = World(DOOMED)
    world.nemesis.graves_fail = 1.0
    world.start()
    world.advance(20.0)
    assert not world.invariants.dead
    assert world.transitions["commit of a dead letter failed"] > 5
    assert any(box.burying for box in outboxes(world))
    assert any(root.owed for roots in world.roots.values() for root in roots)
    world.drain()
    assert world.invariants.dead
    assert world.result().transitions["dead letter of an anchor"] >= 1


def outboxes(world: World):
    return [box for seat in world.seats.values() for box in seat.process.core.outboxes.values()]

"""Edges whose items overtake one another: which ones, and how urgent an item is.

Decides nothing of the protocol. A world of every fifth seed has some, so that no other seed is
changed by them.
"""

from dataclasses import replace
from random import Random

from zflow.testing.items import Item
from zflow.testing.topologies import Edge, Stage, Topology

EVERY_SEED, WITH_LANES = 5, 4  # seed % EVERY_SEED
FAIR_RATIOS = (0.05, 0.3, 0.5)


def with_lanes(topology: Topology, random: Random) -> Topology:
    """The same topology, in which most free edges into stages without order have priorities."""
    numbers = {
        edge.number
        for stage in topology.stages
        for edge in stage.ins
        if not stage.partitions and random.random() < 0.7
    }
    stages = tuple(_stage(stage, numbers, random.choice(FAIR_RATIOS)) for stage in topology.stages)
    return replace(topology, stages=stages)


def _stage(stage: Stage, numbers: set[int], fair_ratio: float) -> Stage:
    def edges(some: tuple[Edge, ...]) -> tuple[Edge, ...]:
        return tuple(
            replace(one, settings=replace(one.settings, lanes=True, fair_ratio=fair_ratio))
            if one.number in numbers
            else one
            for one in some
        )

    return replace(stage, ins=edges(stage.ins), outs=edges(stage.outs))


def lane_of(item: Item) -> int:
    """As a user's function of the item: the same whenever it is asked."""
    return item.size_bytes % 3 * 3


def by_lane(items: list[Item]) -> dict[int, list[int]]:
    """Places of the items, by how urgent they are."""
    found: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(lane_of(item), []).append(place)
    return found

"""Run pipelines without processes: a seeded simulator of the data plane.

`World(seed).run()` is one simulated run; `campaign` runs many and adds up what they went through.
"""

from zflow.testing.invariants import Violation
from zflow.testing.network import Rates
from zflow.testing.topologies import random_topology, small_topology
from zflow.testing.world import Result, World

__all__ = ["Rates", "Result", "Violation", "World", "random_topology", "small_topology"]

"""Run pipelines without processes: a seeded simulator of the data plane.

`World(seed).run()` is one simulated run; `campaign` runs many and adds up what they went through.
"""

from zflow.testing.invariants import Violation
from zflow.testing.world import Result, World

__all__ = ["Result", "Violation", "World"]

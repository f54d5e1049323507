"""Run pipelines without processes: your own topology, and a seeded simulator of the data plane.

`run(flow, inputs={...})` runs a topology in this process with virtual time (`inprocess`); a test
loads what that needs when it first asks for `run` or `Running`.

`World(seed).run()` is one simulated run of modelled user code; `campaign` runs many and adds up
what they went through.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zflow.testing.invariants import Violation
from zflow.testing.kills import Fault, hang, kill, kill_at
from zflow.testing.network import Rates
from zflow.testing.topologies import random_topology, small_topology
from zflow.testing.world import Result, World

if TYPE_CHECKING:
    from zflow.testing.inprocess import Running, run
    from zflow.testing.results import Dead, NotEnding, RunFailed, RunResult

_LATE = {
    "Running": "zflow.testing.inprocess",
    "run": "zflow.testing.inprocess",
    "Dead": "zflow.testing.results",
    "NotEnding": "zflow.testing.results",
    "RunFailed": "zflow.testing.results",
    "RunResult": "zflow.testing.results",
}

__all__ = [
    "Dead",
    "Fault",
    "NotEnding",
    "Rates",
    "Result",
    "RunFailed",
    "RunResult",
    "Running",
    "Violation",
    "World",
    "hang",
    "kill",
    "kill_at",
    "random_topology",
    "run",
    "small_topology",
]


def __getattr__(name: str) -> Any:
    """What a whole topology needs is loaded when it is first asked for: sockets, among others."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)

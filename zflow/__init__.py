"""zflow: pipelines of plain Python functions, each stage its own processes, joined by ZeroMQ.

The public door: what a topology file imports. Never loads zmq, so that reading a topology is cheap.
"""

from zflow.durable import DurableStage
from zflow.limits import Breaker
from zflow.occasions import Failure, Letter, Run
from zflow.stages import emit, sink, source, stage
from zflow.topology import Topology
from zflow.windowing.specs import Window, session, sliding, tumbling
from zflow.windows import join, window

__version__ = "0.1.0"

__all__ = [
    "Breaker",
    "DurableStage",
    "Failure",
    "Letter",
    "Run",
    "Topology",
    "Window",
    "__version__",
    "emit",
    "join",
    "session",
    "sink",
    "sliding",
    "source",
    "stage",
    "tumbling",
    "window",
]

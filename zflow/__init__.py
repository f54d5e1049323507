"""zflow: pipelines of plain Python functions, each stage its own processes, joined by ZeroMQ.

The public door: what a topology file imports. Never loads zmq, so that reading a topology is cheap.
"""

from zflow.durable import DurableStage
from zflow.stages import emit, sink, source, stage
from zflow.topology import Topology

__version__ = "0.1.0"

__all__ = ["DurableStage", "Topology", "__version__", "emit", "sink", "source", "stage"]

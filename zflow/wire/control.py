"""The control plane's messages: plain data, one struct each, tagged by name.

Replica, coordinator and supervisor meet here and nowhere else. Never carries code or items.
"""

from typing import Any

import msgspec

from zflow.errors import ProtocolError
from zflow.wire.data import Crash
from zflow.wire.picture import Census, Picture

REDRIVE = "dead:"  # the stage name of a source of dead letters begins with this
EXIT_UNAVAILABLE = 75  # of a replica: a disk or a lock refuses for now (EX_TEMPFAIL, sysexits.h)
PHASES = ("bind", "connect", "run", "drain", "finish")  # of a run, in order


class StageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica must know of one stage, its own or a neighbour."""

    name: str
    number: int  # in the run; names the sockets
    kind: str
    replicas: int
    retries: int
    backoff_s: float
    timeout_s: float
    max_crashes: int
    on_error: str
    partitions: int = 0  # of the state of a durable stage; 0 of any other
    durability: str = "power"


class EdgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One declared edge. edge: the 64-bit hash of its names."""

    edge: int
    label: str
    source: str
    target: str
    output: str | None
    delivery: str
    window_items: int = 65_536
    window_bytes: int = 64 * 1024 * 1024
    partitions: int = 0  # into which its items are keyed; 0 where any replica may take them
    unmarked: bool = False  # no watermark comes over it: everything on it may be lost


class TargetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica finds the user's code: a file with its source as it was, or a module."""

    target: str
    attribute: str | None
    path: str | None
    source_file: str | None  # the snapshot of `path` that every incarnation loads


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a run's configuration, the same for every replica."""

    run_id: str
    generation: int
    topology: str
    run_directory: str
    state_directory: str
    target: TargetConfig
    stages: list[StageConfig]
    edges: list[EdgeConfig]
    parameters: list[str]  # STAGE.NAME=VALUE, typed by the replica
    redrive: dict[str, list[str]] = {}  # stage `dead:EDGE` -> ids of the dead letters it sends
    redrive_rate_per_s: float = 0.0  # of all those sources together; 0: as fast as they can

    def stage(self, name: str) -> StageConfig:
        """The stage of that name; raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


class Ownership(msgspec.Struct, frozen=True):
    """Which slot owns each partition of a stage, by its index; the highest generation counts."""

    stage: str
    generation: int
    slots: list[int]


class Register(msgspec.Struct, frozen=True, tag="register"):
    """Replica -> coordinator: I am here; answered with Snapshot."""

    slot: str
    incarnation: int
    pid: int


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Replica -> coordinator, once a second and at every change: my state.

    activity: a number that moves whenever a unit is received or settled. probe: the last one seen.
    exhausted: False while a source may yield more; one that is drained is not exhausted. owners: of
    a durable stage, the generation of `Ownership` up to which it has let go of what is not its own.
    """

    slot: str
    incarnation: int
    state: str  # bound, connected, running, finished, failed
    ended: bool
    settled: bool
    activity: int
    probe: int
    error: str = ""
    exhausted: bool = True
    owners: int = 0


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Coordinator -> replica: everything up to update `number`."""

    number: int
    phase: str
    probe: int
    config: RunConfig
    crashes: list[Crash]  # of this slot's predecessors
    concluding: str = ""
    owners: list[Ownership] = []  # of stages whose partitions have moved


class Update(msgspec.Struct, frozen=True, tag="update"):
    """Coordinator -> all, numbered without gaps; a repeated number is the beat.

    concluding: the durable stage whose turn it is to run `finish`, once all before it is settled.
    """

    number: int
    phase: str
    probe: int
    crash: Crash | None = None
    concluding: str = ""
    owners: Ownership | None = None


class Move(msgspec.Struct, frozen=True, tag="move"):
    """Operator -> coordinator: partitions of a stage, and the index of the slot each moves to."""

    stage: str
    to: dict[int, int]


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """Coordinator -> operator: ordered, as this generation; or why not."""

    owners: Ownership | None
    refusal: str = ""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Somebody who wants to see the run -> coordinator; answered with the newest Picture."""


Message = Register | Report | Snapshot | Update | Move | Moved | Look | Census | Picture
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One frame."""
    return _ENCODER.encode(message)


def decode(raw: bytes) -> Any:
    """The message; raises ProtocolError."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a malformed control message: {error}") from error

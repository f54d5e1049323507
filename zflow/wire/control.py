"""The control plane's messages: plain data, one struct each, tagged by name.

Replica, coordinator and supervisor meet here and nowhere else. Never carries code or items.
"""

from typing import Any

import msgspec

from zflow.errors import ProtocolError
from zflow.wire.data import Crash
from zflow.wire.picture import Census, Picture

EXIT_ROLLOUT = 76  # of a replica: it was asked to make room for its successor, and has
REDRIVE = "dead:"  # the stage name of a source of dead letters begins with this
EXIT_UNAVAILABLE = 75  # of a replica: a disk or a lock refuses for now (EX_TEMPFAIL, sysexits.h)
PHASES = ("gather", "bind", "connect", "run", "drain", "finish")  # of a run, in order


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
    most_replicas: int = 0  # 0: any number
    why_most: str = ""


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
    lanes: bool = False  # its items overtake one another
    fair_ratio: float = 0.1
    on_full: str = "block"


class TargetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica finds the user's code: a file, whose source as it was lies in its state
    directory, or a module."""

    target: str
    attribute: str | None
    path: str | None


MADE_ROOM = "it has made room for its successor"  # how an orderly replacement reads


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a run's configuration, the same for every replica."""

    run_id: str
    generation: int
    topology: str
    target: TargetConfig
    stages: list[StageConfig]
    edges: list[EdgeConfig]
    parameters: list[str]  # STAGE.NAME=VALUE, typed by the replica
    redrive: dict[str, list[str]] = {}  # stage `dead:EDGE` -> ids of the dead letters it sends
    redrive_rate_per_s: float = 0.0  # of all those sources together; 0: as fast as they can
    codec: str = "pickle5"  # by which items travel

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


class Roster(msgspec.Struct, frozen=True):
    """Which slots a stage has, by index, and where each takes messages; the highest generation
    counts."""

    stage: str
    generation: int
    slots: dict[int, str]

    def names(self) -> list[str]:
        """The slots, as they are written."""
        return [f"{self.stage}/{index}" for index in sorted(self.slots)]


class Register(msgspec.Struct, frozen=True, tag="register"):
    """Replica -> coordinator: I am here; answered with Snapshot."""

    slot: str
    incarnation: int
    pid: int


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Replica -> coordinator, once a second and at every change: my state.

    activity: a number that moves whenever a unit is received or settled. probe: the last one seen.
    exhausted: False while a source may yield more; one that is drained is not exhausted. alarm: a
    handshake that fails, or somebody who speaks in another one's name. owners: of
    a durable stage, the generation of `Ownership` up to which it has let go of what is not its own.
    tap: where it mirrors what it sends, if it does.
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
    alarm: str = ""
    tap: str = ""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Coordinator -> replica: everything up to update `number` of its epoch."""

    number: int
    phase: str
    probe: int
    config: RunConfig
    rosters: list[Roster]
    owners: list[Ownership] = []  # of stages whose partitions have moved
    concluding: str = ""
    paused: bool = False
    epoch: int = 1


class Update(msgspec.Struct, frozen=True, tag="update"):
    """Coordinator -> all, numbered without gaps; a repeated number is the beat.

    concluding: the durable stage whose turn it is to run `finish`, once all before it is settled.
    epoch: rises with every process that coordinates the run; words of an older one do not count.
    generation: of the configuration.
    taps: edges that somebody looks at, by label, and for how many more seconds; in every update.
    """

    number: int
    phase: str
    probe: int
    crash: Crash | None = None
    concluding: str = ""
    owners: Ownership | None = None
    roster: Roster | None = None
    paused: bool = False
    epoch: int = 1
    generation: int = 1
    taps: dict[str, float] = {}


class Standing(msgspec.Struct, frozen=True, kw_only=True, tag="standing"):
    """Supervisor -> coordinator, once a second and at every change: what it has and offers.

    offers: how many replicas of which stage it would run; None: as many as it is asked for.
    addresses: where its slots take messages. incarnations: the newest of each. finished: slots
    that have ended in an orderly way. looping: why it gives a slot up. heard: the newest snapshot,
    for a coordinator that knows less. digest: of the code that it has. store: the name of its state
    directory, empty before there is one. ended: it knows the end.
    """

    supervisor: str
    host: str
    versions: dict[str, str]
    offers: dict[str, int | None]
    addresses: dict[str, str]
    incarnations: dict[str, int]
    finished: list[str]
    census: Census
    looping: str = ""
    heard: Snapshot | None = None
    run_id: str = ""
    digest: str = ""
    store: str = ""
    ended: bool = False


class Died(msgspec.Struct, frozen=True, tag="died"):
    """Supervisor -> coordinator: an incarnation is dead. One that is lost does no harm: the
    successor says it too."""

    slot: str
    crash: Crash


class Ended(msgspec.Struct, frozen=True):
    """The run is over: with which exit code, and how."""

    exit_code: int
    outcome: str


class Duty(msgspec.Struct, frozen=True, kw_only=True, tag="duty"):
    """Coordinator -> supervisor, in answer to its standing.

    slots: those that are its own, and the incarnation above which theirs must be. waiting: of
    those, which may not start yet, since their peers do not know of them. restart: whose
    incarnation is to be replaced, if it is still that one. code: if it has not got it. waits_for:
    what a run that has not begun waits for. refusal: why the supervisor is not wanted;
    incompatible: because its versions or its topology differ.
    """

    epoch: int
    slots: dict[str, int] = {}
    waiting: list[str] = []
    restart: dict[str, int] = {}
    snapshot: Snapshot | None = None
    digest: str = ""
    code: bytes | None = None
    waits_for: str = ""
    refusal: str = ""
    incompatible: bool = False
    ended: Ended | None = None


class Move(msgspec.Struct, frozen=True, tag="move"):
    """Operator -> coordinator: partitions of a stage, and the index of the slot each moves to."""

    stage: str
    to: dict[int, int]


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """Coordinator -> operator: ordered, as this generation; or why not."""

    owners: Ownership | None
    refusal: str = ""


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    """Operator -> coordinator: a stage shall have that many replicas."""

    stage: str
    replicas: int


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Operator -> coordinator: sources yield nothing, or go on."""

    paused: bool


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """Operator -> coordinator: replace the processes of these slots, one after the other or at
    once; each finishes what it has begun."""

    slots: list[str]
    rolling: bool


class Down(msgspec.Struct, frozen=True, tag="down"):
    """Operator -> coordinator: end the run, drained, or now."""

    now: bool


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Operator -> coordinator: from now on the run is of this version of its topology.

    config: with the generation that it replaces. code: of the topology's file. restart: the
    stages whose processes have to be replaced for it.
    """

    config: RunConfig
    code: bytes
    digest: str
    restart: list[str]


class Tap(msgspec.Struct, frozen=True, tag="tap"):
    """Operator -> coordinator: let the senders of an edge mirror what they send, for `lease_s` from
    now. edge: its label. Said again before it ends, as long as somebody looks."""

    edge: str
    lease_s: float


class Tapped(msgspec.Struct, frozen=True, tag="tapped"):
    """Coordinator -> operator. edge: its number. endpoints: where each slot mirrors what it sends;
    of those that do so already."""

    edge: int = 0
    endpoints: dict[str, str] = {}
    refusal: str = ""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Coordinator -> operator: ordered, or why not."""

    refusal: str = ""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Somebody who wants to see the run -> coordinator; answered with the newest Picture."""


Order = Move | Scale | Pause | Restart | Down | Apply
Message = (
    Register
    | Report
    | Snapshot
    | Update
    | Standing
    | Died
    | Duty
    | Order
    | Moved
    | Tap
    | Tapped
    | Answer
    | Look
    | Picture
)
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)


def updates_of(control: str) -> str:
    """Where a coordinator publishes that answers at `control`: the next port, or a file beside."""
    if control.startswith("ipc://"):
        return f"{control}.updates"
    host, _, port = control.rpartition(":")
    return f"{host}:{int(port) + 1}"


def encode(message: Message) -> bytes:
    """One frame."""
    return _ENCODER.encode(message)


def decode(raw: bytes) -> Any:
    """The message; raises ProtocolError."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a malformed control message: {error}") from error

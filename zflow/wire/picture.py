"""What is known of a running pipeline at one moment: plain data, as it travels and is shown.

A supervisor sends a `Census` of its replicas; the coordinator makes a `Picture` of all of them,
once a second. Metrics, `explain`, `top`, `status` and the page are made from pictures alone.

Counters are those of `zflow.replica.counters`, cumulative since their process began: per stage
(`processed`, `busy_ns`, ...), per edge that it sends on (`sent:parse->count`) and per bucket.
"""

import msgspec

Totals = dict[str, int]


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a slot, as its supervisor sees it.

    state: starting, registered, bound, connected, running, draining, finished, failed, or lost
    where its supervisor is not heard.
    """

    incarnation: int
    pid: int
    host: str
    state: str
    started_at_s: float  # wall clock
    cpu_s: float
    memory_bytes: int
    open_fds: int
    counters: Totals


class SlotCensus(msgspec.Struct, frozen=True, kw_only=True):
    """One slot at its supervisor. retired: what its dead incarnations have counted, together.

    restarts: by reason (exit, signal, stuck, oom, rollout). replica: None while none lives.
    """

    slot: str
    replica: Replica | None
    retired: Totals
    restarts: Totals
    last_error: str = ""  # how its last incarnation ended, and the end of what it wrote


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """Every slot that a supervisor has or had."""

    slots: list[SlotCensus]


class StagePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. desired: how many replicas it should have. slots: those, by index.

    gone: what slots that are no longer there have counted, together, and `restarts:REASON`.
    owners: the index of the slot that owns each partition. most_replicas: 0 if it may have any.
    """

    name: str
    kind: str  # source, stage, sink
    desired: int
    partitions: int
    durability: str
    timeout_s: float
    slots: list[SlotCensus]
    gone: Totals
    owners: list[int] = []
    most_replicas: int = 0


class EdgePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One declared edge."""

    label: str
    source: str
    target: str
    output: str | None
    delivery: str
    keyed: bool
    window_items: int
    window_bytes: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. kind: phase, start, death, scale, restart, pause, resume, move."""

    number: int  # rises by one with each event of a run
    at_s: float  # wall clock
    kind: str
    stage: str
    slot: str
    text: str


class Picture(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """Everything at one moment. at_s: wall clock; elapsed_s: since the run began."""

    topology: str
    run_id: str
    generation: int
    digest: str
    phase: str  # bind, connect, run, drain, finish
    paused: bool
    at_s: float
    elapsed_s: float
    stages: list[StagePicture]
    edges: list[EdgePicture]
    events: list[Event]  # the newest, oldest first
    alarms: list[str] = []  # what is wrong now, a sentence each
    waits_for: str = ""  # which replicas nobody runs, in phase gather

    def stage(self, name: str) -> StagePicture:
        """The stage of that name; raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


def totals_of(slot: SlotCensus) -> Totals:
    """What all incarnations of a slot have counted; gauges are those of the living one."""
    living = slot.replica.counters if slot.replica is not None else {}
    return added(slot.retired, living)


def restarts_of(slot: SlotCensus) -> Totals:
    """How often a process of the slot was replaced, as `restarts:REASON`, beside its counters."""
    return {f"restarts:{reason}": count for reason, count in slot.restarts.items()}


def added(*parts: Totals) -> Totals:
    """Counters added up by name."""
    totals: Totals = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals

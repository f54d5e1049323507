"""Two pictures of a run, a moment apart, as rates: per stage, per replica, per edge.

Decides what a number means between two looks: counters may fall where a process died in between,
and no rate is ever negative. Never asks anybody and never reads a clock.

A replica's four times (busy, starved, blocked, overhead) add up to the time that it has counted,
which is therefore the time base of its own rates: how old a census is does not matter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zflow.state.latency import quantile_s
from zflow.wire.picture import (
    EdgePicture,
    Picture,
    SlotCensus,
    StagePicture,
    Totals,
    added,
    totals_of,
)

STATES = ("busy", "starved", "blocked", "overhead")
DOWN = "down"  # the state of a slot without a process
ORDERED = "rollout"  # the reason of a restart that is no death
_RESTARTS = "restarts:"
_DEAD = "dead_lettered:"
_ON_THE_WAY = ("queue", "unacked_items")  # gauges of an edge at its senders


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Shares of the time of a data thread, or their means over the replicas that live.

    busy: in user code. starved: nothing to do. blocked: nobody takes what it has. overhead: the
    rest, moving and committing. All 0.0 where nothing was counted.
    """

    busy_ratio: float = 0.0
    starved_ratio: float = 0.0
    blocked_ratio: float = 0.0
    overhead_ratio: float = 0.0

    @property
    def occupied_ratio(self) -> float:
        """The share in which it could not have taken more: in user code or moving items."""
        return min(1.0, self.busy_ratio + self.overhead_ratio)

    @property
    def counted(self) -> bool:
        """False if there are no times: the process is new, or too old to count them."""
        return any((self.busy_ratio, self.starved_ratio, self.blocked_ratio, self.overhead_ratio))

    @property
    def leading(self) -> str:
        """The state that has most of the time; "" if nothing was counted."""
        if not self.counted:
            return ""
        return max(STATES, key=lambda state: float(getattr(self, f"{state}_ratio")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRates:
    """One slot. state: of its process, or `down`. cpu_ratio: of one core."""

    slot: str
    state: str
    host: str
    pid: int
    incarnation: int
    rate_per_s: float
    times: Times
    cpu_ratio: float
    memory_bytes: int
    queue_items: int
    restarts: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRates:
    """One stage. restarts, dead_letters: since the run began; `new_`: between the two pictures.

    Restarts that were ordered are not among them. states: how many replicas are in which state.
    queue_items: arrived and not yet processed.
    """

    name: str
    kind: str
    desired: int
    partitions: int
    owners: list[int]
    most_replicas: int
    states: dict[str, int]
    items: int
    rate_per_s: float
    times: Times
    queue_items: int
    queue_growth_per_s: float
    errors: int
    restarts: int
    new_restarts: int
    dead_letters: int
    new_dead_letters: int
    replicas: list[ReplicaRates]

    @property
    def running(self) -> int:
        """How many replicas do their work."""
        return self.states.get("running", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRates:
    """One edge, over all its senders. rate_per_s: sent; processed_per_s: acknowledged.

    queue_items: waiting to be sent, or sent and not acknowledged.
    full_ratio: how full its senders are, which are blocked at 1.0: of their windows in items, or in
    bytes if that is more.
    """

    label: str
    source: str
    target: str
    keyed: bool
    rate_per_s: float
    processed_per_s: float
    bytes_per_s: float
    queue_items: int
    queue_growth_per_s: float
    full_ratio: float
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A run between two pictures. latency: from the source's yield to the sinks' return.

    cpu_by_host: the cores that the replicas of a host have used, all together.
    """

    at_s: float
    interval_s: float
    latency_p50_s: float | None
    latency_p99_s: float | None
    cpu_by_host: dict[str, float]
    stages: list[StageRates]
    edges: list[EdgeRates]

    def stage(self, name: str) -> StageRates:
        """The stage of that name; raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def before(self, name: str) -> list[StageRates]:
        """The stages that send to one, each once."""
        names = dict.fromkeys(edge.source for edge in self.edges if edge.target == name)
        return [self.stage(one) for one in names]

    def after(self, name: str) -> list[StageRates]:
        """The stages that one sends to, each once."""
        names = dict.fromkeys(edge.target for edge in self.edges if edge.source == name)
        return [self.stage(one) for one in names]


@dataclass(frozen=True, slots=True)
class _Change:
    """One slot between two pictures: what it counted, over which time of its own."""

    now: SlotCensus
    counted: Totals
    gauges_before: Mapping[str, int]
    base_s: float
    cpu_ratio: float

    def per_s(self, name: str) -> float:
        return max(0, self.counted.get(name, 0)) / self.base_s if self.base_s else 0.0

    def gauge(self, name: str) -> int:
        return _living(self.now).get(name, 0)


def rates_between(before: Picture, after: Picture) -> Rates:
    """What happened between two pictures of the same run; all rates are 0 over no time."""
    interval_s = after.elapsed_s - before.elapsed_s
    if before.run_id != after.run_id or interval_s <= 0:
        before, interval_s = after, 0.0
    old = {stage.name: stage for stage in before.stages}
    changes = {
        stage.name: _changes(old.get(stage.name), stage, interval_s) for stage in after.stages
    }
    dead = _dead_by_target(before.edges, old.values()), _dead_by_target(after.edges, after.stages)
    sinks = [changes[stage.name] for stage in after.stages if stage.kind == "sink"]
    latencies = added(*(_latencies(change.counted) for sink in sinks for change in sink))
    return Rates(
        at_s=after.at_s,
        interval_s=interval_s,
        latency_p50_s=quantile_s(latencies, 0.5),
        latency_p99_s=quantile_s(latencies, 0.99),
        cpu_by_host=_cpu_by_host(changes.values()),
        stages=[
            _stage(old.get(stage.name), stage, changes[stage.name], interval_s, dead)
            for stage in after.stages
        ],
        edges=[_edge(edge, after, changes[edge.source], interval_s) for edge in after.edges],
    )


def stage_totals(stage: StagePicture) -> Totals:
    """All that a stage has counted since the run began."""
    return added(stage.gone, *map(totals_of, stage.slots))


def _changes(before: StagePicture | None, after: StagePicture, interval_s: float) -> list[_Change]:
    slots = {one.slot: one for one in before.slots} if before is not None else {}
    return [_change(slots.get(now.slot), now, interval_s) for now in after.slots]


def _change(before: SlotCensus | None, now: SlotCensus, interval_s: float) -> _Change:
    was, living = before.replica if before is not None else None, now.replica
    same = was is not None and living is not None and was.incarnation == living.incarnation
    old = totals_of(before) if before is not None else {}
    new = totals_of(now)
    counted = {name: value - old.get(name, 0) for name, value in new.items()}
    own_s = sum(max(0, counted.get(f"{state}_ns", 0)) for state in STATES) / 1e9
    cpu_ratio = 0.0
    if interval_s and living is not None:
        cpu_s = living.cpu_s - (was.cpu_s if same and was is not None else 0.0)
        cpu_ratio = max(0.0, cpu_s) / interval_s
    return _Change(
        now=now,
        counted=counted,
        gauges_before=_living(before) if before is not None else {},
        # A process that ended or began meanwhile was not there for the whole interval.
        base_s=own_s if same and own_s else interval_s,
        cpu_ratio=cpu_ratio,
    )


def _living(slot: SlotCensus) -> Mapping[str, int]:
    return slot.replica.counters if slot.replica is not None else {}


def _stage(
    before: StagePicture | None,
    stage: StagePicture,
    changes: list[_Change],
    interval_s: float,
    dead: tuple[Counter[str], Counter[str]],
) -> StageRates:
    replicas = [_replica(change) for change in changes]
    living = [one.times for one in replicas if one.times.counted]
    queue = sum(change.gauge("inbox") for change in changes)
    queue_before = sum(change.gauges_before.get("inbox", 0) for change in changes)
    totals = stage_totals(stage)
    restarts = _deaths(stage)
    old_restarts = _deaths(before) if before is not None else 0
    dead_before, dead_now = (letters[stage.name] for letters in dead)
    return StageRates(
        name=stage.name,
        kind=stage.kind,
        desired=stage.desired,
        partitions=stage.partitions,
        owners=stage.owners,
        most_replicas=stage.most_replicas,
        states=dict(Counter(one.state for one in replicas)),
        items=totals.get("processed", 0),
        rate_per_s=sum(one.rate_per_s for one in replicas),
        times=_mean(living),
        queue_items=queue,
        queue_growth_per_s=(queue - queue_before) / interval_s if interval_s else 0.0,
        errors=totals.get("errors", 0),
        restarts=restarts,
        new_restarts=max(0, restarts - old_restarts),
        dead_letters=dead_now,
        new_dead_letters=max(0, dead_now - dead_before),
        replicas=replicas,
    )


def _replica(change: _Change) -> ReplicaRates:
    process = change.now.replica
    shares = {f"{state}_ratio": min(1.0, change.per_s(f"{state}_ns") / 1e9) for state in STATES}
    return ReplicaRates(
        slot=change.now.slot,
        state=process.state if process is not None else DOWN,
        host=process.host if process is not None else "",
        pid=process.pid if process is not None else 0,
        incarnation=process.incarnation if process is not None else 0,
        rate_per_s=change.per_s("processed"),
        times=Times(**shares) if process is not None else Times(),
        cpu_ratio=change.cpu_ratio,
        memory_bytes=process.memory_bytes if process is not None else 0,
        queue_items=change.gauge("inbox"),
        restarts=sum(n for why, n in change.now.restarts.items() if why != ORDERED),
        last_error=change.now.last_error,
    )


def _edge(
    edge: EdgePicture, picture: Picture, senders: list[_Change], interval_s: float
) -> EdgeRates:
    label = edge.label
    names = [f"{name}:{label}" for name in _ON_THE_WAY]
    waiting = sum(change.gauge(name) for change in senders for name in names)
    waited = sum(change.gauges_before.get(name, 0) for change in senders for name in names)
    totals = stage_totals(picture.stage(edge.source))
    return EdgeRates(
        label=label,
        source=edge.source,
        target=edge.target,
        keyed=edge.keyed,
        rate_per_s=sum(change.per_s(f"sent:{label}") for change in senders),
        processed_per_s=sum(change.per_s(f"processed:{label}") for change in senders),
        bytes_per_s=sum(change.per_s(f"sent_bytes:{label}") for change in senders),
        queue_items=waiting,
        queue_growth_per_s=(waiting - waited) / interval_s if interval_s else 0.0,
        full_ratio=_full_ratio(edge, senders, waiting),
        dead_letters=totals.get(_DEAD + label, 0),
    )


def _full_ratio(edge: EdgePicture, senders: list[_Change], waiting: int) -> float:
    size_bytes = sum(change.gauge(f"unacked_bytes:{edge.label}") for change in senders)
    shares = [
        held / (window * len(senders))
        for held, window in ((waiting, edge.window_items), (size_bytes, edge.window_bytes))
        if window and senders
    ]
    return min(1.0, max(shares, default=0.0))


def _mean(times: list[Times]) -> Times:
    if not times:
        return Times()
    n = len(times)
    return Times(
        busy_ratio=sum(one.busy_ratio for one in times) / n,
        starved_ratio=sum(one.starved_ratio for one in times) / n,
        blocked_ratio=sum(one.blocked_ratio for one in times) / n,
        overhead_ratio=sum(one.overhead_ratio for one in times) / n,
    )


def _deaths(stage: StagePicture) -> int:
    """Its restarts but those that were ordered."""
    gone = {name: n for name, n in stage.gone.items() if name.startswith(_RESTARTS)}
    restarts = added(*(one.restarts for one in stage.slots))
    ordered = restarts.get(ORDERED, 0) + gone.get(_RESTARTS + ORDERED, 0)
    return sum(restarts.values()) + sum(gone.values()) - ordered


def _dead_by_target(edges: Iterable[EdgePicture], stages: Iterable[StagePicture]) -> Counter[str]:
    """Dead letters by the stage that could not process them; its senders keep these books."""
    by_stage = {stage.name: stage_totals(stage) for stage in stages}
    found: Counter[str] = Counter()
    for edge in edges:
        found[edge.target] += by_stage.get(edge.source, {}).get(_DEAD + edge.label, 0)
    for name, totals in by_stage.items():
        found[name] += totals.get("dead_at_source", 0)
    return found


def _latencies(counted: Totals) -> Totals:
    return {name: max(0, n) for name, n in counted.items() if name.startswith("latency:")}


def _cpu_by_host(stages: Iterable[list[_Change]]) -> dict[str, float]:
    used: dict[str, float] = {}
    for changes in stages:
        for change in changes:
            process = change.now.replica
            if process is not None:
                used[process.host] = used.get(process.host, 0.0) + change.cpu_ratio
    return used

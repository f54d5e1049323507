"""Stages and replicas as rows of text, the same in `status` and `top`. Decides wording only."""

from collections.abc import Iterator

from zflow.cli.output import duration, size, span
from zflow.planning.rates import DOWN, Rates, ReplicaRates, StageRates, Times
from zflow.wire.picture import Picture

STAGE_HEADINGS = (
    *("stage", "replicas", "items/s", "busy", "blocked", "starved", "queue"),
    *("restarts", "dead", "state"),
)
STAGE_NUMBERS = range(1, 9)  # the columns that are flush right
REPLICA_HEADINGS = (
    *("replica", "state", "pid", "host", "items/s", "busy", "blocked", "starved", "queue"),
    *("cpu", "memory", "restarts"),
)
REPLICA_NUMBERS = (2, 4, 5, 6, 7, 8, 9, 10, 11)


def title(picture: Picture) -> str:
    """`flow 20260131-...: run, 3 min`."""
    phase = "paused" if picture.paused else picture.phase
    return f"{picture.topology} {picture.run_id}: {phase}, {duration(picture.elapsed_s)}"


def stage_row(stage: StageRates) -> tuple[str, ...]:
    """One stage, below STAGE_HEADINGS."""
    return (
        stage.name,
        f"{stage.running}/{stage.desired}",
        rate(stage.rate_per_s),
        *_shares(stage.times),
        f"{stage.queue_items:,}",
        f"{stage.restarts:,}",
        f"{stage.dead_letters:,}",
        state_of(stage),
    )


def replica_row(replica: ReplicaRates) -> tuple[str, ...]:
    """One replica, below REPLICA_HEADINGS."""
    lives = replica.state != DOWN
    return (
        replica.slot,
        replica.state,
        str(replica.pid) if lives else "-",
        replica.host or "-",
        rate(replica.rate_per_s),
        *_shares(replica.times),
        f"{replica.queue_items:,}",
        f"{replica.cpu_ratio:.0%}" if lives else "-",
        size(replica.memory_bytes) if lives else "-",
        f"{replica.restarts:,}",
    )


def state_of(stage: StageRates) -> str:
    """`busy`, `blocked` or `starved` by most of its time; what its replicas are if not running."""
    others = {state: n for state, n in stage.states.items() if state != "running"}
    if others:
        return ", ".join(f"{n} {state}" for state, n in sorted(others.items()))
    return stage.times.leading or "running"


def latency_line(rates: Rates) -> str:
    """Over the last seconds, at the sinks."""
    return f"latency p50 {span(rates.latency_p50_s)}, p99 {span(rates.latency_p99_s)}"


def warnings(rates: Rates) -> Iterator[str]:
    """What a person should look at next: how replicas ended."""
    for stage in rates.stages:
        for replica in stage.replicas:
            if replica.last_error:
                yield f"{replica.slot} ended before: {replica.last_error}"


def rate(per_s: float) -> str:
    """`1,480`, `0.5`, `0`."""
    return f"{per_s:,.0f}" if per_s >= 10 or not per_s else f"{per_s:.1f}"


def _shares(times: Times) -> tuple[str, str, str]:
    if not times.counted:
        return "-", "-", "-"
    return f"{times.busy_ratio:.0%}", f"{times.blocked_ratio:.0%}", f"{times.starved_ratio:.0%}"

"""What a dashboard of one topology shows: its rows, their panels, and the queries behind them.

Decides the content. How a panel is written is decided in `export.panels`. A query that is empty
until something goes wrong stands in `Failures` or with all edges or replicas, not at each stage.
"""

from collections.abc import Iterator

from zflow.declared.model import Declared
from zflow.export.panels import (
    Panel,
    quantile,
    rate,
    rate_by,
    series,
    time_shares,
    total_by,
)
from zflow.stages import StageDecl

CHOSEN = 'stage=~"$stage"'
FIRING = 'alertstate="firing"'
# Metrics that no panel shows, and why. Everything else that zflow exports is on one.
NOT_SHOWN: dict[str, str] = {}


def rows_of(declared: Declared) -> Iterator[tuple[str, bool, list[Panel]]]:
    """(title, whether it stands open, panels), from the whole to its parts."""
    yield "Overview", True, list(_overview())
    yield "Failures", False, list(_failures())
    for stage in declared.stages:
        count = f" x{stage.options.replicas}" if stage.options.replicas > 1 else ""
        title = f"{stage.name}: {stage.kind}{count}"
        yield title, False, list(_stage(declared, stage))
    yield "Edges", False, list(_edges())
    yield "Replicas", False, list(_replicas())
    if any(stage.is_durable for stage in declared.stages):
        yield "Durable stages", False, list(_durable())
    yield "Coordinator", False, list(_coordinator())


def _overview() -> Iterator[Panel]:
    delivered = f"sum ({rate('zflow_end_to_end_seconds_count')})"
    letters = f"sum ({series('zflow_dead_letters_total')})"
    firing = f"count ({series('ALERTS', FIRING)})"
    running = total_by("state", "zflow_replicas", 'state=~"desired|running"')
    stats = [
        ("Throughput", "Items that sinks finish, per second.", "cps", delivered, ""),
        ("Latency p50", "Half of the items reach a sink within this time.", "s", _latency(0.5), ""),
        ("Latency p99", "99 of 100 items reach a sink within this time.", "s", _latency(0.99), ""),
        ("Replicas", "How many processes run, and how many should.", "none", running, "{{state}}"),
    ]
    for title, description, unit, expr, legend in stats:
        yield _stat(title, description, unit, expr, legend)
    alarms = [
        ("Dead letters", "Items given up, in this run: zflow dead ls.", letters),
        ("Alerts", "Alerts of this topology that fire, if Prometheus has its rules.", firing),
    ]
    for title, description, expr in alarms:
        yield _stat(title, description, "none", expr, "", alarming=True)
    yield Panel(
        title="What the stages do",
        description="Shares of each stage's time, now. A bottleneck is busy (green), what is"
        " before it blocked (red), what is behind it starved (blue).",
        unit="percentunit",
        kind="barchart",
        queries=((time_shares("stage"), ""),),
        states=True,
    )
    yield Panel(
        title="Items per second",
        description="Items that each stage processes. A stage that makes several of one shows less"
        " than the next.",
        unit="cps",
        queries=((rate_by("stage", "zflow_items_processed_total"), "{{stage}}"),),
    )
    way = "source, sink"
    metric = "zflow_end_to_end_seconds"
    yield Panel(
        title="End-to-end latency",
        description="From the yield of a source (or the commit of a durable stage) to the return"
        " of a sink.",
        unit="s",
        queries=(
            (quantile(0.5, way, metric), "p50 {{source}} to {{sink}}"),
            (quantile(0.99, way, metric), "p99 {{source}} to {{sink}}"),
        ),
    )


def _failures() -> Iterator[Panel]:
    shown = [
        ("Errors", "Exceptions out of your code, by class.", "errors", "stage, error", CHOSEN),
        ("Retries", "Attempts after the first.", "retries", "stage", CHOSEN),
        ("Duplicates", "Items that came again and were left.", "duplicates", "stage", CHOSEN),
        ("Dropped", "Items given up by declared policy.", "dropped", "edge, reason", ""),
    ]
    for title, description, metric, by, matcher in shown:
        expr = rate_by(by, f"zflow_{metric}_total", *filter(None, [matcher]))
        yield Panel(
            title=title, description=f"{description} Per second.", unit="cps", queries=_by(expr, by)
        )
    yield Panel(
        title="Dead letters by stage",
        description="Items given up and stored, since the run began: zflow dead ls.",
        unit="none",
        queries=_by(total_by("stage, reason", "zflow_dead_letters_total", CHOSEN), "stage, reason"),
    )


def _stage(declared: Declared, stage: StageDecl) -> Iterator[Panel]:
    this = f'stage="{stage.name}"'
    yield Panel(
        title="Time",
        description=f"What the replicas of {stage.name} do: busy in your code, starved of input,"
        " blocked by what is behind, overhead of zflow. Adds up to 1.",
        unit="percentunit",
        queries=((time_shares("", this), "{{state}}"),),
        states=True,
    )
    yield Panel(
        title="Outcomes",
        description=f"Calls of {stage.name}, per second: ok gave something, filtered gave nothing,"
        " error raised.",
        unit="cps",
        queries=_by(rate_by("outcome", "zflow_items_processed_total", this), "outcome"),
    )
    yield Panel(
        title="Time per item",
        description=f"How long {stage.name} takes for an item, in your code.",
        unit="s",
        queries=tuple(
            (quantile(share, "", "zflow_processing_seconds", this), f"p{share * 100:.0f}")
            for share in (0.5, 0.99)
        ),
    )
    yield _traffic(declared, stage, "items", "Items", "cps")
    yield _traffic(declared, stage, "bytes", "Bytes", "Bps")
    yield _kept(stage)
    if stage.kind == "sink":
        yield Panel(
            title="Latency",
            description=f"From each source (or durable stage) to {stage.name}.",
            unit="s",
            queries=_quantiles("source", "zflow_end_to_end_seconds", f'sink="{stage.name}"'),
        )


def _traffic(declared: Declared, stage: StageDecl, what: str, title: str, unit: str) -> Panel:
    """What comes in and goes out over each edge of a stage."""
    this = f'stage="{stage.name}"'
    queries = []
    if declared.edges_into(stage.name):
        queries.append((rate_by("edge", f"zflow_{what}_in_total", this), "in {{edge}}"))
    if declared.edges_from(stage.name):
        queries.append((rate_by("edge", f"zflow_{what}_out_total", this), "out {{edge}}"))
    return Panel(
        title=title,
        description=f"{title} that {stage.name} takes and sends over each of its edges, per"
        " second; what is sent again counts again.",
        unit=unit,
        queries=tuple(queries),
    )


def _kept(stage: StageDecl) -> Panel:
    """What a stage has taken over and not finished."""
    this = f'stage="{stage.name}"'
    if stage.kind == "source":
        metric, title = "zflow_source_position_lag_items", "Not settled"
        told = f"Items that {stage.name} has yielded and that are not settled: a restart of it"
        told += " repeats them."
    else:
        metric, title = "zflow_inbox_items", "Inbox"
        told = f"Items in the inboxes and hands of the replicas of {stage.name}."
    expr = total_by("replica", metric, this)
    return Panel(
        title=title, description=told, unit="short", queries=((expr, "replica {{replica}}"),)
    )


def _edges() -> Iterator[Panel]:
    yield Panel(
        title="Queue",
        description="Items that wait at their senders, and how many may.",
        unit="short",
        queries=(
            (total_by("edge", "zflow_queue_items"), "{{edge}}"),
            (total_by("edge", "zflow_queue_capacity_items"), "most of {{edge}}"),
        ),
    )
    gauges = [
        ("Credit", "Items that receivers let their senders send now.", "credit_items", "short"),
        ("Unacknowledged", "Items sent and not acknowledged.", "unacked_items", "short"),
        ("Kept bytes", "Bytes kept until they are acknowledged.", "unacked_bytes", "bytes"),
    ]
    for title, description, metric, unit in gauges:
        expr = total_by("edge", f"zflow_{metric}")
        yield Panel(title=title, description=description, unit=unit, queries=_by(expr, "edge"))
    yield Panel(
        title="Oldest unacknowledged",
        description="Age of the oldest message that no receiver has acknowledged.",
        unit="s",
        queries=((f"max by (edge) ({series('zflow_oldest_unacked_seconds')})", "{{edge}}"),),
    )
    yield Panel(
        title="Wait",
        description="From the arrival of a message until user code takes its items.",
        unit="s",
        queries=_quantiles("edge", "zflow_queue_wait_seconds"),
    )
    by = "edge, reason"
    yield Panel(
        title="Replays",
        description="Items that a sender had to send again, since the run began.",
        unit="short",
        queries=_by(total_by(by, "zflow_replays_total"), by),
    )


def _replicas() -> Iterator[Panel]:
    yield Panel(
        title="CPU",
        description="Of one core: 100 % is one core fully used.",
        unit="percentunit",
        queries=_of_replicas(rate("zflow_replica_cpu_seconds_total", CHOSEN)),
    )
    yield Panel(
        title="Memory",
        description="Resident memory of each replica.",
        unit="bytes",
        queries=_of_replicas(series("zflow_replica_resident_memory_bytes", CHOSEN)),
    )
    yield Panel(
        title="Open descriptors",
        description="Files, sockets and pipes that each replica holds.",
        unit="none",
        queries=_of_replicas(series("zflow_replica_open_fds", CHOSEN)),
    )
    for title, description, metric, by in [
        ("Replicas by state", "How many processes each stage has.", "replicas", "stage, state"),
        ("Restarts", "Deaths that were made good.", "restarts_total", "stage, reason"),
    ]:
        expr = total_by(by, f"zflow_{metric}", CHOSEN)
        yield Panel(title=title, description=description, unit="none", queries=_by(expr, by))
    yield Panel(
        title="Processes",
        description="Where each replica runs, and as which process.",
        unit="none",
        kind="table",
        queries=((series("zflow_replica_info", CHOSEN), ""),),
    )


def _durable() -> Iterator[Panel]:
    yield Panel(
        title="Commit",
        description="A round of commits of a durable stage, until all of it is on the disk.",
        unit="s",
        width=12,
        queries=_quantiles("stage", "zflow_commit_seconds"),
    )
    yield Panel(
        title="Commits",
        description="Rounds of commits per second.",
        unit="cps",
        width=12,
        queries=_by(rate_by("stage", "zflow_commit_seconds_count"), "stage"),
    )


def _coordinator() -> Iterator[Panel]:
    yield _stat(
        "Answers",
        "1 while /metrics of the coordinator answers.",
        "none",
        'up{job="zflow-$topology"}',
        "",
    )
    yield _stat(
        "Generation",
        "Rises with each new version of the topology that is applied.",
        "none",
        series("zflow_coordinator_generation"),
        "",
    )
    tables = [
        ("Run", "Which run it is, of which code, and its phase.", series("zflow_topology_info")),
        ("Versions", "What it runs on.", "zflow_build_info"),
        (
            "Your own metrics",
            "What your stages count with self.context.counter, now.",
            series("", '__name__=~"zflow_user_.+"'),
        ),
    ]
    for title, description, expr in tables:
        yield Panel(
            title=title,
            description=description,
            unit="none",
            kind="table",
            queries=((expr, ""),),
            hidden=("__name__", "Value") if expr.endswith("_info") or "_info{" in expr else (),
        )


def _latency(share: float) -> str:
    return quantile(share, "", "zflow_end_to_end_seconds")


def _stat(
    title: str, description: str, unit: str, expr: str, legend: str, *, alarming: bool = False
) -> Panel:
    return Panel(
        title=title,
        description=description,
        unit=unit,
        kind="stat",
        width=4,
        height=4,
        queries=((expr, legend),),
        alarming=alarming,
    )


def _by(expr: str, labels: str) -> tuple[tuple[str, str], ...]:
    """A query with its labels as legend."""
    return ((expr, " ".join(f"{{{{{label}}}}}" for label in labels.split(", "))),)


def _quantiles(by: str, metric: str, *matchers: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (quantile(share, by, metric, *matchers), f"p{share * 100:.0f} {{{{{by}}}}}")
        for share in (0.5, 0.99)
    )


def _of_replicas(expr: str) -> tuple[tuple[str, str], ...]:
    return ((expr, "{{stage}}/{{replica}}"),)

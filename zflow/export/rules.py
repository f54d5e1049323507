"""What Prometheus computes and watches of one topology: recording rules and alert rules.

Decides expressions, thresholds and what an alert tells a person. Every rule names its topology, so
that those of several topologies live in one Prometheus. `export.rule_tests` shows that each alert
fires and keeps silent; `export.prometheus` writes them down.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zflow.declared.model import Declared
from zflow.metrics import GONE, METRICS
from zflow.stages import StageDecl

STATE_RATIO = "stage_state:zflow_stage_time:ratio_rate1m"
PROCESSED_RATE = "stage:zflow_items_processed:rate1m"
LATENCY_P99 = "source_sink:zflow_end_to_end_seconds:p99_rate5m"

BUSY_RATIO = 0.9  # above it a stage has no time left; the sentence of `explain` says the same
BLOCKED_RATIO = 0.5
STARVED_RATIO = 0.5
LEAST_RESTARTS = 3  # in RECENT; zflow itself gives up after five deaths without one settled unit
RECENT = "10m"
DEFAULT_SLO_S = 1.0

# Whose series of slots that were scaled away jump, and are left out of rates.
PER_REPLICA = {metric.name for metric in METRICS if "replica" in metric.labels}

STAGE, SINK = "{{ $labels.stage }}", "{{ $labels.sink }}"
PERCENT = "{{ $value | humanizePercentage }}"
NUMBER = '{{ printf "%.0f" $value }}'
SECONDS = '{{ printf "%.3f" $value }}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording rule. by: the labels of what it records, beside the topology."""

    name: str
    expr: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert rule. stage: the one that it is about; empty if its series have that label.

    lasting: how long the condition holds before it fires, as Prometheus writes it; 0s is at once.
    command: what to type next. It and the texts are Go templates over $labels and $value.
    """

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str
    description: str
    command: str
    stage: str = ""


def job_of(declared: Declared) -> str:
    """The name of its scrape job, and so the label `job` of its series."""
    return f"zflow-{declared.name}"


def selected(declared: Declared, metric: str, **labels: str) -> str:
    """The series of a metric in this topology. A label's value with `|` in it is a choice."""
    pairs = [f'topology="{declared.name}"']
    pairs += [f'{k}{"=~" if "|" in value else "="}"{value}"' for k, value in labels.items()]
    return f"{metric}{{{','.join(pairs)}}}"


def counted(declared: Declared, metric: str, **labels: str) -> str:
    """The series of a counter that a rate may be asked of: without what slots left behind."""
    series = selected(declared, metric, **labels)
    return f'{series[:-1]},replica!="{GONE}"}}' if metric in PER_REPLICA else series


def recordings(declared: Declared) -> list[Recording]:
    """Every recording rule of a topology, named level:metric:operation as Prometheus advises."""
    rates = [
        (PROCESSED_RATE, "zflow_items_processed_total", "stage"),
        ("stage:zflow_errors:rate1m", "zflow_errors_total", "stage"),
        ("edge:zflow_items_out:rate1m", "zflow_items_out_total", "edge"),
        ("edge:zflow_bytes_out:rate1m", "zflow_bytes_out_total", "edge"),
    ]
    quantiles = [
        ("stage:zflow_processing_seconds:p99_rate5m", 0.99, "zflow_processing_seconds", ("stage",)),
        ("edge:zflow_queue_wait_seconds:p99_rate5m", 0.99, "zflow_queue_wait_seconds", ("edge",)),
        (
            "source_sink:zflow_end_to_end_seconds:p50_rate5m",
            0.5,
            "zflow_end_to_end_seconds",
            ("source", "sink"),
        ),
        (LATENCY_P99, 0.99, "zflow_end_to_end_seconds", ("source", "sink")),
    ]
    return [
        *(
            Recording(name=name, expr=_rate(declared, metric, by), by=(by,))
            for name, metric, by in rates
        ),
        _state_ratio(declared),
        _queue_ratio(declared),
        *(
            Recording(name=name, expr=_quantile(declared, share, metric, by), by=by)
            for name, share, metric, by in quantiles
        ),
    ]


def alerts(declared: Declared, *, slo_s: float = DEFAULT_SLO_S) -> list[Alert]:
    """Every alert rule of a topology: one of a kind, and a Bottleneck for each stage, since its
    neighbours are known from the graph alone.

    slo_s: how long 99 of 100 items may take from their source to a sink.
    """
    return [
        _backpressure(declared),
        *(_bottleneck(declared, stage) for stage in declared.stages),
        _crash_loop(declared),
        _dead_letters(declared),
        _latency(declared, slo_s),
        _no_throughput(declared),
        _coordinator_down(declared),
    ]


def recording_data(rule: Recording) -> dict[str, Any]:
    """A recording rule as Prometheus reads it."""
    return {"record": rule.name, "expr": rule.expr}


def alert_data(declared: Declared, rule: Alert) -> dict[str, Any]:
    """An alert rule as Prometheus reads it."""
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": rule.lasting,
        "labels": labels_of(declared, rule),
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "command": rule.command,
        },
    }


def labels_of(declared: Declared, rule: Alert) -> dict[str, str]:
    """What an alert is told apart and routed by."""
    about = {"stage": rule.stage} if rule.stage else {}
    return {"severity": rule.severity, "topology": declared.name, **about}


# --- recording rules -------------------------------------------------------------------------


def _rate(declared: Declared, metric: str, by: str) -> str:
    return f"sum by (topology, {by}) (rate({counted(declared, metric)}[1m]))"


def _quantile(declared: Declared, share: float, metric: str, by: tuple[str, ...]) -> str:
    kept = ", ".join(("topology", *by, "le"))
    buckets = selected(declared, f"{metric}_bucket")
    return f"histogram_quantile({share}, sum by ({kept}) (rate({buckets}[5m])))"


def _state_ratio(declared: Declared) -> Recording:
    """Of a stage's time, which share it is busy, starved, blocked: they add up to 1."""
    time_s = f"rate({counted(declared, 'zflow_stage_time_seconds_total')}[1m])"
    expr = (
        f"sum by (topology, stage, state) ({time_s})\n"
        "  / on (topology, stage) group_left ()\n"
        f"sum by (topology, stage) ({time_s})"
    )
    return Recording(name=STATE_RATIO, expr=expr, by=("stage", "state"))


def _queue_ratio(declared: Declared) -> Recording:
    expr = (
        f"sum by (topology, edge) ({selected(declared, 'zflow_queue_items')})\n"
        f"  / sum by (topology, edge) ({selected(declared, 'zflow_queue_capacity_items')})"
    )
    return Recording(name="edge:zflow_queue:ratio", expr=expr, by=("edge",))


# --- alert rules -----------------------------------------------------------------------------


def _backpressure(declared: Declared) -> Alert:
    return Alert(
        name="BackpressureSustained",
        expr=f"{_share(declared, 'blocked')} > {BLOCKED_RATIO}",
        lasting="5m",
        severity="warning",
        summary=f"{STAGE} of {declared.name} is held back by what comes behind it",
        description=(
            f"{STAGE} waits {PERCENT} of its time for room on the edges out of it:"
            " what is behind takes items more slowly than they come."
        ),
        command="zflow explain",
    )


def _bottleneck(declared: Declared, stage: StageDecl) -> Alert:
    above = [edge.source for edge in declared.edges_into(stage.name)]
    below = [edge.target for edge in declared.edges_from(stage.name)]
    lines = [f"{_share(declared, 'busy', stage=stage.name)} > {BUSY_RATIO}"]
    told = []
    if above:
        most = f"max by (topology) ({_state(declared, above, 'blocked')})"
        lines.append(f"  and on (topology) {most} > {BLOCKED_RATIO}")
        told.append(f"{_named(above)} before it cannot get rid of items")
    if below:
        least = f"min by (topology) ({_state(declared, below, 'starved')})"
        lines.append(f"  and on (topology) {least} > {STARVED_RATIO}")
        told.append(f"{_named(below)} behind it cannot get enough")
    advice, command = _more(declared, stage)
    return Alert(
        name="Bottleneck",
        stage=stage.name,
        expr="\n".join(lines),
        lasting="2m",
        severity="warning",
        summary=f"{stage.name} is the bottleneck of {declared.name}",
        description=f"{stage.name} is busy {PERCENT} of its time; {' and '.join(told)}. {advice}",
        command=command,
    )


def _crash_loop(declared: Declared) -> Alert:
    restarts = f'zflow_restarts_total{{topology="{declared.name}",reason!="rollout"}}'
    return Alert(
        name="CrashLoop",
        expr=_gained(restarts, f">= {LEAST_RESTARTS}"),
        lasting="0s",
        severity="critical",
        summary=f"processes of {STAGE} of {declared.name} die again and again",
        description=f"{STAGE} was started again {NUMBER} times within {RECENT}.",
        command=f"zflow logs {STAGE}",
    )


def _dead_letters(declared: Declared) -> Alert:
    return Alert(
        name="DeadLetters",
        expr=_gained(selected(declared, "zflow_dead_letters_total"), "> 0"),
        lasting="0s",
        severity="warning",
        summary=f"{STAGE} of {declared.name} gives items up",
        description=f"{NUMBER} items of {STAGE} became dead letters within {RECENT}.",
        command=f"zflow dead ls --topology {declared.name} --stage {STAGE} --newer {RECENT}",
    )


def _latency(declared: Declared, slo_s: float) -> Alert:
    return Alert(
        name="LatencySLO",
        expr=f"{selected(declared, LATENCY_P99)} > {slo_s:g}",
        lasting="5m",
        severity="warning",
        summary=f"items reach {SINK} of {declared.name} later than agreed",
        description=(
            f"One item in a hundred takes {SECONDS} s or longer from {{{{ $labels.source }}}} to"
            f" {SINK}; {slo_s:g} s are agreed."
        ),
        command="zflow explain",
    )


def _no_throughput(declared: Declared) -> Alert:
    waiting = selected(declared, "zflow_inbox_items")
    processed = counted(declared, "zflow_items_processed_total")
    expr = (
        f"sum by (topology, stage) (rate({processed}[5m])) == 0\n"
        f"  and on (topology, stage) sum by (topology, stage) ({waiting}) > 0\n"
        # A stage that is held back is not the one to look at: the next one is.
        f"  unless on (topology, stage) {_share(declared, 'blocked')} > {BLOCKED_RATIO}"
    )
    return Alert(
        name="NoThroughput",
        expr=expr,
        lasting="5m",
        severity="critical",
        summary=f"{STAGE} of {declared.name} does not get on",
        description=(
            f"{STAGE} has items, nothing holds it back, and it has done none for ten minutes."
        ),
        command=f"zflow logs {STAGE}",
    )


def _coordinator_down(declared: Declared) -> Alert:
    up = f'up{{job="{job_of(declared)}"}}'
    return Alert(
        name="CoordinatorDown",
        expr=f"max by (job) ({up}) == 0 or absent({up})",
        lasting="1m",
        severity="critical",
        summary=f"nothing is heard of the coordinator of {declared.name}",
        description=(
            "Its /metrics does not answer. If the run has not ended, data goes on to flow without"
            " it, but nobody watches; a run that was killed continues with --resume last."
        ),
        command=f"zflow runs ls --topology {declared.name}",
    )


def _share(declared: Declared, state: str, **stage: str) -> str:
    """The share of its time that each stage, or one, spends in a state, without that label."""
    return f"max by (topology, stage) ({selected(declared, STATE_RATIO, **stage, state=state)})"


def _state(declared: Declared, stages: list[str], state: str) -> str:
    return selected(declared, STATE_RATIO, stage=_choice(stages), state=state)


def _gained(series: str, condition: str) -> str:
    """By how much counters of a stage grew within RECENT, if that meets a condition.

    A counter appears with its first event, and `increase` sees nothing in that: a series that was
    not there before has grown from 0. The other way, a coordinator that begins anew counts from 0
    again, which only `increase` understands.
    """
    total = f"sum by (topology, stage) ({series})"
    before = f"sum by (topology, stage) ({series} offset {RECENT})"
    grown = f"{total} - ({before} or 0 * {total})"
    again = f"sum by (topology, stage) (increase({series}[{RECENT}]))"
    return f"({grown}) {condition}\nor\n{again} {condition}"


def _more(declared: Declared, stage: StageDecl) -> tuple[str, str]:
    """What one more replica would give, and the command for it; or that there can be none."""
    replicas = stage.options.replicas
    if not _can_have_more(declared, stage):
        return "It cannot have a second replica: make its function faster.", "zflow explain"
    gain = f"One more replica than its declared {replicas} gives up to {100 // replicas}% more."
    return gain, f"zflow scale {stage.name}={replicas + 1}"


def _can_have_more(declared: Declared, stage: StageDecl) -> bool:
    if stage.kind == "source":
        return stage.takes_partition
    if stage.kind == "sink" and hasattr(stage.target, "commit"):
        return False  # one writer
    return not stage.is_durable or declared.partitions(stage.name) > 1


def _choice(names: Iterable[str]) -> str:
    return "|".join(dict.fromkeys(names))


def _named(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))

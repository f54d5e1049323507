"""promtool unit tests of the rules of one topology: when each alert fires, and when it must not.

Decides the series that are fed in and what is expected of them. Series are those that zflow
exports, one replica a stage; time is Prometheus' own, so that nothing here takes any.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from zflow.declared.model import Declared
from zflow.export.rules import (
    LATENCY_P99,
    LEAST_RESTARTS,
    PROCESSED_RATE,
    STATE_RATIO,
    Alert,
    Recording,
    alerts,
    job_of,
    labels_of,
    recordings,
)
from zflow.metrics import GONE, STATES

TICK_S = 15
TICKS = 60
EVALUATED = "1m"  # what takes promtool its time are evaluations: few are enough
EARLY, LATE = "1m", "14m"  # before an alert that waits may fire, and after any has

Series = dict[str, str]  # what is fed in: a series, and its values in promtool's notation

_VALUE = re.compile(r"\{\{.*?\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to the stage of one alert.

    firing: the series under which it fires. near: those of cases that are close to it and no
    reason to fire. shown: how the annotations write the value. job: where the value has that label.
    """

    firing: Series
    near: dict[str, Series]
    shown: str
    job: bool = False


def rule_tests(declared: Declared, *, slo_s: float) -> list[dict[str, Any]]:
    """Every test group.

    A healthy run, with what each recording rule gives; then of each kind of alert that every
    stage's fires, alone of its kind or beside some others, and is silent in a case near to it.
    """
    found = alerts(declared, slo_s=slo_s)
    groups = [_healthy_group(declared, found)]
    for kind, make in SCENARIOS.items():
        cases = [(one, make(declared, one, slo_s)) for one in found if one.name == kind]
        if kind == "Bottleneck":  # the case of one stage is also about its neighbours
            for place, case in enumerate(cases):
                groups.append(_kind_group(declared, kind, [case], firing=[True], turn=place))
                groups.append(_kind_group(declared, kind, [case], firing=[False], turn=place))
            continue
        most = max(len(scenario.near) for _, scenario in cases)
        # promtool needs a tenth of a second for a group, so that half of the stages share one.
        for turn in range(2 * math.ceil(most / max(1, len(cases) // 2))):
            firing = [(place + turn) % 2 == 0 for place in range(len(cases))]
            groups.append(_kind_group(declared, kind, cases, firing=firing, turn=turn // 2))
    return groups


# --- groups ----------------------------------------------------------------------------------


def _healthy_group(declared: Declared, found: list[Alert]) -> dict[str, Any]:
    """A run in which all is well: every recording rule gives what it should, no alert fires."""
    names = list(dict.fromkeys(alert.name for alert in found))
    return _group(
        "a healthy run",
        healthy(declared),
        [_expected(name, LATE, []) for name in names],
        [_sample_test(declared, rule) for rule in recordings(declared)],
    )


def _kind_group(
    declared: Declared,
    kind: str,
    cases: list[tuple[Alert, Scenario]],
    *,
    firing: list[bool],
    turn: int,
) -> dict[str, Any]:
    """Alerts of one kind, some firing and the others in one of the cases that are near to it.

    turn: which case, so that over turns and places all of them come.
    """
    series = healthy(declared)
    told, fired = [], []
    for place, ((alert, scenario), fires) in enumerate(zip(cases, firing, strict=True)):
        what = list(scenario.near)[(turn + place // 2) % len(scenario.near)]
        told.append(f"{alert.stage or declared.name} {'fires' if fires else what}")
        series |= scenario.firing if fires else scenario.near[what]
        if fires:
            fired.append(_fired(declared, alert, scenario))
    checks = [_expected(kind, LATE, fired)]
    if cases[0][0].lasting != "0s":
        checks.insert(0, _expected(kind, EARLY, []))
    return _group(f"{kind}: {'; '.join(told)}", series, checks)


def _fired(declared: Declared, alert: Alert, scenario: Scenario) -> dict[str, Any]:
    job = {"job": job_of(declared)} if scenario.job else {}
    return {
        "exp_labels": {**labels_of(declared, alert), **job},
        "exp_annotations": {
            "summary": _VALUE.sub(scenario.shown, alert.summary),
            "description": _VALUE.sub(scenario.shown, alert.description),
            "command": alert.command,
        },
    }


def _group(
    name: str,
    series: Series,
    checks: list[dict[str, Any]],
    samples: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    group: dict[str, Any] = {
        "name": name,
        "interval": f"{TICK_S}s",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "alert_rule_test": checks,
    }
    if samples:
        group["promql_expr_test"] = list(samples)
    return group


def _expected(name: str, at: str, fired: list[dict[str, Any]]) -> dict[str, Any]:
    return {"eval_time": at, "alertname": name, "exp_alerts": fired}


# --- series ----------------------------------------------------------------------------------


def rising(per_s: float) -> str:
    """A counter that grows by so much in a second."""
    return f"0+{per_s * TICK_S:g}x{TICKS}"


def steady(value: float) -> str:
    """A gauge, or a counter that stands still."""
    return f"{value:g}x{TICKS}"


def healthy(declared: Declared) -> Series:
    """What a run exports in which every stage is half busy, and whatever is declared flows."""
    series: Series = {f'up{{job="{job_of(declared)}"}}': steady(1)}
    for stage in declared.stages:
        series |= spent(declared, stage.name, busy=0.5, starved=0.5)
        series |= _counted(declared, stage.name, "items_processed_total", rising(2), outcome="ok")
        series |= _counted(declared, stage.name, "errors_total", rising(1), error="ValueError")
        series |= _counted(declared, stage.name, "dead_letters_total", steady(0), reason="error")
        series |= _counted(declared, stage.name, "restarts_total", steady(0), reason="exit")
        series |= _counted(declared, stage.name, "inbox_items", steady(2))
        series |= _buckets(declared, "processing_seconds", 1.0, stage=stage.name)
        series |= _left_behind(declared, "items_processed_total", stage=stage.name, outcome="ok")
        series |= _left_behind(declared, "stage_time_seconds_total", stage=stage.name, state="busy")
    for edge in declared.edges:
        for metric in ("items_out_total", "bytes_out_total"):
            labels = {"stage": edge.source, "edge": edge.label}
            series |= _series(declared, metric, rising(2), **labels, replica="0")
            series |= _left_behind(declared, metric, **labels)
        series |= _series(declared, "queue_items", steady(2), edge=edge.label, replica="0")
        series |= _series(declared, "queue_capacity_items", steady(8), edge=edge.label, replica="0")
        series |= _buckets(declared, "queue_wait_seconds", 1.0, edge=edge.label)
    for source, sink in _ways(declared):
        series |= _buckets(declared, "end_to_end_seconds", 1e-3, source=source, sink=sink)
    return series


def spent(declared: Declared, stage: str, **ratios: float) -> Series:
    """The time of a stage, by state: busy, starved, blocked, overhead."""
    series: Series = {}
    for state in STATES:
        rate = rising(ratios.get(state, 0))
        series |= _counted(declared, stage, "stage_time_seconds_total", rate, state=state)
    return series


def _counted(declared: Declared, stage: str, metric: str, values: str, **labels: str) -> Series:
    return _series(declared, metric, values, stage=stage, replica="0", **labels)


def _left_behind(declared: Declared, metric: str, **labels: str) -> Series:
    """What slots that were scaled away have counted: it has just jumped, and is no rate."""
    return _series(declared, metric, f"0x54 1000x{TICKS - 55}", **labels, replica=GONE)


def _series(declared: Declared, metric: str, values: str, **labels: str) -> Series:
    pairs = {"topology": declared.name, **labels}
    return {f"zflow_{metric}{{{_text(pairs)}}}": values}


def _text(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


def _buckets(declared: Declared, metric: str, least_s: float, **labels: str) -> Series:
    """A histogram in which everything takes more than `least_s`: Prometheus then says `least_s`."""
    series = _series(declared, f"{metric}_bucket", steady(0), **labels, le=f"{least_s:g}")
    return series | _series(declared, f"{metric}_bucket", rising(2), **labels, le="+Inf")


def _ways(declared: Declared) -> list[tuple[str, str]]:
    """The first source and every sink: enough for the rules, which look at sinks."""
    source = declared.stages[0].name
    return [(source, stage.name) for stage in declared.stages if stage.kind == "sink"]


def _sample_test(declared: Declared, rule: Recording) -> dict[str, Any]:
    """What a recording rule gives in a healthy run, one sample per stage, edge or way."""
    value = RECORDED[rule.name]
    if "edge" in rule.by:
        places = [{"edge": edge.label} for edge in declared.edges]
    elif "sink" in rule.by:
        places = [{"source": source, "sink": sink} for source, sink in _ways(declared)]
    else:
        places = [{"stage": stage.name} for stage in declared.stages]
    if "state" in rule.by:
        ratios = {"busy": 0.5, "starved": 0.5, "blocked": 0, "overhead": 0}
        samples = [({**one, "state": s}, ratio) for one in places for s, ratio in ratios.items()]
    else:
        samples = [(one, value) for one in places]
    return {
        "expr": rule.name,
        "eval_time": LATE,
        "exp_samples": [
            {
                "labels": f"{rule.name}{{{_text({'topology': declared.name, **one})}}}",
                "value": exact,
            }
            for one, exact in samples
        ],
    }


# What each recording rule gives in the healthy run; the states have values of their own.
RECORDED: dict[str, float] = {
    PROCESSED_RATE: 2,
    "stage:zflow_errors:rate1m": 1,
    "edge:zflow_items_out:rate1m": 2,
    "edge:zflow_bytes_out:rate1m": 2,
    STATE_RATIO: 0.5,
    "edge:zflow_queue:ratio": 0.25,
    "stage:zflow_processing_seconds:p99_rate5m": 1,
    "edge:zflow_queue_wait_seconds:p99_rate5m": 1,
    "source_sink:zflow_end_to_end_seconds:p50_rate5m": 1e-3,
    LATENCY_P99: 1e-3,
}


# --- scenarios, one kind of alert each -------------------------------------------------------


def _backpressure(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    return Scenario(
        firing=spent(declared, alert.stage, blocked=1),
        near={"blocked half its time": spent(declared, alert.stage, blocked=0.5, busy=0.5)},
        shown="100%",
    )


def _bottleneck(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    above = [edge.source for edge in declared.edges_into(alert.stage)]
    below = [edge.target for edge in declared.edges_from(alert.stage)]
    busy = spent(declared, alert.stage, busy=1)
    firing = dict(busy)
    for name in above:
        firing |= spent(declared, name, blocked=0.75, busy=0.25)
    for name in below:
        firing |= spent(declared, name, starved=0.75, busy=0.25)
    near = {"not busy enough": firing | spent(declared, alert.stage, busy=0.75, starved=0.25)}
    if above:
        flowing = [spent(declared, name, busy=1) for name in above]
        near["what is before it gets rid of its items"] = _merged(firing, *flowing)
    if below:
        fed = [spent(declared, below[-1], busy=1)]
        near["what is behind it gets enough"] = _merged(firing, *fed)
    return Scenario(firing=firing, near=near, shown="100%")


def _crash_loop(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    def restarts(values: str, reason: str = "signal") -> Series:
        return _counted(declared, alert.stage, "restarts_total", values, reason=reason)

    return Scenario(
        # The series begins with its first restart, as a counter with a label does.
        firing=restarts(f"_x47 1 2 {LEAST_RESTARTS}x8"),
        near={
            "two restarts": restarts("_x47 1 2x9"),
            "long ago": restarts(f"0 1 2 3 4 5x{TICKS}"),
            "a new version": restarts(rising(0.1), "rollout"),
        },
        shown=str(LEAST_RESTARTS),
    )


def _dead_letters(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    def letters(values: str) -> Series:
        return _counted(declared, alert.stage, "dead_letters_total", values, reason="error")

    return Scenario(
        firing=letters("_x48 1x8"),
        near={"long ago": letters(f"0 7x{TICKS}")},
        shown="1",
    )


def _latency(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    def taking(least_s: float) -> Series:
        names = {"source": declared.stages[0].name, "sink": alert.stage}
        return _buckets(declared, "end_to_end_seconds", least_s, **names)

    return Scenario(
        firing=taking(2 * slo_s),
        near={"as agreed": taking(slo_s)},
        shown=f"{2 * slo_s:.3f}",
    )


def _no_throughput(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    def case(processed: str, waiting: float, **ratios: float) -> Series:
        return {
            **_counted(declared, alert.stage, "items_processed_total", processed, outcome="ok"),
            **_counted(declared, alert.stage, "inbox_items", steady(waiting)),
            **spent(declared, alert.stage, **ratios),
        }

    return Scenario(
        firing=case(steady(5), 3, busy=1),
        near={
            "it gets on": case(rising(1), 3, busy=1),
            "nothing waits": case(steady(5), 0, starved=1),
            "it is held back": case(steady(5), 3, blocked=1),
        },
        shown="0",
    )


def _coordinator_down(declared: Declared, alert: Alert, slo_s: float) -> Scenario:
    up = f'up{{job="{job_of(declared)}"}}'
    return Scenario(
        firing={up: f"1 0x{TICKS}"},
        near={"one scrape failed": {up: f"1x54 0x2 1x{TICKS}"}},
        shown="0",
        job=True,
    )


def _merged(*parts: Series) -> Series:
    return {name: values for part in parts for name, values in part.items()}


SCENARIOS: dict[str, Callable[[Declared, Alert, float], Scenario]] = {
    "BackpressureSustained": _backpressure,
    "Bottleneck": _bottleneck,
    "CrashLoop": _crash_loop,
    "CoordinatorDown": _coordinator_down,
    "DeadLetters": _dead_letters,
    "LatencySLO": _latency,
    "NoThroughput": _no_throughput,
}

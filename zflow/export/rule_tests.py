"""promtool unit tests of the rules of one topology: when each alert fires, and when it must not.

Decides what happens to a stage in each case, and what is expected then. Time is Prometheus' own, so
that nothing here takes any.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zflow.declared.model import Declared
from zflow.export.rule_series import (
    TICK_S,
    TICKS,
    Series,
    buckets,
    healthy,
    label_text,
    of_stage,
    rising,
    spent,
    steady,
    ways,
)
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
from zflow.metrics import STATES
from zflow.stages import StageDecl

EVALUATED = "2m"  # what takes promtool its time are evaluations: few are enough
EARLY, LATE = "2m", "14m"  # before an alert that waits may fire, and after any has

_VALUE = re.compile(r"\{\{[^}]*\$value[^}]*\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What may happen to one stage (or sink, or the whole topology).

    labels: of the series that fires, beside those of the rule. firing: the series under which the
    alert fires. near: those of cases that are close to it and no reason to fire. shown: how the
    annotations write the value.
    """

    labels: dict[str, str]
    firing: Series
    near: dict[str, Series]
    shown: str = ""


Case = tuple[Alert, Scenario]


def rule_tests(declared: Declared, *, slo_s: float) -> list[dict[str, Any]]:
    """Every test group.

    A healthy run, with what each recording rule gives; then of each kind of alert that it fires
    for every stage that it can be about, and is silent in each case that is near to it.
    """
    found = alerts(declared, slo_s=slo_s)
    groups = [_healthy_group(declared, found)]
    for name, make in SCENARIOS.items():
        rules = [alert for alert in found if alert.name == name]
        scenarios = list(make(declared, slo_s))
        if len(rules) > 1:  # a rule for each stage, and its scenario is about its neighbours too
            together = [[case] for case in zip(rules, scenarios, strict=True)]
        else:
            together = [[(rules[0], scenario) for scenario in scenarios]]
        for cases in together:
            groups += [_turn_group(declared, cases, turn) for turn in range(_turns(cases))]
    return groups


def _turns(cases: list[Case]) -> int:
    """How many groups it takes until each case has fired, and all that is near has come."""
    near = max(len(scenario.near) for _, scenario in cases)
    if len(cases) == 1:
        return 1 + near
    # promtool takes its time for a group: half of the stages fire in one, the others nearly.
    return 2 * math.ceil(near / (len(cases) // 2))


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


def _turn_group(declared: Declared, cases: list[Case], turn: int) -> dict[str, Any]:
    """Alerts of one kind: every second one fires, the others are in a case near to it.

    turn: from one to the next they change places, and what is near changes. A case alone fires
    first.
    """
    series = healthy(declared)
    told, fired = [], []
    for place, (alert, scenario) in enumerate(cases):
        fires = turn == 0 if len(cases) == 1 else (place + turn) % 2 == 0
        near = turn - 1 if len(cases) == 1 else turn // 2 + place // 2
        what = list(scenario.near)[near % len(scenario.near)]
        told.append(f"{_name_of(declared, scenario)} {'fires' if fires else what}")
        series |= scenario.firing if fires else scenario.near[what]
        if fires:
            fired.append(_fired(declared, alert, scenario))
    first = cases[0][0]
    checks = [_expected(first.name, LATE, fired)]
    if first.lasting != "0s":
        checks.insert(0, _expected(first.name, EARLY, []))
    return _group(f"{first.name}: {'; '.join(told)}", series, checks)


def _name_of(declared: Declared, scenario: Scenario) -> str:
    labels = scenario.labels
    return labels.get("stage") or labels.get("sink") or declared.name


def _fired(declared: Declared, alert: Alert, scenario: Scenario) -> dict[str, Any]:
    labels = {**labels_of(declared, alert), **scenario.labels}

    def read(template: str) -> str:
        for label, value in labels.items():
            template = template.replace(f"{{{{ $labels.{label} }}}}", value)
        return _VALUE.sub(scenario.shown, template)

    texts = {"summary": alert.summary, "description": alert.description, "command": alert.command}
    return {
        "exp_labels": labels,
        "exp_annotations": {name: read(text) for name, text in texts.items()},
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


def _sample_test(declared: Declared, rule: Recording) -> dict[str, Any]:
    """What a recording rule gives in a healthy run, one sample per stage, edge or way."""
    value = RECORDED[rule.name]
    if "edge" in rule.by:
        places = [{"edge": edge.label} for edge in declared.edges]
    elif "sink" in rule.by:
        places = [{"source": source, "sink": sink} for source, sink in ways(declared)]
    else:
        places = [{"stage": stage.name} for stage in declared.stages]
    if "state" in rule.by:
        ratios = dict.fromkeys(STATES, 0.0) | {"busy": 0.5, "starved": 0.5}
        samples = [({**one, "state": s}, ratio) for one in places for s, ratio in ratios.items()]
    else:
        samples = [(one, value) for one in places]
    return {
        "expr": rule.name,
        "eval_time": LATE,
        "exp_samples": [
            {
                "labels": f"{rule.name}{{{label_text({'topology': declared.name, **one})}}}",
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


# --- scenarios of each kind of alert ---------------------------------------------------------


def _backpressure(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for stage in declared.stages:
        if declared.edges_from(stage.name):
            half = spent(declared, stage.name, blocked=0.5, busy=0.5)
            yield Scenario(
                labels={"stage": stage.name},
                firing=spent(declared, stage.name, blocked=1),
                near={"is blocked half its time": half},
                shown="100%",
            )


def _bottlenecks(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for stage in declared.stages:
        yield _bottleneck(declared, stage)


def _bottleneck(declared: Declared, stage: StageDecl) -> Scenario:
    above = [edge.source for edge in declared.edges_into(stage.name)]
    below = [edge.target for edge in declared.edges_from(stage.name)]
    firing = spent(declared, stage.name, busy=1)
    for name in above:
        firing |= spent(declared, name, blocked=0.75, busy=0.25)
    for name in below:
        firing |= spent(declared, name, starved=0.75, busy=0.25)
    near = {"is not busy enough": firing | spent(declared, stage.name, busy=0.75, starved=0.25)}
    if above:
        flowing = [spent(declared, name, busy=1) for name in above]
        near["has a source that gets rid of all"] = _merged(firing, *flowing)
    if below:
        fed = spent(declared, below[-1], busy=1)
        near["keeps a stage behind it busy"] = firing | fed
    return Scenario(labels={"stage": stage.name}, firing=firing, near=near, shown="100%")


def _crash_loop(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for stage in declared.stages:

        def restarts(values: str, reason: str = "signal", name: str = stage.name) -> Series:
            return of_stage(declared, name, "restarts_total", values, reason=reason)

        yield Scenario(
            labels={"stage": stage.name},
            # The series begins with its first restart, as a counter with a label does.
            firing=restarts(f"_x47 1 2 {LEAST_RESTARTS}x8"),
            near={
                "had two restarts": restarts("_x47 1 2x9"),
                "had some long ago": restarts(f"0 1 2 3 4 5x{TICKS}"),
                "is a new version": restarts(rising(0.1), "rollout"),
            },
            shown=str(LEAST_RESTARTS),
        )


def _dead_letters(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for stage in declared.stages:

        def letters(values: str, name: str = stage.name) -> Series:
            return of_stage(declared, name, "dead_letters_total", values, reason="error")

        yield Scenario(
            labels={"stage": stage.name},
            firing=letters("_x48 1x8"),
            near={"had some long ago": letters(f"0 7x{TICKS}")},
            shown="1",
        )


def _latency(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for source, sink in ways(declared):
        way = {"source": source, "sink": sink}
        yield Scenario(
            labels=way,
            firing=buckets(declared, "end_to_end_seconds", 2 * slo_s, **way),
            near={"takes what is agreed": buckets(declared, "end_to_end_seconds", slo_s, **way)},
            shown=f"{2 * slo_s:.3f}",
        )


def _no_throughput(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    for stage in declared.stages:
        if stage.kind == "source":
            continue
        stuck = of_stage(declared, stage.name, "items_processed_total", steady(5), outcome="ok")
        stuck |= spent(declared, stage.name, busy=1)
        yield Scenario(
            labels={"stage": stage.name},
            firing=stuck,
            near={
                "gets on": spent(declared, stage.name, busy=1),
                "has nothing": stuck | of_stage(declared, stage.name, "inbox_items", steady(0)),
                "is held back": stuck | spent(declared, stage.name, blocked=1),
            },
        )


def _coordinator_down(declared: Declared, slo_s: float) -> Iterator[Scenario]:
    up = f'up{{job="{job_of(declared)}"}}'
    yield Scenario(
        labels={"job": job_of(declared)},
        firing={up: f"1 0x{TICKS}"},
        near={"fails one scrape": {up: f"1x54 0x2 1x{TICKS}"}},
    )


def _merged(*parts: Series) -> Series:
    return {name: values for part in parts for name, values in part.items()}


SCENARIOS: dict[str, Callable[[Declared, float], Iterator[Scenario]]] = {
    "BackpressureSustained": _backpressure,
    "Bottleneck": _bottlenecks,
    "CrashLoop": _crash_loop,
    "CoordinatorDown": _coordinator_down,
    "DeadLetters": _dead_letters,
    "LatencySLO": _latency,
    "NoThroughput": _no_throughput,
}

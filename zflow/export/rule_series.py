"""Series for promtool's tests of the rules: what a run exports in which all is well, and its parts.

Decides the series that are fed in, never what is expected of them (`export.rule_tests`). They are
those that zflow exports, one replica a stage.
"""

from zflow.declared.model import Declared
from zflow.export.rules import job_of
from zflow.metrics import GONE, STATES

TICK_S = 15
TICKS = 60

Series = dict[str, str]  # a series, and its values in promtool's notation


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
        series |= of_stage(declared, stage.name, "items_processed_total", rising(2), outcome="ok")
        series |= of_stage(declared, stage.name, "errors_total", rising(1), error="ValueError")
        series |= of_stage(declared, stage.name, "dead_letters_total", steady(0), reason="error")
        series |= of_stage(declared, stage.name, "restarts_total", steady(0), reason="exit")
        series |= of_stage(declared, stage.name, "inbox_items", steady(2))
        series |= buckets(declared, "processing_seconds", 1.0, stage=stage.name)
        series |= _left_behind(declared, "items_processed_total", stage=stage.name, outcome="ok")
        series |= _left_behind(declared, "stage_time_seconds_total", stage=stage.name, state="busy")
    for edge in declared.edges:
        labels = {"stage": edge.source, "edge": edge.label}
        for metric in ("items_out_total", "bytes_out_total"):
            series |= series_of(declared, metric, rising(2), **labels, replica="0")
            series |= _left_behind(declared, metric, **labels)
        for metric, value in (("queue_items", 2), ("queue_capacity_items", 8)):
            series |= series_of(declared, metric, steady(value), **labels, replica="0")
        series |= buckets(declared, "queue_wait_seconds", 1.0, edge=edge.label)
    for source, sink in ways(declared):
        series |= buckets(declared, "end_to_end_seconds", 1e-3, source=source, sink=sink)
    return series


def spent(declared: Declared, stage: str, **ratios: float) -> Series:
    """The time of a stage, by state: busy, starved, blocked, overhead."""
    series: Series = {}
    for state in STATES:
        rate = rising(ratios.get(state, 0))
        series |= of_stage(declared, stage, "stage_time_seconds_total", rate, state=state)
    return series


def of_stage(declared: Declared, stage: str, metric: str, values: str, **labels: str) -> Series:
    """A series of the one replica of a stage."""
    return series_of(declared, metric, values, stage=stage, replica="0", **labels)


def _left_behind(declared: Declared, metric: str, **labels: str) -> Series:
    """What slots that were scaled away have counted: it has just jumped, and is no rate."""
    return series_of(declared, metric, f"0x54 1000x{TICKS - 55}", **labels, replica=GONE)


def series_of(declared: Declared, metric: str, values: str, **labels: str) -> Series:
    """A series of the topology; metric: without `zflow_`."""
    pairs = {"topology": declared.name, **labels}
    return {f"zflow_{metric}{{{label_text(pairs)}}}": values}


def label_text(labels: dict[str, str]) -> str:
    """Labels as PromQL has them between braces."""
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


def buckets(declared: Declared, metric: str, least_s: float, **labels: str) -> Series:
    """A histogram in which everything takes more than `least_s`: Prometheus then says `least_s`."""
    series = series_of(declared, f"{metric}_bucket", steady(0), **labels, le=f"{least_s:g}")
    return series | series_of(declared, f"{metric}_bucket", rising(2), **labels, le="+Inf")


def ways(declared: Declared) -> list[tuple[str, str]]:
    """The first source and every sink: enough for the rules, which look at sinks."""
    source = declared.stages[0].name
    return [(source, stage.name) for stage in declared.stages if stage.kind == "sink"]

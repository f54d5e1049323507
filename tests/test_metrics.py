"""The table of metrics keeps the conventions that people and dashboards rely on."""

import re

import pytest

from zflow.metrics import BOUNDS_S, COUNTER, HISTOGRAM, METRICS

LABELS = {
    *("stage", "replica", "edge", "outcome", "error", "reason", "state", "source", "sink"),
    *("host", "pid", "incarnation", "version", "python", "pyzmq", "generation", "digest"),
    *("run", "phase"),
}
by_name = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@by_name
def test_a_name_says_what_kind_and_unit_it_is(metric):
    assert re.fullmatch(r"zflow_[a-z][a-z_]*[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == COUNTER)
    base = metric.name.removesuffix("_total")
    if metric.unit in ("seconds", "bytes"):
        assert metric.unit in base
    if metric.kind == HISTOGRAM:
        assert base.endswith("_seconds")


@by_name
def test_a_help_text_is_a_sentence(metric):
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")


@by_name
def test_labels_are_of_a_known_set(metric):
    assert set(metric.labels) <= LABELS
    assert len(set(metric.labels)) == len(metric.labels)


def test_no_name_is_there_twice():
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_bounds_double_from_half_a_millisecond_to_more_than_a_minute():
    assert BOUNDS_S[0] == 0.0005
    assert all(b == 2 * a for a, b in zip(BOUNDS_S, BOUNDS_S[1:], strict=False))
    assert 65 < BOUNDS_S[-1] < 66

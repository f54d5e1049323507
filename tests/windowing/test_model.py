"""Every kind of window, and joins, give what the plain reference gives.

Whatever the disorder and the lateness, whichever calls fail, wherever the process is killed.
"""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zflow import join, session, sliding, tumbling, window


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load("reference")
event_time = reference.event_time

KEYS = st.sampled_from([1, 2, 300, "a", "b", None, ("a", 1), True])
# Quarters have exact floats; thirds do not, so that borders fall between two numbers.
QUARTERS = st.integers(-40, 200).map(lambda n: n / 4)
THIRDS = st.integers(-40, 200).map(lambda n: n / 3)
SIZES = st.sampled_from([1, 2, 2.5, 3, 7, 10])
LATENESS = st.sampled_from([0, 0.25, 1, 5, 100])

# What happens before an item: nothing most of the time.
MISHAPS = st.sampled_from(["", "", "", "", "commit", "kill", "fail", "fail later", "reopen"])
SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def streams(times):
    """Items of a stream that advances, with disorder; and items anywhere."""
    loose = st.lists(st.tuples(KEYS, times), max_size=40)
    rows = st.lists(st.tuples(KEYS, st.integers(0, 12).map(lambda n: n / 4)), max_size=40)
    onward = rows.map(lambda rows: [(key, i / 2 - late) for i, (key, late) in enumerate(rows)])
    return st.one_of(loose, onward).map(
        lambda rows: [(key, time_s, number) for number, (key, time_s) in enumerate(rows)]
    )


def run(trial, function, items, mishaps):
    """Through one partition, with a mishap before each item. items: (item, side)."""
    made = trial(function)
    for (item, side), mishap in zip(items, mishaps, strict=True):
        if mishap in ("commit", "reopen"):
            made.commit()
        if mishap in ("kill", "reopen"):
            made.kill()
        if mishap.startswith("fail"):
            made.fail_once(item, side, after=int(mishap == "fail later"))
        made.feed(item, side)
    made.finish()
    return made


def check(trial, data, items, function, expected):
    mishaps = data.draw(st.lists(MISHAPS, min_size=len(items), max_size=len(items)))
    made = run(trial, function, [(item, 0) for item in items], mishaps)
    assert made.outputs == expected.outputs
    assert made.late == expected.late
    assert {row[0] for row in made.left_over()} <= {0, 1}, "items are left in the state"


def decorated(windows, lateness_s=0):
    @window(windows, time=event_time, lateness_s=lateness_s)
    def numbers(key, window, items):
        return key, window.start, window.end, [number for _, _, number in items]

    return numbers


@pytest.mark.slow
@SETTINGS
@given(st.data(), streams(QUARTERS), SIZES, LATENESS)
def test_tumbling_windows(trial, data, items, size_s, lateness_s):
    expected = reference.of_time(items, size_s=size_s, hop_s=size_s, lateness_s=lateness_s)
    check(trial, data, items, decorated(tumbling(size_s), lateness_s), expected)


@pytest.mark.slow
@SETTINGS
@given(st.data(), streams(QUARTERS), SIZES, SIZES, LATENESS)
def test_sliding_windows(trial, data, items, one_s, other_s, lateness_s):
    size_s, hop_s = max(one_s, other_s), min(one_s, other_s)
    expected = reference.of_time(items, size_s=size_s, hop_s=hop_s, lateness_s=lateness_s)
    check(trial, data, items, decorated(sliding(size_s, hop_s), lateness_s), expected)


@pytest.mark.slow
@SETTINGS
@given(st.data(), streams(THIRDS), st.sampled_from([0.7, 1.1, 2.3]), st.sampled_from([0.1, 0.3]))
def test_sliding_windows_whose_borders_have_no_exact_floats(trial, data, items, size_s, hop_s):
    expected = reference.of_time(items, size_s=size_s, hop_s=hop_s)
    check(trial, data, items, decorated(sliding(size_s, hop_s)), expected)


@pytest.mark.slow
@SETTINGS
@given(st.data(), streams(QUARTERS), SIZES, LATENESS)
def test_session_windows(trial, data, items, gap_s, lateness_s):
    expected = reference.of_sessions(items, gap_s=gap_s, lateness_s=lateness_s)
    check(trial, data, items, decorated(session(gap_s), lateness_s), expected)


@pytest.mark.slow
@SETTINGS
@given(st.data(), streams(QUARTERS), st.integers(1, 5), st.integers(1, 5))
def test_windows_of_counts(trial, data, items, one, other):
    count, hop = max(one, other), min(one, other)
    spec = tumbling(count=count) if count == hop else sliding(count=count, hop=hop)
    check(trial, data, items, decorated(spec), reference.of_counts(items, count=count, hop=hop))


@pytest.mark.slow
@SETTINGS
@given(
    st.data(),
    st.one_of(streams(QUARTERS), streams(THIRDS)),
    st.sampled_from([0, 0.25, 1 / 3, 1, 1, 2.5, 10, 1e9]),
    st.sampled_from([0, 0, 0.25, 5]),
)
def test_joins(trial, data, items, within_s, lateness_s):
    def pair(key, left, right):
        return key, left[2], right[2]

    declare = join(within_s=within_s, time=event_time, lateness_s=lateness_s)
    sides = data.draw(st.lists(st.integers(0, 1), min_size=len(items), max_size=len(items)))
    mishaps = data.draw(st.lists(MISHAPS, min_size=len(items), max_size=len(items)))
    sided = list(zip(items, sides, strict=True))
    made = run(trial, declare(pair), sided, mishaps)
    expected = reference.of_join(sided, within_s=within_s, lateness_s=lateness_s)
    assert made.outputs == expected.outputs
    assert made.late == expected.late

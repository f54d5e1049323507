"""`self.timers`: a dict whose changes belong to the running item, and whose earliest is known."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.state.timers import Timers

KEYS = st.sampled_from([None, 1, "a", ("a", 2), True])
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("delete"), KEYS, st.just(0)),
    st.tuples(st.sampled_from(["seal", "undo", "commit", "restart"]), st.just(None), st.just(0)),
)


def test_a_timer_is_set_moved_and_deleted_by_its_key():
    timers = Timers()
    timers["a"] = 5
    timers["b"] = 4.5
    timers["a"] = 3
    assert (dict(timers), len(timers), "a" in timers) == ({"a": 3.0, "b": 4.5}, 2, True)
    del timers["a"]
    assert dict(timers) == {"b": 4.5}
    with pytest.raises(KeyError):
        del timers["a"]
    with pytest.raises(KeyError):
        timers["a"]


@pytest.mark.parametrize("wrong", ["soon", None, math.nan])
def test_what_is_no_time_is_refused(wrong):
    timers = Timers()
    with pytest.raises((TypeError, ValueError)):
        timers["a"] = wrong
    assert len(timers) == 0


def test_what_the_running_item_sets_is_not_due_before_it_has_ended():
    timers = Timers()
    timers["a"] = 1
    assert timers.first() is None
    timers.seal()
    assert timers.first() == ("a", 1.0)


def test_the_earliest_is_known_whatever_was_moved_or_deleted():
    timers = Timers()
    for key, due_s in (("a", 3), ("b", 1), ("c", 2)):
        timers[key] = due_s
    timers.seal()
    del timers["b"]
    timers["c"] = 9
    timers.seal()
    assert timers.first() == ("a", 3.0)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_it_does_what_a_dict_does_whatever_is_undone_or_lost(steps):
    timers, rows = Timers(), {}
    committed, sealed, item = {}, {}, {}
    for step, key, due_s in steps:
        if step == "set":
            timers[key] = due_s
            item[key] = due_s
        elif step == "delete" and key in item:
            del timers[key], item[key]
        elif step in ("seal", "commit"):
            timers.seal()
            sealed = dict(item)
        elif step == "undo":
            timers.undo()
            item = dict(sealed)
        if step == "commit":
            for raw, row in timers.take():
                rows.pop(raw, None) if row is None else rows.update({raw: row})
            committed = dict(sealed)
        if step == "restart":
            timers = Timers(rows.items())
            sealed, item = dict(committed), dict(committed)
        assert dict(timers) == item
        first = timers.first()
        assert (first and first[1]) == min(sealed.values(), default=None)

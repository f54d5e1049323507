"""`self.state`: a dict whose changes become rows, for values that change in place too."""

import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from zflow.hashing import key_bytes
from zflow.state.entries import StateError, raw_key, unpack_row
from zflow.state.mapping import State

ROOT = Path(__file__).parents[2]


class Rows:
    """What is committed, and how often it was asked."""

    page_rows = 2

    def __init__(self):
        self.rows = {}
        self.gets = 0

    def commit(self, rows):
        for key, row in rows:
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def get(self, key):
        self.gets += 1
        return self.rows.get(key)

    def page(self, after):
        keys = sorted(key for key in self.rows if after is None or key > after)
        return [(key, self.rows[key]) for key in keys[: self.page_rows]]

    def count(self, keys=()):
        return len(self.rows), sum(key in self.rows for key in keys)


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def state(rows):
    return State(rows)


def commit(state, rows):
    taken = state.take()
    rows.commit(taken)
    state.committed()
    return {unpack_row(raw, row)[0] if row else raw: row for raw, row in taken}


def stored(rows):
    return dict(unpack_row(raw, row)[:2] for raw, row in rows.rows.items())


# --- values that change in place


def test_appending_to_a_list_is_stored_without_an_assignment(state, rows):
    state["k"] = [1]
    commit(state, rows)
    state["k"].append(2)
    assert state["k"] == [1, 2]
    commit(state, rows)
    assert stored(rows) == {"k": [1, 2]}


def test_a_default_that_is_changed_after_setdefault_is_stored(state, rows):
    state.setdefault("k", {}).setdefault("inner", []).append(1)
    commit(state, rows)
    assert stored(rows) == {"k": {"inner": [1]}}


def test_a_list_that_was_only_read_writes_no_row(state, rows):
    state["k"] = [1]
    commit(state, rows)
    assert state["k"] == [1]
    assert commit(state, rows) == {}


def test_a_value_that_is_assigned_as_it_is_stored_writes_no_row(state, rows):
    state["k"] = [1]
    commit(state, rows)
    state["k"] = [1]
    assert commit(state, rows) == {}


def test_a_number_that_was_only_read_writes_no_row(state, rows):
    state["k"] = (1, "a", frozenset({2}))
    commit(state, rows)
    assert state["k"] == (1, "a", frozenset({2}))
    assert state.get("none") is None
    assert commit(state, rows) == {}


def test_a_tuple_with_a_list_inside_can_change_in_place(state, rows):
    state["k"] = ([],)
    commit(state, rows)
    state["k"][0].append(1)
    commit(state, rows)
    assert stored(rows) == {"k": ([1],)}


def test_what_the_item_did_before_seal_counts_and_not_what_is_done_later(state, rows):
    mine = [1]
    state["k"] = mine
    state.seal()
    mine.append(2)
    assert state["k"] == [1]
    theirs = state["k"]
    state.seal()
    theirs.append(3)
    assert state["k"] == [1]
    commit(state, rows)
    assert stored(rows) == {"k": [1]}


def test_one_list_under_two_keys_is_two_lists_after_the_item(state, rows):
    state["a"] = state["b"] = [1]
    state.seal()
    state["a"].append(2)
    commit(state, rows)
    assert (state["a"], state["b"]) == ([1, 2], [1])


def test_a_list_that_is_only_read_is_decoded_once(state, rows):
    state["k"] = [1]
    commit(state, rows)
    first = id(state["k"])
    state.seal()
    other = [2]  # would take its place if it had been let go
    assert id(state["k"]) == first != id(other)


# --- items that fail


def test_undo_forgets_the_running_item_and_nothing_else(state, rows):
    state["plain"], state["list"] = 1, [1]
    state.seal()
    state["plain"] = 2
    state["list"].append(2)
    state["new"] = 3
    state.undo()
    assert dict(state) == {"plain": 1, "list": [1]}
    commit(state, rows)
    assert stored(rows) == {"plain": 1, "list": [1]}


@pytest.mark.parametrize("then", ["nothing", "delete", "replace"])
def test_undo_takes_back_what_was_done_in_place_to_committed_values(state, rows, then):
    state["k"] = [1]
    commit(state, rows)
    state["k"].append(2)
    if then == "delete":
        del state["k"]
    elif then == "replace":
        state["k"] = 5
    state.undo()
    assert state["k"] == [1]
    assert commit(state, rows) == {}


def test_undo_takes_back_what_was_done_in_place_to_values_in_flight(state, rows):
    state["k"] = [1]
    taken = state.take()
    state["k"].append(2)
    state.undo()
    assert state["k"] == [1]
    rows.commit(taken)
    state.committed()
    assert state["k"] == [1]


def test_rollback_forgets_all_that_was_not_taken(state, rows):
    state["k"] = [1]
    commit(state, rows)
    state["k"].append(2)
    state["l"] = 1
    state.take()
    state["k"].append(3)
    state.seal()
    state["l"] = 2
    state.rollback()
    assert dict(state) == {"k": [1, 2], "l": 1}


def test_reset_forgets_rows_in_flight_too(state, rows):
    state["k"] = [1]
    commit(state, rows)
    state["k"].append(2)
    state.take()
    state["l"] = 1
    state.reset()
    assert dict(state) == {"k": [1]}
    state["k"].append(9)
    commit(state, rows)
    assert stored(rows) == {"k": [1, 9]}


# --- rows in flight


def test_rows_in_flight_are_read_until_they_are_committed(state, rows):
    state["k"] = 1
    first = state.take()
    state["k"] = 2
    del state["k"]
    state["l"] = 1
    second = state.take()
    assert dict(state) == {"l": 1}
    rows.commit(first)
    state.committed()
    assert dict(state) == {"l": 1}
    rows.commit(second)
    state.committed()
    assert dict(state) == stored(rows) == {"l": 1}


def test_a_take_without_changes_has_no_rows_and_is_committed_like_any_other(state):
    assert state.take() == []
    state.committed()


def test_one_row_is_written_for_a_key_however_often_it_was_assigned(state, rows):
    for number in range(10):
        state["k"] = number
        state.seal()
    assert list(commit(state, rows)) == ["k"]
    assert stored(rows) == {"k": 9}


# --- keys


@dataclass(frozen=True)
class Place:
    x: float
    tags: frozenset[str] = frozenset()


def test_equal_keys_are_one_key_as_in_a_dict(state, rows):
    state[1] = "one"
    state[True] = "true"
    state[Place(1)] = "place"
    assert state[1.0] == "true"
    assert state[Place(1.0)] == "place"
    assert len(state) == 2


@pytest.mark.parametrize("key", [frozenset({"a", "b", (1, "c")}), Place(2, frozenset("abc"))])
def test_any_other_hashable_key_is_found_again(state, rows, key):
    state[key] = 1
    commit(state, rows)
    assert State(rows)[key] == 1


@pytest.mark.slow
def test_a_key_with_a_set_inside_has_the_same_bytes_in_every_process():
    program = "from zflow.state.entries import raw_key; print(raw_key(frozenset('abcdef')).hex())"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert said == {(raw_key(frozenset("abcdef")).hex() + "\n").encode()}


def test_other_keys_never_have_the_bytes_of_a_stable_key():
    assert raw_key(Decimal(1)) != raw_key(1)
    assert raw_key(("a", 1)) == key_bytes(("a", 1))


def test_a_key_that_is_not_hashable_is_refused_as_in_a_dict(state):
    for key in ([1], ("a", [1])):
        with pytest.raises(TypeError, match="unhashable type: 'list'"):
            state.get(key)


@dataclass(frozen=True)
class Unpicklable:
    inside: object


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (float("nan"), "NaN is not equal to itself"),
        ((1, float("nan")), "NaN is not equal to itself"),
        (object(), "equal only to itself"),
        (Unpicklable(lambda: None), "the key cannot be pickled"),
    ],
)
def test_a_key_that_could_not_be_found_again_is_refused(state, key, why):
    with pytest.raises(StateError, match=why):
        state[key] = 1
    assert len(state) == 0


# --- values that cannot be stored


def test_a_value_that_cannot_be_pickled_is_told_at_the_end_of_its_item(state, rows):
    state["good"] = [1]
    state.seal()
    state["other"] = [2]
    state["bad"] = [lambda: None]
    with pytest.raises(StateError, match=r"state\['bad'\] cannot be stored: .*pickle") as refused:
        state.seal()
    assert refused.value.key == "bad"
    with pytest.raises(StateError):
        state.take()
    state.undo()
    commit(state, rows)
    assert stored(rows) == {"good": [1]}


def test_a_deep_tuple_cannot_surprise_the_one_who_takes(state):
    deep = ()
    for _ in range(100_000):
        deep = (deep,)
    state["k"] = deep
    with pytest.raises(StateError, match="recursion"):
        state.seal()
    state.undo()
    while deep:  # Python frees deep tuples with a stack that is not
        (deep,) = deep


def test_a_row_that_cannot_be_read_any_more_names_its_key(state, rows):
    rows.rows[key_bytes("k")] = b"no pickle"
    with pytest.raises(StateError, match=r"state\[b'sk'\] cannot be read"):
        state["k"]


# --- iteration


def test_iteration_merges_what_is_committed_in_flight_and_changed_in_key_order(state, rows):
    for number in (0, 2, 4, 6):
        state[number] = "file"
    commit(state, rows)
    state[3] = state[4] = "flight"
    del state[0]
    state.take()
    state[1] = "batch"
    state.seal()
    state[5] = "item"
    del state[6]
    wanted = {1: "batch", 2: "file", 3: "flight", 4: "flight", 5: "item"}
    assert list(state.items()) == list(wanted.items())
    assert (list(state), list(state.values())) == (list(wanted), list(wanted.values()))
    assert (len(state), 0 in state, 5 in state) == (5, False, True)
    assert state == wanted


def test_an_iteration_sees_a_commit_that_is_told_meanwhile(rows):
    rows.page_rows = 10
    state = State(rows, cache_entries=0)
    for number in range(4):
        state[number] = "old"
    commit(state, rows)
    state[1] = "new"
    del state[2]
    taken = state.take()
    walk = iter(state.items())
    assert next(walk) == (0, "old")
    rows.commit(taken)
    state.committed()
    assert list(walk) == [(1, "new"), (3, "old")]


def test_values_that_an_iteration_hands_out_can_be_changed(state, rows):
    for number in range(7):
        state[number] = []
    commit(state, rows)
    for value in state.values():
        value.append(1)
    assert len(commit(state, rows)) == 7
    for value in list(state.values()):
        value.append(2)
    commit(state, rows)
    assert stored(rows) == {number: [1, 2] for number in range(7)}


def test_an_iteration_lets_go_of_what_nobody_holds(state, rows):
    rows.page_rows = 10
    for number in range(100):
        state[number] = [number]
    commit(state, rows)
    state.reset()
    most = max(len(state._item) for _ in state.items())
    assert most <= 2 * rows.page_rows
    kept = list(state.values())
    assert len(state._item) == len(kept) == 100


def test_clear_deletes_all_and_popitem_takes_the_first(state, rows):
    state.update({number: number for number in range(5)})
    commit(state, rows)
    assert state.popitem() == (0, 0)
    state[9] = 9
    state.clear()
    assert (len(state), list(state)) == (0, [])
    with pytest.raises(KeyError):
        state.popitem()
    commit(state, rows)
    assert rows.rows == {}


# --- the cache


def test_what_was_read_or_committed_is_not_read_again(state, rows):
    rows.commit([(key_bytes("k"), b"\x80\x05X\x01\x00\x00\x00kK\x01\x86.")])
    state["l"] = 1
    commit(state, rows)
    for _ in range(3):
        assert (state["k"], state["l"], state.get("none")) == (1, 1, None)
    assert rows.gets == 2


@pytest.mark.parametrize("limits", [{"cache_entries": 3}, {"cache_bytes": 800}])
def test_the_cache_keeps_what_was_used_last_within_its_limits(rows, limits):
    state = State(rows, **limits)
    for number in range(10):
        state[number] = number
        commit(state, rows)
    assert len(state._cache) == 3
    assert state._cache.size_bytes <= 800
    assert [state[number] for number in (7, 8, 0)] == [7, 8, 0]
    assert rows.gets == 1
    assert state[7] == 7
    assert rows.gets == 1, "9 was used less recently than 7"


def test_a_key_that_is_written_again_is_the_newest_and_counts_once(rows):
    state = State(rows, cache_entries=3)
    for number in (0, 1, 2, 0, 0, 3):
        state[number] = number
        commit(state, rows)
    assert state._cache.size_bytes < 3 * 250
    assert [state[number] for number in (0, 2, 3)] == [0, 2, 3]
    assert rows.gets == 0


def test_a_value_larger_than_the_cache_is_read_each_time(rows):
    state = State(rows, cache_bytes=1000)
    state["k"] = b"x" * 10_000
    commit(state, rows)
    assert len(state["k"]) == len(state["k"]) == 10_000
    assert (rows.gets, len(state._cache), state._cache.size_bytes) == (2, 0, 0)


@pytest.mark.slow
def test_the_memory_of_a_state_larger_than_its_cache_stays_bounded(rows):
    state = State(rows, cache_bytes=100_000)
    for number in range(5000):
        state[number] = [number] * 10
        state.seal()
        if number % 100 == 99:
            commit(state, rows)
    assert sum(sum(value) for value in state.values()) == 10 * sum(range(5000))
    assert state._cache.size_bytes <= 100_000
    assert len(state._item) <= 2 * rows.page_rows


# --- what is known without a look at the file, and when an item must be sealed


def test_a_file_that_began_empty_is_not_asked_for_what_was_never_stored(rows):
    state = State(rows, cache_entries=3)
    for key in range(3):
        assert state.get(key) is None
        state[key] = key
        commit(state, rows)
    assert rows.gets == 0
    assert [state[key] for key in range(3)] == [0, 1, 2]
    del state[0]
    state[3] = 3
    commit(state, rows)  # the cache lets go of one from here on
    assert [state.get(key) for key in range(5)] == [None, 1, 2, 3, None]
    assert rows.gets > 0


def test_a_file_that_held_something_is_asked(rows):
    before = State(rows)
    before["k"] = 1
    commit(before, rows)
    state = State(rows)
    assert (state.get("other"), state["k"]) == (None, 1)
    assert rows.gets == 2


def test_after_a_reset_the_file_is_asked_again(state, rows):
    assert state.get("k") is None
    state["k"] = 1
    commit(state, rows)
    state.reset()
    assert state["k"] == 1


@pytest.mark.parametrize("value", [1, "text", None, b"raw", (1, ("a", 2.5)), frozenset({1})])
def test_a_value_that_cannot_change_exposes_nothing(state, rows, value):
    state["k"] = value
    assert not state.exposed
    commit(state, rows)
    assert state["k"] == value
    assert state.setdefault("k", 0) == value
    assert not state.exposed


@pytest.mark.parametrize("value", [[1], {"a": 1}, ([1],), {1}])
def test_whoever_gives_or_gets_a_value_that_can_change_is_exposed_until_it_is_sealed(
    state, rows, value
):
    state["k"] = value
    assert state.exposed
    state.seal()
    assert not state.exposed
    commit(state, rows)
    for look in (lambda: state["k"], lambda: state.get("k"), lambda: list(state.items())):
        assert look()
        assert state.exposed
        state.undo()
        assert not state.exposed
    assert "k" in state
    assert not state.exposed

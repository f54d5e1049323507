"""A `State` over a partition file does what a dict does, whatever is committed, undone or lost."""

import copy
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zflow.errors import Unavailable
from zflow.hashing import key_bytes
from zflow.state import partition
from zflow.state.mapping import State
from zflow.state.partition import Batch, PartitionFile

KEYS = st.sampled_from([*range(8), "a", "b", True, 1.0, (1, "a"), (True, "a"), None, b"a", ()])
PLAIN = st.one_of(st.integers(0, 3), st.text(max_size=2), st.tuples(st.integers(0, 2)))
VALUES = st.one_of(PLAIN, st.lists(st.integers(0, 2), max_size=2))


def changed_in_place(value):
    """How the machine mutates a list, in the state and in the model."""
    if len(value) > 3:
        value.clear()
    else:
        value.append(len(value))


class StateMachine(RuleBasedStateMachine):
    """models: what the file says; then after each flight, the batch, the running item."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="zflow-state-")
        self.open()
        self.file_model = {}
        self.flights = []  # (rows, model afterwards)
        self.batch_model = {}
        self.model = {}

    def open(self):
        path = Path(self.folder.name) / "000.sqlite"
        self.file = PartitionFile(
            path, stage="count", partition=0, partitions=64, durability="process"
        )

    @initialize(entries=st.sampled_from([0, 2, 100]), size_bytes=st.sampled_from([300, 1 << 20]))
    def make_state(self, entries, size_bytes):
        self.limits = {"cache_entries": entries, "cache_bytes": size_bytes}
        self.state = State(self.file, **self.limits)

    def teardown(self):
        self.file.close()
        self.folder.cleanup()

    # --- what an item does

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        self.state[key] = copy.deepcopy(value)
        self.model[key] = value

    @rule(key=KEYS)
    def get(self, key):
        assert self.state.get(key, "no") == self.model.get(key, "no")
        assert (key in self.state) == (key in self.model)

    @rule(key=KEYS)
    def mutate(self, key):
        if isinstance(self.model.get(key), list):
            changed_in_place(self.state[key])
            changed_in_place(self.model[key])

    @rule(key=KEYS, other=KEYS)
    def store_the_same_list_under_two_keys(self, key, other):
        if isinstance(self.model.get(key), list):
            self.state[other] = self.state[key]
            self.model[other] = copy.deepcopy(self.model[key])
            self.end_item()  # until here a dict and a State share it

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        found = self.state.setdefault(key, copy.deepcopy(value))
        assert found == self.model.setdefault(key, value)

    @rule(key=KEYS)
    def delete(self, key):
        if key in self.model:
            del self.state[key], self.model[key]
        else:
            with pytest.raises(KeyError):
                del self.state[key]

    @rule(key=KEYS)
    def pop(self, key):
        assert self.state.pop(key, "no") == self.model.pop(key, "no")

    @rule()
    def clear(self):
        self.state.clear()
        self.model.clear()

    @rule()
    def mutate_all(self):
        for value in self.state.values():
            if isinstance(value, list):
                changed_in_place(value)
        for value in self.model.values():
            if isinstance(value, list):
                changed_in_place(value)

    @rule(commit_after=st.integers(0, 5))
    def iterate_while_commits_go_on(self, commit_after):
        met = []
        for n, (key, value) in enumerate(self.state.items()):
            met.append((key, copy.deepcopy(value)))
            if n == commit_after and self.flights:
                self.commit()
        assert met == sorted(self.model.items(), key=lambda pair: key_bytes(pair[0]))

    # --- what its caller does

    @rule()
    def end_item(self):
        self.state.seal()
        self.batch_model = copy.deepcopy(self.model)

    @rule()
    def fail_item(self):
        self.state.undo()
        self.model = copy.deepcopy(self.batch_model)

    @rule()
    def take(self):
        rows = self.state.take()
        assert len({raw for raw, _ in rows}) == len(rows)
        self.batch_model = copy.deepcopy(self.model)
        self.flights.append((rows, copy.deepcopy(self.model)))

    @precondition(lambda self: self.flights)
    @rule()
    def commit(self):
        rows, model = self.flights.pop(0)
        self.file.commit(Batch(state=rows))
        self.state.committed()
        self.file_model = model

    @precondition(lambda self: self.flights)
    @rule()
    def commit_and_tell_later(self):
        """The worker has committed; the data thread does not know it yet."""
        self.file.commit(Batch(state=self.flights[0][0]))

    @precondition(lambda self: not self.flights)
    @rule()
    def rollback(self):
        self.state.rollback()
        self.model = copy.deepcopy(self.file_model)
        self.batch_model = copy.deepcopy(self.file_model)

    @precondition(lambda self: self.flights)
    @rule()
    def rollback_with_flights(self):
        self.state.rollback()
        self.model = copy.deepcopy(self.flights[-1][1])
        self.batch_model = copy.deepcopy(self.model)

    @rule()
    def fail_commit(self):
        self.file._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(Unavailable):
            self.file.commit(Batch(state=[(b"s", b"")]))
        self.file.reload()
        self.state.reset()
        self.forget()

    @rule()
    def die_and_reopen(self):
        self.file.close()
        self.open()
        self.state = State(self.file, **self.limits)
        self.forget()

    def forget(self):
        """Rows that were committed without the model being told are read back."""
        said = dict(State(self.file).items())
        allowed = [self.file_model, *(model for _, model in self.flights[:1])]
        assert said in allowed
        self.file_model = said
        self.flights = []
        self.batch_model = copy.deepcopy(said)
        self.model = copy.deepcopy(said)

    @invariant()
    def it_is_the_dict(self):
        if hasattr(self, "state"):
            assert len(self.state) == len(self.model)
            assert sorted(map(key_bytes, self.state)) == sorted(map(key_bytes, self.model))


@pytest.mark.slow
@pytest.mark.parametrize("page_rows", [1, 3, 256])
def test_a_state_is_a_dict_through_commits_failures_and_restarts(page_rows, monkeypatch):
    monkeypatch.setattr(partition, "PAGE_ROWS", page_rows)
    run_state_machine_as_test(
        StateMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

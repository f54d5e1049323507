"""The runs on disk: which is the last, which may go, and that a running one is left alone."""

import json
import os

import pytest

from zflow.errors import ConfigError, Unavailable
from zflow.paths import StateDirectory
from zflow.state.deadletter import DeadLetter, DeadLetterStore, mark_replayed
from zflow.state.runs import (
    KEPT_RUNS,
    RunLock,
    RunRecord,
    StoredRun,
    all_runs,
    find_run,
    is_running,
    read_run,
    remove_run,
    superseded,
    write_record,
)

LETTER = DeadLetter(
    origin="a",
    oseq=1,
    path="b",
    index=0,
    stage="parse",
    edge="read->parse",
    attempts=1,
    code="error",
    error_class="E",
    error="e",
    item=b"",
    shown="1",
    maybe_applied=False,
    buried_at_s=1.0,
)


@pytest.fixture
def make(tmp_path):
    """`make("one", outcome="finished", letters=2)` is a run on disk; each began after the last."""
    made = []

    def make_run(run_id, *, outcome="", letters=0):
        state = StateDirectory(tmp_path / run_id)
        state.make()
        record = RunRecord(
            run_id=run_id,
            topology="flow",
            target="flow.py",
            attribute="flow",
            path="/flow.py",
            digest="d",
            parameters=["read.n=3"],
            replicas=["parse=2"],
            started_at_s=1000.0 + len(made),
            outcome=outcome,
            exit_code=0 if outcome else None,
        )
        write_record(state, record)
        if letters:
            store = DeadLetterStore(state.dead_folder / "parse-0.dead.sqlite")
            fields = {name: getattr(LETTER, name) for name in LETTER.__slots__}
            store.bury([DeadLetter(**{**fields, "oseq": k}) for k in range(letters)])
            store.close()
        made.append(StoredRun(record=record, state=state))
        return made[-1]

    return make_run


def names(runs):
    return [run.record.run_id for run in runs]


def test_a_record_is_read_back_as_it_was_written(make, tmp_path):
    run = make("one")
    assert read_run(tmp_path / "one") == run


def test_the_record_says_how_the_run_ended(make, tmp_path):
    make("one").finish("not finished after 3 s", 4)
    record = read_run(tmp_path / "one").record
    assert (record.outcome, record.exit_code) == ("not finished after 3 s", 4)


def test_a_record_is_replaced_at_once_and_is_private(make, tmp_path):
    make("one").finish("finished", 0)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "dead",
        "positions",
        "run.json",
    ]
    assert (tmp_path / "one" / "run.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"run_id": "x"}'])
def test_a_folder_whose_record_cannot_be_read_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(Unavailable, match=f"{tmp_path} holds no run that can be read"):
        read_run(tmp_path)


def test_a_record_of_another_schema_is_refused(make, tmp_path):
    make("one")
    path = tmp_path / "one" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 9}))
    with pytest.raises(Unavailable, match="has schema 9; this zflow reads 1"):
        read_run(tmp_path / "one")


def test_runs_are_listed_oldest_first_and_strangers_are_left_out(make, tmp_path):
    make("b")
    make("a")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "note.txt").write_text("not a run")
    assert names(all_runs(tmp_path)) == ["b", "a"]
    assert all_runs(tmp_path / "absent") == []


def test_last_is_the_newest_run(make, tmp_path):
    make("b")
    make("a")
    assert find_run(tmp_path, "last").record.run_id == "a"
    assert find_run(tmp_path, "b").record.run_id == "b"


def test_a_run_that_is_not_there_is_answered_with_those_that_are(make, tmp_path):
    make("one")
    make("two")
    with pytest.raises(ConfigError, match="the newest are: one, two"):
        find_run(tmp_path, "three")


@pytest.mark.parametrize("name", ["last", "one"])
def test_without_any_run_there_is_no_last_one(tmp_path, name):
    with pytest.raises(ConfigError, match="the newest are: none"):
        find_run(tmp_path, name)


def test_one_process_at_a_time_works_in_a_state_directory(make):
    run = make("one")
    lock = RunLock(run.state)
    with pytest.raises(Unavailable, match="is running"):
        RunLock(run.state)
    lock.release()
    RunLock(run.state).release()


def test_a_run_is_running_as_long_as_its_lock_is_held(make):
    run = make("one")
    assert not is_running(run.state)
    lock = RunLock(run.state)
    assert is_running(run.state)
    lock.release()
    assert not is_running(run.state)


def test_a_running_run_is_not_removed(make, tmp_path):
    run = make("one")
    lock = RunLock(run.state)
    with pytest.raises(Unavailable, match="is running"):
        remove_run(run)
    lock.release()
    remove_run(run)
    assert not (tmp_path / "one").exists()


def test_dead_letters_that_were_sent_again_do_not_count(make):
    run = make("one", letters=3)
    mark_replayed(run.state.dead_folder, ["parse-0:2"])
    assert run.dead_letters() == 2


def test_ended_runs_beyond_the_kept_ones_are_superseded_unless_they_hold_dead_letters(
    make, tmp_path
):
    make("old", outcome="finished")
    make("dead", outcome="finished", letters=1)
    make("killed")
    for k in range(KEPT_RUNS):
        make(f"new{k}", outcome="finished")
    assert names(superseded(tmp_path)) == ["old"]


def test_a_run_whose_dead_letters_cannot_be_read_is_never_superseded(make, tmp_path):
    run = make("old", outcome="finished")
    (run.state.dead_folder / "parse-0.dead.sqlite").write_bytes(b"no database at all" * 99)
    for number in range(KEPT_RUNS + 1):
        make(f"run{number}", outcome="finished")
    assert names(superseded(tmp_path)) == ["run0"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(make, tmp_path):
    run = make("one")
    # Stands for a full disk: the draft cannot be written.
    (tmp_path / "one" / f"run.{os.getpid()}.tmp").mkdir()
    with pytest.raises(Unavailable, match=r"one/run\.json: Is a directory"):
        run.finish("finished", 0)
    assert read_run(tmp_path / "one") == run


def test_a_folder_that_cannot_hold_a_lock_is_refused(tmp_path):
    with pytest.raises(Unavailable, match="absent/lock: No such file"):
        RunLock(StateDirectory(tmp_path / "absent"))

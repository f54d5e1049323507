"""What `zflow runs` promises: all runs of the folder are listed, and none that runs is removed."""

import json
import os

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.cli.output import duration, shortened, size
from zflow.paths import StateDirectory, run_directory
from zflow.state.deadletter import DeadLetter, DeadLetterStore
from zflow.state.runs import RunLock, RunRecord, write_record


@pytest.fixture
def zflow(tmp_path, tmp_path_factory, monkeypatch):
    """`zflow("runs", "ls")` in tmp_path, in this process."""
    monkeypatch.chdir(tmp_path)
    # A short one: the name of a test is part of tmp_path, and sockets lie below.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture
def make(tmp_path):
    """`make("one", exit_code=0, letters=2)` is a run on disk; each began after the last."""
    made = []

    def make_run(run_id, exit_code=None, *, topology="flow", letters=0):
        state = StateDirectory(tmp_path / ".zflow" / topology / run_id)
        state.make()
        record = RunRecord(
            run_id=run_id,
            topology=topology,
            target="flow.py",
            attribute="flow",
            path="/flow.py",
            digest="d",
            parameters=[],
            replicas=[],
            started_at_s=1_700_000_000.0 + len(made),
            outcome="" if exit_code is None else "it ended",
            exit_code=exit_code,
        )
        write_record(state, record)
        if letters:
            bury(state, letters)
        made.append(run_id)
        return state

    return make_run


def bury(state, count):
    store = DeadLetterStore(state.dead_folder / "parse-0.dead.sqlite")
    fields = {
        "origin": "a",
        "path": "b",
        "index": 0,
        "stage": "parse",
        "edge": "read->parse",
        "attempts": 1,
        "code": "error",
        "error_class": "E",
        "error": "e",
        "item": b"",
        "shown": "1",
        "maybe_applied": False,
        "buried_at_s": 1.0,
    }
    store.bury([DeadLetter(oseq=k, **fields) for k in range(count)])
    store.close()


def listed(zflow):
    return [line.split()[1] for line in zflow("runs", "ls").stdout.splitlines()[1:]]


def test_ls_shows_the_runs_of_all_topologies_with_how_they_ended(zflow, make):
    make("one", 0, letters=2)
    make("two", 130)
    make("three")
    make("four", 5, topology="other")
    running = RunLock(make("five", topology="other"))
    done = zflow("runs", "ls")
    running.release()
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["topology", "run", "started", "outcome", "dead", "size"]
    assert [row.split()[:2] for row in rows] == [
        ["flow", "one"],
        ["flow", "two"],
        ["flow", "three"],
        ["other", "four"],
        ["other", "five"],
    ]
    for row, outcome in zip(
        rows, ["finished", "interrupted", "killed", "crash loop", "running"], strict=True
    ):
        assert f"  {outcome} " in row
    assert rows[0].split()[-3] == "2"


def test_a_run_that_is_resumed_is_running_whatever_its_record_says(zflow, make):
    lock = RunLock(make("one", 0))
    assert "running" in zflow("runs", "ls").stdout
    lock.release()
    assert "finished" in zflow("runs", "ls").stdout


def test_ls_of_one_topology_leaves_the_others_out(zflow, make):
    make("one", 0)
    make("two", 0, topology="other")
    assert "one" not in zflow("runs", "ls", "--topology", "other").stdout
    wrong = zflow("runs", "ls", "--topology", "floow")
    assert (wrong.exit_code, "did you mean 'flow'?" in wrong.stderr) == (2, True)


def test_ls_gives_json_lines_for_programs(zflow, make, tmp_path):
    make("one", 4, letters=3)
    row = json.loads(zflow("runs", "ls", "--json").stdout)
    assert (row["run_id"], row["state"], row["dead_letters"]) == ("one", "timed out", 3)
    assert (row["outcome"], row["exit_code"]) == ("it ended", 4)
    assert row["state_directory"] == str(tmp_path / ".zflow" / "flow" / "one")
    assert row["size_bytes"] > 4096


def test_without_any_run_ls_says_so(zflow, tmp_path):
    done = zflow("runs", "ls")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"there are no runs in {tmp_path}\n"


def test_rm_removes_the_named_runs_with_their_dead_letters_and_run_directories(zflow, make):
    state = make("one", letters=2)
    left = run_directory(state.root, os.environ)
    left.make()  # as a killed run leaves it
    make("two", 0)
    done = zflow("runs", "rm", "one")
    assert (done.exit_code, done.stderr) == (0, "removed 1 run\n")
    assert listed(zflow) == ["two"]
    assert not left.root.exists()


def test_rm_refuses_what_is_running_or_unknown_and_then_removes_nothing(zflow, make):
    make("one", 0)
    lock = RunLock(make("two"))
    done = zflow("runs", "rm", "one", "two", "three")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "run two: it is running; stop it first: Ctrl-C where it runs",
        "run three: there is no such run here; list them: zflow runs ls",
    ]
    lock.release()
    assert listed(zflow) == ["one", "two"]


def test_rm_all_ended_keeps_what_runs_what_was_killed_and_what_holds_dead_letters(zflow, make):
    make("one", 0)
    make("dead", 0, letters=1)
    make("killed")
    lock = RunLock(make("running", 0))
    make("two", 1, topology="other")
    done = zflow("runs", "rm", "--all-ended")
    lock.release()
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "removed 2 runs",
        "kept for their dead letters: dead; name them to remove",
    ]
    assert listed(zflow) == ["dead", "killed", "running"]


@pytest.mark.parametrize(("keep", "left"), [(0, []), (2, ["c", "d"]), (9, ["a", "b", "c", "d"])])
def test_rm_keep_leaves_the_newest_of_each_topology(zflow, make, keep, left):
    for name in "abcd":
        make(name, 0)
    make("x", 0, topology="other")
    done = zflow("runs", "rm", "--keep", str(keep), "--json")
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["removed"]) == 5 - len(left) - (keep > 0)
    assert listed(zflow) == [*left, *(["x"] if keep else [])]


@pytest.mark.parametrize(
    "arguments", [[], ["one", "--all-ended"], ["--all-ended", "--keep", "1"], ["--keep", "-1"]]
)
def test_rm_wants_exactly_one_choice(zflow, make, arguments):
    make("one", 0)
    assert zflow("runs", "rm", *arguments).exit_code == 2
    assert listed(zflow) == ["one"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (1e6, "11 d")],
)
def test_a_duration_is_told_in_its_largest_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")],
)
def test_a_size_is_told_in_its_largest_unit(size_bytes, text):
    assert size(size_bytes) == text


def test_a_long_text_is_cut_to_one_line():
    assert shortened("a\n b", 10) == "a b"
    assert shortened("x" * 20, 10) == "xxxxxxx..."

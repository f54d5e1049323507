"""What every verb of `zflow dead` promises: which letters it means, and what it says of itself."""

import json
import os
import pty
import sqlite3
import time

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.state.deadletter import DeadLetter, DeadLetterStore, mark_replayed
from zflow.state.runs import RunLock

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


@pytest.fixture
def ages(tmp_path, make_run):
    """Four letters: 5 seconds, 5 minutes, 5 hours and 5 days old."""
    now_s = time.time()
    letters = [
        {"buried_at_s": now_s - 5, "error": "Traceback ...\nsqlite3.Error: no such column: b"},
        {"buried_at_s": now_s - 5 * MINUTE_S, "stage": "count"},
        {"buried_at_s": now_s - 5 * HOUR_S, "error_class": "KeyError"},
        {"buried_at_s": now_s - 5 * DAY_S, "stage": "count", "error_class": "KeyError"},
    ]
    return make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", letters)


def numbers(ids):
    return [int(letter_id.rpartition(":")[2]) for letter_id in ids]


def listed(zflow, *filters):
    lines = zflow("dead", "ls", "--json", *filters).stdout.splitlines()
    return numbers(json.loads(line)["id"] for line in lines)


def replayed(zflow, *filters):
    done = zflow("dead", "replay", "--dry-run", "--json", *filters)
    return numbers(
        letter for ids in json.loads(done.stdout)["would_send"].values() for letter in ids
    )


def purged(zflow, *filters):
    return numbers(json.loads(zflow("dead", "purge", "--yes", "--json", *filters).stdout)["ids"])


@pytest.mark.parametrize("verb", [listed, replayed, purged])
@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ("", [1, 2, 3, 4]),
        ("--stage count", [2, 4]),
        ("--error KeyError", [3, 4]),
        ("--text column", [1]),
        ("--text Column", []),
        ("--older 3m", [2, 3, 4]),
        ("--newer 3m", [1]),
        ("--newer 60s", [1]),
        ("--older 2d", [4]),
        ("--older 0.5h --newer 1d", [3]),
        ("--stage count --error KeyError --older 10m", [4]),
    ],
)
def test_ls_replay_and_purge_mean_the_same_letters_by_the_same_filters(
    zflow, ages, verb, filters, left
):
    assert verb(zflow, *filters.split()) == left


def test_filters_narrow_down_the_letters_that_were_named(zflow, ages):
    ids = ["read-0:4", "read-0:2", "read-0:1"]
    assert replayed(zflow, *ids, "--stage", "count") == [4, 2]
    assert purged(zflow, *ids, "--stage", "count") == [4, 2]
    assert listed(zflow) == [1, 3]


@pytest.mark.parametrize("age", ["3", "m", "-3m", "3 m", "3w", "٣m", ""])
def test_what_is_no_age_is_refused_with_ages_that_are_right(zflow, ages, age):
    done = zflow("dead", "ls", f"--older={age}")
    assert done.exit_code == 2
    assert f"{age!r} is no age; give a number and s, m, h or d: 30s, 10m, 2h, 3d" in done.stderr


@pytest.mark.parametrize("verb", ["", "ls", "show", "edit", "replay", "purge"])
def test_every_verb_has_an_example_in_its_help(verb):
    done = CliRunner().invoke(main, ["dead", *verb.split(), "--help"])
    assert done.exit_code == 0
    assert f"Example:\n    zflow dead {verb or 'ls'}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["edit", "read-0:1", "--json", "6"],
        ["purge", "--yes"],
        ["purge"],
        ["replay"],
    ],
)
def test_letters_stay_as_they_are_while_their_run_is_running(zflow, ages, arguments):
    before = zflow("dead", "ls", "--json", "--all").stdout
    lock = RunLock(ages)
    done = zflow("dead", *arguments)
    lock.release()
    assert done.exit_code == 2
    assert done.stderr == (
        "run one: it is running, its dead letters stay as they are meanwhile; "
        "stop it first: Ctrl-C where it runs\n"
    )
    assert zflow("dead", "ls", "--json", "--all").stdout == before


@pytest.mark.parametrize(
    "arguments", [["show", "read-0:9"], ["replay", "read-0:9"], ["edit", "x"], ["purge", "x:1"]]
)
def test_an_unknown_id_is_refused_with_the_command_that_lists_those_of_that_run(
    zflow, ages, make_run, tmp_path, arguments
):
    done = zflow("dead", *arguments, "--topology", "flow", "--run", "one")
    assert done.exit_code == 2
    assert done.stderr == (
        f"{arguments[1]}: the run has no dead letter of this id; "
        "list them: zflow dead ls --topology flow --run one\n"
    )


def test_letters_of_a_newer_zflow_are_refused_with_exit_code_6(zflow, stored):
    db = sqlite3.connect(stored.dead_folder / "read-0.dead.sqlite")
    db.execute("PRAGMA user_version=9")
    db.close()
    done = zflow("dead", "ls")
    assert done.exit_code == 6
    assert "has schema 9; this zflow reads up to 2" in done.stderr


def test_show_tells_the_version_of_the_code_that_failed(zflow, stored):
    lines = zflow("dead", "show", "read-0:1").stdout.splitlines()
    assert "version        0123456789ab" in lines
    assert json.loads(zflow("dead", "show", "read-0:1", "--json").stdout)["version"] == (
        "0123456789ab"
    )


def test_show_says_so_if_the_version_is_unknown(zflow, tmp_path, make_run):
    make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [{"version": ""}])
    assert "version        unknown: an older zflow wrote it" in (
        zflow("dead", "show", "read-0:1").stdout.splitlines()
    )


# --- purge ---------------------------------------------------------------------------------------


def test_purge_removes_what_was_chosen_and_prints_how_many(zflow, stored):
    done = zflow("dead", "purge", "--stage", "parse", "--yes")
    assert (done.exit_code, done.stderr) == (0, "removed 3 dead letters\n")
    assert listed(zflow) == [2, 4]
    assert zflow("dead", "purge", "read-0:2", "--yes").stderr == "removed 1 dead letter\n"


def test_purge_with_json_gives_the_ids(zflow, stored):
    done = zflow("dead", "purge", "--stage", "count", "--yes", "--json")
    assert json.loads(done.stdout) == {"run": "one", "removed": 1, "ids": ["read-0:2"]}
    assert done.stderr == ""


def test_purge_replayed_removes_only_what_was_sent_again(zflow, stored):
    mark_replayed(stored.dead_folder, ["read-0:1", "read-0:2"])
    assert purged(zflow, "--replayed", "--stage", "parse") == [1]
    assert purged(zflow, "--replayed") == [2]
    assert purged(zflow, "--replayed") == []
    assert listed(zflow, "--all") == [3, 4, 5]


def test_purge_of_nothing_asks_nobody(zflow, stored):
    done = zflow("dead", "purge", "--stage", "absent")
    assert (done.exit_code, done.stderr) == (0, "removed 0 dead letters\n")


def test_purge_without_a_terminal_and_without_yes_is_refused(zflow, stored):
    done = zflow("dead", "purge", stdin="y\n")
    assert done.exit_code == 2
    assert done.stderr == (
        "run one: 5 dead letters would be removed for good, and there is no terminal to ask at; "
        "add --yes to remove them, or look at them first: zflow dead ls --all\n"
    )
    assert listed(zflow) == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said", "left"),
    [(b"y\n", "removed 3 dead letters", [2, 4]), (b"\n", "nothing was removed", [1, 2, 3, 4, 5])],
)
def test_purge_asks_at_a_terminal(zflow, stored, command, answer, said, left):
    mark_replayed(stored.dead_folder, ["read-0:1"])
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = command("dead", "purge", "--stage", "parse", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    question = "Remove 3 dead letters of run one for good, 2 of them never sent again? [y/N]: "
    assert done.stderr.startswith(question)
    assert done.stderr.splitlines()[-1].endswith(said)
    assert listed(zflow, "--all") == left


def test_purge_makes_the_file_smaller(zflow, stored):
    path = stored.dead_folder / "read-0.dead.sqlite"
    store = DeadLetterStore(path)
    fields = {"origin": "a", "path": "b", "index": 0, "stage": "big", "edge": "a->b"}
    fields |= {"attempts": 1, "code": "error", "error_class": "E", "error": "e", "shown": "1"}
    fields |= {"item": b"x" * 500_000, "maybe_applied": False, "buried_at_s": 1.0}
    store.bury([DeadLetter(oseq=0, **fields)])
    store.close()
    assert path.stat().st_size > 500_000
    zflow("dead", "purge", "--stage", "big", "--yes")
    assert path.stat().st_size < 100_000

"""What `zflow state` promises: what durable stages have stored can be read and copied meanwhile."""

import json
import stat
import sys

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.paths import StateDirectory
from zflow.state.mapping import State
from zflow.state.partition import Batch, OutboxRow, PartitionFile
from zflow.state.runs import RunRecord, write_record

FLOW = """
from dataclasses import dataclass
from zflow import Topology, sink, source

@dataclass
class Sum:
    total: int

@source
def read():
    yield 1

@sink
def show(item): ...

flow = Topology("flow")
flow.connect(read, show)
"""


@pytest.fixture
def zflow(tmp_path, monkeypatch):
    """`zflow("state", "ls")` in tmp_path, in this process."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield lambda *arguments: CliRunner().invoke(main, ["state", *map(str, arguments)])
    for name in {name for name in sys.modules if name.startswith("zflow_topology_")} - modules:
        del sys.modules[name]


@pytest.fixture
def run(tmp_path):
    state = StateDirectory(tmp_path / ".zflow" / "flow" / "one")
    state.make()
    record = RunRecord(
        run_id="one",
        topology="flow",
        target="flow.py",
        attribute="flow",
        path=str(tmp_path / "flow.py"),
        digest="d",
        parameters=[],
        replicas=[],
        started_at_s=0.0,
    )
    write_record(state, record)
    state.code.write_text(FLOW)
    return state


@pytest.fixture
def store(run):
    """`store(stage, number, values)` is the owner of that partition until the end."""
    owners = []

    def fill(stage, number, values, **changes):
        run.make_partitions(stage)
        owner = PartitionFile(
            run.partition(stage, number),
            stage=stage,
            partition=number,
            partitions=64,
            durability="process",
        )
        owners.append(owner)
        state = State(owner)
        state.update(values)
        owner.commit(Batch(state=state.take(), **changes))
        return owner

    yield fill
    for owner in owners:
        owner.close()


@pytest.fixture
def filled(store):
    store("Count", 3, {"word": 2, ("a", 1): [1.5, None]}, done=True)
    outbox = [OutboxRow(first=0, n=5, raw=b"")]
    store("Count", 7, {7: {"x": 1}, "7": "text"}, outbox=outbox, next_oseq=5)
    store("Empty", 0, {})


def lines(done):
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ls_shows_a_line_per_stage_while_its_owners_are_alive(zflow, filled):
    head, count, empty = zflow("ls").stdout.splitlines()
    assert head.split() == ["stage", "partitions", "keys", "size", "fence", "outbox", "done"]
    assert count.split()[:3] == ["Count", "2", "4"]
    assert count.split()[-3:] == ["1", "1", "1"]
    assert empty.split() == ["Empty", "1", "0", "0", "B", "1", "0", "0"]


def test_ls_of_a_stage_shows_a_line_per_partition(zflow, filled):
    rows = lines(zflow("ls", "Count", "--json"))
    numbers = [(row["partitions"], row["keys"], row["outbox_rows"], row["done"]) for row in rows]
    assert numbers == [(3, 2, 0, 1), (7, 2, 1, 0)]
    assert zflow("ls", "Count").stdout.split()[:2] == ["stage", "partition"]


def test_ls_of_a_run_without_durable_stages_says_so(zflow, run):
    done = zflow("ls")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "run one has no durable stages\n"


def test_a_partition_whose_maker_died_at_once_is_passed_over(zflow, run, filled, tmp_path):
    run.partition("Count", 9).touch()
    assert len(lines(zflow("ls", "Count", "--json"))) == 2
    assert len(lines(zflow("export", "Count"))) == 4
    assert zflow("backup", tmp_path / "copy").stderr.startswith("copied 3 partitions")
    assert zflow("get", "Count", "word").stdout == "2\n"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("word", "2\n"),
        ('"word"', "2\n"),
        ('["a", 1]', "[1.5, None]\n"),
        ("7", "{'x': 1}\n"),
        ('"7"', "'text'\n"),
    ],
)
def test_get_takes_a_key_as_json_or_else_as_text(zflow, filled, key, shown):
    assert zflow("get", "Count", key).stdout == shown


def test_get_takes_json_that_is_not_there_as_text(zflow, store):
    store("Count", 0, {"1": "text", "null": "none"})
    assert zflow("get", "Count", "1").stdout == "'text'\n"
    assert zflow("get", "Count", "null").stdout == "'none'\n"


def test_get_names_the_partitions_if_several_have_the_key(zflow, store):
    store("Count", 0, {"k": 1})
    store("Count", 5, {"k": 2})
    assert zflow("get", "Count", "k").stdout == "partition 0: 1\npartition 5: 2\n"
    assert lines(zflow("get", "Count", "k", "--json")) == [
        {"partition": 0, "key": "k", "value": 1},
        {"partition": 5, "key": "k", "value": 2},
    ]


@pytest.mark.parametrize("key", ["other", '{"a": 1}', "NaN"])
def test_get_of_a_key_that_is_not_there_is_refused_with_what_to_do(zflow, filled, key):
    done = zflow("get", "Count", key)
    assert done.exit_code == 2
    assert "stage Count has stored nothing under it; see what there is:" in done.stderr


@pytest.mark.parametrize("verb", [["get", "Coun", "k"], ["export", "Coun"], ["ls", "Coun"]])
def test_a_stage_that_is_not_there_is_refused_with_the_nearest(zflow, filled, verb):
    done = zflow(*verb)
    assert done.exit_code == 2
    assert "has no durable stage of this name; did you mean 'Count'?" in done.stderr


def test_export_writes_json_lines_and_the_repr_of_what_json_cannot_hold(zflow, store):
    store("Count", 0, {"k": 1, ("a", 1): {2}, b"raw": float("nan")})
    assert lines(zflow("export", "Count")) == [
        {"partition": 0, "key": "b'raw'", "value": "nan"},
        {"partition": 0, "key": "k", "value": 1},
        {"partition": 0, "key": ["a", 1], "value": "{2}"},
    ]


def test_values_of_the_topologys_own_classes_are_read_with_its_code(zflow, run, store):
    from zflow.local.plan import load_stored
    from zflow.state.runs import read_run

    before = set(sys.modules)
    load_stored(read_run(run.root))
    new = set(sys.modules) - before
    (module,) = (sys.modules[name] for name in new if name.startswith("zflow_topology_"))
    store("Sum", 0, {"k": module.Sum(total=3)})
    del sys.modules[module.__name__]
    assert zflow("get", "Sum", "k").stdout == "Sum(total=3)\n"


def test_a_value_whose_class_is_gone_is_told_with_its_key(zflow, store, monkeypatch):
    class Gone:
        pass

    Gone.__qualname__ = "Gone"
    monkeypatch.setattr(sys.modules[__name__], "Gone", Gone, raising=False)
    store("Sum", 0, {"k": Gone()})
    monkeypatch.delattr(sys.modules[__name__], "Gone")
    done = zflow("get", "Sum", "k")
    assert done.exit_code == 1
    assert "state[b'sk'] cannot be read: cannot be unpickled" in done.stderr


def test_backup_copies_all_partitions_for_this_user_only(zflow, run, filled, tmp_path):
    folder = tmp_path / "copy"
    assert zflow("backup", folder).stderr == f"copied 3 partitions to {folder}\n"
    copy = PartitionFile(
        StateDirectory(folder).partition("Count", 7),
        stage="Count",
        partition=7,
        partitions=64,
        durability="process",
    )
    assert dict(State(copy)) == {7: {"x": 1}, "7": "text"}
    assert (copy.loaded.next_oseq, len(copy.loaded.outbox)) == (5, 1)
    copy.close()
    for made in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(made.stat().st_mode) in (0o600, 0o700), made


def test_backup_into_a_folder_that_is_not_empty_is_refused(zflow, filled, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "something").touch()
    done = zflow("backup", "copy")
    assert done.exit_code == 2
    assert "copy: is not empty; name a new folder" in done.stderr

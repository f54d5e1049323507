"""What `zflow logs` shows of the files in a run directory."""

import json
import os
import shutil

import pytest

from zflow.cli.logs import COLOURS, _Lines
from zflow.ids import Slot
from zflow.local.logs import LogLine
from zflow.paths import RunDirectory, run_directory_of

PRINTED = {
    ("read/0", 0, "out"): "one\ntwo\n",
    ("parse/0", 1, "out"): "parsed one\n",
    ("parse/1", 1, "out"): "parsed two\nparsed three\n",
    ("parse/1", 1, "err"): "Warning: odd\nno end",
}


@pytest.fixture
def printed(tmp_path, tmp_path_factory, monkeypatch, make_run):
    """The run directory of run `one`, whose process was killed."""
    runtime = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    state = make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [])
    run = RunDirectory(run_directory_of(state.root, os.environ))
    run.make()
    for (slot, number, stream), text in PRINTED.items():
        index = Slot.parse(slot).index
        run.log(number, index, "slot").write_text(slot)
        run.log(number, index, stream).write_text(text)
    return run


def test_every_line_has_its_replica_in_front(zflow, printed):
    done = zflow("logs")
    assert done.exit_code == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "parse/0 | parsed one",
        "parse/1 ! Warning: odd",
        "parse/1 ! no end",
        "parse/1 | parsed three",
        "parse/1 | parsed two",
        "read/0  | one",
        "read/0  | two",
    ]


def test_stages_replicas_and_streams_are_chosen(zflow, printed):
    assert zflow("logs", "read").stdout == "read/0 | one\nread/0 | two\n"
    assert zflow("logs", "parse/0").stdout == "parse/0 | parsed one\n"
    assert zflow("logs", "--err").stdout == "parse/1 ! Warning: odd\nparse/1 ! no end\n"
    assert "Warning" not in zflow("logs", "parse", "--out").stdout


def test_tail_is_of_each_replica_and_stream_after_grep(zflow, printed):
    assert zflow("logs", "parse/1", "--out", "--tail", "1").stdout == "parse/1 | parsed three\n"
    done = zflow("logs", "--grep", "t[wh]", "--tail", "1")
    assert sorted(done.stdout.splitlines()) == ["parse/1 | parsed three", "read/0  | two"]
    assert zflow("logs", "--tail", "0").stdout == ""


def test_programs_get_one_object_per_line(zflow, printed):
    rows = [json.loads(line) for line in zflow("logs", "parse/0", "--json").stdout.splitlines()]
    assert rows == [{"slot": "parse/0", "stream": "out", "line": "parsed one"}]


def test_follow_ends_where_nobody_runs(zflow, printed):
    assert zflow("logs", "-f", "read").stdout == "read/0 | one\nread/0 | two\n"


def test_a_name_that_is_wrong_is_answered_with_the_nearest(zflow, printed):
    done = zflow("logs", "prase")
    assert done.exit_code == 2
    assert "prase: is no stage and no replica that has run; did you mean 'parse'?" in done.stderr
    assert "did you mean 'parse/" in zflow("logs", "parse/7").stderr


def test_a_wrong_expression_is_refused(zflow, printed):
    done = zflow("logs", "--grep", "(")
    assert done.exit_code == 2
    assert "--grep (: is no regular expression" in done.stderr


def test_of_a_run_that_has_ended_it_is_said_where_its_lines_went(zflow, printed):
    shutil.rmtree(printed.root)
    done = zflow("logs")
    assert done.exit_code == 3
    assert "run one has ended, and what its replicas printed was removed with" in done.stderr


COLOURED = [(True, "", True), (True, "1", False), (False, "", False)]


@pytest.mark.parametrize(("terminal", "no_color", "coloured"), COLOURED)
def test_colours_are_for_terminals_that_want_them(
    printed, monkeypatch, capsys, terminal, no_color, coloured
):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    show = _Lines(printed, ())
    for slot in ("read/0", "parse/0", "parse/1"):
        show(LogLine(Slot.parse(slot), "out", "x"))
    lines = capsys.readouterr().out.splitlines()
    codes = [line.partition("m")[0] if "\x1b" in line else "" for line in lines]
    assert len(set(codes)) == (2 if coloured else 1), lines
    assert any(codes) == coloured


def test_there_are_as_many_colours_as_a_terminal_can_tell_apart():
    assert len(set(COLOURS)) == len(COLOURS) == 8

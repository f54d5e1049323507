"""What `zflow check`, `graph` and `version` promise on the command line."""

import json
import sys

import pytest
from click.testing import CliRunner

from zflow.cli.main import VERBS, LazyGroup, main
from zflow.cli.output import EXIT_CODES, exit_code_of, show_error
from zflow.errors import (
    ConfigError,
    ExitCode,
    Incompatible,
    InternalError,
    Problem,
    ProtocolError,
    Unavailable,
)

GOOD = """\
from zflow import Topology, sink, source

@source
def read():
    yield 1

@sink
def show(item: str): ...

flow = Topology("good")
flow.connect(read, show)
"""

BAD = """\
import threading
from zflow import Topology, sink, source

@source(replica=2)
def read():
    yield 1

@sink(retries=-1)
def show(item): ...

flow = Topology("bad")
flow.connect(show, read)
flow.connect(read, show, when=lambda item, lock=threading.Lock(): lock)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `zflow ARGUMENTS` in a folder with good.py and bad.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    modules = set(sys.modules)
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    for name in {name for name in sys.modules if name.startswith("zflow_topology_")} - modules:
        del sys.modules[name]


def test_check_prints_all_problems_at_once_with_file_line_and_fix_and_exits_with_2(run):
    done = run("check", "bad.py")
    assert done.exit_code == ExitCode.USAGE
    assert done.stdout == ""
    *problems, total = done.stderr.splitlines()
    assert problems[:3] == [
        "bad.py:4: read: unknown option 'replica'; did you mean 'replicas'?",
        "bad.py:8: show: retries=-1 is not valid; give a whole number, at least 0",
        "bad.py:12: show->read: an edge into the source 'read'; a source has no input: "
        "let read be a @stage",
    ]
    assert problems[-1].startswith("bad.py:13: read->show: cannot be shipped: ")
    assert total == f"{len(problems)} problems"


def test_check_of_a_good_topology_says_what_each_sink_gets_and_starts_nothing(run):
    done = run("check", "good.py")
    assert done.exit_code == ExitCode.OK
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "good: nothing is wrong (stages: 2, edges: 1)",
        "  show: at_least_once: every edge on its ways is at_least_once; "
        "after a crash an item may come twice",
    ]


def test_check_shows_warnings_without_failing(run, tmp_path):
    typed = GOOD.replace("def read():", "def read() -> 'Iterator[int]':")
    (tmp_path / "typed.py").write_text("from collections.abc import Iterator\n" + typed)
    done = run("check", "typed.py")
    assert done.exit_code == ExitCode.OK
    assert done.stderr == (
        "warning: typed.py:12: read->show: read gives int, show takes str; "
        "change one of the two annotations\n"
    )


def test_check_gives_json_for_programs(run):
    bad, good = run("check", "bad.py", "--json"), run("check", "good.py", "--json")
    assert (bad.exit_code, bad.stderr) == (ExitCode.USAGE, "")
    first = json.loads(bad.stdout)["problems"][0]
    assert (first["where"], first["line"], first["fix"]) == ("read", 4, "did you mean 'replicas'?")
    assert json.loads(good.stdout)["sinks"][0]["sink"] == "show"


def test_check_tells_the_users_line_of_a_file_that_does_not_import(run, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\nx.y\n")
    done = run("check", "broken.py")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.startswith("broken.py:2: broken.py: does not import: AttributeError")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["good.py"], "read      source\n`-> show  sink\n"),
        (["good.py", "-f", "mermaid"], "flowchart LR\n"),
        (["good.py", "-f", "dot"], 'digraph "good" {\n'),
    ],
)
def test_graph_draws_on_stdout(run, arguments, text):
    done = run("graph", *arguments)
    assert done.exit_code == ExitCode.OK
    assert text in done.stdout


def test_graph_gives_json_for_programs(run):
    by_flag, by_format = run("graph", "good.py", "--json"), run("graph", "good.py", "-f", "json")
    assert by_flag.stdout == by_format.stdout
    assert json.loads(by_flag.stdout)["name"] == "good"


def test_graph_of_a_wrong_topology_shows_its_problems(run):
    done = run("graph", "bad.py")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.startswith("bad.py:4: read: unknown option 'replica'")


def test_version_names_what_a_report_needs(run):
    assert run("version").stdout.startswith("zflow 0.1.0\npython 3.")
    assert set(json.loads(run("version", "--json").stdout)) >= {"zflow", "python", "pyzmq"}


def test_an_unknown_verb_is_wrong_usage(run):
    assert run("chek").exit_code == ExitCode.USAGE


def test_an_option_can_come_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("ZFLOW_GRAPH_FORMAT", "dot")
    assert run("graph", "good.py").stdout.startswith("digraph")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example_and_the_summary_of_the_table(run, verb):
    done = run(verb, "--help")
    assert done.exit_code == ExitCode.OK
    assert f"zflow {verb}" in done.stdout.partition("Example")[2]
    assert VERBS[verb].summary in done.stdout


PROBLEM = Problem(where="x", file="f.py", line=3, message="is wrong", fix="mend it")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError([PROBLEM]), 2, "f.py:3: x: is wrong; mend it\n"),
        (Unavailable("no answer"), 3, "zflow: no answer\n"),
        (Incompatible("schema 9"), 6, "zflow: schema 9\n"),
        (ProtocolError("version 9"), 6, "zflow: version 9\n"),
        (InternalError("oops"), 1, "zflow: oops\n"),
    ],
)
def test_an_error_becomes_a_message_and_its_exit_code(error, code, text, capsys):
    show_error(error)
    assert capsys.readouterr().err == text
    assert exit_code_of(error) == code
    assert len(EXIT_CODES) == 4


def test_an_interrupt_ends_a_verb_with_130(run, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("zflow.cli.graph.load", interrupted)
    assert isinstance(main, LazyGroup)
    assert run("graph", "good.py").exit_code == ExitCode.INTERRUPTED


def test_an_error_of_configuration_needs_a_problem():
    with pytest.raises(ValueError, match="needs at least one problem"):
        ConfigError([])

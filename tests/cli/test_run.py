"""What `zflow run` refuses: exit code 2, the sentence, and nothing was started or written."""

import sys

import pytest
from click.testing import CliRunner

from zflow.cli.main import main

HEAD = "from zflow import Topology, sink, source\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `zflow ARGUMENTS` in tmp_path."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    for name in {name for name in sys.modules if name.startswith("zflow_topology_")} - modules:
        del sys.modules[name]


WRONG = {
    "no file": (None, "flow.py: cannot be read: No such file or directory"),
    "does not import": ("1 / 0", "flow.py:2: flow.py: does not import: ZeroDivisionError"),
    "syntax": ("def (", "flow.py:2: flow.py: does not import: SyntaxError"),
    "no topology": ("x = 1", "no Topology"),
    "several topologies": (
        'a = Topology("a")\nb = Topology("b")',
        "choose one: flow.py:a, flow.py:b",
    ),
}
GOOD = """
@source
def read(n: int):
    yield from range(n)

@sink
def show(x): ...

flow = Topology("good")
flow.connect(read, show)
"""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_topology_is_refused_with_2_before_anything_starts(run, tmp_path, what):
    source, said = WRONG[what]
    if source is not None:
        (tmp_path / "flow.py").write_text(HEAD + source + "\n")
    done = run("run", "flow.py")
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / ".zflow").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "read: the parameter 'n' has no value; give it: -p read.n=VALUE"),
        (["-p", "read.n=x"], "n='x' from the command line is not a whole number"),
        (["-p", "read.m=1"], "read: has no parameter 'm'"),
        (["-p", "raed.n=1"], "there is no stage 'raed'; did you mean 'read'?"),
        (["-p", "read"], "-p read: is not a parameter; write -p STAGE.NAME=VALUE"),
        (["-p", "read.n=1", "-r", "read=2"], "each would yield the same items"),
        (["-p", "read.n=1", "-r", "show=0"], "is not a number of replicas"),
        (["-p", "read.n=1", "--timeout", "0"], "Invalid value for '--timeout'"),
        (["--resume", "last", "-p", "read.n=1"], "leave -p and -r away"),
        (["--resume", "last"], "run last: there is no such run in"),
        (["--resume", "last", "--state", "absent"], "absent holds no run that can be read"),
    ],
)
def test_a_wrong_option_is_refused_with_2_before_anything_starts(run, tmp_path, arguments, said):
    (tmp_path / "flow.py").write_text(HEAD + GOOD)
    done = run("run", "flow.py", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / ".zflow").exists()


def test_all_that_is_wrong_on_the_command_line_comes_at_once(run, tmp_path):
    (tmp_path / "flow.py").write_text(HEAD + GOOD)
    done = run("run", "flow.py", "-p", "read.n=many", "-r", "shwo=2", "-r", "show=0")
    assert done.exit_code == 2
    for wrong in ("n='many'", "'shwo'", "-r show=0"):
        assert wrong in done.stderr

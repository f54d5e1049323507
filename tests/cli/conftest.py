"""A run with dead letters on disk, and `zflow` in its folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.paths import StateDirectory
from zflow.state.deadletter import DeadLetter, DeadLetterStore
from zflow.state.runs import RunRecord, write_record

ROOT = Path(__file__).parents[2]

LETTER = {
    "origin": "00000000000000aa",
    "oseq": 0,
    "path": "00000000000000bb",
    "index": 2,
    "stage": "parse",
    "edge": "read->parse",
    "attempts": 4,
    "code": "error",
    "error_class": "ValueError",
    "error": 'Traceback (most recent call last):\n  File "flow.py", line 3\nValueError: no',
    "item": b"\x80\x05K\x05.",  # 5
    "shown": "5",
    "maybe_applied": False,
    "buried_at_s": 1000.0,
    "version": "0123456789ab",
}

EMPTY_FLOW = """
from zflow import Topology, sink, source

@source
def read():
    yield 1

@sink
def parse(item): ...

flow = Topology("flow")
flow.connect(read, parse)
"""


@pytest.fixture
def zflow(tmp_path, monkeypatch):
    """`zflow("dead", "ls")` in tmp_path, in this process; `stdin=` is what it reads."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield lambda *arguments, stdin=None: CliRunner().invoke(main, arguments, input=stdin)
    for name in {name for name in sys.modules if name.startswith("zflow_topology_")} - modules:
        del sys.modules[name]


@pytest.fixture
def command(tmp_path):
    """The same in a process of its own, as a user has it."""

    def run(*arguments, stdin=subprocess.DEVNULL):
        return subprocess.run(
            [sys.executable, "-m", "zflow", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def make_run():
    """`make_run(folder, "one", "flow", [{}, {"stage": "count"}])` is an ended run on disk."""

    def make(root, run_id, topology, letters, *, started_at_s=0.0):
        state = StateDirectory(root)
        state.make()
        record = RunRecord(
            run_id=run_id,
            topology=topology,
            target="flow.py",
            attribute="flow",
            path=str(root / "flow.py"),
            digest="d",
            parameters=[],
            replicas=[],
            started_at_s=started_at_s,
            outcome="finished",
            exit_code=0,
        )
        write_record(state, record)
        state.code.write_text(EMPTY_FLOW)
        store = DeadLetterStore(state.dead_folder / "read-0.dead.sqlite")
        store.bury([DeadLetter(**{**LETTER, "oseq": k, **one}) for k, one in enumerate(letters)])
        store.close()
        return state

    return make


@pytest.fixture
def stored(tmp_path, make_run):
    """The state directory of a run with one letter of every kind."""
    letters = [
        {},
        {"stage": "count", "edge": "parse->count", "error_class": "KeyError", "shown": "x" * 99},
        {"maybe_applied": True},
        {"edge": "", "stage": "read", "item": None, "shown": "<lock>"},
        {"item": None, "shown": "<lock>"},
    ]
    return make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", letters)


@pytest.fixture
def shown():
    """`shown(done)` are the ids of a table."""
    return lambda done: [line.split()[0] for line in done.stdout.splitlines()[1:]]

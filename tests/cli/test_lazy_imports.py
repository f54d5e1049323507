"""What the command line promises about its weight: it loads what a verb needs and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOW = """
from zflow import Topology, sink, source

@source
def read():
    yield 1

@sink
def show(item): ...

flow = Topology("light")
flow.connect(read, show)
"""
PROGRAM = """
import sys
from zflow.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"zmq", "starlette", "uvicorn", "rich", "prometheus_client", "asyncio", "sqlite3"}
    print("loaded:", *sorted(heavy & sys.modules.keys()), *sys.argv[1:2], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["check", "flow.py"], ["graph", "flow.py"]])
def test_a_verb_that_starts_nothing_loads_nothing_heavy(tmp_path, arguments):
    (tmp_path / "flow.py").write_text(FLOW)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"loaded: {arguments[0]}\n"


@pytest.mark.slow
def test_help_loads_no_verb(tmp_path):
    program = PROGRAM.replace("heavy &", "{n for n in sys.modules if 'zflow.cli.c' in n} &")
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "loaded: --help\n"

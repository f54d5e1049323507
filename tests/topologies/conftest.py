"""Loading the example topologies, and running them as a user does."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
LONGEST_RUN_S = 200

Load = Callable[[str], ModuleType]
ZflowRun = Callable[..., dict]


@pytest.fixture
def load() -> Load:
    """`load("codebase")` is the module topologies/codebase.py, whose functions are plain ones."""
    return _load


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", _path_of(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path_of(name: str) -> Path:
    return ROOT / "topologies" / f"{name}.py"


@pytest.fixture
def zflow_run(tmp_path: Path) -> ZflowRun:
    """`zflow_run("codebase", "files.folder=src")` runs to the end in tmp_path, with exit code 0.

    Returns the object that `--json` prints, with what went to stderr under "stderr".
    """

    def run(name: str, *parameters: object) -> dict:
        arguments = [part for value in parameters for part in ("-p", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "zflow", "run", str(_path_of(name)), "--json", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["exit_code"] == 0
        assert summary["ledger"]
        return {**summary, "stderr": done.stderr}

    return run

"""Loading the example topologies, and running them as a user does."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psutil
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


class Going:
    """An example that goes on while a test looks at it, and kills."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zflow", "run", str(_path_of(name)), *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def replicas(self, stage: str = "") -> list[psutil.Process]:
        """The processes of a stage, or of all stages."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess, ValueError, IndexError):
                    command = child.cmdline()
                    if command[command.index("--slot") + 1].startswith(stage):
                        found.append(child)
        return found

    def kill(self, stage: str) -> bool:
        """kill -9 of every process of a stage; False if there was none."""
        victims = self.replicas(stage)
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        return bool(victims)

    def kill_everything(self) -> None:
        """kill -9 of the run and of all its replicas; nothing is left."""
        victims = self.replicas()
        self.process.kill()
        self.process.wait()
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs(victims, LONGEST_RUN_S)

    def end(self) -> None:
        """Wait for its end, which is a good one."""
        assert self.process.wait(LONGEST_RUN_S) == 0, self._log.read_text()


@pytest.fixture
def zflow_start(tmp_path: Path) -> Iterator[Callable[..., Going]]:
    """`zflow_start("codebase", "-p", "files.folder=src")` goes on until it ends or is killed."""
    started: list[Going] = []

    def start(name: str, *arguments: object) -> Going:
        started.append(Going(tmp_path, name, [str(argument) for argument in arguments]))
        return started[-1]

    yield start
    for going in started:
        if going.process.poll() is None:
            going.kill_everything()

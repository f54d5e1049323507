"""Runs small topologies as a user does: `zflow run` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LONGEST_RUN_S = 60


@dataclass
class Done:
    """A run that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What the replicas printed, sorted: replicas share the work in any order."""
        return sorted(self.out.splitlines())

    @property
    def data(self) -> dict[str, Any]:
        """The object of --json."""
        return json.loads(self.out)


class Workshop:
    """A folder with a topology, and the command line in it."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(runtime),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def write(self, source: str, name: str = "flow.py") -> None:
        """A topology file; what every one imports is put in front."""
        text = "from zflow import Topology, emit, sink, source, stage\n" + textwrap.dedent(source)
        (self.folder / name).write_text(text)

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """`zflow ARGUMENTS`; it goes on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "zflow", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: "subprocess.Popen[str]") -> Done:
        """Wait for its end."""
        out, err = process.communicate(timeout=LONGEST_RUN_S)
        return Done(process.returncode, out, err)

    def zflow(self, *arguments: object) -> Done:
        """`zflow ARGUMENTS`, to its end."""
        return self.end(self.start(*arguments))

    def run(self, source: str, *arguments: object, code: int = 0) -> Done:
        """`zflow run` of this topology, to its end, with that exit code."""
        self.write(source)
        done = self.zflow("run", "flow.py", *arguments)
        assert done.code == code, done.err
        assert not list(self.runtime.iterdir()), "the run left its directory behind"
        return done

    def read(self, name: str) -> list[str]:
        """The lines of a file that the topology wrote, sorted; none if there is no file."""
        path = self.folder / name
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def replicas(self, stage: str = "") -> list[int]:
        """The processes of a stage, or of all stages."""
        found = []
        for process in self.started:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    with suppress(psutil.NoSuchProcess):
                        command = child.cmdline()
                        if "--slot" in command:
                            slot = command[command.index("--slot") + 1]
                            if slot.startswith(stage):
                                found.append(child.pid)
        return found

    def close(self) -> None:
        """End what a failed test left."""
        for process in self.started:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def shop(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Workshop]:
    """A folder of its own, with a run directory of its own beside it."""
    runtime = tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    made = Workshop(tmp_path, runtime)
    yield made
    made.close()


Wait = Callable[[Callable[[], object], float], None]

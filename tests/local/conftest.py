"""Runs small topologies as a user does: `zflow run` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
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


class Running:
    """One `zflow` command; what it prints goes to files, so that it can be read meanwhile."""

    def __init__(self, log: Path, folder: Path, environment: dict[str, str]) -> None:
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        self._folder = folder
        self._environment = environment

    def begin(self, command: list[str]) -> None:
        """Start it."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._err.read_text()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> Done:
        """Wait for its end."""
        code = self.process.wait(timeout=LONGEST_RUN_S)
        return Done(code, self._out.read_text(), self.err)

    def replicas(self, stage: str = "") -> list[int]:
        """The processes of a stage, or of all stages."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    command = child.cmdline()
                    slot = command[command.index("--slot") + 1] if "--slot" in command else ""
                    if slot and slot.startswith(stage):
                        found.append(child.pid)
        return found


class Workshop:
    """A folder with a topology, and the command line in it."""

    def __init__(self, folder: Path, runtime: Path, logs: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.logs = logs
        self.started: list[Running] = []
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

    def start(self, *arguments: object) -> "Running":
        """`zflow ARGUMENTS`; it goes on."""
        running = Running(self.logs / str(len(self.started)), self.folder, self.environment)
        self.started.append(running)
        running.begin([sys.executable, "-m", "zflow", *map(str, arguments)])
        return running

    def zflow(self, *arguments: object) -> Done:
        """`zflow ARGUMENTS`, to its end."""
        return self.start(*arguments).end()

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

    def close(self) -> None:
        """End what a failed test left."""
        for running in self.started:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()


@pytest.fixture
def shop(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Workshop]:
    """A folder of its own, with a run directory of its own beside it."""
    runtime = tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    made = Workshop(tmp_path, runtime, tmp_path_factory.mktemp("logs"))
    yield made
    made.close()

"""One `zflow run` under attack: starts it, finds its replicas, reads what it left behind.

Decides nothing about faults or bars. Touches only processes that carry this campaign's mark.
"""

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from zflow.loader import load
from zflow.state.blackbox import read_black_box
from zflow.state.deadletter import StoredLetter, read_dead_letters

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGIES = ROOT / "scripts" / "chaos_topologies.py"
POLL_S = 0.01
MARK = "ZFLOW_CHAOS_MARK"


class Stuck(Exception):
    """Something did not happen in time."""


class Missing(Exception):
    """A campaign needs what this machine has not: a program, or the right to use it."""


def wait_until(predicate: Callable[[], object], within_s: float, what: str) -> None:
    """Poll; raises Stuck."""
    deadline_s = time.monotonic() + within_s
    while not predicate():
        if time.monotonic() > deadline_s:
            raise Stuck(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One living process of a run."""

    pid: int
    slot: str
    incarnation: int
    run: Path  # the run directory
    options: tuple[str, ...] = field(default=(), compare=False)  # of its command line

    @property
    def stage(self) -> str:
        return self.slot.rpartition("/")[0]

    def signal(self, number: int) -> bool:
        """False if it was gone already."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Site:
    """A folder for one campaign: state, run directories, records, gate, patches.

    patch: Python that every process of its runs executes first (`sitecustomize`).
    """

    def __init__(self, folder: Path, patch: str = "") -> None:
        self.folder = folder
        self.records = folder / "rec"
        self.gate = folder / "gate"
        self.runtime = folder / "r"
        self.patches = folder / "patch"
        for made in (self.records, self.runtime, self.patches):
            made.mkdir(parents=True)
        self.runtime.chmod(0o700)
        self.gate.write_text("0")
        if patch:
            (self.patches / "sitecustomize.py").write_text(patch)

    def open_gate(self, to: int) -> None:
        """Let the items below `to` through."""
        draft = self.gate.with_suffix(".new")
        draft.write_text(str(to))
        draft.replace(self.gate)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [self.patches, ROOT, ROOT / "scripts"])),
            "PYTHONFAULTHANDLER": "1",
            "XDG_RUNTIME_DIR": str(self.runtime),
            MARK: str(self.folder),
        }

    def marked(self) -> Iterator[int]:
        """Every living process that a run of this site started, directly or not."""
        mark = f"{MARK}={self.folder}".encode()
        for process in _processes():
            with suppress(OSError):  # ended meanwhile, or another user's
                if (
                    mark in (process / "environ").read_bytes().split(b"\0")
                    and _state_and_parent(process)[0] == "alive"
                ):
                    yield int(process.name)

    def kill_marked(self) -> None:
        """kill -9 of everything at once."""
        for pid in list(self.marked()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        """Sockets, locks, black boxes: everything that lies in the runtime folder."""
        return sorted(str(path.relative_to(self.runtime)) for path in self.runtime.rglob("*"))

    def recorded(self, folder: Path | None = None) -> "array[int]":
        """All records of all sink processes; half a record at an end was never acknowledged."""
        numbers = array("q")
        for path in sorted((folder or self.records).glob("*.rec")):
            raw = path.read_bytes()
            numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
        return numbers

    def dead_letters(self) -> list[StoredLetter]:
        """Of all runs of the site."""
        folders = sorted(self.folder.glob(".zflow/*/*/dead"))
        return [letter for folder in folders for letter in read_dead_letters(folder)]


class Run:
    """One `zflow run`, with its ledger as JSON on stdout."""

    def __init__(
        self,
        site: Site,
        topology: str,
        parameters: Sequence[str] = (),
        replicas: Sequence[str] = (),
        *,
        resume: bool = False,
        state: Path | None = None,
        topologies: Path = TOPOLOGIES,
        before: Sequence[str] = (),
    ) -> None:
        self.site = site
        target = f"{topologies}:{topology}"
        command = [*before, sys.executable, "-m", "zflow", "run", target, "--json"]
        if resume:
            command += ["--resume", "last"]
        if state is not None:
            command += ["--state", str(state)]
        for parameter in parameters:
            command += ["-p", parameter]
        for count in replicas:
            command += ["-r", count]
        self.out, self.err = site.folder / "out", site.folder / "err"
        with self.out.open("wb") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                command,
                cwd=site.folder,
                env=site.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._topology = target
        self._numbers: dict[str, int] = {}

    def replicas(self) -> list[Replica]:
        """Those that live now."""
        return self.replicas_of([self.process.pid])

    @staticmethod
    def replicas_of(supervisors: Collection[int]) -> list[Replica]:
        """The living ones whose parent is one of these."""
        found = []
        for process in _processes():
            with suppress(OSError, ValueError):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "zflow.replica" not in words:
                    continue
                after = dict(zip(words, words[1:], strict=False))
                state, parent = _state_and_parent(process)
                if state == "alive" and parent in supervisors:
                    found.append(
                        Replica(
                            pid=int(process.name),
                            slot=after["--slot"],
                            incarnation=int(after["--incarnation"]),
                            run=Path(after["--run"]),
                            options=tuple(words[words.index("zflow.replica") + 1 : -1]),
                        )
                    )
        return sorted(found, key=lambda replica: replica.slot)

    def counters(self, replica: Replica) -> dict[str, int]:
        """What its black box says; nothing if it has none yet."""
        if not self._numbers:
            stages = load(self._topology).topology.declared().stages
            self._numbers = {decl.name: number for number, decl in enumerate(stages)}
        number, index = self._numbers[replica.stage], replica.slot.rpartition("/")[2]
        box = read_black_box(replica.run / "b" / f"{number}-{index}.{replica.incarnation}")
        return box.counters if box is not None else {}

    def wait_records(self, n: int = 1, within_s: float = 30.0) -> None:
        """Until the sinks have kept so many items."""

        def enough() -> bool:
            if self.process.poll() is not None:
                raise Stuck(f"the run ended too early: {self.ending()}")
            sizes = [path.stat().st_size for path in self.site.records.glob("*.rec")]
            return sum(sizes) >= 8 * n

        wait_until(enough, within_s, f"{n} items at the sinks")

    def wait(self, within_s: float) -> int:
        """Its exit code; raises Stuck, with the place where it hangs."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler shows its stack
            self.process.wait(5)
            raise Stuck(f"the run has not ended within {within_s:g} s\n{self.tail()}") from None

    def result(self) -> dict | None:
        """What `--json` printed."""
        lines = self.out.read_text(errors="replace").splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            return None

    def ending(self) -> str:
        """Why it ended, in its own words."""
        result = self.result()
        said = result["outcome"] if result else self.tail()
        return f"exit code {self.process.returncode}: {said}"

    def tail(self) -> str:
        """The end of what it said to people."""
        return "\n".join(self.err.read_text(errors="replace").splitlines()[-40:])


def _processes() -> Iterator[Path]:
    """Every process now. Not by a glob: that fails if one ends while it looks at it."""
    return (Path("/proc") / name for name in os.listdir("/proc") if name.isdigit())


def _state_and_parent(process: Path) -> tuple[str, int]:
    """(alive, zombie or gone; its parent's pid)."""
    with suppress(OSError, IndexError):
        state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        return "zombie" if state == "Z" else "alive", int(parent)
    return "gone", 0

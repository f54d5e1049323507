"""Workload state: a keyed count whose state survives kill -9, in zflow and in others.

Decides how each system is run and when its result counts: only if every total is right. What each
one promises beside that is told in `bench_state_topology` and in the files of `bench_peers`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bench_words
from bench_peers import install
from bench_rounds import Figures, children_cpu_s, print_table, run_rounds, summary_of

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
ITEMS = 1_000_000
CELERY_ITEMS = 3000  # some hundred a second: rates are compared, and they do not depend on it
LONGEST_RUN_S = 300
BASE = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: the words, how many of them, and a folder for what the system keeps."""

    words: Path
    n: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """command: of the process that runs it. peer: what has to be installed for it."""

    command: Callable[[Job], list[str]]
    most_items: int = sys.maxsize
    peer: str | None = None


def zflow(topology: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        stamp = job.folder / "first_ns"
        parameters = [
            *(f"words.path={job.words}", f"words.n={job.n}", f"words.stamp={stamp}"),
            *(f"Totals.n={job.n}", f"Totals.stamp={stamp}", f"Totals.result={job.result}"),
        ]
        target = f"{SCRIPTS / 'bench_state_topology.py'}:{topology}"
        given = [part for value in parameters for part in ("-p", value)]
        return [sys.executable, "-m", "zflow", "run", target, "--json", *given]

    return command


def script(python: str | Path, name: str, *more: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        file = SCRIPTS / "bench_peers" / name
        arguments = (python, file, job.words, job.n, job.folder, job.result, *more)
        return [str(argument) for argument in arguments]

    return command


SYSTEMS = {
    "plain": System(command=script(sys.executable, "plain_state.py")),
    "zflow": System(command=zflow("state")),
    "zflow_process": System(command=zflow("state_process")),
    "bytewax": System(command=script(install.PYTHON, "bytewax_state.py"), peer="bytewax"),
    "bytewax_1s": System(
        command=script(install.PYTHON, "bytewax_state.py", "--epoch-s", "1"), peer="bytewax"
    ),
    "celery": System(
        command=script(install.PYTHON, "celery_state.py"), most_items=CELERY_ITEMS, peer="celery"
    ),
}


def usable(systems: list[str]) -> list[str]:
    """Those that can run here; says why about each of the others."""
    found = []
    for name in systems:
        peer = SYSTEMS[name].peer
        why = install.missing(peer) if peer else None
        if why:
            print(f"bench: {name} is skipped: {why}", file=sys.stderr)
        else:
            found.append(name)
    return found


def run_once(name: str, words: list[str], versions: dict[str, str]) -> Figures:
    """The figures of one run over these words; ends the bench if a total is wrong."""
    with tempfile.TemporaryDirectory(prefix="zb") as folder:
        path = Path(folder) / "words"
        path.write_text("\n".join(words))
        job = Job(words=path, n=len(words), folder=Path(folder) / "run")
        job.folder.mkdir()
        cpu_before_s = children_cpu_s()
        versions.update(execute(name, SYSTEMS[name].command(job), job))
        cpu_s = children_cpu_s() - cpu_before_s
        seen = json.loads(job.result.read_text())
    check(name, seen["counts"], words)
    elapsed_s = (seen["last_ns"] - seen["first_ns"]) / 1e9
    return {"items_per_s": len(words) / elapsed_s, "cpu_us_per_item": 1e6 * cpu_s / len(words)}


def execute(name: str, command: list[str], job: Job) -> dict[str, str]:
    """Run to its end; the versions that a peer says."""
    done = subprocess.run(
        command,
        cwd=job.folder,  # the state of a run of zflow goes below it
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(SCRIPTS)))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_RUN_S,
        check=False,
    )
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.splitlines()[-20:])
        raise SystemExit(f"bench: {name} ended with exit code {done.returncode}:\n{last_lines}")
    return {} if name.startswith("zflow") else json.loads(done.stdout)


def check(name: str, counts: dict[str, int], words: list[str]) -> None:
    """Every system must find what a Counter finds."""
    wanted = bench_words.reference(words)
    wrong = sorted(w for w in wanted.keys() | counts.keys() if counts.get(w) != wanted.get(w))
    if wrong:
        some = ", ".join(f"{w} {counts.get(w)} (not {wanted.get(w)})" for w in wrong[:5])
        raise SystemExit(f"bench: {name} counted {len(wrong)} words wrong: {some}")


def run(systems: list[str], rounds: int, items: int | None) -> dict[str, object]:
    """Measure, print the table; the report."""
    versions: dict[str, str] = {}
    words = bench_words.draw(items or ITEMS)
    there = usable(systems)
    # Starting the processes costs CPU time as well; a run of one word is little else.
    starts = {one: run_once(one, words[:1], versions)["cpu_us_per_item"] for one in there}

    def measure(name: str) -> Figures:
        some = words[: SYSTEMS[name].most_items]
        figures = run_once(name, some, versions)
        figures["cpu_us_per_item"] -= starts[name] / len(some)
        return figures

    summary = summary_of(run_rounds("state", there, rounds, measure), BASE)
    print_table("state", summary, BASE)
    return {"versions": versions, **summary}

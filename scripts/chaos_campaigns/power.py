"""The power fails (C28): what was acknowledged is on the disk, whatever was not synced is not.

First a whole run under strace: every commit of an anchor has synced its file. Then one process
that commits to each kind of file, whose system calls are played to a disk that forgets; after each
of many power losses the files must hold all that the process had been told.
"""

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chaos_campaigns import exact
from chaos_campaigns.campaign import Campaign, Job, Twin, finish
from chaos_campaigns.lost_disk import STRACE, Call, Disk, calls_of
from chaos_campaigns.process import Missing, Site
from chaos_campaigns.verdict import Verdict
from zflow.connectors.files import JsonLines
from zflow.connectors.sqlite import SqliteTable
from zflow.errors import ZflowError
from zflow.state.deadletter import read_dead_letters
from zflow.state.partition import PartitionFile
from zflow.state.positions import PositionFile

STDOUT = 1
PLACE = {"stage": "count", "partition": 0, "partitions": 64}
CHANCES = (0.0, 0.5, 0.9)  # of a write that was not synced
# A log for each thread, so that no line is cut in two.
_SYNC = (*STRACE[:5], "-ff", "-xx", "-e", "trace=fsync,fdatasync", "-o")

# Each process writes down the file of every commit before it says that it is done.
WITNESS = """
import os, sys
if "zflow.replica" in sys.orig_argv:
    from zflow.connectors.database import OwnedDatabase
    from zflow.state.partition import PartitionFile
    _path = os.path.join(os.path.dirname(__file__), f"{os.getpid()}.commits")
    _file = open(_path, "a", buffering=1)
    _commit, _store = PartitionFile.commit, OwnedDatabase.store_progress
    def commit(self, batch):
        _commit(self, batch)
        _file.write(f"{self._path}\\n")
    def store(self, progress):
        _store(self, progress)
        _file.write(f"{self.path}\\n")
    PartitionFile.commit, OwnedDatabase.store_progress = commit, store
"""

OWNER = """
import os
import sys
from pathlib import Path
from zflow.connectors.files import JsonLines
from zflow.connectors.sqlite import SqliteTable
from zflow.state.deadletter import DeadLetter, DeadLetterStore
from zflow.state.partition import Batch, OutboxRow, PartitionFile
from zflow.state.positions import PositionFile

folder, commits = Path(sys.argv[1]), int(sys.argv[2])
partition = PartitionFile(
    folder / "000.sqlite", stage="count", partition=0, partitions=64, durability="power"
)
table = SqliteTable(folder / "table.sqlite", table="t", columns=("n", "text"))
lines = JsonLines(folder / "lines.jsonl")
table.open()
lines.open()
position = PositionFile(folder / "position.sqlite")
letters = DeadLetterStore(folder / "stage-0.dead.sqlite")
for n in range(commits):
    key = str(n).encode()
    row = OutboxRow(first=n, n=1, raw=key)
    partition.commit(Batch(state=[(key, key * 99)], outbox=[row], next_oseq=n + 1))
    progress = [(b"n", key)]
    table.commit([(n, "x" * 99)], [str(n)], progress)
    lines.commit([{"n": n}], [str(n)], progress)
    position.store(n + 1, ended=False, mark=None)
    letters.bury([DeadLetter(
        origin="a", oseq=n, path="b", index=0, stage="s", edge="e", attempts=1, code="error",
        error_class="E", error="e", item=b"", shown="1", maybe_applied=False, buried_at_s=1.0,
    )])
    os.write(1, b"%d\\n" % n)
"""


def play_power_loss(job: Job) -> Verdict:
    """C28."""
    verdict = Verdict()
    if shutil.which("strace") is None:
        raise Missing("strace is not installed")
    count_syncs(job, verdict)
    lose_power(job, verdict)
    return verdict


def count_syncs(job: Job, verdict: Verdict) -> None:
    """Every commit of an anchor has synced what it wrote."""
    n = job.number("items")
    site = job.site("run", patch=WITNESS)
    site.open_gate(n)
    log = site.folder / "strace"
    run = exact.start(site, n, before=(*_SYNC, str(log)))
    finish(run, verdict, exact.DRAIN_S)
    exact.judge(verdict, site, n)
    syncs = Counter(
        call.path.removesuffix("-wal")
        for path in site.folder.glob("strace.*")
        for call in calls_of(path.read_text().splitlines())
    )
    commits: Counter[str] = Counter()
    for path in site.patches.glob("*.commits"):
        commits.update(path.read_text().splitlines())
    few = [path for path in commits if syncs[path] < commits[path]]
    verdict.facts |= {"commits": commits.total(), "files": len(commits)}
    verdict.need(commits.total() > 0, "no commit was seen")
    verdict.need(not few, f"{len(few)} files with fewer syncs than commits: {few[:3]}")


def lose_power(job: Job, verdict: Verdict) -> None:
    """The files after each of many power losses."""
    site = job.site("owner")
    folder = site.folder / "files"
    folder.mkdir()
    log = site.folder / "strace"
    subprocess.run(
        [*STRACE, str(log), sys.executable, "-c", OWNER, str(folder), str(job.number("commits"))],
        env=site.environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    calls = list(calls_of(log.read_text().splitlines()))
    begin = next(at for at, call in enumerate(calls) if is_told(call))
    moments = sorted(job.dice.sample(range(begin + 1, len(calls)), job.number("losses")))
    lost = 0
    for told, files in crashes(calls, folder, moments, job.dice):
        lost += missing(site, folder, files, told, verdict)
        if len(verdict.broken) > len(CHANCES):
            break
    verdict.faults = {"power losses": len(moments)}
    verdict.facts["lost_commits"] = lost
    verdict.need(lost == 0, f"{lost} commits gone after a power loss, though they were told")


def is_told(call: Call) -> bool:
    return call.name == "write" and call.descriptor == STDOUT


def crashes(
    calls: list[Call], folder: Path, moments: list[int], dice: random.Random
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """How many commits were told, and the files, at each moment."""
    disk, told = Disk(folder), 0
    due = iter(moments)
    next_at = next(due)
    for at, call in enumerate(calls):
        if is_told(call):
            told = int(call.text) + 1
        disk.feed(call)
        if at == next_at:
            yield told, disk.after_power_loss(dice, dice.choice(CHANCES))
            next_at = next(due, -1)


def missing(site: Site, before: Path, files: dict[str, bytes], told: int, verdict: Verdict) -> int:
    """How many of the commits that were told are not in the files."""
    folder = site.folder / "after"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / Path(name).relative_to(before)).write_bytes(content)
    lost = 0
    for kind, kept in KEPT.items():
        try:
            found = kept(folder)
        except (ZflowError, OSError, ValueError) as error:
            verdict.broken.append(f"{kind}: cannot be read after a power loss: {error}")
            found = 0
        lost += max(0, told - found)
    return lost


def in_partition(folder: Path) -> int:
    file = PartitionFile(folder / "000.sqlite", **PLACE, durability="process")  # type: ignore[arg-type]
    try:
        n = file.loaded.next_oseq
        state = {str(k).encode(): str(k).encode() * 99 for k in range(n)}
        if dict(file.items()) != state or [row.first for row in file.loaded.outbox] != [*range(n)]:
            raise ValueError("half a commit")
        return n
    finally:
        file.close()


def in_table(folder: Path) -> int:
    table = SqliteTable(folder / "table.sqlite", table="t", columns=("n", "text"))
    table.open()
    try:
        (found,) = (int(value) for _, value in table.load_progress() or [(b"n", b"-1")])
        rows = (
            table._database.connection.execute("SELECT n FROM t").fetchall() if found >= 0 else []
        )
        if rows != [(k,) for k in range(found + 1)]:
            raise ValueError("half a commit")
        return found + 1
    finally:
        table.close()


def in_lines(folder: Path) -> int:
    lines = JsonLines(folder / "lines.jsonl")
    lines.open()
    try:
        (found,) = (int(value) for _, value in lines.load_progress() or [(b"n", b"-1")])
        wanted = [f'{{"n": {k}}}' for k in range(found + 1)]
        text = (folder / "lines.jsonl").read_text().splitlines()
        if [line.replace(" ", "") for line in text] != [line.replace(" ", "") for line in wanted]:
            raise ValueError("half a commit")
        return found + 1
    finally:
        lines.close()


def in_position(folder: Path) -> int:
    position = PositionFile(folder / "position.sqlite")
    try:
        return position.load().low
    finally:
        position.close()


def in_letters(folder: Path) -> int:
    return len(list(read_dead_letters(folder)))


KEPT = {
    "partition": in_partition,
    "table": in_table,
    "lines": in_lines,
    "position": in_position,
    "letters": in_letters,
}

# --- twins ----------------------------------------------------------------------------------------

NO_SYNC = """
from zflow.connectors import database
from zflow.state import schema
database.SYNCHRONOUS["power"] = schema.SYNCHRONOUS["power"] = "NORMAL"
"""

CAMPAIGNS = (
    Campaign(
        name="C28",
        title="the power fails: each commit has synced its file, and what was told is there",
        full={"items": 20_000, "commits": 500, "losses": 400},
        ci={"items": 2_000, "commits": 60, "losses": 60},
        play=play_power_loss,
        twin=Twin(patch=NO_SYNC, breaks="gone after a power loss"),
    ),
)

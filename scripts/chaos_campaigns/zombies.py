"""Processes that go on after they were replaced: by the locks they cannot be replaced at all (D3),
and where all locks are off, the file itself refuses what the old process still wants to write (D4).

D4 takes away what the run does for its safety first: its processes hold no locks, and a stopped
process is taken for dead without being killed, so that it works on beside its successor.
"""

import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from chaos_campaigns import exact
from chaos_campaigns.campaign import Campaign, Job, Twin
from chaos_campaigns.process import POLL_S, Replica, Run, Stuck, wait_until
from chaos_campaigns.slow import start_successor, was_refused
from chaos_campaigns.verdict import Verdict
from zflow.errors import Unavailable
from zflow.state.partition import PartitionFile

STAGES = ("Tally", "Rows")
# The last words of a process that has been replaced -> how they are counted.
REFUSALS = {
    "another process has acquired this partition": "fenced",
    "another process has opened this sink since": "superseded",
    "of this slot is known: ending": "told by a peer",
}
ENDS_WITHIN_S = 2.0  # one that has nothing to write never learns that it was replaced
PARTITIONS = 64
QUEUES_S = 0.5  # what comes meanwhile waits for the stopped process, and is its work when it wakes


def stop_busy(run: Run, stage: str, *, beyond: int) -> Replica:
    """Stop a process of the stage that has something to do."""
    found: list[Replica] = []

    def busy() -> bool:
        found[:] = [
            replica
            for replica in run.replicas()
            if replica.stage == stage and run.counters(replica).get("processed", 0) > 0
        ]
        return bool(found) and exact.settled_by(run) >= beyond

    wait_until(busy, 60, f"work at {stage}")
    found[0].signal(signal.SIGSTOP)
    return found[0]


# --- D3 -------------------------------------------------------------------------------------------


def play_locked(job: Job) -> Verdict:
    """D3. A successor of the slot is refused, and who wants a partition of a stopped owner."""
    n, stops = job.number("items"), job.number("stops")
    verdict = Verdict(faults={"stops": stops})
    site = job.site()
    run = exact.start(site, n)
    seen: Counter[str] = Counter()
    gates = list(exact.rounds(n, stops))
    site.open_gate(gates[0])
    for k, gate in enumerate(gates):
        victim = stop_busy(run, STAGES[k % len(STAGES)], beyond=gates[k - 1] if k else 1)
        site.open_gate(gate + n // (stops + 1))
        until_s = time.monotonic() + job.dice.uniform(job.size["least_s"], job.size["most_s"])
        seen["slot refused"] += was_refused(start_successor(site, victim))
        if victim.stage == "Tally":
            seen["partition refused"] += partition_refused(site.folder, victim)
        while time.monotonic() < until_s:
            time.sleep(POLL_S)
        victim.signal(signal.SIGCONT)
    verdict.facts |= dict(seen)
    verdict.need(seen["slot refused"] == stops, f"{seen['slot refused']} successors refused")
    owners = -(-stops // len(STAGES))
    verdict.need(
        seen["partition refused"] == owners,
        f"{seen['partition refused']} of {owners} partitions refused to others",
    )
    exact.finish_exact(job, run, verdict, n)
    return verdict


def partition_refused(folder: Path, owner: Replica) -> bool:
    """Whether nobody else can acquire a partition that a living owner has acquired."""
    index = int(owner.slot.rpartition("/")[2])
    mine = [path for path in exact.partition_files(folder) if int(path.stem) % 2 == index]
    acquired = [path for path in mine if fence_of(path)]  # it may have stopped while it opened one
    return bool(acquired) and all(map(is_refused, acquired))


def fence_of(path: Path) -> int:
    """How often the file has been acquired; 0 while it is being made."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT fence FROM meta").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def is_refused(path: Path) -> bool:
    """Whether the partition cannot be acquired, since somebody holds it."""
    place = {"stage": "Tally", "partition": int(path.stem), "partitions": PARTITIONS}
    try:
        PartitionFile(path, **place, durability="process").close()  # type: ignore[arg-type]
    except Unavailable as error:
        return "another process holds partition" in str(error)
    return False


# --- D4 -------------------------------------------------------------------------------------------

# The supervisor takes a process for dead whose pid is the name of a file in the folder `lost`.
NO_LOCKS_NO_KILL = """
import os
from zflow import locks
from zflow.supervisor.supervise import Supervisor
def _open(self, path, held):
    self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
locks.FileLock.__init__ = _open
locks.FileLock.release = lambda self: None
from zflow.replica.process import SlotLock
SlotLock.__init__ = lambda self, path: None
_lost = os.path.join(os.path.dirname(os.path.dirname(__file__)), "lost")
_kept = []
class Gone:
    pid, returncode = 1 << 23, -9
    def poll(self):
        return self.returncode
_reap = Supervisor.reap
def reap(self):
    for member in self.members.values():
        if member.process and os.path.exists(os.path.join(_lost, str(member.process.pid))):
            _kept.append(member.process)
            member.process = Gone()
    return _reap(self)
Supervisor.reap = reap
"""


def play_fenced(job: Job) -> Verdict:
    """D4. The old process goes on while its successor works, and may write nothing."""
    n, stops = job.number("items"), job.number("stops")
    verdict = Verdict(faults={"zombies": stops})
    site = job.site(patch=NO_LOCKS_NO_KILL)
    (site.folder / "lost").mkdir()
    run = exact.start(site, n)
    gates = list(exact.rounds(n, stops))
    site.open_gate(gates[0])
    seen: Counter[str] = Counter()
    for k, gate in enumerate(gates):
        zombie = stop_busy(run, STAGES[k % len(STAGES)], beyond=gates[k - 1] + 1 if k else 1)
        site.open_gate(gate + n // (stops + 1))
        time.sleep(QUEUES_S)
        seen["worked beside"] += replace(run, zombie, within_s=job.size["least_s"])
        time.sleep(job.dice.uniform(0, job.size["most_s"] - job.size["least_s"]))
        zombie.signal(signal.SIGCONT)
        seen["ended"] += has_ended(zombie)
    exact.finish_exact(job, run, verdict, n)
    seen += refusals(run)
    verdict.facts |= dict(seen)
    verdict.need(seen["worked beside"] > 0, "no successor worked beside the old process")
    verdict.need(seen["fenced"] + seen["superseded"] > 0, "no commit was refused by the file")
    site.kill_marked()
    return verdict


def replace(run: Run, zombie: Replica, within_s: float) -> bool:
    """The supervisor takes it for dead; whether its successor works soon.

    It cannot if the old one was stopped in the middle of a transaction.
    """
    (run.site.folder / "lost" / str(zombie.pid)).touch()

    def works() -> bool:
        return any(
            replica.slot == zombie.slot
            and replica.incarnation > zombie.incarnation
            and run.counters(replica).get("processed", 0) > 0
            for replica in run.replicas()
        )

    with suppress(Stuck):
        wait_until(works, within_s, "")
        return True
    return False


def has_ended(zombie: Replica) -> bool:
    """Whether it ends by itself soon; it is killed otherwise."""
    with suppress(Stuck):
        wait_until(lambda: not lives(zombie), ENDS_WITHIN_S, "")
        return True
    zombie.signal(signal.SIGKILL)
    return False


def lives(zombie: Replica) -> bool:
    """Whether the process still runs; nobody waits for it once it was taken for dead."""
    with suppress(OSError):
        stat = (Path("/proc") / str(zombie.pid) / "stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def refusals(run: Run) -> Counter[str]:
    """What the replaced processes said at their end, by kind."""
    said = run.err.read_text(errors="replace")
    return Counter({kind: said.count(words) for words, kind in REFUSALS.items()})


# --- twins ----------------------------------------------------------------------------------------

NO_PARTITION_LOCK = """
from zflow.state import partition
class NoLock:
    def __init__(self, path, held): pass
    def release(self): pass
partition.FileLock = NoLock
"""
NO_FENCE = """
from contextlib import contextmanager
from zflow.connectors.database import Database, OwnedDatabase
from zflow.state.partition import PartitionFile
PartitionFile._check = lambda self, fence: None
@contextmanager
def transaction(self):
    with Database.transaction(self) as db:
        yield db
OwnedDatabase.transaction = transaction
"""

CAMPAIGNS = (
    Campaign(
        name="D3",
        title="SIGSTOP of owners of keyed state and of the sink, successors meanwhile, SIGCONT",
        full={"items": 200_000, "stops": 20, "least_s": 5, "most_s": 30},
        ci={"items": 30_000, "stops": 4, "least_s": 1, "most_s": 2},
        play=play_locked,
        twin=Twin(
            patch=NO_PARTITION_LOCK,
            breaks="partitions refused to others",
            size={"items": 5_000, "stops": 1, "least_s": 0.5, "most_s": 1},
        ),
    ),
    Campaign(
        name="D4",
        title="the same without any lock, the stopped process goes on beside its successor",
        full={"items": 200_000, "stops": 20, "least_s": 5, "most_s": 30},
        ci={"items": 30_000, "stops": 4, "least_s": 5, "most_s": 6},
        play=play_fenced,
        twin=Twin(
            patch=NO_FENCE,
            breaks="not exact",
            size={"items": 30_000, "stops": 4, "least_s": 5, "most_s": 6},
        ),
    ),
)

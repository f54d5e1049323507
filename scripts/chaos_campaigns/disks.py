"""Disks that are full (C10): below the state, the dead letters, the positions, the sink's table.

Each lies on a small tmpfs of its own, which this campaign mounts and fills; that takes root. While
one is full, whatever the source calls settled must be on the disks that have space.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import chaos_durable as user

from chaos_campaigns import exact
from chaos_campaigns.campaign import Campaign, Job, Twin, finish
from chaos_campaigns.process import Missing, Site, Stuck, wait_until
from chaos_campaigns.verdict import Verdict
from zflow.state.deadletter import read_dead_letters
from zflow.state.partition import Loaded
from zflow.state.reader import read_partition

# SQLite keeps up to 4 MiB beside each of the 64 partition files.
SIZE_MIB = {"partitions": 640, "dead": 16, "positions": 8, "table": 64}
ALARM_WITHIN_S = GOES_ON_WITHIN_S = 5.0
LOOK_S = 0.5  # how long a disk stays full before its run is examined
CHUNK, PAGE = bytes(1 << 20), bytes(4096)
SOURCE = "partly_bad"
FULL = ("disk is full", "No space left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disks:
    """Where everything of one run lies."""

    site: Site

    @property
    def state(self) -> Path:
        return self.site.folder / "state"

    @property
    def rows(self) -> Path:
        return self.folder("table") / "rows.sqlite"

    def folder(self, name: str) -> Path:
        return self.site.folder / name if name == "table" else self.state / name

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """A tmpfs for each; all are gone afterwards."""
        done: list[Path] = []
        try:
            for name, mib in SIZE_MIB.items():
                folder = self.folder(name)
                folder.mkdir(parents=True)
                options = f"size={mib}m,mode=0700"
                command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
                said = subprocess.run(command, capture_output=True, text=True, check=False)
                if said.returncode != 0:
                    raise Missing(f"a tmpfs cannot be mounted here: {said.stderr.strip()}")
                done.append(folder)
            self.state.chmod(0o700)
            yield
        finally:
            self.site.kill_marked()
            for folder in done:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)

    def fill(self, name: str) -> Path:
        """Not a page is left; the file to delete for more space."""
        filler = self.folder(name) / "filler"
        with filler.open("ab", buffering=0) as file:
            for block in (CHUNK, PAGE):
                with suppress(OSError):
                    while file.write(block) == len(block):
                        pass
        return filler


class Flow:
    """One run on these disks, and its gate."""

    def __init__(self, disks: Disks, n: int) -> None:
        self.disks = disks
        self.n = n
        self.gate = 0
        self.run = exact.start(
            disks.site, n, "complaining", source=SOURCE, rows=disks.rows, state=disks.state
        )
        self.alarms = dict.fromkeys(SIZE_MIB, 0)
        self._read = 0

    def open(self, more: int) -> None:
        """Let some more items through."""
        self.gate = min(self.n, self.gate + more)
        self.disks.site.open_gate(self.gate)

    def settled(self) -> int:
        return exact.settled_by(self.run, SOURCE)

    def listen(self) -> None:
        """Only what is said from now on counts."""
        self._read = self.run.err.stat().st_size

    def alarmed(self, name: str) -> bool:
        """Whether a line says that this disk is full and that nothing is lost."""
        with self.run.err.open("rb") as file:
            file.seek(self._read)
            lines = file.read().decode(errors="replace").splitlines()
        place = str(self.disks.folder(name))
        return any(
            place in line and "nothing is lost" in line and any(word in line for word in FULL)
            for line in lines
        )

    def kill(self) -> None:
        """kill -9 of everything."""
        self.disks.site.kill_marked()
        self.run.wait(5)
        wait_until(lambda: not list(self.disks.site.marked()), 5, "the end of every process")

    def resume(self) -> None:
        self.run = exact.resume(self.disks.site, "complaining", self.disks.state)


def play_full_disks(job: Job) -> Verdict:
    """C10. Each disk is filled and gets space again; some are filled once more, and everything is
    killed before there is space."""
    n, turns = job.number("items"), job.number("turns")
    verdict = Verdict(faults=dict.fromkeys(SIZE_MIB, 0))
    disks = Disks(site=job.site())
    with disks.mounted():
        flow = Flow(disks, n)
        step = n // (turns * len(SIZE_MIB) * 4)
        flow.open(step)
        exact.wait_settled(flow.run, step // 2, stage=SOURCE)
        for _ in range(turns):
            for k, name in enumerate(SIZE_MIB):
                fill_and_go_on(flow, name, step, verdict)
                if k < job.number("kills"):
                    fill_and_kill(flow, name, step, verdict)
        # The log of the table may have room for all that comes to it while its disk is full.
        silent = [name for name, n in flow.alarms.items() if n == 0 and name != "table"]
        verdict.need(not silent, f"never an alarm about {silent}")
        flow.open(n)
        finish(flow.run, verdict, exact.DRAIN_S + n / exact.SLOWEST_PER_S)
        judge(disks, verdict, n)
    return verdict


def fill_and_go_on(flow: Flow, name: str, step: int, verdict: Verdict) -> None:
    """Fill a disk, look at what is settled, and make space."""
    filler = fill_and_look(flow, name, step, verdict)
    progress = PROGRESS[name]
    before = progress(flow)
    filler.unlink()
    flow.open(step)
    took_s = seconds_until(lambda: progress(flow) > before, GOES_ON_WITHIN_S)
    verdict.need(took_s <= GOES_ON_WITHIN_S, f"{name}: nothing goes on although there is space")
    slowest(verdict, "goes_on_s", took_s)


def fill_and_kill(flow: Flow, name: str, step: int, verdict: Verdict) -> None:
    """Fill a disk, and kill everything before there is space."""
    filler = fill_and_look(flow, name, step, verdict)
    flow.kill()
    filler.unlink()
    flow.resume()
    wait_until(lambda: flow.settled() > 0 or flow.run.process.poll() is not None, 30, "the run")
    flow.open(step // 4)


def fill_and_look(flow: Flow, name: str, step: int, verdict: Verdict) -> Path:
    """The alarm, and what is called settled meanwhile."""
    verdict.faults[name] += 1
    flow.listen()
    filler = flow.disks.fill(name)
    flow.open(step)
    took_s = seconds_until(lambda: flow.alarmed(name), ALARM_WITHIN_S)
    if took_s <= ALARM_WITHIN_S:
        flow.alarms[name] += 1
        slowest(verdict, "alarm_s", took_s)
    else:  # SQLite writes again into the room that its log has, as long as that is enough
        verdict.need(all_through(flow, name), f"{name}: something waits, and there is no alarm")
    time.sleep(LOOK_S)
    false = false_acks(flow)
    verdict.facts["false_acks"] = verdict.facts.get("false_acks", 0) + false  # type: ignore[operator]
    verdict.need(false == 0, f"{name}: {false} acknowledged, and nowhere on disk")
    verdict.need(flow.run.process.poll() is None, f"{name}: the run ended: {flow.run.tail()}")
    return filler


def all_through(flow: Flow, name: str) -> bool:
    """Everything that was let through is on that disk."""
    if name == "positions":
        return exact.stored_low(position_of(flow.disks)) == flow.gate
    if name == "table":
        made = sum(loaded(path).next_oseq for path in exact.partition_files(flow.disks.state))
        return len(exact.read_rows(flow.disks.rows)) == made
    return flow.settled() == flow.gate


def seconds_until(predicate: Callable[[], object], within_s: float) -> float:
    """How long it took; infinite if it did not happen."""
    began_s = time.monotonic()
    with suppress(Stuck):
        wait_until(predicate, within_s, "")
        return time.monotonic() - began_s
    return float("inf")


def slowest(verdict: Verdict, fact: str, took_s: float) -> None:
    verdict.facts[fact] = round(max(took_s, verdict.facts.get(fact, 0.0)), 2)  # type: ignore[type-var]


# What grows when a disk has space again.
PROGRESS: dict[str, Callable[[Flow], int]] = {
    "partitions": Flow.settled,
    "dead": Flow.settled,
    "positions": lambda flow: exact.stored_low(position_of(flow.disks)),
    "table": lambda flow: len(exact.read_rows(flow.disks.rows)),
}


def position_of(disks: Disks) -> Path:
    return disks.folder("positions") / f"{SOURCE}-0.sqlite"


def is_bad(number: int) -> bool:
    return number % user.BAD_EVERY == user.BAD_EVERY - 1


def false_acks(flow: Flow) -> int:
    """What the source and the partitions take for settled and no disk has."""
    low = max(flow.settled(), exact.stored_low(position_of(flow.disks)))
    files = exact.partition_files(flow.disks.state)
    sent = sum(loaded(path).outbox_low for path in files)
    wanted = exact.tallies(k for k in range(low) if not is_bad(k))
    found = exact.read_state(files)
    missing = 0
    for key, (n, _) in wanted.items():
        has, _ = found.get(key, (0, 0))  # type: ignore[misc]
        missing += max(0, n - has)
    letters = {stored.letter.oseq for stored in read_dead_letters(flow.disks.folder("dead"))}
    missing += sum(1 for k in range(low) if is_bad(k) and k not in letters)
    return missing + max(0, sent - len(exact.read_rows(flow.disks.rows)))


def loaded(path: Path) -> Loaded:
    """What a partition file holds beside its state."""
    with read_partition(path) as reader:
        if reader is None:
            raise Stuck(f"{path} has never had an owner")
        return reader.load()


def judge(disks: Disks, verdict: Verdict, n: int) -> None:
    """Rows, state and dead letters equal the reference."""
    wanted = exact.tallies(k for k in range(n) if not is_bad(k))
    exact.compare(verdict, wanted, disks.rows, exact.partition_files(disks.state))
    letters = [stored.letter.oseq for stored in read_dead_letters(disks.folder("dead"))]
    bad = [k for k in range(n) if is_bad(k)]
    verdict.dead = len(letters)
    verdict.need(sorted(letters) == bad, f"{len(letters)} dead letters of {len(bad)} bad items")


# --- twins ----------------------------------------------------------------------------------------

ACK_WITHOUT_SPACE = """
from zflow.replica.committer import Committer
from zflow.errors import Unavailable
_commit = Committer._commit
def commit(self, file, batch):
    try:
        file.commit(batch)
    except Unavailable as error:
        self._repeating.warning("cannot commit: %s; nothing is lost, it is said", error)
    return True
Committer._commit = commit
"""

CAMPAIGNS = (
    Campaign(
        name="C10",
        title="disks that are full: below state, dead letters, positions, the sink's table",
        full={"items": 400_000, "turns": 5, "kills": 4},
        ci={"items": 40_000, "turns": 1, "kills": 2},
        play=play_full_disks,
        twin=Twin(
            patch=ACK_WITHOUT_SPACE,
            breaks="nowhere on disk",
            size={"items": 20_000, "turns": 1, "kills": 1},
        ),
    ),
)

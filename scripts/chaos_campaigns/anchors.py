"""kill -9 around keyed state on disk, after which the sink's rows and the state must be exact.

Of any replica (D1), of everything (D2), of the source between an acknowledgement and its stored
position (C20).
"""

import random
import signal
import time

import psutil

from chaos_campaigns import exact
from chaos_campaigns.campaign import Campaign, Job, Twin
from chaos_campaigns.kills import Killer
from chaos_campaigns.process import POLL_S, Replica, Run, Site, Stuck, wait_until
from chaos_campaigns.verdict import Verdict

STAGES = ("numbers", "spread", "Tally", "Rows")
LEAST_AGE_S = 1.5  # a process that never came to work counts towards a crash loop
CAUGHT_WITHIN_S = 60.0
TRICKLE_PER_S = 1000  # items
MOST_AHEAD = 1000  # items, so that a slow machine does not use them up between two kills


class PatientKiller(Killer):
    """Kills only processes that have worked, not at once, and none twice."""

    def __init__(self, run: Run, dice: random.Random) -> None:
        super().__init__(run, dice)
        self._killed: set[int] = set()  # some of them may still be seen for a moment

    def _ready(self, stage: str) -> list[Replica]:
        return [
            replica
            for replica in self.run.replicas()
            if replica.stage == stage and self._may_die(replica)
        ]

    def _may_die(self, replica: Replica) -> bool:
        if replica.pid in self._killed or age_s(replica) < LEAST_AGE_S:
            return False
        counters = self.run.counters(replica)
        return counters.get("processed", 0) + counters.get("duplicates", 0) > 0

    def kill(self, victims: list[Replica]) -> None:
        """All at once."""
        self._killed.update(victim.pid for victim in victims)
        super().kill(victims)


def age_s(replica: Replica) -> float:
    """How long a process lives; 0 if it does not."""
    try:
        return time.time() - psutil.Process(replica.pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


# --- D1 -------------------------------------------------------------------------------------------


def play_replicas(job: Job) -> Verdict:
    """D1. Before each kill the gate opens a little, so that something is on the way."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    run = exact.start(job.site(), n)
    killer = PatientKiller(run, job.dice)
    run.site.open_gate(n // (kills + 1))
    stages = [STAGES[k % len(STAGES)] for k in range(kills)]
    job.dice.shuffle(stages)
    for k, stage in enumerate(stages, 2):
        run.site.open_gate(n * k // (kills + 1))
        victim = killer.victim(stage)
        exact.pause(job)
        killer.kill([victim])
    verdict.faults = dict(killer.kills)
    least = job.number("each")
    for stage in STAGES:
        verdict.need(killer.kills[stage] >= least, f"{stage} was killed fewer than {least} times")
    exact.finish_exact(job, run, verdict, n)
    verdict.need(verdict.recovered > 0, "no unit was ever sent again: nothing was hit")
    return verdict


# --- D2 -------------------------------------------------------------------------------------------


def play_everything(job: Job) -> Verdict:
    """D2. kill -9 of every process of the run at a random moment, then `--resume last`."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict(faults={"everything": 0})
    site = job.site()
    run = exact.start(site, n)
    for k in range(kills):
        site.open_gate(n * (k + 1) // kills)
        wait_until(lambda: list(site.folder.glob(".zflow/*/*/run.json")), 10, "the run's record")
        if k % 3 == 2:  # at a random moment of the start, else in the middle of the work
            time.sleep(job.dice.uniform(0, 1.5))
        else:
            exact.wait_settled(run, n * k // kills + job.dice.randrange(1, n // kills))
        verdict.faults["everything"] += 1
        site.kill_marked()
        run.wait(5)
        wait_until(lambda: not list(site.marked()), 5, "the end of every process")
        run = exact.resume(site)
    exact.finish_exact(job, run, verdict, n)
    return verdict


# --- C20 ------------------------------------------------------------------------------------------


def play_unstored(job: Job) -> Verdict:
    """C20. The source dies when it has settled more than its file says, again and again."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict(faults={"numbers": kills})
    run = exact.start(job.site(), n)
    gate = Trickle(run.site, n)
    unstored = [kill_between(run, gate) for _ in range(kills)]
    verdict.facts["unstored"] = f"{min(unstored)} to {max(unstored)} each"
    verdict.need(gate.at < n, "the items were through before the last kill")
    exact.finish_exact(job, run, verdict, n)
    return verdict


class Trickle:
    """A gate that opens bit by bit, so that something is settled all the time."""

    def __init__(self, site: Site, n: int) -> None:
        self.at = 0
        self._site = site
        self._n = n
        self._began_s = time.monotonic()

    def turn(self) -> None:
        """As far as the time that has passed since the last call allows."""
        passed_s = time.monotonic() - self._began_s
        self._began_s += passed_s
        self.at = min(self._n, self.at + 1 + int(TRICKLE_PER_S * min(passed_s, 0.1)))
        self._site.open_gate(self.at)


def kill_between(run: Run, gate: Trickle) -> int:
    """Wait until more is settled than stored, and kill; how much more."""
    beyond = gate.at  # so that each kill hits other units
    deadline_s = time.monotonic() + CAUGHT_WITHIN_S
    while time.monotonic() < deadline_s:
        if run.process.poll() is not None:
            raise Stuck(f"the run ended under the kills: {run.ending()}")
        source = exact.source_of(run)
        low = run.counters(source).get("low", 0) if source is not None else 0
        if gate.at < max(beyond, low) + MOST_AHEAD:
            gate.turn()
        if source is not None and low > beyond:
            # Stopped, so that nothing comes to the disk between the look and the kill.
            source.signal(signal.SIGSTOP)
            (path,) = run.site.folder.glob(".zflow/*/*/positions/numbers-0.sqlite")
            missing = run.counters(source).get("low", 0) - exact.stored_low(path)
            source.signal(signal.SIGKILL if missing > 0 else signal.SIGCONT)
            if missing > 0:
                return missing
        time.sleep(POLL_S)
    raise Stuck("the source never had settled more than it had stored")


# --- twins ----------------------------------------------------------------------------------------

ACK_BEFORE_COMMIT = """
from zflow.protocol.anchor import Partition
Partition.owes = lambda self, owner, first, n: False
"""
NO_DEDUPE = """
from zflow.protocol.anchor import Dedupe
Dedupe.fresh = lambda self, run: [(0, run.n)]
"""

CAMPAIGNS = (
    Campaign(
        name="D1",
        title="keyed state and a transactional sink: kill -9 of random replicas of every stage",
        full={"items": 1_000_000, "kills": 208, "each": 40, "pause_s": 0.3},
        ci={"items": 100_000, "kills": 12, "each": 2, "pause_s": 0.3},
        play=play_replicas,
        twin=Twin(
            patch=NO_DEDUPE,
            breaks="applied twice",
            size={"items": 40_000, "kills": 8, "each": 1, "pause_s": 0.3},
        ),
    ),
    Campaign(
        name="D2",
        title="the same, kill -9 of all processes at once, then --resume last",
        full={"items": 200_000, "kills": 20},
        ci={"items": 30_000, "kills": 3},
        play=play_everything,
        twin=Twin(patch=ACK_BEFORE_COMMIT, breaks="units lost", size={"items": 40_000, "kills": 4}),
    ),
    Campaign(
        name="C20",
        title="the same, kill -9 of the source between an acknowledgement and its stored position",
        full={"items": 400_000, "kills": 200},
        ci={"items": 40_000, "kills": 20},
        play=play_unstored,
        twin=Twin(patch=NO_DEDUPE, breaks="applied twice", size={"items": 20_000, "kills": 6}),
    ),
)

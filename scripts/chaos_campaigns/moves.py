"""Partitions that get another owner while data flows, and kill -9 in the middle of it (D7).

The order is given as an operator gives it, by `zflow move`. Rows and state must be exact, and most
partitions must have had several owners.
"""

import subprocess
import sys

from chaos_campaigns import exact
from chaos_campaigns.anchors import STAGES, PatientKiller
from chaos_campaigns.campaign import Campaign, Job, Twin
from chaos_campaigns.process import Run, Stuck, wait_until
from chaos_campaigns.verdict import Verdict
from chaos_campaigns.zombies import PARTITIONS, fence_of

OWNERS = 2  # replicas of Tally
MOVED_AT_ONCE = 24
MOVED_WITHIN_S = 60.0


def play(job: Job) -> Verdict:
    """D7. In each round some partitions move, and at every other one somebody dies meanwhile."""
    n, turns = job.number("items"), job.number("turns")
    verdict = Verdict()
    run = exact.start(job.site(), n)
    killer = PatientKiller(run, job.dice)
    owners = [p % OWNERS for p in range(PARTITIONS)]
    for turn, gate in enumerate(exact.rounds(n, turns)):
        run.site.open_gate(gate)
        wait_until(lambda: bool(exact.partition_files(run.site.folder)), 30, "state on disk")
        moving = job.dice.sample(range(PARTITIONS), MOVED_AT_ONCE)
        for partition in moving:
            owners[partition] = (owners[partition] + 1) % OWNERS
        fences = fences_of(run)
        order(run, {partition: owners[partition] for partition in moving})
        if turn % 2:
            exact.pause(job)
            killer.kill([killer.victim(job.dice.choice(STAGES))])
        run.site.open_gate(gate + n // (2 * turns + 2))
        known = {p: fences[p] for p in moving if p in fences}
        wait_acquired(run, known)
        verdict.facts["moved"] = verdict.facts.get("moved", 0) + len(known)
    verdict.faults = {"moves": turns, **killer.kills}
    verdict.need(verdict.facts["moved"] >= turns * MOVED_AT_ONCE // 2, "hardly anything moved")
    exact.finish_exact(job, run, verdict, n)
    return verdict


def order(run: Run, to: dict[int, int]) -> None:
    """As an operator would."""
    moves = [f"{partition}={slot}" for partition, slot in to.items()]
    done = subprocess.run(
        [sys.executable, "-m", "zflow", "move", "Tally", *moves],
        cwd=run.site.folder,
        env=run.site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise Stuck(f"zflow move ended with {done.returncode}: {done.stderr}")


def fences_of(run: Run) -> dict[int, int]:
    """How often each partition has been acquired."""
    return {int(p.stem): fence_of(p) for p in exact.partition_files(run.site.folder)}


def wait_acquired(run: Run, before: dict[int, int]) -> None:
    """Until somebody has acquired each of these partitions once more."""

    def done() -> bool:
        if run.process.poll() is not None:
            raise Stuck(f"the run ended too early: {run.ending()}")
        now = fences_of(run)
        return all(now.get(p, 0) > fence for p, fence in before.items())

    wait_until(done, MOVED_WITHIN_S, f"partitions {sorted(before)} to move")


# Lets go of a partition in the middle of a commit, and forgets what was applied and not stored.
RELEASED_AT_ONCE = """
from zflow.replica.moving import Moving
def _at_rest(self, owned):
    self._rounds._open.pop(owned.number, None)
    return owned.origin.empty() and owned not in self._rounds._round
Moving._is_at_rest = _at_rest
"""

CAMPAIGNS = (
    Campaign(
        name="D7",
        title="partitions move between replicas while data flows, with kill -9 meanwhile",
        full={"items": 400_000, "turns": 60, "pause_s": 0.3},
        ci={"items": 40_000, "turns": 4, "pause_s": 0.3},
        play=play,
        twin=Twin(
            patch=RELEASED_AT_ONCE,
            breaks="exact",
            size={"items": 40_000, "turns": 6, "pause_s": 0.3},
        ),
    ),
)

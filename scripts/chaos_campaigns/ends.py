"""The ends of runs: Ctrl-C under load (C18), and a thousand starts and stops (C25)."""

import os
import signal
import time

from chaos_campaigns.campaign import Campaign, Job, Twin, start
from chaos_campaigns.process import Run, Site, Stuck, wait_until
from chaos_campaigns.verdict import Verdict, count

DRAIN_S = 60.0
KILLED_EVERY = 4  # every fourth drain does not come to its end
LONGEST_DRAIN_BEFORE_KILL_S = 0.15
LONGEST_LIFE_S = 2.0  # of a run in C25 before its first signal
LEAST_BETWEEN_S, MOST_BETWEEN_S = 0.05, 0.3  # signals of one kind do not queue
ENDS_WITHIN_S = 2.0
DRAINED, FORCED = 130, 137
MOST_SENTENCES = 5


# --- C18 ------------------------------------------------------------------------------------------


def play_drain(job: Job) -> Verdict:
    """C18. A run is interrupted under load, in a part of the cases killed while it drains, and
    then resumed."""
    verdict = Verdict(faults={"drains": 0, "killed drains": 0})
    for k in range(job.number("runs")):
        site = job.site(f"run{k}")
        drain_and_resume(job, site, verdict, killed=k % KILLED_EVERY == KILLED_EVERY - 1)
        if len(verdict.broken) >= MOST_SENTENCES:
            break
    return verdict


def drain_and_resume(job: Job, site: Site, verdict: Verdict, *, killed: bool) -> None:
    n = job.number("items")
    run = start(site, "chain", n, replicas=["careful=2"])
    site.open_gate(n)
    run.wait_records()
    time.sleep(job.dice.uniform(0, job.size["longest_s"]))
    run.process.send_signal(signal.SIGINT)
    if killed:
        verdict.faults["killed drains"] += 1
        time.sleep(job.dice.uniform(0, LONGEST_DRAIN_BEFORE_KILL_S))
        site.kill_marked()
        run.wait(5)
    else:
        verdict.faults["drains"] += 1
        code = run.wait(DRAIN_S)
        result = run.result()
        verdict.ended(code, DRAINED, result)
        if result is not None:
            kept = count(range(result["items"]), site.recorded())
            verdict.need(
                kept.lost == kept.unexpected == 0,
                f"drained: {kept.lost} settled items lost, {kept.unexpected} unsettled ones kept",
            )
    resumed = Run(site, "chain", resume=True)
    verdict.ended(resumed.wait(DRAIN_S), 0, resumed.result())
    verdict.items += count(range(n), site.recorded())
    verdict.dead += len(site.dead_letters())
    if verdict.items.lost or verdict.items.unexpected:
        verdict.nothing_lost()


# --- C25 ------------------------------------------------------------------------------------------

# what is sent, one after the other -> the exit codes that may follow a run that was under way
SIGNALS = (
    (signal.SIGINT,),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM,),
    (signal.SIGHUP,),
    (signal.SIGTERM, signal.SIGINT),
    (signal.SIGKILL,),
)


def play_cycles(job: Job) -> Verdict:
    """C25. Each end is quick and leaves nothing: no process, no file of the run directory."""
    verdict = Verdict()
    site = job.site()
    slowest_s = 0.0
    for k in range(job.number("cycles")):
        signals = SIGNALS[k % len(SIGNALS)]
        name = " ".join(number.name for number in signals)
        verdict.faults[name] = verdict.faults.get(name, 0) + 1
        run = start_ticking(site)
        time.sleep(job.dice.uniform(0, LONGEST_LIFE_S))
        for number in signals[:-1]:
            run.process.send_signal(number)
            time.sleep(job.dice.uniform(LEAST_BETWEEN_S, MOST_BETWEEN_S))
        run.process.send_signal(signals[-1])
        slowest_s = max(slowest_s, check_end(site, run, verdict, f"cycle {k}, {name}"))
        if signals[-1] is signal.SIGKILL:
            sweep_after_kill(site)
        verdict.broken += leaks(site, f"cycle {k}, {name}")
        if len(verdict.broken) >= MOST_SENTENCES:
            break
    verdict.facts["slowest_end_s"] = round(slowest_s, 2)
    return verdict


def start_ticking(site: Site) -> Run:
    """One replica per stage, a source that yields all the time and never much."""
    return Run(site, "ticking", [f"Collect.folder={site.records}"])


def check_end(site: Site, run: Run, verdict: Verdict, name: str) -> float:
    """How long the end took, processes of the run included."""
    began_s = time.monotonic()
    try:
        code = run.wait(ENDS_WITHIN_S)
        wait_until(
            lambda: not list(site.marked()), ENDS_WITHIN_S, f"the end of the children of {name}"
        )
    except Stuck as stuck:
        verdict.broken.append(f"{name}: not ended: {stuck}")
        site.kill_marked()
        run.wait(5)
        return time.monotonic() - began_s
    result = run.result()
    if code == DRAINED and result is not None:
        verdict.need(not result["holes"], f"{name}: {result['holes']}")
    return time.monotonic() - began_s


def sweep_after_kill(site: Site) -> None:
    """Nobody can tidy up after kill -9 of the run itself; the next run in the folder does."""
    resumed = [path.parent for path in site.folder.glob(".zflow/ticking/*/run.json")]
    for root in resumed:
        (root / "run.json").unlink()
    for path in sorted(site.runtime.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def leaks(site: Site, name: str) -> list[str]:
    """What an ended run has left."""
    found = site.leftovers()
    shared = [path for path in os.listdir("/dev/shm") if path.startswith(("zf-", "zflow"))]
    left = [f"{name}: left behind {found[:4]}"] if found else []
    return left + ([f"{name}: shared memory {shared[:4]}"] if shared else [])


# --- twins ----------------------------------------------------------------------------------------

FINISH_WITHOUT_WAITING = """
from zflow.coordinator.state import RunState
_advance = RunState._advance_if_quiet
def advance(self):
    return self._go("finish") if self.phase == "drain" else _advance(self)
RunState._advance_if_quiet = advance
"""
NOBODY_KILLS = """
import sys
from zflow.supervisor.supervise import Supervisor
Supervisor.kill_all = lambda self: None
if "zflow.replica" in sys.orig_argv:
    import ctypes
    from zflow.replica.life import Replica
    Replica.parent_lives = lambda self: True
    _CDLL = ctypes.CDLL
    class NoDeathSignal:
        def __init__(self, name, **named):
            self._library = _CDLL(name, **named)
        def __getattr__(self, name):
            return (lambda *_: 0) if name == "prctl" else getattr(self._library, name)
    ctypes.CDLL = NoDeathSignal
"""

CAMPAIGNS = (
    Campaign(
        name="C18",
        title="Ctrl-C under load, in part kill -9 of everything during the drain, then --resume",
        full={"runs": 100, "items": 12_000, "longest_s": 0.8},
        ci={"runs": 5, "items": 6_000, "longest_s": 0.3},
        play=play_drain,
        twin=Twin(
            patch=FINISH_WITHOUT_WAITING,
            breaks="not 130",
            size={"runs": 2, "items": 12_000, "longest_s": 0.5},
        ),
    ),
    Campaign(
        name="C25",
        title="start and stop: SIGINT, twice SIGINT, SIGTERM, SIGHUP, SIGKILL at random moments",
        full={"cycles": 1000},
        ci={"cycles": 25},
        play=play_cycles,
        twin=Twin(patch=NOBODY_KILLS, breaks="the end of the children", size={"cycles": 12}),
    ),
)

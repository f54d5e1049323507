"""User code that fails or misbehaves: poison items of every kind (C13), forks (C23)."""

import os
import signal
import time
from contextlib import suppress

import chaos_topologies as user

from chaos_campaigns.campaign import Campaign, Job, Twin, finish, start
from chaos_campaigns.process import Replica, Run, Stuck, wait_until
from chaos_campaigns.verdict import Verdict, count

DRAIN_S = 120.0
DEATHS_PER_POISON = 3
KILLING = ("exit", "segfault", "loop")
RESTART_WITHIN_S = 5.0

# kind -> what the dead letter must say, so that somebody can find the cause
CAUSES = {
    "raise": ("error", ("ValueError", "this is no number", "chaos_topologies.py")),
    "exit": ("crash", ("exit code 3",)),
    "segfault": ("crash", ("SIGSEGV", "Segmentation fault", "chaos_topologies.py", "<lambda>")),
    "loop": ("crash", ("stuck", "timeout_s=2")),
    "large": ("encode", ("a message holds at most",)),
    "unpicklable": ("encode", ("cannot be pickled", "lock")),
}


def play_poison(job: Job) -> Verdict:
    """C13. One item of each kind among many that are innocent."""
    n = job.number("items")
    verdict = Verdict()
    site = job.site()
    site.open_gate(n)
    size_bytes = job.number("output_bytes")
    run = start(site, "poison", n, [f"spew.size_bytes={size_bytes}"], ["Collect=2"])
    finish(run, verdict, DRAIN_S + n / 2000)
    result = run.result()
    verdict.items = count(frozenset(range(n)) - user.POISONED.keys(), site.recorded())
    verdict.nothing_lost()
    letters = {stored.letter.shown: stored.letter for stored in site.dead_letters()}
    verdict.dead = len(site.dead_letters())
    innocent = sorted(letters.keys() - {str(number) for number in user.POISONED})
    verdict.need(not innocent, f"{len(innocent)} innocent items in the store: {innocent[:5]}")
    verdict.need(verdict.dead == len(user.POISONED), f"{verdict.dead} dead letters")
    for number, kind in user.POISONED.items():
        letter = letters.get(str(number))
        if letter is None:
            verdict.broken.append(f"the item that should {kind} is no dead letter")
            continue
        code_wanted, words = CAUSES[kind]
        verdict.need(letter.code == code_wanted, f"{kind}: code {letter.code!r}")
        said = f"{letter.error_class} {letter.error}"
        missing = [word for word in words if word not in said]
        verdict.need(not missing, f"{kind}: the letter does not say {missing}:\n{said}")
    deaths = sum(stage["restarts"] for stage in result["stages"].values()) if result else -1
    verdict.faults = {"poison": len(user.POISONED)}
    verdict.facts["deaths"] = deaths
    most = DEATHS_PER_POISON * len(KILLING)
    verdict.need(0 <= deaths <= most, f"{deaths} deaths, more than {most}")
    return verdict


# --- C23 ------------------------------------------------------------------------------------------


def forking_replica(run: Run) -> Replica | None:
    found = [replica for replica in run.replicas() if replica.stage == "Forking"]
    return found[0] if found else None


def play_forks(job: Job) -> Verdict:
    """C23. The stage forks and leaves children behind; its replica is killed and is back soon."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    site = job.site()
    run = start(site, "forking", n)
    slowest_s = 0.0
    for k in range(kills):
        site.open_gate((k + 1) * n // (kills + 1))
        run.wait_records((k * n + n // 2) // (kills + 1), within_s=60)
        victim = forking_replica(run)
        if victim is None:
            raise Stuck("the forking replica is not there")
        site.open_gate((k + 2) * n // (kills + 1))
        victim.signal(signal.SIGKILL)
        killed_s = time.monotonic()

        def works(old: int = victim.incarnation) -> bool:
            now = forking_replica(run)
            if now is None or now.incarnation == old:
                return False
            return run.counters(now).get("processed", 0) > 0

        try:
            wait_until(works, 3 * RESTART_WITHIN_S, "the successor's first item")
        except Stuck:
            verdict.broken.append(f"the successor did not run: {run.tail()}")
            break
        slowest_s = max(slowest_s, time.monotonic() - killed_s)
    verdict.faults = {"Forking": kills}
    verdict.facts["slowest_restart_s"] = round(slowest_s, 2)
    verdict.need(slowest_s <= RESTART_WITHIN_S, f"a restart took {slowest_s:.1f} s")
    site.open_gate(n)
    finish(run, verdict, DRAIN_S)
    verdict.items = count(range(0, 2 * n, 2), site.recorded())
    verdict.nothing_lost()
    orphans = [pid for pid in site.marked() if not is_own_master(pid)]
    verdict.need(not orphans, f"{len(orphans)} processes left behind")
    return verdict


def is_own_master(pid: int) -> bool:
    """A child that made a session of its own has said that nobody should end it."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return True


# --- twins ----------------------------------------------------------------------------------------

BLAME_ALL = """
from dataclasses import replace
from zflow.protocol.suspects import Suspects
_add = Suspects._add
def add(self, unit, crash):
    _add(self, unit, crash)
    self._units[unit] = replace(self._units[unit], alone=True, strikes=self._limit)
Suspects._add = add
"""
LOCK_KEPT_BY_FORK = """
from zflow.replica.process import SlotLock
SlotLock._forget = lambda self: None
"""

CAMPAIGNS = (
    Campaign(
        name="C13",
        title="items that raise, kill, hang, grow too large or cannot travel",
        full={"items": 200_000, "output_bytes": 1 << 30},
        ci={"items": 20_000, "output_bytes": 65 << 20},
        play=play_poison,
        twin=Twin(
            patch=BLAME_ALL,
            breaks="innocent items in the store",
            size={"items": 20_000, "output_bytes": 65 << 20},
        ),
    ),
    Campaign(
        name="C23",
        title="user code that forks and leaves children behind, and kill -9 of its replica",
        full={"items": 20_000, "kills": 20},
        ci={"items": 3_000, "kills": 3},
        play=play_forks,
        twin=Twin(
            patch=LOCK_KEPT_BY_FORK,
            breaks="the successor did not run",
            size={"items": 2_000, "kills": 1},
        ),
    ),
)

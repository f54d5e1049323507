"""Processes that do not answer: stopped ones (C4), long functions (C14), a GIL that is kept (C15).

Slow is not dead: nothing is sent again, and a successor that starts too early is refused.
"""

import os
import signal
import subprocess
import sys
import time

from chaos_campaigns.campaign import Campaign, Job, Twin, finish, start
from chaos_campaigns.process import POLL_S, Replica, Run, Site, Stuck
from chaos_campaigns.verdict import Verdict, count, replayed
from zflow.wire.control import EXIT_UNAVAILABLE

DRAIN_S = 120.0
REFUSED_WITHIN_S = 10.0
REFUSAL = "another process holds this slot"
MOST_STOPPED = 4  # at the same time
STAGES = ("numbers", "left", "right", "merge", "Collect")
DEAD_TIME_S = 10.0  # zflow's own: a peer is dead after so much silence with the connection down
# The times of links, divided: a campaign in CI cannot wait six times ten seconds.
FASTER = """
import zflow.protocol.sender as _sender
_sender.LOST_S, _sender.STUCK_S, _sender.HEARTBEAT_S = {lost_s}, {stuck_s}, {heartbeat_s}
"""


def faster(dead_time_s: float) -> str:
    """A patch for links whose dead time is that; nothing for the real one."""
    if dead_time_s == DEAD_TIME_S:
        return ""
    return FASTER.format(lost_s=dead_time_s, stuck_s=3 * dead_time_s, heartbeat_s=dead_time_s / 10)


# --- C4 -------------------------------------------------------------------------------------------


def start_successor(site: Site, replica: Replica) -> "subprocess.Popen[str]":
    """What the supervisor never does while the predecessor lives."""
    # The last word of an option counts.
    command = [sys.executable, "-m", "zflow.replica", *replica.options]
    command += ["--incarnation", str(replica.incarnation + 1), "--parent", str(os.getpid())]
    return subprocess.Popen(
        command,
        cwd=site.folder,
        env=site.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def was_refused(successor: "subprocess.Popen[str]") -> bool:
    """Whether it ended by itself, because of the slot's lock."""
    try:
        _, said = successor.communicate(timeout=REFUSED_WITHIN_S)
    except subprocess.TimeoutExpired:
        successor.kill()
        successor.communicate()
        return False
    return successor.returncode == EXIT_UNAVAILABLE and REFUSAL in said


class Stops:
    """Replicas that are stopped now, and when each goes on."""

    def __init__(self, job: Job, run: Run) -> None:
        self._job = job
        self._run = run
        self._until: dict[int, tuple[float, Replica]] = {}
        self.seconds = 0.0

    def stop_one(self, stage: str) -> Replica:
        """Stop a replica of the stage, as soon as fewer than the most are stopped."""
        while len(self._until) >= MOST_STOPPED:
            self.let_go_due()
            time.sleep(POLL_S)
        free = [r for r in self._run.replicas() if r.stage == stage and r.pid not in self._until]
        if not free:
            self.let_go_all()
            return self.stop_one(stage)
        victim = self._job.dice.choice(free)
        duration_s = self._job.dice.uniform(self._job.size["least_s"], self._job.size["most_s"])
        victim.signal(signal.SIGSTOP)
        self.seconds += duration_s
        self._until[victim.pid] = (time.monotonic() + duration_s, victim)
        return victim

    def let_go_due(self) -> None:
        """SIGCONT to those whose time is over."""
        for pid, (until_s, replica) in list(self._until.items()):
            if time.monotonic() >= until_s:
                replica.signal(signal.SIGCONT)
                del self._until[pid]

    def let_go_all(self) -> None:
        """Wait for the end of every stop."""
        while self._until:
            self.let_go_due()
            time.sleep(POLL_S)


def play_zombies(job: Job) -> Verdict:
    """C4. A stopped process is taken for dead by nobody but us."""
    n, count_of_stops = job.number("items"), job.number("stops")
    verdict = Verdict()
    run = start(job.site(), "diamond", n, replicas=[f"{stage}=2" for stage in STAGES])
    run.site.open_gate(n // (count_of_stops + 1))
    run.wait_records()
    stops = Stops(job, run)
    refused = 0
    for k in range(count_of_stops):
        victim = stops.stop_one(STAGES[k % len(STAGES)])
        run.site.open_gate(n * (k + 2) // (count_of_stops + 1))
        refused += was_refused(start_successor(run.site, victim))
        stops.let_go_due()
    stops.let_go_all()
    run.site.open_gate(n)
    verdict.faults = {"stops": count_of_stops, "successors": count_of_stops}
    verdict.facts |= {"refused": refused, "stopped_s": round(stops.seconds)}
    verdict.need(refused == count_of_stops, f"only {refused} successors refused by the slot's lock")
    finish(run, verdict, job.size["longest_s"])
    verdict.items = count(range(1, 2 * n + 1), run.site.recorded())
    verdict.dead = len(run.site.dead_letters())
    verdict.nothing_lost()
    verdict.need(verdict.dead == 0, f"{verdict.dead} dead letters")
    return verdict


# --- C14, C15 -------------------------------------------------------------------------------------


def play_slow(job: Job, topology: str, parameters: list[str], longest_s: float) -> Verdict:
    """Each item is executed once, however long that takes."""
    n = job.number("items")
    verdict = Verdict()
    site = job.site(patch=faster(job.size["dead_time_s"]))
    calls = site.folder / "calls"
    calls.mkdir()
    stage = {"slow": "sleeper", "frozen": "gil_holder"}[topology]
    site.open_gate(n)
    run = start(site, topology, n, [f"{stage}.folder={calls}", *parameters])
    try:
        code = run.wait(longest_s)
    except Stuck:
        code = None
    executed = count(range(n), site.recorded(calls))
    verdict.need(executed.duplicated == 0, f"{executed.duplicated} items executed again")
    result = run.result()
    verdict.ended(code, 0, result)
    sent_again = replayed(result) if result else 0
    verdict.need(sent_again == 0, f"{sent_again} units sent again")
    verdict.items = count(range(n), site.recorded())
    verdict.nothing_lost()
    verdict.facts["executions"] = executed.expected - executed.lost + executed.duplicated
    return verdict


def play_long_function(job: Job) -> Verdict:
    """C14."""
    sleep_s = 6 * job.size["dead_time_s"]
    rounds = -(-job.number("items") // 4)
    return play_slow(
        job, "slow", [f"sleeper.sleep_s={sleep_s}"], longest_s=30 + (rounds + 2) * sleep_s
    )


def play_gil_holder(job: Job) -> Verdict:
    """C15."""
    hold_s = job.number("hold_s")
    return play_slow(
        job,
        "frozen",
        [f"gil_holder.hold_s={hold_s}"],
        longest_s=30 + (job.number("items") + 2) * hold_s,
    )


# --- twins ----------------------------------------------------------------------------------------

NO_SLOT_LOCK = """
from zflow.replica.process import SlotLock
SlotLock.__init__ = lambda self, path: None
"""
# What other systems have and zflow has not: a timer that sends again what takes too long.
PROCESSING_TIMER = """
import zflow.protocol.sender as _s
from zflow.protocol.sender import LinkState, SenderLink
_tick, _push = SenderLink.tick, SenderLink.push
_since = {}
def push(self, *arguments, **named):
    _push(self, *arguments, **named)
    _since[self.key] = None
def tick(self, now_s):
    if self.unacked_items and _since.get(self.key) is None:
        _since[self.key] = now_s
    if self.state is LinkState.UP and self.unacked_items and now_s - _since[self.key] > 2:
        _since[self.key] = None
        self.recover("peer_lost", now_s)
        return
    _tick(self, now_s)
SenderLink.tick, SenderLink.push = tick, push
"""

CAMPAIGNS = (
    Campaign(
        name="C4",
        title="SIGSTOP, a successor of the same slot meanwhile, SIGCONT",
        full={"items": 500_000, "stops": 50, "least_s": 5, "most_s": 30, "longest_s": DRAIN_S},
        ci={"items": 60_000, "stops": 6, "least_s": 0.5, "most_s": 2, "longest_s": DRAIN_S},
        play=play_zombies,
        twin=Twin(
            patch=NO_SLOT_LOCK,
            breaks="refused by the slot's lock",
            size={"items": 20_000, "stops": 1, "least_s": 0.5, "most_s": 2, "longest_s": 5},
        ),
    ),
    Campaign(
        name="C14",
        title="a function that takes six times as long as a dead peer is silent",
        full={"items": 8, "dead_time_s": DEAD_TIME_S},
        ci={"items": 6, "dead_time_s": 0.6},
        play=play_long_function,
        twin=Twin(
            patch=PROCESSING_TIMER,
            breaks="executed again",
            size={"items": 4, "dead_time_s": 0.6},
        ),
    ),
    Campaign(
        name="C15",
        title="C code that keeps the GIL",
        full={"items": 4, "hold_s": 15, "dead_time_s": DEAD_TIME_S},
        ci={"items": 2, "hold_s": 4, "dead_time_s": 0.6},
        play=play_gil_holder,
        twin=Twin(
            patch=PROCESSING_TIMER,
            breaks="executed again",
            size={"items": 2, "hold_s": 4, "dead_time_s": 0.6},
        ),
    ),
)

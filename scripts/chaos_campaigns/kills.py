"""kill -9: single replicas (C1), neighbours (C2), a receiver with a full inbox (C8), everything."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos_campaigns.campaign import Campaign, Job, Twin, finish, start
from chaos_campaigns.process import Replica, Run, Stuck, wait_until
from chaos_campaigns.verdict import Verdict, count

STAGES = ("numbers", "left", "right", "merge", "Collect")
NEIGHBOURS = (("numbers", "left"), ("left", "merge"), ("right", "merge"), ("merge", "Collect"))
TWO_EACH = [f"{stage}=2" for stage in STAGES]
WINDOW_ITEMS = 65_536  # what an edge keeps for a re-send, at most
MOST_IN_LINKS = 4  # of one replica: merge has two edges with two senders each
FAN_OUT = 2  # edges behind one source replica
READY_WITHIN_S = 30.0
IDLE_KILLS = 3  # of one slot in a row; five deaths without any work are a crash loop
DRAIN_S = 120.0
BEFORE_KILL_S = 0.03


class Killer:
    """Kills replicas and never so that zflow must call it a crash loop."""

    def __init__(self, run: Run, dice: random.Random) -> None:
        self.run = run
        self.kills: Counter[str] = Counter()
        self._dice = dice
        self._idle: Counter[str] = Counter()

    def victim(self, stage: str) -> Replica:
        """A replica of the stage that may be killed, in whatever state it is."""
        found: list[Replica] = []

        def ready() -> bool:
            found[:] = self._ready(stage)
            return bool(found)

        self._wait(ready, stage)
        return self._dice.choice(found)

    def victims(self, stages: Sequence[str]) -> list[Replica]:
        """All replicas of the stages, once there is none that may not be killed."""
        found: list[Replica] = []

        def ready() -> bool:
            found[:] = [replica for stage in stages for replica in self._ready(stage)]
            return len(found) == 2 * len(stages)

        self._wait(ready, " and ".join(stages))
        return found

    def one_of(self, stages: Sequence[str]) -> Replica:
        """A replica of the first of these stages that has one which may be killed."""
        found: list[Replica] = []

        def ready() -> bool:
            found[:] = next(filter(None, map(self._ready, stages)), [])
            return bool(found)

        self._wait(ready, " or ".join(stages))
        return self._dice.choice(found)

    def _ready(self, stage: str) -> list[Replica]:
        """Replicas that have done some work, or were not killed too often without any."""
        found = [replica for replica in self.run.replicas() if replica.stage == stage]
        for replica in found:
            if self.run.counters(replica).get("processed", 0) > 0:
                self._idle[replica.slot] = 0
        return [replica for replica in found if self._idle[replica.slot] < IDLE_KILLS]

    def _wait(self, ready: Callable[[], bool], stage: str) -> None:
        def ready_or_over() -> bool:
            if self.run.process.poll() is not None:
                raise Stuck(f"the run ended under the kills: {self.run.ending()}")
            return ready()

        wait_until(ready_or_over, READY_WITHIN_S, f"work at {stage}")

    def kill(self, victims: list[Replica]) -> None:
        """All at once."""
        for victim in victims:
            self.kills[victim.stage] += victim.signal(signal.SIGKILL)
            self._idle[victim.slot] += 1  # unless it has worked, which `_ready` has seen


def finish_diamond(job: Job, run: Run, verdict: Verdict, n: int) -> None:
    """Everything through; then the bars of C1 and C2."""
    run.site.open_gate(n)
    finish(run, verdict, DRAIN_S + n / 5000)
    verdict.items = count(range(1, 2 * n + 1), run.site.recorded())
    verdict.dead = len(run.site.dead_letters())
    verdict.nothing_lost()
    verdict.need(verdict.dead == 0, f"{verdict.dead} dead letters")
    kills = sum(verdict.faults.values())
    most = kills * WINDOW_ITEMS * MOST_IN_LINKS * FAN_OUT
    verdict.need(verdict.items.duplicated <= most, f"more than {most} duplicates")
    verdict.facts["duplicates_per_kill"] = round(verdict.items.duplicated / max(kills, 1), 1)
    verdict.need(verdict.recovered > 0, "no unit was ever sent again: nothing was hit")


def play_random_kills(job: Job) -> Verdict:
    """C1. Before each kill the gate opens a little, so that something is on the way."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    run = start(job.site(), "diamond", n, replicas=TWO_EACH)
    killer = Killer(run, job.dice)
    run.site.open_gate(n // (kills + 1))
    run.wait_records()
    stages = [STAGES[k % len(STAGES)] for k in range(kills)]
    job.dice.shuffle(stages)
    for k, stage in enumerate(stages, 2):
        victim = killer.victim(stage)
        run.site.open_gate(n * k // (kills + 1))
        time.sleep(job.dice.uniform(0, BEFORE_KILL_S))
        killer.kill([victim])
        time.sleep(job.size["pause_s"])
    verdict.faults = dict(killer.kills)
    least = job.number("each")
    for stage in STAGES:
        verdict.need(killer.kills[stage] >= least, f"{stage} was killed fewer than {least} times")
    finish_diamond(job, run, verdict, n)
    return verdict


def play_neighbours(job: Job) -> Verdict:
    """C2. All replicas of two neighbouring stages at the same instant."""
    n, pairs = job.number("items"), job.number("pairs")
    verdict = Verdict()
    run = start(job.site(), "diamond", n, replicas=TWO_EACH)
    killer = Killer(run, job.dice)
    run.site.open_gate(n // (pairs + 1))
    run.wait_records()
    for k in range(pairs):
        pair = NEIGHBOURS[k % len(NEIGHBOURS)]
        victims = killer.victims(pair)
        run.site.open_gate(n * (k + 2) // (pairs + 1))
        time.sleep(job.dice.uniform(0, BEFORE_KILL_S))
        killer.kill(victims)
        time.sleep(job.size["pause_s"])
    verdict.faults = dict(killer.kills)
    verdict.facts["pairs"] = pairs
    finish_diamond(job, run, verdict, n)
    return verdict


# --- C8: what was queued at the dead -------------------------------------------------------------

QUEUED = 500
# Which tokens a process was told by HELLO, and of which it accepted DATA.
WITNESS = """
import os, sys
if "zflow.replica" in sys.orig_argv:
    from zflow.protocol.inbox import Inbox, Parcel
    _file = open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.tokens"), "a", buffering=1)
    _said = set()
    def _say(kind, token):
        if (kind, token) not in _said:
            _said.add((kind, token))
            _file.write(f"{kind} {token}\\n")
    _on_hello, _on_data, _init = Inbox.on_hello, Inbox.on_data, Parcel.__init__
    def on_hello(self, frame, now_s):
        _say("hello", frame.token)
        _on_hello(self, frame, now_s)
    def on_data(self, frame, payload, now_s):
        _say("arrived", frame.token)
        _on_data(self, frame, payload, now_s)
    def init(self, link, frame, *rest):
        _say("accepted", frame.token)
        _init(self, link, frame, *rest)
    Inbox.on_hello, Inbox.on_data, Parcel.__init__ = on_hello, on_data, init
"""


def tokens_of(run: Run) -> dict[int, dict[str, set[str]]]:
    """pid -> what the witness of that process wrote, by kind."""
    found = {}
    for path in run.site.patches.glob("*.tokens"):
        kinds: dict[str, set[str]] = {"hello": set(), "arrived": set(), "accepted": set()}
        for line in path.read_text().splitlines():
            kind, _, token = line.partition(" ")
            kinds[kind].add(token)
        found[int(path.stem)] = kinds
    return found


def fill_inbox(run: Run, victim: Replica, block: Path, *, to: int) -> int:
    """The receiver stops in the middle of an item, and its inbox fills; how far it did."""
    block.write_text(str(victim.pid))
    run.site.open_gate(to)
    wait_until(
        lambda: run.counters(victim).get("inbox", 0) >= QUEUED, 20, f"{QUEUED} units in the inbox"
    )
    return run.counters(victim)["inbox"]


def fill_sockets(run: Run, victim: Replica, *, to: int) -> int:
    """The whole process is stopped, and what is sent to it stays on the way; how much."""

    def on_the_way() -> int:
        senders = [replica for replica in run.replicas() if replica.stage == "widen"]
        return sum(run.counters(sender).get("unacked", 0) for sender in senders)

    victim.signal(signal.SIGSTOP)
    run.site.open_gate(to)
    wait_until(lambda: on_the_way() >= QUEUED, 20, f"{QUEUED} units on the way")
    return on_the_way()


def play_full_inbox(job: Job) -> Verdict:
    """C8. A receiver is killed with a full inbox, or with full sockets before it."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    site = job.site(patch=WITNESS)
    block = site.folder / "block"
    block.write_text("")
    run = start(site, "full_inbox", n, [f"stuffed.block={block}"])
    queued = []
    for k in range(kills):
        site.open_gate((k + 1) * n // (kills + 1))
        run.wait_records((k * n + n // 2) // (kills + 1))
        (victim,) = [replica for replica in run.replicas() if replica.stage == "stuffed"]
        to = (k + 2) * n // (kills + 1)
        if k % 2:
            queued.append(fill_inbox(run, victim, block, to=to))
        else:
            queued.append(fill_sockets(run, victim, to=to))
        victim.signal(signal.SIGKILL)
    verdict.faults = {"stuffed": kills}
    verdict.facts["queued_at_kill"] = queued
    site.open_gate(n)
    finish(run, verdict, job.size["longest_s"])
    verdict.items = count(range(n), site.recorded())
    verdict.nothing_lost()
    seen = tokens_of(run)
    stale = sum(len(kinds["accepted"] - kinds["hello"]) for kinds in seen.values())
    verdict.facts["tokens"] = len(set().union(*(kinds["hello"] for kinds in seen.values())))
    verdict.need(stale == 0, f"frames of {stale} old tokens were executed")
    return verdict


# --- everything at once ---------------------------------------------------------------------------


def play_resume(job: Job) -> Verdict:
    """kill -9 of every process of the run at a random moment, then `--resume last`, repeatedly."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    site = job.site()
    run = start(site, "diamond", n)
    for k in range(kills):
        site.open_gate(n * (k + 1) // kills)
        wait_until(lambda: list(site.folder.glob(".zflow/*/*/run.json")), 10, "the run's record")
        if k % 3 == 2:  # at a random moment of the start, else in the middle of the work
            time.sleep(job.dice.uniform(0, 1.0))
        else:
            run.wait_records(2 * n * k // kills + job.dice.randrange(1, n // kills))
        verdict.faults["everything"] = verdict.faults.get("everything", 0) + 1
        site.kill_marked()
        run.wait(5)
        wait_until(lambda: not list(site.marked()), 5, "the end of every process")
        run = Run(site, "diamond", resume=True)
    finish(run, verdict, DRAIN_S)
    verdict.items = count(range(1, 2 * n + 1), site.recorded())
    verdict.dead = len(site.dead_letters())
    verdict.nothing_lost()
    verdict.need(verdict.dead == 0, f"{verdict.dead} dead letters")
    return verdict


# --- twins ----------------------------------------------------------------------------------------

ACK_ON_RECEIPT = """
from zflow.protocol.inbox import Inbox
_on_data = Inbox.on_data
def on_data(self, frame, payload, now_s):
    before = len(self.parcels)
    _on_data(self, frame, payload, now_s)
    if len(self.parcels) > before:
        self.parcels[-1].link.settle(frame.first, frame.n)
Inbox.on_data = on_data
"""
ACK_BEFORE_OUTPUTS = """
from zflow.protocol.task import Task
Task.made = Task.settled = lambda self, n: None
"""
NO_TOKENS = """
import zmq
from zflow.net.sockets import Sockets
from zflow.protocol.core import Core
from zflow.protocol.credit import ReceiverCredit
from zflow.protocol.inbox import Inbox
from zflow.wire.data import Data, Hello
def push(self, endpoint, high_water):
    socket = self._make(zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, high_water)
    socket.connect(endpoint)
    return socket
def _known(self, frame):
    link = self._tokens.get(frame.token)
    if link is None and type(frame) is Data:
        (edge,), mine = self.settings.edges, self.settings
        sender = f"unknown/{frame.token}"
        hello = Hello(frame.token, mine.run_id, sender, 1, 1, "ipc:///nowhere", edge, 1, "", False)
        link = self._replace(hello, None)
        link.next, link.credit = frame.first, ReceiverCredit(1 << 40, 1 << 50)
    return link
Sockets.push, Inbox._known, Core.on_crash = push, _known, lambda self, crash, now_s: None
"""
MARK_TOO_HIGH = """
from zflow.state.positions import PositionFile
_store = PositionFile.store
def store(self, low, *, ended, mark):
    _store(self, low + 2000, ended=ended, mark=None)
PositionFile.store = store
"""

CAMPAIGNS = (
    Campaign(
        name="C1",
        title="kill -9 of random replicas of every stage, sources and sinks included",
        full={"items": 1_000_000, "kills": 210, "each": 10, "pause_s": 0.25},
        ci={"items": 100_000, "kills": 40, "each": 8, "pause_s": 0.2},
        play=play_random_kills,
        twin=Twin(
            patch=ACK_ON_RECEIPT,
            breaks="items lost",
            size={"items": 40_000, "kills": 20, "each": 1, "pause_s": 0.2},
        ),
    ),
    Campaign(
        name="C2",
        title="kill -9 of two neighbouring stages at once",
        full={"items": 250_000, "pairs": 50, "pause_s": 0.5},
        ci={"items": 50_000, "pairs": 10, "pause_s": 0.5},
        play=play_neighbours,
        twin=Twin(
            patch=ACK_BEFORE_OUTPUTS,
            breaks="items lost",
            size={"items": 50_000, "pairs": 10, "pause_s": 0.5},
        ),
    ),
    Campaign(
        name="C8",
        title=f"kill -9 of a receiver with {QUEUED} or more queued, restart on its endpoint",
        full={"items": 220_000, "kills": 10, "longest_s": DRAIN_S},
        ci={"items": 44_000, "kills": 2, "longest_s": DRAIN_S},
        play=play_full_inbox,
        twin=Twin(
            patch=NO_TOKENS,
            breaks="old tokens were executed",
            size={"items": 30_000, "kills": 1, "longest_s": 8},
        ),
    ),
    Campaign(
        name="RESUME",
        title="kill -9 of all processes at once, then --resume last",
        full={"items": 200_000, "kills": 20},
        ci={"items": 30_000, "kills": 3},
        play=play_resume,
        twin=Twin(patch=MARK_TOO_HIGH, breaks="items lost", size={"items": 30_000, "kills": 3}),
    ),
)

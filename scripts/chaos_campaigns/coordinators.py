"""A coordinator that is away (C16), two of them and words of an older one (C17), and processes
that do not fit together (C29): the data goes on, or is refused with the reason.

The load is paced by the gate, so that what is lost shows as items that are not settled, and not in
how fast the machine happens to be.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos_campaigns import exact
from chaos_campaigns.apart import STAGES, ApartRun
from chaos_campaigns.campaign import Campaign, Job, Twin, finish
from chaos_campaigns.process import Replica, Stuck, wait_until
from chaos_campaigns.verdict import Verdict

TICK_S = 0.05
ENDS_WITHIN_S = 10.0
SETTLES_WITHIN_S = 15.0  # after the gate has stopped
VICTIMS = ("spread", "Tally", "Rows", "numbers")  # one after the other
LOOKS_WITHIN_S = 60.0
TOLD = "another coordinator answers there", "is running"

# --- C16 ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Phase:
    """What happened in one half of C16. per_s: items, from the first one to the settling of the
    last one. backs_s: from a kill to the successor's first unit."""

    per_s: float = 0.0
    backs_s: list[float] = field(default_factory=list)
    never: list[str] = field(default_factory=list)


class Load:
    """Opens the gate at a rate, kills at given times, and sees who comes back when."""

    def __init__(self, run: ApartRun, rate_per_s: float) -> None:
        self.opened = 0
        self._run = run
        self._rate_per_s = rate_per_s
        self._awaited: dict[str, tuple[int, float]] = {}  # slot -> dead incarnation, when
        self._phase = Phase()

    def go(self, seconds: float, victims: Sequence[str]) -> Phase:
        """For so long, and until all is settled; a stage after the other loses a replica."""
        self._phase = Phase()
        first, began_s = self.opened, time.monotonic()
        due = [seconds * (k + 0.5) / (len(victims) + 1) for k in range(len(victims))]
        while (ran_s := time.monotonic() - began_s) < seconds:
            self.opened = first + int(ran_s * self._rate_per_s)
            self._run.site.open_gate(self.opened)
            while due and ran_s >= due[0]:
                due.pop(0)
                self._kill(victims[len(victims) - len(due) - 1])
            self._look()
            time.sleep(TICK_S)
        self._settle(time.monotonic() + SETTLES_WITHIN_S)
        self._phase.per_s = (self.opened - first) / (time.monotonic() - began_s)
        self._phase.never = sorted(self._awaited)
        self._awaited.clear()
        return self._phase

    def _settle(self, deadline_s: float) -> None:
        while time.monotonic() < deadline_s and (
            self._awaited or exact.settled_by(self._run) < self.opened
        ):
            self._look()
            time.sleep(TICK_S)

    def _kill(self, stage: str) -> None:
        victim = next((one for one in self._run.replicas() if one.stage == stage), None)
        if victim is not None and victim.signal(9):
            self._awaited[victim.slot] = victim.incarnation, time.monotonic()

    def _look(self) -> None:
        for replica in self._run.replicas() if self._awaited else ():
            dead, killed_s = self._awaited.get(replica.slot, (replica.incarnation, 0.0))
            counters = self._run.counters(replica) if replica.incarnation > dead else {}
            if counters.get("received", 0) > 0:
                self._phase.backs_s.append(round(time.monotonic() - killed_s, 2))
                del self._awaited[replica.slot]


def play_away(job: Job) -> Verdict:
    """C16. The same deaths twice: with the coordinator, and while it is dead."""
    seconds, rate = job.size["down_s"], job.size["rate_per_s"]
    victims = [VICTIMS[k % len(VICTIMS)] for k in range(job.number("kills"))]
    n = int(2 * seconds * rate)
    verdict = Verdict(faults={"coordinator": 1, "replicas": 2 * len(victims)})
    run = ApartRun(job.site(), n)
    run.start_stages()
    load = Load(run, rate)
    back_s = job.size["back_s"]
    there = load.go(seconds, victims)
    run.process.kill()
    run.process.wait()
    away = load.go(seconds, victims)
    began_s = time.monotonic()
    run.resume()
    wait_until(run.all_run, LOOKS_WITHIN_S, "a picture of the whole run")
    looks_s = time.monotonic() - began_s
    loss = 1 - away.per_s / there.per_s
    verdict.facts |= {
        "per_s": [round(phase.per_s, 1) for phase in (there, away)],
        "loss_percent": round(100 * loss, 1),
        "back_s": [max(phase.backs_s, default=-1.0) for phase in (there, away)],
        "picture_s": round(looks_s, 1),
    }
    missing = [*there.never, *away.never]
    verdict.need(not missing, f"{missing} were not back within {SETTLES_WITHIN_S:g} s")
    slowest = max([*away.backs_s, 0.0])
    verdict.need(slowest <= back_s, f"a replica was back only after {slowest:g} s")
    most = job.size["most_loss"]
    verdict.need(loss <= most, f"the throughput without coordinator is {loss:.0%} less")
    verdict.need(looks_s <= job.size["picture_s"], f"the picture was whole after {looks_s:.1f} s")
    finish_apart(run, verdict, n)
    return verdict


def finish_apart(
    run: ApartRun, verdict: Verdict, n: int, *, within_s: float = exact.DRAIN_S
) -> None:
    """Everything through, every process ends as its run does."""
    run.site.open_gate(n)
    finish(run, verdict, within_s + n / exact.SLOWEST_PER_S)
    exact.judge(verdict, run.site, n)
    codes = run.stages_end(ENDS_WITHIN_S)
    verdict.need(set(codes.values()) <= {0}, f"the stages ended with {codes}")


# --- C17 ------------------------------------------------------------------------------------------

# A coordinator that says everything twice: as it is, and as one before it might have said it.
REPEATS_OLD_WORDS = """
from msgspec.structs import replace
from zflow.net.control import ControlServer
from zflow.wire.control import Duty, Snapshot, Update
_publish, _send = ControlServer.publish, ControlServer.send
def older(message):
    changed = {"epoch": message.epoch - 1}
    if isinstance(message, Duty):
        return replace(message, slots={}, snapshot=None, **changed)
    return replace(message, phase="finish", number=message.number + 1000, paused=True, **changed)
def publish(self, message):
    _publish(self, message)
    if isinstance(message, Update):
        _publish(self, older(message))
def send(self, peer, message):
    _send(self, peer, message)
    if isinstance(message, (Duty, Snapshot)) and not getattr(message, "refusal", ""):
        _send(self, peer, older(message))
ControlServer.publish, ControlServer.send = publish, send
"""


def play_two(job: Job) -> Verdict:
    """C17. A second one is refused, whatever it wants; one that is older is not obeyed."""
    n, turns = job.number("items"), job.number("turns")
    verdict = Verdict(faults={"second": 0, "killed": 0})
    run = ApartRun(job.site(), n)
    run.start_stages()
    gates = list(exact.rounds(n, turns))
    for turn, gate in enumerate(gates):
        run.site.open_gate(gate)
        exact.wait_settled(run, gate // 2)
        refuse_second(run, verdict, turn)
        run.process.kill()
        run.process.wait()
        verdict.faults["killed"] += 1
        run.resume(patch=REPEATS_OLD_WORDS)
        wait_until(run.all_run, job.size["settled_s"], "a run that runs")
        exact.wait_settled(run, gate, within_s=job.size["settled_s"])
    finish_apart(run, verdict, n, within_s=job.size["settled_s"])
    told = [name for name in STAGES if "of an older coordinator" in run.said(name)]
    verdict.facts["ignored by"] = told
    verdict.need(set(told) == {*STAGES}, f"only {told} have told that they ignore older words")
    return verdict


def refuse_second(run: ApartRun, verdict: Verdict, turn: int) -> None:
    """The same run at another place, and another run at the same place, both at once."""
    others = {
        f"same-{turn}": run.coordinate(
            ["--resume", "last"], url=run.url + "2", name=f"same-{turn}"
        ),
        f"new-{turn}": run.coordinate(run.parameters, name=f"new-{turn}"),
    }
    for name, process in others.items():
        verdict.faults["second"] += 1
        try:
            code: int | None = process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = run.said(name)
        verdict.need(code == 3, f"the second coordinator {name} ended with {code}: {said[-300:]}")
        verdict.need(any(words in said for words in TOLD), f"{name} did not say why: {said[-300:]}")


# --- C29 ------------------------------------------------------------------------------------------

# While the file `mixed` says so, the replicas of `spread` that start are of another kind. What the
# others refuse is noted.
MIXED = """
import os, sys
_site = os.path.dirname(os.path.dirname(__file__))
_flag = os.path.join(_site, "mixed")
if "zflow.replica" in sys.orig_argv:
    from zflow.protocol.inbox import Inbox
    _refuse = Inbox._refuse
    def refuse(self, frame, code, current):
        open(os.path.join(_site, "refused-" + code), "a").close()
        _refuse(self, frame, code, current)
    Inbox._refuse = refuse
    slot = sys.orig_argv[sys.orig_argv.index("--slot") + 1]
    kind = open(_flag).read() if os.path.exists(_flag) and slot.startswith("spread/") else ""
    other = {"codec": {"codec": "another"}, "generation": {"generation": 2}}.get(kind)
    if other:
        from msgspec.structs import replace
        from zflow.wire import control
        from zflow.wire.codec import CODECS, PickleCodec
        CODECS["another"] = PickleCodec
        _decode = control.decode
        def decode(raw):
            message = _decode(raw)
            if not isinstance(message, control.Snapshot):
                return message
            return replace(message, config=replace(message.config, **other))
        control.decode = decode
    elif kind == "protocol":
        from zflow.wire import data
        data.PROTOCOL += 1
"""
OTHER_VERSION = """
from zflow.supervisor import attending
_versions = attending.versions
attending.versions = lambda: {{**_versions(), "{name}": "0.0"}}
from zflow.local import apart
apart.versions = attending.versions
"""
KINDS = ("codec", "generation", "protocol")
VERSIONS = ("zflow", "Python", "protocol")


def play_mixed(job: Job) -> Verdict:
    """C29. At the door of the run, and between replicas of it."""
    n = job.number("items")
    verdict = Verdict(faults={"supervisors": len(VERSIONS), "replicas": 0})
    site = job.site(patch=MIXED)
    run = ApartRun(site, n)
    refuse_versions(run, verdict)
    run.start_stages()
    kinds = [KINDS[k % len(KINDS)] for k in range(job.number("turns"))]
    for turn, (kind, gate) in enumerate(zip(kinds, exact.rounds(n, len(kinds)), strict=True)):
        mix(run, verdict, (kind, f"spread/{turn % 2}"), gate, job.size["refused_s"])
        verdict.faults["replicas"] += 2
    finish_apart(run, verdict, n)
    result = run.result() or {"stages": {}}
    deaths = result["stages"].get("spread", {}).get("restarts", 0)
    wanted = 2 * len(kinds)
    verdict.need(deaths == wanted, f"{deaths} processes of spread ended, and {wanted} were killed")
    return verdict


def refuse_versions(run: ApartRun, verdict: Verdict) -> None:
    """A stage of another version of something does not come in, and is told of what."""
    for name in VERSIONS:
        process = run._start(
            ["stage", "spread", "--coordinator", run.url],
            f"old-{name}",
            OTHER_VERSION.format(name=name),
        )
        try:
            code = process.wait(LOOKS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = run.said(f"old-{name}")
        reason = f"the supervisor of {name} 0.0"
        verdict.need(code == 6 and reason in said, f"{name}: exit code {code}: {said[-300:]}")
        verdict.need("Traceback" not in said, f"a traceback for people: {said[-300:]}")


def mix(
    run: ApartRun, verdict: Verdict, what: tuple[str, str], gate: int, refused_s: float
) -> None:
    """One replica is of another kind for a while; the other one has all the work then, also the
    one that was of another kind in the turn before."""
    kind, slot = what
    flag, note = run.site.folder / "mixed", run.site.folder / f"refused-{kind}"
    note.unlink(missing_ok=True)
    flag.write_text(kind)
    replace_one(run, slot)
    if kind != "protocol":  # its frames cannot be read, so that nobody can answer them
        try:
            wait_until(note.exists, refused_s, "")
        except Stuck:
            verdict.broken.append(f"another {kind} was not refused")
    run.site.open_gate(gate)
    exact.wait_settled(run, gate)
    flag.unlink()
    replace_one(run, slot)
    wait_until(run.all_run, LOOKS_WITHIN_S, "a run that runs")


def replace_one(run: ApartRun, slot: str) -> None:
    """Kill a replica, and wait for its successor."""

    def living() -> list[Replica]:
        return [replica for replica in run.replicas() if replica.slot == slot]

    wait_until(living, LOOKS_WITHIN_S, slot)
    (victim,) = living()
    victim.signal(9)
    wait_until(
        lambda: any(one.incarnation > victim.incarnation for one in living()),
        LOOKS_WITHIN_S,
        f"the successor of {slot}",
    )


# --- twins ----------------------------------------------------------------------------------------

# A supervisor that keeps no configuration for its replicas.
KEEPS_NOTHING = """
from zflow.local.apart import StageRun
StageRun._keep = lambda self, snapshot: None
"""
OBEYS_EVERYBODY = """
from zflow.replica.life import Replica
_on_message = Replica.on_message
def on_message(self, message):
    self._epoch = min(self._epoch, getattr(message, "epoch", self._epoch))
    _on_message(self, message)
Replica.on_message = on_message
"""
REFUSES_NOBODY = """
from zflow.protocol.inbox import Inbox
Inbox._refusal = lambda self, frame, link: None
"""

CAMPAIGNS = (
    Campaign(
        name="C16",
        title="the coordinator is dead for a while, and replicas die and come back meanwhile",
        full={
            "down_s": 60,
            "rate_per_s": 250,
            "kills": 8,
            "back_s": 5,
            "most_loss": 0.05,
            "picture_s": 10,
        },
        ci={
            "down_s": 4,
            "rate_per_s": 100,
            "kills": 1,
            "back_s": 20,
            "most_loss": 0.5,
            "picture_s": 30,
        },
        play=play_away,
        twin=Twin(
            patch=KEEPS_NOTHING,
            breaks="not back within",
            size={
                "down_s": 6,
                "rate_per_s": 100,
                "kills": 2,
                "back_s": 10,
                "most_loss": 0.5,
                "picture_s": 60,
            },
        ),
    ),
    Campaign(
        name="C17",
        title="a second coordinator, and one that repeats the words of an older one",
        full={"items": 100_000, "turns": 10, "settled_s": 60},
        ci={"items": 4_000, "turns": 1, "settled_s": 60},
        play=play_two,
        twin=Twin(
            patch=OBEYS_EVERYBODY,
            breaks="within",
            size={"items": 4_000, "turns": 1, "settled_s": 15},
        ),
    ),
    Campaign(
        name="C29",
        title="other versions, protocols, codecs and generations: refused with the reason",
        full={"items": 60_000, "turns": 12, "refused_s": 30},
        ci={"items": 2_000, "turns": 2, "refused_s": 30},
        play=play_mixed,
        twin=Twin(
            patch=REFUSES_NOBODY,
            breaks="was not refused",
            size={"items": 2_000, "turns": 1, "refused_s": 8},
        ),
    ),
)

"""The supervisor over real children: what ended them, when they start again, when it gives up.

The children are not replicas: `sys.executable` is replaced by a script that does what a file says.
"""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from zflow.clock import Clock
from zflow.paths import RunDirectory
from zflow.state.blackbox import BlackBox, Names
from zflow.supervisor import supervise as module
from zflow.supervisor.addresses import ipc_addresses
from zflow.supervisor.census import census_of
from zflow.supervisor.member import Posts
from zflow.supervisor.supervise import BARE_DEATH, CRASH_LOOP, WHOLE_DEATH, Supervisor
from zflow.wire.control import RunConfig, StageConfig, TargetConfig
from zflow.wire.picture import totals_of
from zflow.wire.run import OSEQ, Run

WITHIN_S = 10.0
RUN = Run(7, 8, OSEQ, 0, 5, 1)


class FastClock(Clock):
    """Runs ahead when told to, so that no test waits for a backoff."""

    def __init__(self):
        self.ahead_s = 0.0

    def now_s(self):
        return super().now_s() + self.ahead_s


class Children:
    """A supervisor of one stage whose processes run a line of shell."""

    def __init__(self, folder, monkeypatch, *, kind="stage", replicas=1, timeout_s=300.0):
        self.folder = folder
        self.clock = FastClock()
        self.watched = []
        program = folder / "child"
        program.write_text(f"#!/bin/sh\n. {folder}/script\n")
        program.chmod(0o700)
        self.script("exec sleep 60")
        monkeypatch.setattr(sys, "executable", str(program))
        self.run = RunDirectory(folder / "r")
        for part in "sblo":
            (self.run.root / part).mkdir(parents=True)
        config = self._config(kind, replicas, timeout_s)
        posts = Posts(
            run=self.run,
            state=folder,
            control=self.run.control,
            options=(),
            addresses=ipc_addresses(self.run, config),
        )
        self.supervisor = Supervisor(
            config,
            posts,
            self.clock,
            log_level="WARNING",
            watch=self.watched.append,
            unwatch=self.watched.remove,
        )
        self.supervisor.hold({f"work/{k}": 0 for k in range(replicas)})
        self.member = self.supervisor.members["work/0"]

    def _config(self, kind, replicas, timeout_s):
        stage = StageConfig(
            name="work",
            number=3,
            kind=kind,
            replicas=replicas,
            retries=3,
            backoff_s=0.1,
            timeout_s=timeout_s,
            max_crashes=3,
            on_error="dead_letter",
        )
        return RunConfig(
            run_id="run",
            generation=1,
            topology="flow",
            target=TargetConfig(target="flow.py", attribute=None, path=None),
            stages=[stage],
            edges=[],
            parameters=[],
        )

    def script(self, text):
        """What the next child does."""
        (self.folder / "script").write_text(text + "\n")

    def black_box(self, *, runs=(), alone=False, processed=0, finished=0, started_ns=1):
        """What the child of the newest incarnation would have left."""
        path = self.run.black_box(3, 0, self.member.incarnation)
        box = BlackBox(path, Names(counters=["processed", "finished"]))
        if runs:
            box.enter(list(runs), alone=alone, now_ns=started_ns)
        box.count([processed, finished])
        box.close()

    def died(self, wait_until):
        """Wait for one death."""
        deaths = []
        wait_until(lambda: deaths.extend(self.supervisor.reap()) or deaths, WITHIN_S)
        (death,) = deaths
        return death


@pytest.fixture
def children(tmp_path, monkeypatch):
    made = []

    def make(**options):
        made.append(Children(tmp_path, monkeypatch, **options))
        return made[-1]

    yield make
    for one in made:
        one.supervisor.kill_all()
        one.supervisor.reap()


# --- starting ------------------------------------------------------------------------------------


def test_every_slot_is_started_once_in_a_session_of_its_own(children):
    made = children(replicas=2)
    assert [str(slot) for slot in made.supervisor.start_due()] == ["work/0", "work/1"]
    assert made.supervisor.start_due() == []
    pids = [member.process.pid for member in made.supervisor.living()]
    assert [os.getsid(pid) for pid in pids] == pids
    assert len(made.watched) == 2


def test_a_child_is_told_its_place(children, wait_until):
    made = children()
    made.script('echo "$@"')
    made.supervisor.start_due()
    made.died(wait_until)
    words = made.run.log(3, 0, "out").read_text().split()
    told = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["-m", "zflow.replica"]
    assert (told["--slot"], told["--incarnation"]) == ("work/0", "1")
    assert (told["--run"], told["--parent"]) == (str(made.run.root), str(os.getpid()))


# --- what ended it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "cause", "strikes"),
    [
        ("exit 7", "exit code 7", WHOLE_DEATH),
        ("kill -SEGV $$", "signal 11 (SIGSEGV)", WHOLE_DEATH),
        ("kill -ABRT $$", "signal 6 (SIGABRT)", WHOLE_DEATH),
        ("kill -KILL $$", "signal 9 (SIGKILL)", BARE_DEATH),
        ("kill -TERM $$", "signal 15 (SIGTERM)", BARE_DEATH),
    ],
)
def test_the_cause_of_a_death_is_told_and_how_far_it_speaks_against_the_item(
    children, wait_until, script, cause, strikes
):
    made = children()
    made.script(f"ulimit -c 0; echo last words >&2; {script}")
    made.supervisor.start_due()
    death = made.died(wait_until)
    assert (str(death.slot), death.incarnation, death.orderly) == ("work/0", 1, False)
    assert (death.cause, death.tail) == (cause, "last words")
    assert (death.crash.cause, death.crash.strikes) == (f"{cause}\nlast words", strikes)
    assert made.watched == []


def test_a_kill_by_the_kernel_for_memory_is_told_as_such(children, wait_until, monkeypatch):
    made = children()
    made.script("kill -KILL $$")
    made.supervisor.start_due()
    monkeypatch.setattr(module, "_oom_kills", lambda: made.supervisor._oom_kills + 1)
    death = made.died(wait_until)
    assert death.cause == "killed by the kernel: out of memory (SIGKILL)"
    assert death.crash.strikes == WHOLE_DEATH


def test_the_units_that_were_executing_are_named_and_the_counters_kept(children, wait_until):
    made = children()
    made.supervisor.start_due()
    made.black_box(runs=[RUN], alone=True, processed=3)
    os.kill(made.member.process.pid, signal.SIGKILL)
    death = made.died(wait_until)
    assert (death.crash.runs, death.crash.alone) == ([RUN], True)
    assert death.counters == {"processed": 3, "finished": 0}
    assert not made.run.black_box(3, 0, 1).exists()


def test_only_what_this_incarnation_wrote_is_its_last_words(children, wait_until):
    made = children()
    for word in ("first", "second"):
        made.script(f"echo {word} >&2; exit 1")
        made.clock.ahead_s += 60
        made.supervisor.start_due()
        assert made.died(wait_until).tail == word


def test_a_process_that_exits_with_0_before_it_was_told_to_finish_is_started_again(
    children, wait_until
):
    made = children()
    made.script("exit 0")
    made.supervisor.start_due()
    death = made.died(wait_until)
    assert (death.orderly, death.cause) == (False, "exit code 0")
    made.clock.ahead_s += 60
    assert made.supervisor.start_due() == [made.member.slot]


def test_an_orderly_end_is_final(children, wait_until):
    made = children()
    made.script(f"while [ ! -e {made.folder}/go ]; do sleep 0.01; done; exit 0")
    made.supervisor.start_due()
    made.black_box(finished=1)
    (made.folder / "go").touch()
    assert made.died(wait_until).orderly
    made.clock.ahead_s += 60
    assert made.supervisor.start_due() == []
    assert made.supervisor.next_start_s() == float("inf")


def test_what_a_child_leaves_behind_is_killed_with_it(children, wait_until):
    made = children()
    made.script(f"sleep 60 & echo $! > {made.folder}/pid; exit 1")
    made.supervisor.start_due()
    made.died(wait_until)
    pid = (made.folder / "pid").read_text().strip()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), WITHIN_S)


def _is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


# --- stuck ---------------------------------------------------------------------------------------


def test_an_item_that_runs_longer_than_its_timeout_gets_its_process_killed(children, wait_until):
    made = children(timeout_s=5.0)
    made.supervisor.start_due()
    made.black_box(runs=[RUN], alone=True, started_ns=int(made.clock.now_s() * 1e9))
    made.supervisor.kill_stuck()
    assert made.member.process.poll() is None
    made.clock.ahead_s += 6.0
    made.supervisor.kill_stuck()
    death = made.died(wait_until)
    assert death.cause.startswith("stuck: it ran for 6.")
    assert death.cause.endswith("s, longer than timeout_s=5")
    assert death.crash.strikes == WHOLE_DEATH


@pytest.mark.parametrize(("kind", "runs"), [("source", [RUN]), ("stage", [])])
def test_a_source_and_an_idle_replica_are_never_stuck(children, kind, runs):
    made = children(kind=kind, timeout_s=5.0)
    made.supervisor.start_due()
    made.black_box(runs=runs, started_ns=1)
    made.clock.ahead_s += 3600
    made.supervisor.kill_stuck()
    assert made.member.killed_because == ""


# --- starting again ------------------------------------------------------------------------------


def die(made, wait_until, *, processed=0, runs=(), how=signal.SIGKILL):
    """One life: started when due, killed; seconds until the next may start."""
    made.clock.ahead_s += 60
    assert made.supervisor.start_due()
    made.black_box(runs=runs, processed=processed)
    os.kill(made.member.process.pid, how)
    made.died(wait_until)
    return made.supervisor.next_start_s() - made.clock.now_s()


def test_the_successor_waits_twice_as_long_each_time_up_to_half_a_minute(children, wait_until):
    made = children()
    waits = [die(made, wait_until, runs=[RUN], how=signal.SIGSEGV) for _ in range(10)]
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.05)
    assert waits[-1] == pytest.approx(30.0, abs=0.1)


def test_a_slot_is_not_started_before_its_time(children, wait_until):
    made = children()
    die(made, wait_until)
    assert made.supervisor.start_due() == []
    made.clock.ahead_s += 0.2
    assert made.supervisor.start_due() == [made.member.slot]
    assert made.member.incarnation == 2


def test_work_that_was_done_makes_the_wait_short_again(children, wait_until):
    made = children()
    for _ in range(4):
        die(made, wait_until)
    assert die(made, wait_until, processed=1) == pytest.approx(0.1, abs=0.05)
    assert made.member.fruitless == 0


def test_deaths_without_any_work_done_are_a_crash_loop(children, wait_until):
    made = children()
    for _ in range(CRASH_LOOP):
        assert made.supervisor.crash_looping() is None
        die(made, wait_until)
    assert made.supervisor.crash_looping() is made.member


def test_deaths_by_a_poisonous_item_are_no_crash_loop(children, wait_until):
    made = children()
    for _ in range(CRASH_LOOP + 1):
        die(made, wait_until, runs=[RUN], how=signal.SIGSEGV)
    assert made.supervisor.crash_looping() is None


def refuse(made, wait_until):
    """The next incarnation says itself that a disk is full."""
    made.script("echo the disk is full >&2; exit 75")
    made.clock.ahead_s += 31.0
    made.supervisor.start_due()
    return made.died(wait_until)


def test_a_full_disk_is_no_crash_loop_and_speaks_against_no_item(children, wait_until):
    made = children()
    for _ in range(CRASH_LOOP + 3):
        death = refuse(made, wait_until)
        assert death.crash.strikes == 0
        assert made.member.start_at_s - made.clock.now_s() <= module.UNAVAILABLE_RETRY_S
    assert made.supervisor.crash_looping() is None


def test_a_disk_that_stays_full_is_a_crash_loop_in_the_end(children, wait_until):
    made = children()
    refuse(made, wait_until)
    made.clock.ahead_s += module.UNAVAILABLE_S
    for _ in range(CRASH_LOOP):
        assert made.supervisor.crash_looping() is None
        refuse(made, wait_until)
    assert made.supervisor.crash_looping() is made.member


def test_killing_all_waits_until_all_are_gone(children):
    made = children(replicas=3)
    made.supervisor.start_due()
    made.supervisor.kill_all()
    assert [death.cause for death in made.supervisor.reap()] == ["stopped"] * 3
    assert made.watched == []


def test_a_child_that_has_ended_and_is_not_reaped_has_lost_no_count_in_a_census(
    children, monkeypatch
):
    def refuse(pid):
        raise psutil.ZombieProcess(pid)

    made = children()
    made.script("exit 3")
    made.supervisor.start_due()
    made.black_box(processed=5)
    census_of(made.supervisor, {})
    monkeypatch.setattr(psutil, "Process", refuse)
    (seen,) = census_of(made.supervisor, {}).slots
    assert seen.replica is None
    assert totals_of(seen)["processed"] == 5

"""Spawns, watches and restarts the replicas of this machine.

Decides when a replica is stuck, how long to wait before its successor, when to give up (R12), and
what a death says against the units that were executing. Kills before it restarts. Never talks to
a replica; its black box says enough.
"""

import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from zflow.books import Books
from zflow.clock import Clock
from zflow.ids import Slot
from zflow.paths import RunDirectory
from zflow.state.blackbox import Reading, read_black_box
from zflow.wire.control import EXIT_UNAVAILABLE, RunConfig, StageConfig
from zflow.wire.data import MAX_ERROR_BYTES, Crash
from zflow.wire.picture import Census, Replica, SlotCensus

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
CRASH_LOOP = 5  # successive incarnations that died before they settled one unit
STUCK_CHECK_S = 0.25
WHOLE_DEATH, BARE_DEATH = 3, 1  # strikes; see protocol.suspects
UNAVAILABLE_S = 300.0  # a disk may be full for that long before it counts as a crash loop
UNAVAILABLE_RETRY_S = 1.0  # and its stage goes on that soon after there is space
_BARE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One process has ended. orderly: it was told to finish and did.

    reason: exit, signal, stuck, oom or rollout; cause: the same in words.
    """

    slot: Slot
    incarnation: int
    orderly: bool
    reason: str
    cause: str
    tail: str  # the end of what it wrote to stderr
    crash: Crash
    counters: dict[str, int]


@dataclass(slots=True)
class Member:
    """One slot under supervision."""

    slot: Slot
    stage: StageConfig
    incarnation: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0  # wall clock
    pidfd: int = -1
    err_from: int = 0  # where this incarnation's stderr begins
    killed_because: str = ""
    killed_reason: str = ""  # stuck, rollout or stop
    start_at_s: float = 0.0  # when the next incarnation may start; 0 while one runs
    fruitless: int = 0
    refused_since_s: float = 0.0  # since when a disk or a lock has refused; 0 if none does
    failures: int = 0
    finished: bool = False
    last_tail: str = ""
    last_error: str = ""
    restarts: dict[str, int] = field(default_factory=dict)  # by reason


class Supervisor:
    """All replicas of one run on this machine. One thread owns it.

    watch, unwatch: told of descriptors that become readable when a child ends.
    """

    def __init__(
        self,
        config: RunConfig,
        clock: Clock,
        *,
        log_level: str,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self.members = {
            str(Slot(stage.name, index)): Member(Slot(stage.name, index), stage)
            for stage in config.stages
            for index in range(stage.replicas)
        }
        self.run = RunDirectory(Path(config.run_directory))
        self.books = Books((edge.label, edge.source) for edge in config.edges)
        self._host = socket.gethostname()
        self._clock = clock
        self._log_level = log_level
        self._watch = watch
        self._unwatch = unwatch
        self._check_due_s = 0.0
        self._oom_kills = _oom_kills()
        self._environment = {
            **os.environ,
            # A print reaches the log at once, also of a process that is killed.
            "PYTHONUNBUFFERED": "1",
            # A set iterates in the same order in every incarnation, so that a stage which was
            # deterministic before a crash is so after it.
            "PYTHONHASHSEED": str(zlib.crc32(config.run_id.encode())),
        }

    # -- starting ----------------------------------------------------------------------------

    def start_due(self) -> list[Slot]:
        """Start every slot whose time has come; those that were started."""
        now_s = self._clock.now_s()
        due = [
            member
            for member in self.members.values()
            if member.process is None and not member.finished and now_s >= member.start_at_s
        ]
        for member in due:
            self._start(member)
        return [member.slot for member in due]

    def _start(self, member: Member) -> None:
        member.incarnation += 1
        member.killed_because = ""
        number, index = member.stage.number, member.slot.index
        out = self.run.log(number, index, "out")
        err = self.run.log(number, index, "err")
        member.err_from = err.stat().st_size if err.exists() else 0
        command = [sys.executable, "-m", "zflow.replica"]
        command += ["--run", str(self.run.root), "--slot", str(member.slot)]
        command += ["--incarnation", str(member.incarnation), "--parent", str(os.getpid())]
        command += ["--log-level", self._log_level]
        # Files and not pipes: a pipe that nobody reads would block the user's print.
        with out.open("ab") as out_file, err.open("ab") as err_file:
            member.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
                env=self._environment,
            )
        member.started_at_s = self._clock.wall_s()
        member.pidfd = os.pidfd_open(member.process.pid)
        self._watch(member.pidfd)

    # -- watching ----------------------------------------------------------------------------

    def reap(self) -> list[Death]:
        """The processes that have ended since the last call."""
        ended = [m for m in self.members.values() if m.process and m.process.poll() is not None]
        return [self._bury(member) for member in ended]

    def _bury(self, member: Member) -> Death:
        process = member.process
        assert process is not None
        self._unwatch(member.pidfd)
        os.close(member.pidfd)
        member.process = None
        with suppress(ProcessLookupError, PermissionError):  # children that user code left behind
            os.killpg(process.pid, signal.SIGKILL)
        number, index = member.stage.number, member.slot.index
        for side in ("in", "ack"):
            # A child that escaped us still listens there and never answers: whoever dials before
            # the successor has bound would wait for it.
            endpoint = self.run.endpoint(number, index, side)
            Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        box_path = self.run.black_box(number, index, member.incarnation)
        box = read_black_box(box_path)
        box_path.unlink(missing_ok=True)
        tail = self._tail(member)
        reason, cause, strikes = self._cause(member, process.returncode)
        counters = box.counters if box is not None else {}
        self.books.died(str(member.slot), counters)
        # User code can end the process with exit code 0 too; only the replica itself says so here.
        orderly = process.returncode == 0 and counters.get("finished") == 1
        crash = _crash(member, box, strikes, f"{cause}\n{tail}" if tail else cause)
        refused = process.returncode == EXIT_UNAVAILABLE and not member.killed_because
        self._plan(member, orderly, crash, counters, tail, refused=refused)
        if not orderly and reason != "stop":
            member.restarts[reason] = member.restarts.get(reason, 0) + 1
            member.last_error = crash.cause
        return Death(
            slot=member.slot,
            incarnation=member.incarnation,
            orderly=orderly,
            reason=reason,
            cause=cause,
            tail=tail,
            crash=crash,
            counters=counters,
        )

    def _cause(self, member: Member, code: int) -> tuple[str, str, int]:
        """What ended it: a reason, words, and how far that speaks against what it executed."""
        if member.killed_because:
            return member.killed_reason, member.killed_because, WHOLE_DEATH
        if code == EXIT_UNAVAILABLE:
            return "exit", "a disk or a lock refuses for now (exit code 75)", 0
        if code >= 0:
            return "exit", f"exit code {code}", WHOLE_DEATH
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            kills, self._oom_kills = self._oom_kills, _oom_kills()
            if self._oom_kills > kills:
                return "oom", "killed by the kernel: out of memory (SIGKILL)", WHOLE_DEATH
        strikes = BARE_DEATH if -code in _BARE else WHOLE_DEATH
        return "signal", f"signal {-code} ({name})", strikes

    def _plan(
        self,
        member: Member,
        orderly: bool,
        crash: Crash,
        counters: dict[str, int],
        tail: str,
        *,
        refused: bool,
    ) -> None:
        """When the successor may start, and whether there is still hope."""
        if orderly:
            member.finished = True
            return
        now_s = self._clock.now_s()
        if not refused:
            member.refused_since_s = 0.0
        elif not member.refused_since_s:
            member.refused_since_s = now_s
        if counters.get("processed", 0) + counters.get("duplicates", 0) > 0:
            member.failures = 0
            member.fruitless = 0
        elif refused and now_s - member.refused_since_s < UNAVAILABLE_S:
            pass  # it waits for space, as a living one does
        elif not crash.runs or crash.strikes < WHOLE_DEATH:
            member.fruitless += 1
        most_s = UNAVAILABLE_RETRY_S if refused else BACKOFF_MAX_S
        wait_s = min(most_s, BACKOFF_FIRST_S * 2.0**member.failures)
        member.failures += 1
        member.start_at_s = now_s + wait_s
        member.last_tail = tail

    def crash_looping(self) -> Member | None:
        """A slot whose processes keep dying before they have done anything."""
        looping = (m for m in self.members.values() if m.fruitless >= CRASH_LOOP)
        return next(looping, None)

    def kill_stuck(self) -> None:
        """Kill a replica whose item has run longer than its `timeout_s`."""
        now_s = self._clock.now_s()
        if now_s < self._check_due_s:
            return
        self._check_due_s = now_s + STUCK_CHECK_S
        for member in self.living():
            box = self.reading(member)
            if box is None or not box.started_ns or member.stage.kind == "source":
                continue
            ran_s = now_s - box.started_ns / 1e9
            if ran_s > member.stage.timeout_s and not member.killed_because:
                member.killed_reason = "stuck"
                member.killed_because = (
                    f"stuck: it ran for {ran_s:.1f} s, longer than timeout_s="
                    f"{member.stage.timeout_s:g}"
                )
                self._kill(member)

    def count(self) -> None:
        """Read what the living have counted into the books."""
        for member in self.living():
            box = self.reading(member)
            if box is not None:
                self.books.living(str(member.slot), box.counters)

    def census(self, states: Mapping[str, str]) -> Census:
        """Every slot, now. states: of the replicas, as they have reported them."""
        slots = [
            self._slot_census(member, states.get(name, "starting"))
            for name, member in self.members.items()
        ]
        return Census(supervisor=f"{self._host}:{os.getpid()}", slots=slots)

    def _slot_census(self, member: Member, state: str) -> SlotCensus:
        slot = str(member.slot)
        replica = self._replica(member, state)
        retired = self.books.retired(slot)
        if replica is None and member.process is not None:
            # It has just ended, and its books are closed with the next reaping: nothing that was
            # counted may be missing meanwhile.
            retired = self.books.slot(slot)
        return SlotCensus(
            slot=slot,
            replica=replica,
            retired=retired,
            restarts=dict(member.restarts),
            last_error=member.last_error,
        )

    def _replica(self, member: Member, state: str) -> Replica | None:
        if member.process is None:
            return None
        box = self.reading(member)
        try:
            process = psutil.Process(member.process.pid)
            with process.oneshot():
                cpu, memory, open_fds = (
                    process.cpu_times(),
                    process.memory_info(),
                    process.num_fds(),
                )
        except psutil.Error:  # it has just ended and is not reaped yet
            return None
        return Replica(
            incarnation=member.incarnation,
            pid=member.process.pid,
            host=self._host,
            state=state,
            started_at_s=member.started_at_s,
            cpu_s=cpu.user + cpu.system,
            memory_bytes=memory.rss,
            open_fds=open_fds,
            counters=box.counters if box is not None else {},
        )

    def living(self) -> Iterator[Member]:
        """The members that have a process."""
        return (member for member in self.members.values() if member.process is not None)

    def reading(self, member: Member) -> Reading | None:
        """The black box of the incarnation that runs."""
        number, index = member.stage.number, member.slot.index
        return read_black_box(self.run.black_box(number, index, member.incarnation))

    def next_start_s(self) -> float:
        """When the next successor is due; infinity if none is."""
        waiting = (
            m.start_at_s for m in self.members.values() if m.process is None and not m.finished
        )
        return min(waiting, default=float("inf"))

    # -- ending ------------------------------------------------------------------------------

    def kill_all(self) -> None:
        """Stop everything at once."""
        for member in self.living():
            member.killed_reason, member.killed_because = "stop", "stopped"
            self._kill(member)
        for member in list(self.living()):
            if member.process is not None:
                member.process.wait()

    @staticmethod
    def _kill(member: Member) -> None:
        assert member.process is not None
        with suppress(ProcessLookupError):
            os.killpg(member.process.pid, signal.SIGKILL)

    def _tail(self, member: Member) -> str:
        """The end of what this incarnation wrote to stderr."""
        path = self.run.log(member.stage.number, member.slot.index, "err")
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                begin = max(member.err_from, file.tell() - MAX_ERROR_BYTES + 200)
                file.seek(min(begin, file.tell()))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


def _crash(member: Member, box: Reading | None, strikes: int, cause: str) -> Crash:
    return Crash(
        slot=str(member.slot),
        incarnation=member.incarnation,
        runs=box.runs if box is not None else [],
        alone=box.alone if box is not None else False,
        strikes=strikes,
        cause=cause,
        place=box.place if box is not None and box.alone else -1,
    )


def _oom_kills() -> int:
    """How many processes of this control group the kernel has killed for memory; 0 if unknown."""
    try:
        text = Path("/sys/fs/cgroup/memory.events").read_text()
    except OSError:
        return 0
    counts = dict(line.split() for line in text.splitlines())
    return int(counts.get("oom_kill", 0))

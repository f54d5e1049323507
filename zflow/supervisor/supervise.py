"""Spawns, watches and restarts the replicas of this machine.

Decides when a replica is stuck, how long to wait before its successor, when to give up (R12), and
what a death says against the units that were executing. Kills before it restarts. Never talks to
a replica; its black box says enough.
"""

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from zflow.books import Books
from zflow.clock import Clock
from zflow.ids import Slot
from zflow.state.blackbox import Reading, read_black_box
from zflow.supervisor.member import Death, Member, Posts
from zflow.wire.control import EXIT_ROLLOUT, EXIT_UNAVAILABLE, MADE_ROOM, RunConfig
from zflow.wire.data import MAX_ERROR_BYTES, Crash, encode_crashes

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
CRASH_LOOP = 5  # successive incarnations that died before they settled one unit
STUCK_CHECK_S = 0.25
WHOLE_DEATH, BARE_DEATH = 3, 1  # strikes; see protocol.suspects
UNAVAILABLE_S = 300.0  # a disk may be full for that long before it counts as a crash loop
UNAVAILABLE_RETRY_S = 1.0  # and its stage goes on that soon after there is space
ROLLOUT_S = 30.0  # for a replica to finish what it has begun, before it is killed
MAX_CRASHES_KEPT = 16  # reports of one slot's deaths that its successors pass on
_BARE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Supervisor:
    """All replicas of one run on this machine. One thread owns it.

    watch, unwatch: told of descriptors that become readable when a child ends.
    """

    def __init__(
        self,
        config: RunConfig,
        posts: Posts,
        clock: Clock,
        *,
        log_level: str,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self.members: dict[str, Member] = {}
        self.gone: dict[str, Member] = {}  # slots that were here: what they counted stays
        self.posts = posts
        self._config = config
        self.books = Books((edge.label, edge.source) for edge in config.edges)
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

    def configure(self, config: RunConfig) -> None:
        """The run is of another version: what is started and judged from now on."""
        if config != self._config:
            self._config = config
            for member in self.members.values():
                member.stage = config.stage(member.slot.stage)

    # -- slots -------------------------------------------------------------------------------

    def hold(
        self,
        slots: Mapping[str, int],
        restart: Mapping[str, int] = MappingProxyType({}),
        waiting: Collection[str] = (),
    ) -> None:
        """Run these slots, with incarnations above the given ones, and no others.

        restart: of those, which incarnation is to make room for a new one. waiting: those that
        may not start yet.
        """
        for name, incarnation in slots.items():
            member = self.members.get(name)
            if member is None:
                member = self.members[name] = self._member(Slot.parse(name))
            member.dropped = False
            member.waiting = name in waiting
            if member.process is None:
                # One that has ended in a slot that has left says nothing for a slot that is back.
                member.finished &= member.incarnation >= incarnation
                member.incarnation = max(member.incarnation, incarnation)
        for name, member in list(self.members.items()):
            if name not in slots:
                self._drop(name, member)
            elif restart.get(name) == member.incarnation:
                self.roll_out(member)

    def _member(self, slot: Slot) -> Member:
        """A slot that was here before goes on with its numbers."""
        member = Member(slot, self._config.stage(slot.stage))
        before = self.gone.pop(str(slot), None)
        if before is not None:
            member.incarnation, member.restarts = before.incarnation, before.restarts
        return member

    def _drop(self, name: str, member: Member) -> None:
        """The slot is not ours any more: whoever has it now must find it free."""
        if member.process is not None:
            member.dropped = True
            member.killed_reason, member.killed_because = "stop", "the slot is not here any more"
            self._kill(member)
            return
        self.gone[name] = self.members.pop(name)

    def roll_out(self, member: Member) -> None:
        """Ask the member's process to finish what it has begun and to make room."""
        if member.process is not None and not member.rollout_s:
            member.rollout_s = self._clock.now_s()
            member.process.send_signal(signal.SIGTERM)

    # -- starting ----------------------------------------------------------------------------

    def start_due(self) -> list[Slot]:
        """Start every slot whose time has come; those that were started."""
        now_s = self._clock.now_s()
        due = [
            member
            for member in self.members.values()
            if member.process is None
            and not member.finished
            and not member.dropped
            and not member.waiting
            and now_s >= member.start_at_s
        ]
        for member in due:
            self._start(member)
        return [member.slot for member in due]

    def _start(self, member: Member) -> None:
        member.incarnation += 1
        member.killed_because = ""
        member.rollout_s = 0.0
        number, index = member.stage.number, member.slot.index
        out = self.posts.run.log(number, index, "out")
        err = self.posts.run.log(number, index, "err")
        member.err_from = err.stat().st_size if err.exists() else 0
        self.posts.run.log(number, index, "slot").write_text(str(member.slot))  # whose they are
        self.posts.run.crashes(number, index).write_bytes(encode_crashes(member.crashes))
        into, ack = self.posts.addresses(member.slot)
        command = [sys.executable, "-m", "zflow.replica"]
        command += ["--run", str(self.posts.run.root), "--state", str(self.posts.state)]
        command += ["--control", self.posts.control, *self.posts.options]
        command += ["--slot", str(member.slot), "--in", into, "--ack", ack]
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
        for endpoint in self.posts.addresses(member.slot):
            # A child that escaped us still listens there and never answers: whoever dials before
            # the successor has bound would wait for it.
            if endpoint.startswith("ipc://"):
                Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        box_path = self.posts.run.black_box(number, index, member.incarnation)
        box = read_black_box(box_path)
        box_path.unlink(missing_ok=True)
        tail = self._tail(member)
        reason, cause, strikes = self._cause(member, process.returncode)
        counters = box.counters if box is not None else {}
        self.books.died(str(member.slot), counters)
        # User code can end the process with exit code 0 too; only the replica itself says so here.
        orderly = process.returncode == 0 and counters.get("finished") == 1
        crash = _crash(member, box, strikes, f"{cause}\n{tail}" if tail else cause)
        member.crashes.append(crash)
        del member.crashes[:-MAX_CRASHES_KEPT]
        refused = process.returncode == EXIT_UNAVAILABLE and not member.killed_because
        self._plan(member, orderly, crash, counters, tail, refused=refused)
        if not orderly and reason != "stop":
            member.restarts[reason] = member.restarts.get(reason, 0) + 1
            if reason != "rollout":
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
        if code == EXIT_ROLLOUT:
            return "rollout", MADE_ROOM, 0
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
        if member.rollout_s:
            member.start_at_s = now_s
            return
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
            if member.rollout_s and now_s - member.rollout_s > ROLLOUT_S:
                member.killed_reason = "rollout"
                member.killed_because = f"it had not made room after {ROLLOUT_S:g} s"
                self._kill(member)
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

    def living(self) -> Iterator[Member]:
        """The members that have a process."""
        return (member for member in self.members.values() if member.process is not None)

    def reading(self, member: Member) -> Reading | None:
        """The black box of the incarnation that runs."""
        number, index = member.stage.number, member.slot.index
        return read_black_box(self.posts.run.black_box(number, index, member.incarnation))

    def logs(self, member: Member) -> dict[str, Path]:
        """What the slot's processes write, by stream."""
        number, index = member.stage.number, member.slot.index
        return {name: self.posts.run.log(number, index, name) for name in ("out", "err")}

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
        path = self.posts.run.log(member.stage.number, member.slot.index, "err")
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

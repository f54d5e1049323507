"""The process that calls a topology's hooks, as whoever leads the run sees it.

Decides how long it may take at the end. The user's code is never in the coordinator's process: it
may block, fail or kill its own, and the run goes on. What it is told waits here until it reads.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from zflow.clock import Clock, Deadline
from zflow.ids import Slot
from zflow.local.plan import Plan
from zflow.local.relay import Relay
from zflow.occasions import Failure, Run

_LOG = logging.getLogger("zflow.local")

END_WITHIN_S = 10.0  # for hooks that are under way when the run is over
LOOK_S = 0.02
NAME = Slot("hooks", 0)  # before what it prints

OnLine = Callable[[Slot, str, str], None]


class Hooks:
    """Of one run; does nothing if its topology has none. One thread owns it."""

    def __init__(self, plan: Plan, on_line: OnLine, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self._relay = Relay(on_line)
        self._pending = b""
        self._process: subprocess.Popen[bytes] | None = None
        if plan.declared.hooks and not plan.config.redrive:
            self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        logs = {stream: self._plan.run.hooks_log(stream) for stream in ("out", "err")}
        command = [sys.executable, "-m", "zflow.local.hooking", str(self._plan.state.root)]
        # Files and not pipes: a pipe that nobody reads would block the user's print.
        with logs["out"].open("ab") as out, logs["err"].open("ab") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        assert process.stdin is not None, "it was asked for"
        os.set_blocking(process.stdin.fileno(), False)
        self._relay.follow(NAME, logs)
        return process

    def began(self) -> None:
        """Every replica runs."""
        record = self._plan.stored.record
        run = Run(
            run_id=record.run_id, topology=record.topology, parameters=tuple(record.parameters)
        )
        self._tell("on_start", run)

    def failed(self, slot: str, cause: str) -> None:
        """A replica has died, or the run has failed."""
        run_id = self._plan.config.run_id
        self._tell("on_error", Failure(run_id=run_id, slot=slot, cause=cause))

    def ended(self, run: Run, stopped: Callable[[], bool]) -> None:
        """Tell how it ended, and wait for what is under way: 10 s, or until `stopped`."""
        self._tell("on_finish", run)
        process = self._process
        if process is None:
            return
        deadline = Deadline(self._clock, END_WITHIN_S)
        while process.poll() is None and not deadline.passed() and not stopped():
            self.turn()
            if not self._pending and process.stdin is not None and not process.stdin.closed:
                process.stdin.close()  # there is no more
            self._clock.sleep(LOOK_S)
        self.close()

    def turn(self) -> None:
        """Hand over what waits, as far as it is read, and pass on what was printed."""
        process = self._process
        if process is None:
            return
        if self._pending and process.stdin is not None and not process.stdin.closed:
            try:
                written = os.write(process.stdin.fileno(), self._pending)
                self._pending = self._pending[written:]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._pending = b""  # it is dead; `close` says so
        self._relay.turn()

    def close(self) -> None:
        """End it, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        late = process.poll() is None
        if late:
            _LOG.warning("a hook still ran when the run was over: ended")
            process.kill()
        code = process.wait()
        self._relay.finish()
        if code and not late:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            _LOG.warning("the process of the hooks ended with %s", how)

    def _tell(self, hook: str, occasion: Run | Failure) -> None:
        if self._process is not None:
            line = json.dumps({"hook": hook, "occasion": asdict(occasion)})
            self._pending += line.encode() + b"\n"
            self.turn()

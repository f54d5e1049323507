"""The way from a verb to a run that runs: which one is meant, and its coordinator's answer.

Decides what a person hears where there is no run, or no answer. Never decides what is asked.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zflow.cli.security import coordinator_given
from zflow.cli.stored import chosen_run, refused, runs_here
from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.net.control import ask
from zflow.net.security import Security
from zflow.paths import RunDirectory, run_directory_of
from zflow.state.runs import StoredRun, is_running
from zflow.wire.control import Look, Message
from zflow.wire.picture import Picture

ANSWER_WITHIN_S = 10.0
REMOTE_WITHIN_S = 3.0  # a coordinator that is not heard for so long is gone

Answer = TypeVar("Answer")


def running_runs(topology: str | None = None) -> list[StoredRun]:
    """The runs below the working folder that are running."""
    return [one for one in runs_here(topology) if is_running(one.state)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """A run that somebody asks about. stored: None where only its coordinator is known."""

    name: str
    stored: StoredRun | None
    endpoint: str
    security: Security

    def is_running(self) -> bool:
        """There is somebody who answers, or soon will."""
        if self.stored is not None:
            return is_running(self.stored.state)
        return isinstance(_answer(self, Look(), REMOTE_WITHIN_S), Picture)

    def on_disk(self, what: str) -> StoredRun:
        """The run's own folder; raises ConfigError where it is on another machine."""
        if self.stored is None:
            fix = "call it where the run is kept, without --coordinator"
            raise refused("--coordinator", f"{what} needs the folder of the run", fix)
        return self.stored


def meant_run(topology: str | None, run: str, state: Path | None) -> Meant:
    """The run that is meant; if nothing says which, the only one here that is running."""
    url, security = coordinator_given()
    if url:
        return Meant(name=f"at {url}", stored=None, endpoint=url, security=security)
    if topology is None and run == "last" and state is None:
        running = running_runs()
        if len(running) == 1:
            return meant_of(running[0])
    return meant_of(chosen_run(topology, run, state))


def meant_of(stored: StoredRun) -> Meant:
    """A run in a folder here."""
    place = RunDirectory(run_directory_of(stored.state.root, os.environ))
    return Meant(
        name=stored.record.run_id, stored=stored, endpoint=place.control, security=Security()
    )


def _answer(run: Meant, question: Message, within_s: float) -> Message | None:
    return ask(run.endpoint, question, within_s=within_s, security=run.security)


def asked(
    run: Meant,
    question: Message,
    kind: type[Answer],
    *,
    purpose: str,
    within_s: float | None = None,
) -> Answer:
    """The coordinator's answer. purpose: why a run has to run for this, as a clause. Blocks for
    at most `within_s`, or ANSWER_WITHIN_S.

    raises: Unavailable if the run is not there to give one.
    """
    if run.stored is not None and not is_running(run.stored.state):
        raise Unavailable(f"run {run.name} is not running: {purpose}")
    patience_s = ANSWER_WITHIN_S if within_s is None else within_s
    answer = _answer(run, question, patience_s)
    if not isinstance(answer, kind):
        raise Unavailable(f"run {run.name} has not answered within {patience_s:.0f} s")
    return answer


def look(run: Meant, *, within_s: float | None = None) -> Picture:
    """What the coordinator knows now; raises Unavailable."""
    purpose = "there is nothing to see; see zflow runs ls"
    return asked(run, Look(), Picture, purpose=purpose, within_s=within_s)


def two_looks(run: Meant, over_s: float, clock: Clock) -> tuple[Picture, Picture]:
    """What it knows now and what it knows `over_s` later; blocks that long. raises: Unavailable."""
    before = look(run)
    clock.sleep(over_s)
    return before, look(run)

"""The way from a verb to a run that runs: which one is meant, and its coordinator's answer.

Decides what a person hears where there is no run, or no answer. Never decides what is asked.
"""

import os
from pathlib import Path
from typing import TypeVar

from zflow.cli.stored import chosen_run, runs_here
from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.net.control import ask
from zflow.paths import RunDirectory, run_directory_of
from zflow.state.runs import StoredRun, is_running
from zflow.wire.control import Look, Message
from zflow.wire.picture import Picture

ANSWER_WITHIN_S = 10.0

Answer = TypeVar("Answer")


def running_runs(topology: str | None = None) -> list[StoredRun]:
    """The runs below the working folder that are running."""
    return [one for one in runs_here(topology) if is_running(one.state)]


def meant_run(topology: str | None, run: str, state: Path | None) -> StoredRun:
    """The run that is meant; if nothing says which, the only one here that is running."""
    if topology is None and run == "last" and state is None:
        running = running_runs()
        if len(running) == 1:
            return running[0]
    return chosen_run(topology, run, state)


def asked(
    run: StoredRun,
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
    name = run.record.run_id
    if not is_running(run.state):
        raise Unavailable(f"run {name} is not running: {purpose}")
    place = RunDirectory(run_directory_of(run.state.root, os.environ))
    patience_s = ANSWER_WITHIN_S if within_s is None else within_s
    answer = ask(place.control, question, within_s=patience_s)
    if not isinstance(answer, kind):
        raise Unavailable(f"run {name} has not answered within {patience_s:.0f} s")
    return answer


def look(run: StoredRun, *, within_s: float | None = None) -> Picture:
    """What the coordinator knows now; raises Unavailable."""
    purpose = "there is nothing to see; see zflow runs ls"
    return asked(run, Look(), Picture, purpose=purpose, within_s=within_s)


def two_looks(run: StoredRun, over_s: float, clock: Clock) -> tuple[Picture, Picture]:
    """What it knows now and what it knows `over_s` later; blocks that long. raises: Unavailable."""
    before = look(run)
    clock.sleep(over_s)
    return before, look(run)

"""`zflow move`: partitions of a durable stage get another owner while the run goes on.

Decides how the wish is written, and asks the run's coordinator; whether it can be done is decided
there.
"""

import os
from pathlib import Path

import click

from zflow.cli.output import show_json
from zflow.cli.stored import chosen_run, refused, run_options, runs_here
from zflow.errors import ConfigError, Problem, Unavailable
from zflow.net.control import ask
from zflow.paths import RunDirectory, run_directory_of
from zflow.state.runs import StoredRun, is_running
from zflow.wire import control

ANSWER_WITHIN_S = 10.0


@click.command()
@click.argument("stage")
@click.argument("moves", metavar="PARTITION=SLOT...", nargs=-1, required=True)
@run_options
@click.option("--json", "as_json", is_flag=True, help="The new owners as one object on stdout.")
def move(
    stage: str,
    moves: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    as_json: bool,
) -> None:
    """Give partitions of a running stage to other replicas.

    For a replica that has more to do than the others, because the keys that come most often are
    its own (the end of a run names them). Nothing is lost or applied twice, and the order of each
    key is kept; what comes for a partition waits until its new owner has it. The next run of the
    topology, and a resumed one, begins with every partition where it was declared to be.

    \b
    Example:
      zflow move Count 7=1 8=1
    """
    wanted = control.Move(stage, _parsed(moves))
    moved = _asked(_chosen(topology, run, state), wanted)
    if moved.owners is None:
        raise refused(f"zflow move {stage}", moved.refusal, "see zflow state ls")
    if as_json:
        show_json({"stage": stage, "generation": moved.owners.generation, "to": wanted.to})
        return
    for partition, slot in wanted.to.items():
        click.echo(f"partition {partition} moves to {stage}/{slot}")


def _chosen(topology: str | None, run: str, state: Path | None) -> StoredRun:
    """The run that is meant; if nothing says which, the only one here that is running."""
    if topology is None and run == "last" and state is None:
        running = [one for one in runs_here(None) if is_running(one.state)]
        if len(running) == 1:
            return running[0]
    return chosen_run(topology, run, state)


def _parsed(moves: tuple[str, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    problems: list[Problem] = []
    for text in moves:
        partition, equals, slot = text.partition("=")
        if equals and partition.isdigit() and slot.isdigit():
            found[int(partition)] = int(slot)
        else:
            fix = "write PARTITION=SLOT with two whole numbers, as in 7=1"
            problems += refused(text, "is not a move", fix).problems
    if problems:
        raise ConfigError(problems)
    return found


def _asked(run: StoredRun, wanted: control.Move) -> control.Moved:
    """The coordinator's answer; raises Unavailable if the run is not there to give one."""
    name = run.record.run_id
    if not is_running(run.state):
        raise Unavailable(f"run {name} is not running: partitions move while data flows")
    place = RunDirectory(run_directory_of(run.state.root, os.environ))
    answer = ask(place.control, wanted, within_s=ANSWER_WITHIN_S)
    if not isinstance(answer, control.Moved):
        raise Unavailable(f"run {name} has not answered within {ANSWER_WITHIN_S:.0f} s")
    return answer

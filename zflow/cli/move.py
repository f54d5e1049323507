"""`zflow move`: partitions of a durable stage get another owner while the run goes on.

Decides how the wish is written, and asks the run's coordinator; whether it can be done is decided
there.
"""

from pathlib import Path

import click

from zflow.cli.asking import asked, meant_run
from zflow.cli.output import show_json
from zflow.cli.security import asking_options
from zflow.cli.stored import refused, run_options
from zflow.errors import ConfigError, Problem
from zflow.wire import control


@click.command()
@click.argument("stage")
@click.argument("moves", metavar="PARTITION=SLOT...", nargs=-1, required=True)
@run_options
@asking_options
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
    moved = asked(
        meant_run(topology, run, state),
        wanted,
        control.Moved,
        purpose="partitions move while data flows",
    )
    if moved.owners is None:
        raise refused(f"zflow move {stage}", moved.refusal, "see zflow state ls")
    if as_json:
        show_json({"stage": stage, "generation": moved.owners.generation, "to": wanted.to})
        return
    for partition, slot in wanted.to.items():
        click.echo(f"partition {partition} moves to {stage}/{slot}")


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

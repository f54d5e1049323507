"""`zflow dead purge`: remove dead letters for good.

Decides who has to agree before that. Never removes a letter that was not chosen.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from zflow.cli.dead_choice import Choice, choice_options, chosen, held_still, refuse_if_running
from zflow.cli.output import show_json
from zflow.cli.stored import chosen_run, refused, run_options, typed
from zflow.state.deadletter import StoredLetter
from zflow.state.deadletter import purge as purge_letters
from zflow.state.runs import StoredRun


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@run_options
@choice_options
@click.option("--replayed", is_flag=True, help="Only those that were sent again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What was removed, as one object on stdout.")
def purge(
    ids: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    choice: Choice,
    replayed: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove dead letters for good: the named ones, or all that the filters leave.

    It asks before that; where nobody can answer it wants --yes. Refused while the run is running.

    \b
    Example:
      zflow dead purge --replayed
      zflow dead purge --stage parse --error ValueError --older 3d --yes
      zflow dead purge parse-0:3 parse-0:7
    """
    stored = chosen_run(topology, run, state)
    refuse_if_running(stored)
    letters = [one for one in chosen(stored, ids, choice) if one.replayed or not replayed]
    if letters and not yes and not _agreed(stored, letters):
        click.echo("nothing was removed", err=True)
        return
    gone = [letter.id for letter in letters]
    with held_still(stored):
        removed = purge_letters(stored.state.dead_folder, gone)
    if as_json:
        show_json({"run": stored.record.run_id, "removed": removed, "ids": gone})
    else:
        click.echo(f"removed {_counted(removed)}", err=True)


def _agreed(stored: StoredRun, letters: Sequence[StoredLetter]) -> bool:
    """Ask whoever sits there; raises ConfigError where nobody does."""
    count = _counted(len(letters))
    if not sys.stdin.isatty():
        raise refused(
            f"run {stored.record.run_id}",
            f"{count} would be removed for good, and there is no terminal to ask at",
            f"add --yes to remove them, or look at them first: {typed('dead', 'ls', '--all')}",
        )
    unsent = sum(not letter.replayed for letter in letters)
    question = f"Remove {count} of run {stored.record.run_id} for good"
    if unsent:
        question += f", {unsent:,} of them never sent again"
    return click.confirm(f"{question}?", err=True)


def _counted(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"

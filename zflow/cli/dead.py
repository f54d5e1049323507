"""`zflow dead`: the items that a run has given up, to look at, mend, send again and remove.

Decides what looking at them shows. Each verb that changes something has a file of its own.
"""

from pathlib import Path

import click

from zflow.cli.dead_choice import Choice, choice_options, chosen, chosen_letter
from zflow.cli.dead_edit import edit
from zflow.cli.dead_purge import purge
from zflow.cli.dead_replay import replay
from zflow.cli.letters import full_data, letter_data, letter_lines, letter_table, readable
from zflow.cli.output import show_json
from zflow.cli.stored import chosen_run, run_options
from zflow.clock import Clock


@click.group()
def dead() -> None:
    """Look at the items that a run has given up; mend, send and remove them.

    \b
    Example:
      zflow dead ls --newer 2h
      zflow dead show parse-0:3
      zflow dead edit parse-0:3
      zflow dead replay --error TimeoutError --rate 10
      zflow dead purge --replayed
    """


@dead.command()
@run_options
@choice_options
@click.option("--all", "also_sent", is_flag=True, help="Also those that were sent again.")
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def ls(
    topology: str | None,
    run: str,
    state: Path | None,
    choice: Choice,
    also_sent: bool,
    as_json: bool,
) -> None:
    """List the dead letters of a run that were not sent again.

    \b
    Example:
      zflow dead ls
      zflow dead ls --stage parse --error ValueError --json
      zflow dead ls --text "no such column" --newer 2h
    """
    stored = chosen_run(topology, run, state)
    letters = [one for one in chosen(stored, (), choice) if also_sent or not one.replayed]
    if as_json:
        for letter in letters:
            show_json(letter_data(letter))
    elif letters:
        for line in letter_table(letters, Clock().wall_s()):
            click.echo(line)
    else:
        click.echo(f"run {stored.record.run_id} has no such dead letters", err=True)


@dead.command()
@click.argument("letter_id", metavar="ID")
@run_options
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
def show(letter_id: str, topology: str | None, run: str, state: Path | None, as_json: bool) -> None:
    """Show one dead letter: the item, the traceback, how often it was tried, by which code.

    The version is the beginning of the digest of the topology's file (or module), as it was.

    \b
    Example:
      zflow dead show parse-0:3
      zflow dead show parse-0:3 --json
    """
    stored = chosen_run(topology, run, state)
    letter = chosen_letter(stored, letter_id)
    item = readable(stored, letter.letter.item, letter.letter.shown)
    original = None
    if letter.original is not None:
        original = readable(stored, letter.original, "it cannot be read any more")
    if as_json:
        show_json(full_data(letter, original))
        return
    for line in letter_lines(letter, item, original):
        click.echo(line)


for verb in (edit, replay, purge):
    dead.add_command(verb)

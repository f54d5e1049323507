"""`zflow dead`: the items that a run has given up, to look at and to send again.

Decides which letters may be sent again. What sending does is decided in `zflow.local`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pprint import pformat

import click

from zflow.cli.letters import letter_data, letter_lines, letter_table
from zflow.cli.output import show_json, show_problems
from zflow.cli.run import run_plan
from zflow.cli.stored import chosen_run, refused, run_options
from zflow.clock import Clock
from zflow.errors import ConfigError, ExitCode, Problem
from zflow.local.plan import load_stored, redrive_plan
from zflow.local.result import RunResult
from zflow.state.deadletter import StoredLetter, mark_replayed, read_dead_letters
from zflow.state.runs import StoredRun
from zflow.wire.codec import load_item
from zflow.wire.payload import DecodeError


@click.group()
def dead() -> None:
    """Look at the items that a run has given up, and send them again.

    \b
    Example:
      zflow dead ls
      zflow dead show parse-0:3
      zflow dead replay --error TimeoutError
    """


stage_option = click.option("--stage", metavar="STAGE", help="Only what failed in this stage.")
error_option = click.option("--error", metavar="CLASS", help="Only errors of this class.")


@dead.command()
@run_options
@stage_option
@error_option
@click.option("--all", "also_sent", is_flag=True, help="Also those that were sent again.")
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def ls(
    topology: str | None,
    run: str,
    state: Path | None,
    stage: str | None,
    error: str | None,
    also_sent: bool,
    as_json: bool,
) -> None:
    """List the dead letters of a run that were not sent again.

    \b
    Example:
      zflow dead ls
      zflow dead ls --stage parse --error ValueError --json
    """
    stored = chosen_run(topology, run, state)
    letters = [
        letter
        for letter in read_dead_letters(stored.state.dead_folder)
        if _matches(letter, stage, error) and (also_sent or not letter.replayed)
    ]
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
    """Show one dead letter: the item, the traceback, how often it was tried.

    \b
    Example:
      zflow dead show parse-0:3
    """
    stored = chosen_run(topology, run, state)
    (letter,) = _named(read_dead_letters(stored.state.dead_folder), [letter_id])
    if as_json:
        show_json(letter_data(letter))
        return
    for line in letter_lines(letter, _readable(stored, letter)):
        click.echo(line)


@dead.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@run_options
@stage_option
@error_option
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option(
    "--force", is_flag=True, help="Also what may have had its effect, or was sent again before."
)
@click.option("--json", "as_json", is_flag=True, help="The ledger as one object on stdout.")
@click.pass_context
def replay(
    ctx: click.Context,
    ids: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    stage: str | None,
    error: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Send dead letters again, over the edge they were on.

    Without an ID, all that the filters leave. The code is that of the run, as it was when the
    run began. What fails again becomes a new dead letter. If this is stopped before its end, all
    of the letters stay, and sending them once more may repeat some.

    \b
    Example:
      zflow dead replay --error TimeoutError --dry-run
      zflow dead replay parse-0:3 parse-0:7
    """
    stored = chosen_run(topology, run, state)
    letters = list(read_dead_letters(stored.state.dead_folder))
    named = _named(letters, ids) if ids else [one for one in letters if not one.replayed]
    chosen = [letter for letter in named if _matches(letter, stage, error)]
    problems = [problem for letter in chosen for problem in _obstacles(letter, force=force)]
    if problems and ids:  # each was asked for by name
        raise ConfigError(problems)
    show_problems(problems)
    held = {problem.where for problem in problems}
    sendable = [letter for letter in chosen if letter.id not in held]
    if dry_run or not sendable:
        _say_what_would_be_sent(sendable)
        ctx.exit(ExitCode.USAGE if held and not sendable else ExitCode.OK)
    plan = redrive_plan(stored, _by_edge(sendable), environment=os.environ)
    ids_sent = [letter.id for letter in sendable]
    result = run_plan(plan, as_json=as_json, close=partial(_mark, stored, ids_sent))
    ctx.exit(result.exit_code)


def _mark(stored: StoredRun, ids: Sequence[str], result: RunResult) -> RunResult:
    """What was sent again is no dead letter any more, if all of it came to its end."""
    if result.exit_code != ExitCode.OK:
        return result
    mark_replayed(stored.state.dead_folder, ids)
    return replace(result, dead_letters=stored.dead_letters())


def _matches(stored: StoredLetter, stage: str | None, error: str | None) -> bool:
    letter = stored.letter
    return stage in (None, letter.stage) and error in (None, letter.error_class)


def _named(letters: Iterable[StoredLetter], ids: Sequence[str]) -> list[StoredLetter]:
    """The letters of these ids, in their order; raises ConfigError with all that are unknown."""
    known = {letter.id: letter for letter in letters}
    unknown = [letter_id for letter_id in ids if letter_id not in known]
    if unknown:
        message, fix = "the run has no dead letter of this id", "list them: zflow dead ls"
        raise ConfigError([_problem(name, message, fix) for name in unknown])
    return [known[letter_id] for letter_id in dict.fromkeys(ids)]


def _obstacles(stored: StoredLetter, *, force: bool) -> list[Problem]:
    """Why a letter is not sent again: none, or one sentence."""
    letter = stored.letter
    if not letter.edge:
        message = f"cannot be sent again: it failed in the source {letter.stage}, before any edge"
        return [_problem(stored.id, message, "mend the source, and start a new run")]
    if letter.item is None:
        message = "cannot be sent again: its item could not be pickled, only its text is kept"
        return [_problem(stored.id, message, f"look at it: zflow dead show {stored.id}")]
    if stored.replayed and not force:
        return [_problem(stored.id, "was sent again already", "--force sends it once more")]
    if letter.maybe_applied and not force:
        message = "an attempt may have had its effect, sending it again may repeat that"
        return [_problem(stored.id, message, "--force sends it all the same")]
    return []


def _problem(letter_id: str, message: str, fix: str) -> Problem:
    return refused(letter_id, message, fix).problems[0]


def _by_edge(letters: Iterable[StoredLetter]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for stored in letters:
        ids.setdefault(stored.letter.edge, []).append(stored.id)
    return ids


def _say_what_would_be_sent(letters: list[StoredLetter]) -> None:
    for edge, ids in _by_edge(letters).items():
        click.echo(f"{edge}: {' '.join(ids)}")
    if not letters:
        click.echo("there is nothing to send again", err=True)


def _readable(stored: StoredRun, letter: StoredLetter) -> str:
    """The item on as many lines as it needs; its short text where it cannot be had."""
    raw = letter.letter.item
    if raw is None:
        return letter.letter.shown
    try:
        load_stored(stored)  # the classes of the topology's own file
        return pformat(load_item(raw), width=100)
    except (ConfigError, DecodeError):
        return letter.letter.shown
    except Exception:  # noqa: BLE001 - the user's own __repr__
        return letter.letter.shown

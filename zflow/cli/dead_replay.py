"""`zflow dead replay`: send dead letters again.

Decides which may be sent, and which are dead letters no more afterwards. What sending does is
decided in `zflow.local`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from zflow.cli.dead_choice import Choice, choice_options, chosen, problem, refuse_if_running
from zflow.cli.output import problem_data, show_json, show_problems
from zflow.cli.run import run_plan
from zflow.cli.stored import chosen_run, run_options, typed
from zflow.errors import ConfigError, ExitCode, Problem, Unavailable
from zflow.ids import Slot
from zflow.local.plan import redrive_name, redrive_plan
from zflow.local.result import RunResult
from zflow.state.deadletter import StoredLetter, mark_replayed
from zflow.state.positions import PositionFile
from zflow.state.runs import StoredRun

SLOWEST_RATE_PER_S = 0.001


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@run_options
@choice_options
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option(
    "--rate",
    "rate_per_s",
    type=click.FloatRange(min=SLOWEST_RATE_PER_S),
    metavar="N",
    help="At most N items per second, over all edges together.",
)
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
    choice: Choice,
    dry_run: bool,
    rate_per_s: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Send dead letters again, over the edge they were on.

    Without an ID, all that the filters leave. The code is that of the run, as it was when the
    run began. What fails again becomes a new dead letter. If this is stopped before its end, the
    letters that were not settled stay, and sending those once more may repeat some.

    \b
    Example:
      zflow dead replay --error TimeoutError --dry-run
      zflow dead replay --stage charge --newer 2h --rate 10
      zflow dead replay parse-0:3 parse-0:7
    """
    stored = chosen_run(topology, run, state)
    letters = [one for one in chosen(stored, ids, choice) if ids or not one.replayed]
    problems = [found for letter in letters for found in _obstacles(letter, force=force)]
    if problems and ids:  # each was asked for by name
        raise ConfigError(problems)
    show_problems(problems)
    held = {found.where for found in problems}
    sendable = [letter for letter in letters if letter.id not in held]
    by_edge = _by_edge(sendable)
    if dry_run or not sendable:
        _say_what_would_be_sent(by_edge, problems, as_json=as_json)
        ctx.exit(ExitCode.USAGE if held and not sendable else ExitCode.OK)
    refuse_if_running(stored)
    plan = redrive_plan(stored, by_edge, environment=os.environ, rate_per_s=rate_per_s or 0.0)
    result = run_plan(plan, as_json=as_json, close=partial(_mark, stored, by_edge))
    ctx.exit(result.exit_code)


def _mark(stored: StoredRun, by_edge: Mapping[str, Sequence[str]], result: RunResult) -> RunResult:
    """What was sent again and is settled is no dead letter any more."""
    try:
        for label, ids in by_edge.items():
            settled = len(ids) if result.exit_code == ExitCode.OK else _settled(stored, label)
            mark_replayed(stored.state.dead_folder, ids[:settled])
    except Unavailable as error:  # a full disk: they were sent all the same
        return replace(result, outcome=f"{result.outcome} (letters not marked as sent: {error})")
    return replace(result, dead_letters=stored.dead_letters())


def _settled(stored: StoredRun, label: str) -> int:
    """How many letters of an edge, from the first one on without a gap, came to their end."""
    path = stored.state.position(Slot(redrive_name(label), 0))
    if not path.exists():
        return 0
    position = PositionFile(path)
    try:
        return position.load().low
    finally:
        position.close()


def _obstacles(stored: StoredLetter, *, force: bool) -> list[Problem]:
    """Why a letter is not sent again: none, or one sentence."""
    letter = stored.letter
    look = f"look at it: {typed('dead', 'show', stored.id)}"
    anyhow = f"send it all the same: {typed('dead', 'replay', stored.id, '--force')}"
    if not letter.edge:
        message = f"cannot be sent again: it failed where {letter.stage} makes it, before any edge"
        return [problem(stored.id, message, f"mend the stage, and start a new run; {look}")]
    if letter.item is None:
        message = "cannot be sent again: its item could not be pickled, only its text is kept"
        return [problem(stored.id, message, look)]
    if stored.replayed and not force:
        return [problem(stored.id, "was sent again already", anyhow)]
    if letter.maybe_applied and not force:
        message = "an attempt may have had its effect, sending it again may repeat that"
        return [problem(stored.id, message, anyhow)]
    return []


def _by_edge(letters: Iterable[StoredLetter]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for stored in letters:
        ids.setdefault(stored.letter.edge, []).append(stored.id)
    return ids


def _say_what_would_be_sent(
    by_edge: Mapping[str, Sequence[str]], problems: Sequence[Problem], *, as_json: bool
) -> None:
    if as_json:
        held = [problem_data(found) for found in problems]
        show_json({"would_send": dict(by_edge), "held_back": held})
        return
    for edge, ids in by_edge.items():
        click.echo(f"{edge}: {' '.join(ids)}")
    if not by_edge:
        click.echo("there is nothing to send again", err=True)

"""`zflow status`: what the stages of a running run do now, or the replicas of one of them.

Decides layout and wording.
"""

from dataclasses import asdict
from pathlib import Path

import click

from zflow.cli.asking import look, meant_run, two_looks
from zflow.cli.output import aligned, show_json
from zflow.cli.security import asking_options
from zflow.cli.stored import refused, run_options
from zflow.cli.tables import (
    REPLICA_HEADINGS,
    REPLICA_NUMBERS,
    STAGE_HEADINGS,
    STAGE_NUMBERS,
    latency_line,
    replica_row,
    stage_row,
    title,
    warnings,
)
from zflow.clock import Clock
from zflow.errors import suggest
from zflow.planning.broken import waiting_for
from zflow.planning.rates import Rates, rates_between
from zflow.planning.words import first_line
from zflow.wire.picture import Picture

OVER_S = 1.0


@click.command()
@click.argument("stage", required=False)
@run_options
@asking_options
@click.option("--json", "as_json", is_flag=True, help="Everything as one object on stdout.")
def status(
    stage: str | None, topology: str | None, run: str, state: Path | None, as_json: bool
) -> None:
    """Show what the stages of a running run do now.

    With STAGE: what its replicas do. Rates are those of one second: items that a stage has
    processed, and which share of the time its replicas were busy with them, blocked because nobody
    takes what they have, or starved. While a run starts it says what it waits for.

    \b
    Example:
      zflow status
      zflow status parse
    """
    meant = meant_run(topology, run, state)
    picture = look(meant)
    known = [one.name for one in picture.stages]
    if stage is not None and stage not in known:
        raise refused(stage, "is no stage of this run", suggest(stage, known))
    waits = list(waiting_for(picture))
    before, after = (picture, picture) if waits else two_looks(meant, OVER_S, Clock())
    rates = rates_between(before, after)
    if as_json:
        show_json(_as_data(after, rates, waits, stage))
    elif stage is None:
        _show(after, rates, waits)
    else:
        _show_stage(after, rates, stage)


def _show(picture: Picture, rates: Rates, waits: list[str]) -> None:
    click.echo(title(picture))
    for line in aligned([STAGE_HEADINGS, *map(stage_row, rates.stages)], right=STAGE_NUMBERS):
        click.echo(line)
    for line in waits:
        click.echo(f"it waits: {line}")
    if not waits:
        click.echo(latency_line(rates))
    for line in [*warnings(rates), *picture.alarms]:
        click.echo(first_line(line))


def _show_stage(picture: Picture, rates: Rates, name: str) -> None:
    stage = rates.stage(name)
    click.echo(f"{title(picture)}: {name}, {stage.items:,} items, {stage.errors:,} errors")
    rows = [REPLICA_HEADINGS, *map(replica_row, stage.replicas)]
    for line in aligned(rows, right=REPLICA_NUMBERS):
        click.echo(line)
    for one in stage.replicas:
        if one.last_error:
            click.echo(f"\n{one.slot} ended before: {one.last_error}")


def _as_data(
    picture: Picture, rates: Rates, waits: list[str], stage: str | None
) -> dict[str, object]:
    data = asdict(rates)
    if stage is not None:
        data["stages"] = [one for one in data["stages"] if one["name"] == stage]
    head = {
        name: getattr(picture, name) for name in ("topology", "run_id", "phase", "paused", "alarms")
    }
    return {**head, "elapsed_s": picture.elapsed_s, "waits_for": waits, **data}

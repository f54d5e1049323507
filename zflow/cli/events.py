"""`zflow events`: what has happened in a running run, and what happens.

Decides wording. A coordinator keeps the newest events only.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import msgspec

from zflow.cli.asking import Meant, look, meant_run
from zflow.cli.output import show_json
from zflow.cli.security import asking_options
from zflow.cli.stored import run_options
from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.planning.words import first_line
from zflow.wire.picture import Event, Picture

EVERY_S = 0.5


@click.command()
@run_options
@asking_options
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def events(topology: str | None, run: str, state: Path | None, follow: bool, as_json: bool) -> None:
    """Show what happens in a running run.

    Starts, deaths, moves, phases: the newest that its coordinator remembers.

    \b
    Example:
      zflow events
      zflow events -f --json
    """
    meant = meant_run(topology, run, state)
    pictures = _followed(meant, Clock()) if follow else iter([look(meant)])
    shown = 0
    for picture in pictures:
        for event in picture.events:
            if event.number > shown:
                _show(event, as_json)
                shown = event.number


def _followed(run: Meant, clock: Clock) -> Iterator[Picture]:
    """One picture after another, until the run ends."""
    yield look(run)
    while True:
        clock.sleep(EVERY_S)
        try:
            picture = look(run)
        except Unavailable:
            if run.is_running():
                raise
            return  # it has ended, as runs do
        yield picture


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        show_json(msgspec.to_builtins(event))
        return
    at = datetime.fromtimestamp(event.at_s).strftime("%H:%M:%S")
    about = event.slot or event.stage
    words = " ".join(filter(None, (f"{event.kind:<8}", about, first_line(event.text))))
    click.echo(f"{at}  {words}")

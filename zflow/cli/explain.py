"""`zflow explain`: why a running run is as fast as it is, in one sentence.

Decides how it is shown; what is said is decided in `zflow.planning`.
"""

from dataclasses import asdict
from pathlib import Path

import click

from zflow.cli.asking import meant_run, two_looks
from zflow.cli.output import show_json
from zflow.cli.security import asking_options
from zflow.cli.stored import run_options, typed
from zflow.clock import Clock
from zflow.planning.explain import explain as explained
from zflow.planning.processors import processors_here


@click.command()
@run_options
@asking_options
@click.option(
    "--over",
    "over_s",
    type=click.FloatRange(min=0.5),
    default=3.0,
    show_default=True,
    metavar="S",
    help="How many seconds lie between the two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="The verdict as one object on stdout.")
def explain(
    topology: str | None, run: str, state: Path | None, over_s: float, as_json: bool
) -> None:
    """Say why a running run is as fast as it is.

    In one sentence, from two looks a few seconds apart: which stage has no time left while the
    stages before it wait for room, what one more replica would give, whether one replica has the
    keys that come most, or what is broken.

    \b
    Example:
      zflow explain
      zflow explain --over 10 --json
    """
    meant = meant_run(topology, run, state)
    before, after = two_looks(meant, over_s, Clock())
    verdict = explained(before, after, processors_here())
    if as_json:
        show_json({"run_id": after.run_id, "over_s": over_s, **asdict(verdict)})
        return
    click.echo(verdict.sentence)
    for note in verdict.notes:
        click.echo(note)
    if verdict.command:
        click.echo(f"try: {typed(*verdict.command.split()[1:])}", err=True)

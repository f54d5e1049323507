"""`zflow graph`: the declared graph of a topology on stdout.

Decides nothing itself and starts nothing.
"""

import click

from zflow.errors import ConfigError
from zflow.export.graph import FORMATS
from zflow.loader import load


@click.command()
@click.argument("target")
@click.option(
    "-f",
    "--format",
    type=click.Choice(list(FORMATS)),
    default="ascii",
    show_default=True,
    help="How to write it.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as -f json.")
def graph(target: str, format: str, as_json: bool) -> None:
    """Draw the declared graph of a topology.

    \b
    Example:
      zflow graph topologies/wordcount.py
      zflow graph topologies/wordcount.py -f mermaid
    """
    topology = load(target).topology
    if problems := topology.problems():
        raise ConfigError(problems)
    click.echo(FORMATS["json" if as_json else format](topology.declared()))

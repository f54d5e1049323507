"""`zflow metrics`: what a run exports, out of the table itself."""

import click

from zflow import metrics as table
from zflow.cli.output import show_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One object on stdout, by name.")
def metrics(as_json: bool) -> None:
    """List the metrics of a run, and what they mean.

    A run serves them at the address that it prints when it begins (zflow run --help, --http).
    Counters of your own, self.context.counter("orders"), are zflow_user_orders_total.

    \b
    Example:
      zflow metrics | grep -A1 queue
      zflow metrics --json
    """
    if as_json:
        show_json(
            {
                one.name: {
                    "type": one.kind,
                    "unit": one.unit,
                    "labels": ["topology", *one.labels],
                    "help": one.help,
                }
                for one in table.METRICS
            }
        )
        return
    for one in table.METRICS:
        click.echo(f"{one.name}  {one.kind}  {', '.join(('topology', *one.labels))}")
        click.echo(f"    {one.help}")

"""`zflow check`: everything wrong with a topology at once, or what its sinks may expect.

Decides nothing itself and starts nothing.
"""

from dataclasses import asdict

import click

from zflow.cli.output import problem_data, show_json, show_problems
from zflow.declared.guarantees import explain_delivery
from zflow.errors import ConfigError, ExitCode
from zflow.loader import load, shipping_problems
from zflow.topology import Topology


@click.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
@click.pass_context
def check(ctx: click.Context, target: str, as_json: bool) -> None:
    """Say all that is wrong with a topology, at once.

    Each problem comes with its file and line and with what to do. A topology without problems
    shows what each of its sinks may expect, and why. Nothing is started.

    \b
    Example:
      zflow check topologies/wordcount.py
      zflow check package.module:flow --json
    """
    try:
        topology = load(target).topology
        check_topology(topology)
    except ConfigError as error:
        if as_json:
            problems = [problem_data(problem) for problem in error.problems]
            show_json({"ok": False, "problems": problems})
        else:
            show_problems(error.problems)
            click.echo(_counted(len(error.problems)), err=True)
        ctx.exit(ExitCode.USAGE)
    _show_fine(topology, as_json)


def check_topology(topology: Topology) -> None:
    """Refuse a topology that cannot run. raises: ConfigError with all that is wrong."""
    problems = (*topology.problems(), *shipping_problems(topology.declared()))
    if problems:
        raise ConfigError(problems)


def _counted(count: int) -> str:
    return f"{count} problem{'s' if count > 1 else ''}"


def _show_fine(topology: Topology, as_json: bool) -> None:
    declared, warnings = topology.declared(), topology.warnings()
    guarantees = explain_delivery(declared)
    if as_json:
        show_json(
            {
                "ok": True,
                "topology": declared.name,
                "sinks": [asdict(guarantee) for guarantee in guarantees],
                "warnings": [problem_data(warning) for warning in warnings],
            }
        )
        return
    show_problems(warnings, "warning: ")
    stages, edges = len(declared.stages), len(declared.edges)
    click.echo(f"{declared.name}: nothing is wrong (stages: {stages}, edges: {edges})")
    for guarantee in guarantees:
        click.echo(f"  {guarantee.sink}: {guarantee.delivery}: {guarantee.why}")

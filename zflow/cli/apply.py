"""`zflow diff` and `zflow apply`: a running run becomes another version of its topology.

Decides how the change is shown. What has to be replaced is decided in `zflow.declared.changes`.
"""

import os
from pathlib import Path

import click
from msgspec.structs import replace

from zflow.cli.asking import Meant, look, meant_run
from zflow.cli.check import check_topology
from zflow.cli.output import show_json
from zflow.cli.security import asking_options
from zflow.cli.stored import refused, run_options
from zflow.cli.waiting import give, incarnations, not_replaced, wait_option, wait_until
from zflow.errors import ConfigError
from zflow.ids import Slot
from zflow.loader import Loaded, load
from zflow.local.plan import NextVersion, next_version
from zflow.wire.control import Apply

parameter_option = click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="STAGE.NAME=VALUE",
    help="A parameter that takes the place of the run's own.",
)


@click.command()
@click.argument("target")
@parameter_option
@run_options
@asking_options
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
def diff(
    target: str,
    parameters: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    as_json: bool,
) -> None:
    """Say what zflow apply would do: which stages it would replace, and why.

    Compares compiled code, so that comments do not count; a function that a stage calls in its own
    file does. A changed module that the file imports is not seen.

    \b
    Example:
      zflow diff topologies/orders.py
    """
    loaded = _checked(target)
    found = _next(meant_run(topology, run, state), loaded, parameters).changes
    if as_json:
        show_json({"replaced": found.reasons, "refused": found.refusals})
        return
    for stage, reasons in found.reasons.items():
        click.echo(f"{stage} would be replaced: {'; '.join(reasons)}")
    for refusal in found.refusals:
        click.echo(f"cannot be applied while data flows: {refusal}")
    if not found.reasons and not found.refusals:
        click.echo("nothing has changed")


@click.command()
@click.argument("target")
@parameter_option
@run_options
@asking_options
@wait_option
def apply(
    target: str,
    parameters: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    wait: bool,
) -> None:
    """Let a running run go on with another version of its topology.

    The processes of changed stages are replaced one after the other: each finishes what it has
    begun, and the successor loads the new code. All others keep running, and no item is lost.
    Stages and edges stay the same; to change those, zflow drain and start anew.

    \b
    Example:
      zflow apply topologies/orders.py
    """
    loaded, meant = _checked(target), meant_run(topology, run, state)
    version = _next(meant, loaded, parameters)
    reasons = version.changes.reasons
    _refuse(target, version)
    if not reasons:
        click.echo("nothing has changed")
        return
    before = look(meant)
    config = replace(version.config, generation=before.generation)
    order = Apply(config, loaded.source, loaded.digest, list(reasons))
    give(meant, order, f"zflow apply {target}")
    if wait:
        old = incarnations(before)
        concerned = {slot: n for slot, n in old.items() if Slot.parse(slot).stage in reasons}
        wait_until(meant, lambda picture: not_replaced(picture, concerned))
    for stage, why in reasons.items():
        click.echo(f"{stage} {'is' if wait else 'is being'} replaced: {'; '.join(why)}")


def _checked(target: str) -> Loaded:
    loaded = load(target)
    check_topology(loaded.topology)
    return loaded


def _next(run: Meant, loaded: Loaded, parameters: tuple[str, ...]) -> NextVersion:
    stored = run.on_disk("comparing two versions")
    return next_version(stored, loaded, parameters, os.environ)


def _refuse(target: str, version: NextVersion) -> None:
    """Raises ConfigError with all that cannot change while data flows."""
    fix = "zflow drain, then start a new run"
    problems = [
        problem
        for refusal in version.changes.refusals
        for problem in refused(f"zflow apply {target}", refusal, fix).problems
    ]
    if problems:
        raise ConfigError(problems)

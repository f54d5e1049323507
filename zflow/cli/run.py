"""`zflow run`: a whole topology on this machine, in the foreground.

Decides how a run is shown. What happens is decided in `zflow.local`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import click

from zflow.cli.check import check_topology
from zflow.cli.interrupts import on_interrupts
from zflow.cli.options import (
    log_level_option,
    parameter_option,
    replicas_option,
    state_option,
    timeout_option,
)
from zflow.cli.output import show_json, show_problems
from zflow.cli.reload import Reloader
from zflow.cli.screen import PlainScreen, make_screen
from zflow.cli.settings import Configured, layered
from zflow.cli.web import http_option, open_web
from zflow.clock import Clock
from zflow.config import parse_parameters, parse_replicas
from zflow.coordinator.web.server import WebServer
from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem
from zflow.loader import load
from zflow.local.plan import Plan, new_plan, resumed_plan
from zflow.local.result import RunResult
from zflow.local.run import LocalRun


@click.command(cls=Configured)
@click.argument("target")
@parameter_option
@replicas_option
@click.option(
    "--resume",
    metavar="RUN|last",
    help="Continue a run that was stopped or killed; nothing that was settled is done again.",
)
@state_option
@timeout_option
@click.option(
    "--reload", is_flag=True, help="Apply every change of the topology's file while it runs."
)
@http_option
@click.option("--fail-on-dead", is_flag=True, help="Exit with 1 if any item became a dead letter.")
@click.option(
    "--json", "as_json", is_flag=True, help="The ledger as one object on stdout; prints to stderr."
)
@log_level_option
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    parameters: tuple[str, ...],
    replicas: tuple[str, ...],
    resume: str | None,
    state: Path | None,
    timeout_s: float | None,
    reload: bool,
    fail_on_dead: bool,
    as_json: bool,
    log_level: str,
    http: str | None,
) -> None:
    """Run a topology on this machine, in the foreground.

    It ends when its sources have ended and everything is settled.

    Ctrl-C lets the sources stop and waits until everything on the way is settled; a second one
    stops at once. In both cases --resume last continues.

    \b
    Example:
      zflow run topologies/codebase.py -p files.folder=src -r parse=4
      zflow run topologies/orders.py --json > ledger.json
      zflow run topologies/orders.py --resume last --http 0.0.0.0:9464

    \b
    Exit codes: 0 finished, 1 failed or the books do not balance, 2 wrong usage or topology,
    4 timed out, 5 crash loop, 130 interrupted and drained, 137 stopped by force.
    """
    with open_web(http) as web:  # before the run is written down, which it may prevent
        plan = make_plan(target, parameters, replicas, resume, state)
        result = run_plan(
            plan, as_json=as_json, timeout_s=timeout_s, log_level=log_level, reload=reload, web=web
        )
    exit_code = result.exit_code
    if exit_code == 0 and fail_on_dead and result.dead_letters:
        exit_code = 1
    ctx.exit(exit_code)


def run_plan(
    plan: Plan,
    *,
    as_json: bool,
    timeout_s: float | None = None,
    log_level: str = "WARNING",
    reload: bool = False,
    web: WebServer | None = None,
    close: Callable[[RunResult], RunResult] = lambda result: result,
) -> RunResult:
    """Run a plan in the foreground and show its ledger. Blocks until the end.

    web: shows the run to others.
    close: called with the result before it is shown, and gives the one to show.
    """
    screen = make_screen(plan, quiet_stdout=as_json)
    local = LocalRun(
        plan,
        screen,
        Clock(),
        log_level=log_level.upper(),
        web=web,
        each_turn=_reloader(plan, screen) if reload else lambda _lead: None,
    )
    on_interrupts(local.drain, local.stop)
    with screen:
        if web is not None:
            site = f"http://{web.address}/"
            screen.say(f"zflow: the page on {site}, metrics on {site}metrics")
        result = close(local.run(timeout_s))
    if as_json:
        show_json(result.as_data())
    else:
        screen.show_result(result)
    return result


def _reloader(plan: Plan, screen: PlainScreen) -> Reloader:
    record = plan.stored.record
    if record.path is None:
        raise click.UsageError("--reload watches a topology's file, and this one is a module")
    return Reloader(record.target, Path(record.path), Clock(), screen.say)


def make_plan(
    target: str,
    parameters: tuple[str, ...],
    replicas: tuple[str, ...],
    resume: str | None,
    state: Path | None,
) -> Plan:
    """Check everything before anything starts. raises: ConfigError."""
    loaded = load(target)
    check_topology(loaded.topology)
    show_problems(loaded.topology.warnings(), "warning: ")
    if resume is not None:
        if parameters or replicas:
            raise click.UsageError(
                "--resume continues a run with the parameters and replicas it began with: "
                "leave -p and -r away"
            )
        return resumed_plan(loaded, resume, base=Path.cwd(), state=state, environment=os.environ)
    parameters, replicas = layered(loaded.topology.declared(), parameters, replicas)
    counts = check_parameters(loaded.topology.declared(), parameters, replicas)
    return new_plan(
        loaded,
        parameters=parameters,
        replicas=counts,
        base=Path.cwd(),
        state=state,
        environment=os.environ,
        clock=Clock(),
    )


def check_parameters(
    declared: Declared, parameters: tuple[str, ...], replicas: tuple[str, ...]
) -> dict[str, int]:
    """The replicas of -r; -p is only checked, so that all that is wrong comes at once."""
    problems: list[Problem] = []
    counts: dict[str, int] = {}
    try:
        counts = parse_replicas(declared, replicas)
    except ConfigError as error:
        problems += error.problems
    try:
        parse_parameters(declared, parameters)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return counts

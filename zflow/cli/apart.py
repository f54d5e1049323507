"""`zflow coordinator` and `zflow stage`: a run taken apart, in as many terminals or machines.

Decides how the two are shown. What happens is decided in `zflow.local.apart`.
"""

import os
from pathlib import Path

import click

from zflow.cli.interrupts import on_interrupts
from zflow.cli.options import (
    log_level_option,
    parameter_option,
    replicas_option,
    state_option,
    timeout_option,
)
from zflow.cli.output import show_json
from zflow.cli.run import make_plan
from zflow.cli.screen import make_screen
from zflow.cli.security import insecure_option, keys_option
from zflow.cli.settings import Configured
from zflow.cli.stored import refused
from zflow.cli.web import http_option, open_web
from zflow.clock import Clock
from zflow.ids import Slot
from zflow.local.apart import CoordinatorRun, StageRun, Wish
from zflow.local.plan import coordinated, with_codec
from zflow.net.security import Security
from zflow.supervisor.addresses import bracketed
from zflow.supervisor.member import Death
from zflow.wire.control import updates_of


@click.command(cls=Configured)
@click.argument("target")
@click.option(
    "--bind",
    required=True,
    metavar="URL",
    help="Where stages find it: tcp://HOST:PORT (it publishes at PORT + 1), or ipc://PATH.",
)
@parameter_option
@replicas_option
@click.option(
    "--resume", metavar="RUN|last", help="Go on with a run whose coordinator was stopped or killed."
)
@state_option
@timeout_option
@http_option
@keys_option
@insecure_option
@click.option("--json", "as_json", is_flag=True, help="The ledger as one object on stdout.")
@click.pass_context
def coordinator(
    ctx: click.Context,
    target: str,
    bind: str,
    parameters: tuple[str, ...],
    replicas: tuple[str, ...],
    resume: str | None,
    state: Path | None,
    timeout_s: float | None,
    http: str | None,
    keys: Path | None,
    insecure_loopback: bool,
    as_json: bool,
) -> None:
    """Coordinate a run whose stages are started by hand, or by another machine.

    Hands out who is where, and the topology's code; items never pass through it. The run begins
    when every stage has its declared replicas. While it is away, killed even, the stages go on;
    started again with --resume last it picks them up where they are.

    \b
    Example:
      zflow coordinator topologies/wordcount.py --bind ipc:///tmp/words -p files.folder=src
      zflow keys new keys
      zflow coordinator topologies/wordcount.py --bind tcp://10.0.0.5:7700 --keys keys
    """
    security = Security(keys, insecure_loopback=insecure_loopback)
    security.check_bind(bind)
    if bind.endswith(":0"):
        raise refused(f"--bind {bind}", "stages could not find port 0", "name a port")
    security.check_bind(updates_of(bind))
    with open_web(http) as web:
        plan = coordinated(make_plan(target, parameters, replicas, resume, state))
        plan = with_codec(plan, security.codec)
        screen = make_screen(plan, quiet_stdout=as_json)
        lead = CoordinatorRun(plan, screen, Clock(), endpoints=(bind,), web=web, security=security)
        on_interrupts(lead.drain, lead.stop)
        with screen:
            screen.say(f"zflow: run {plan.config.run_id} is coordinated at {bind}")
            if web is not None:
                screen.say(f"zflow: metrics on http://{web.address}/metrics")
            result = lead.run(timeout_s)
    if as_json:
        show_json(result.as_data())
    else:
        screen.show_result(result)
    ctx.exit(result.exit_code)


@click.command(cls=Configured)
@click.argument("name")
@click.option(
    "--coordinator", required=True, metavar="URL", help="What zflow coordinator was told to --bind."
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many run here  [default: all that nobody else runs]",
)
@click.option(
    "--advertise",
    default="",
    metavar="ADDRESS",
    help="Of this machine, for others  [default: the address that reaches the coordinator]",
)
@state_option
@keys_option
@insecure_option
@log_level_option
@click.pass_context
def stage(
    ctx: click.Context,
    name: str,
    coordinator: str,
    replicas: int | None,
    advertise: str,
    state: Path | None,
    keys: Path | None,
    insecure_loopback: bool,
    log_level: str,
) -> None:
    """Run replicas of one stage, for a coordinator somewhere else.

    It may be started before the coordinator, and needs no copy of the topology's file: its code
    comes from there. Replicas that die are started again, also while the coordinator is away. More
    replicas than were declared add to the stage while it runs.

    Ctrl-C lets the replicas finish what they have begun, and ends; the run then waits for others
    in their place. A second one ends at once.

    \b
    Example:
      zflow stage words --coordinator ipc:///tmp/words
      zflow stage parse --coordinator tcp://10.0.0.5:7700 --replicas 4 --keys keys

    \b
    Exit codes: that of the run once it has ended; 2 if the coordinator refuses, 3 if it is gone
    when all is done, 6 if versions differ, 130 interrupted, 137 stopped by force.
    """
    security = Security(keys, insecure_loopback=insecure_loopback)
    security.check_connect(coordinator)
    if advertise:
        security.check_bind(f"tcp://{bracketed(advertise)}:1")  # its replicas are bound there
    wish = Wish(
        stage=name,
        coordinator=coordinator,
        replicas=replicas,
        host=advertise,
        base=Path.cwd(),
        state=state,
        security=security,
        log_level=log_level.upper(),
    )
    part = StageRun(wish, _StageScreen(name), Clock(), os.environ)
    on_interrupts(part.leave, part.stop)
    exit_code, outcome = part.run()
    click.echo(f"zflow: {name}: {outcome}", err=True)
    ctx.exit(exit_code)


class _StageScreen:
    """Lines, as `zflow run` writes them where there is no terminal."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def say(self, text: str) -> None:
        """To stderr."""
        click.echo(f"zflow: {self._stage}: {text}", err=True)

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """The user's own print as it is; what went to stderr with its replica in front."""
        if stream == "out":
            click.echo(line)
        else:
            click.echo(line if line.startswith(str(slot)) else f"{slot}: {line}", err=True)

    def on_death(self, death: Death) -> None:
        """Who died of what."""
        click.echo(f"zflow: {death.slot} died: {death.cause}", err=True)

"""What an operator orders of a running run: scale, pause, resume, restart, drain, down.

Decides how an order is written and when it counts as done. Whether it can be done is decided by
the run's coordinator.
"""

from pathlib import Path

import click

from zflow.cli.asking import Meant, look, meant_run
from zflow.cli.security import asking_options
from zflow.cli.stored import refused, run_options
from zflow.cli.waiting import (
    LOOK_EVERY_S,
    give,
    incarnations,
    not_replaced,
    wait_option,
    wait_until,
)
from zflow.clock import Clock
from zflow.errors import ConfigError, Problem
from zflow.wire.control import Down, Pause, Restart, Scale
from zflow.wire.picture import Picture, StagePicture


@click.command()
@click.argument("wishes", metavar="STAGE=N...", nargs=-1, required=True)
@run_options
@asking_options
@wait_option
def scale(
    wishes: tuple[str, ...], topology: str | None, run: str, state: Path | None, wait: bool
) -> None:
    """Give stages of a running run more replicas, or fewer.

    Nothing is lost or done twice for it: a new replica is dialled by everybody, one that leaves
    finishes what it has first; of a durable stage the partitions move, as few as can be, and the
    order of each key is kept. A source keeps its replicas: they are its shares of the input.

    \b
    Example:
      zflow scale parse=4
      zflow scale parse=2 Count=8 --no-wait
    """
    meant = meant_run(topology, run, state)
    wanted = _counts(wishes)
    for stage, replicas in wanted.items():
        give(meant, Scale(stage, replicas), f"zflow scale {stage}={replicas}")
    if wait:
        wait_until(meant, lambda picture: _unscaled(picture, wanted))
    for stage, replicas in wanted.items():
        click.echo(f"{stage}: {replicas} replica{'s' * (replicas > 1)}")


def _counts(wishes: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    problems: list[Problem] = []
    for text in wishes:
        stage, equals, count = text.partition("=")
        if stage and equals and count.isascii() and count.isdigit():
            found[stage] = int(count)
        else:
            fix = "write STAGE=N, as in parse=4"
            problems += refused(text, "is not a number of replicas", fix).problems
    if problems:
        raise ConfigError(problems)
    return found


def _unscaled(picture: Picture, wanted: dict[str, int]) -> str:
    """What is still missing, as a clause."""
    for name, replicas in wanted.items():
        stage = picture.stage(name)
        running = _running(stage)
        if running != replicas or len(stage.slots) != replicas:
            there = len(stage.slots)
            return f"{name} has {running} of {replicas} replicas running, and {there} slots"
    return ""


def _running(stage: StagePicture) -> int:
    return sum(s.replica is not None and s.replica.state == "running" for s in stage.slots)


@click.command()
@run_options
@asking_options
def pause(topology: str | None, run: str, state: Path | None) -> None:
    """Let the sources of a running run yield nothing until zflow resume.

    What is on the way is still done. A source that waits in its own code goes on waiting.

    \b
    Example:
      zflow pause
    """
    give(meant_run(topology, run, state), Pause(paused=True), "zflow pause")
    click.echo("paused: zflow resume lets the sources go on")


@click.command()
@run_options
@asking_options
def resume(topology: str | None, run: str, state: Path | None) -> None:
    """Let the sources of a paused run go on.

    \b
    Example:
      zflow resume
    """
    give(meant_run(topology, run, state), Pause(paused=False), "zflow resume")
    click.echo("the sources go on")


@click.command()
@click.argument("which", metavar="STAGE[/N]...", nargs=-1, required=True)
@run_options
@asking_options
@click.option("--rolling", is_flag=True, help="One after the other, each once the last one runs.")
@wait_option
def restart(
    which: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    rolling: bool,
    wait: bool,
) -> None:
    """Replace the processes of stages or single replicas while the run goes on.

    A process finishes and settles what it has begun, then makes room; what waits for it goes to
    its successor or to the other replicas. After 30 s it is killed, and what it had begun is done
    again.

    \b
    Example:
      zflow restart parse --rolling
      zflow restart Count/3
    """
    meant = meant_run(topology, run, state)
    before = look(meant)
    slots = [slot for text in which for slot in _slots_of(before, text)]
    give(meant, Restart(slots, rolling), f"zflow restart {' '.join(which)}")
    if wait:
        old = {slot: n for slot, n in incarnations(before).items() if slot in slots}
        wait_until(meant, lambda picture: not_replaced(picture, old))
    click.echo(f"{'restarted' if wait else 'ordered'}: {', '.join(slots)}")


def _slots_of(picture: Picture, text: str) -> list[str]:
    known = {stage.name: [slot.slot for slot in stage.slots] for stage in picture.stages}
    if text in known:
        return known[text]
    if any(text in slots for slots in known.values()):
        return [text]
    fix = f"there are: {', '.join(known)}, and replicas as in {next(iter(known))}/0"
    raise refused(text, "is no stage and no replica of this run", fix)


@click.command()
@run_options
@asking_options
@wait_option
def drain(topology: str | None, run: str, state: Path | None, wait: bool) -> None:
    """Let the sources of a running run stop and everything settle, then end it.

    The same as Ctrl-C where it runs; --resume continues it.

    \b
    Example:
      zflow drain
    """
    _end(meant_run(topology, run, state), now=False, wait=wait, where="zflow drain")


@click.command()
@run_options
@asking_options
@click.option("--now", is_flag=True, help="Kill everything at once; --resume continues.")
@wait_option
def down(topology: str | None, run: str, state: Path | None, now: bool, wait: bool) -> None:
    """End a running run: drained, or now.

    \b
    Example:
      zflow down
      zflow down --now
    """
    _end(meant_run(topology, run, state), now=now, wait=wait, where="zflow down")


def _end(run: Meant, *, now: bool, wait: bool, where: str) -> None:
    give(run, Down(now), where)
    clock = Clock()
    while wait and run.is_running():
        clock.sleep(LOOK_EVERY_S)
    click.echo(f"run {run.name} {'has ended' if wait else 'is told to end'}")

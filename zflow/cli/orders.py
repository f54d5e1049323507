"""What an operator orders of a running run: scale, pause, resume, restart, drain, down.

Decides how an order is written and when it counts as done. Whether it can be done is decided by
the run's coordinator.
"""

from collections.abc import Callable
from pathlib import Path

import click

from zflow.cli.asking import asked, look, meant_run
from zflow.cli.stored import refused, run_options
from zflow.clock import Clock, Deadline
from zflow.errors import ConfigError, Problem, Unavailable
from zflow.state.runs import StoredRun, is_running
from zflow.wire.control import Answer, Down, Order, Pause, Restart, Scale
from zflow.wire.picture import Picture, SlotCensus, StagePicture

PATIENCE_S = 120.0
LOOK_EVERY_S = 0.2

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it is done."
)


def _order(run: StoredRun, order: Order, where: str) -> None:
    """Give it; raises ConfigError with the coordinator's reason if it refuses."""
    answer = asked(run, order, Answer, purpose="there is nobody to obey; see zflow ps")
    if answer.refusal:
        raise refused(where, answer.refusal, "see zflow status")


def _wait_until(run: StoredRun, done: Callable[[Picture], str]) -> None:
    """Look until `done` has nothing left to say; raises Unavailable after PATIENCE_S.

    A run that ends meanwhile has nothing left to do.
    """
    clock = Clock()
    deadline = Deadline(clock, PATIENCE_S)
    missing = ""
    while is_running(run.state):
        try:
            missing = done(look(run))
        except Unavailable:
            if is_running(run.state):
                raise
            return
        if not missing:
            return
        if deadline.passed():
            raise Unavailable(f"after {PATIENCE_S:.0f} s {missing}; it goes on, see zflow status")
        clock.sleep(LOOK_EVERY_S)


@click.command()
@click.argument("wishes", metavar="STAGE=N...", nargs=-1, required=True)
@run_options
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
        _order(meant, Scale(stage, replicas), f"zflow scale {stage}={replicas}")
    if wait:
        _wait_until(meant, lambda picture: _unscaled(picture, wanted))
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
def pause(topology: str | None, run: str, state: Path | None) -> None:
    """Let the sources of a running run yield nothing until zflow resume.

    What is on the way is still done. A source that waits in its own code goes on waiting.

    \b
    Example:
      zflow pause
    """
    _order(meant_run(topology, run, state), Pause(paused=True), "zflow pause")
    click.echo("paused: zflow resume lets the sources go on")


@click.command()
@run_options
def resume(topology: str | None, run: str, state: Path | None) -> None:
    """Let the sources of a paused run go on.

    \b
    Example:
      zflow resume
    """
    _order(meant_run(topology, run, state), Pause(paused=False), "zflow resume")
    click.echo("the sources go on")


@click.command()
@click.argument("which", metavar="STAGE[/N]...", nargs=-1, required=True)
@run_options
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
    old = {s.slot: s.replica.incarnation for s in _all(before) if s.replica is not None}
    _order(meant, Restart(slots, rolling), f"zflow restart {' '.join(which)}")
    if wait:
        _wait_until(meant, lambda picture: _unchanged(picture, slots, old))
    click.echo(f"{'restarted' if wait else 'ordered'}: {', '.join(slots)}")


def _all(picture: Picture) -> list[SlotCensus]:
    return [slot for stage in picture.stages for slot in stage.slots]


def _slots_of(picture: Picture, text: str) -> list[str]:
    known = {stage.name: [slot.slot for slot in stage.slots] for stage in picture.stages}
    if text in known:
        return known[text]
    if any(text in slots for slots in known.values()):
        return [text]
    fix = f"there are: {', '.join(known)}, and replicas as in {next(iter(known))}/0"
    raise refused(text, "is no stage and no replica of this run", fix)


def _unchanged(picture: Picture, slots: list[str], old: dict[str, int]) -> str:
    by_name = {slot.slot: slot.replica for slot in _all(picture)}
    for slot in slots:
        replica = by_name.get(slot)
        if slot in by_name and (
            replica is None
            or replica.incarnation <= old.get(slot, 0)
            or replica.state not in ("running", "finished")
        ):
            return f"{slot} has not been replaced"
    return ""


@click.command()
@run_options
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


def _end(run: StoredRun, *, now: bool, wait: bool, where: str) -> None:
    _order(run, Down(now), where)
    clock = Clock()
    while wait and is_running(run.state):
        clock.sleep(LOOK_EVERY_S)
    click.echo(f"run {run.record.run_id} {'has ended' if wait else 'is told to end'}")

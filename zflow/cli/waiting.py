"""How an order reaches a run, and when it counts as done. Decides nothing of what is ordered."""

from collections.abc import Callable, Iterator

import click

from zflow.cli.asking import Meant, asked, look
from zflow.cli.stored import refused
from zflow.clock import Clock, Deadline
from zflow.errors import Unavailable
from zflow.wire.control import Answer, Order
from zflow.wire.picture import Picture, SlotCensus

PATIENCE_S = 120.0
LOOK_EVERY_S = 0.2

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it is done."
)


def give(run: Meant, order: Order, where: str) -> None:
    """Give the order; raises ConfigError with the coordinator's reason if it refuses."""
    answer = asked(run, order, Answer, purpose="there is nobody to obey; see zflow ps")
    if answer.refusal:
        raise refused(where, answer.refusal, "see zflow status")


def wait_until(run: Meant, missing: Callable[[Picture], str]) -> None:
    """Look until nothing is missing; raises Unavailable after PATIENCE_S.

    missing: what is, as a clause. A run that ends meanwhile has nothing left to do.
    """
    clock = Clock()
    deadline = Deadline(clock, PATIENCE_S)
    while run.is_running():
        try:
            what = missing(look(run))
        except Unavailable:
            if run.is_running():
                raise
            return
        if not what:
            return
        if deadline.passed():
            raise Unavailable(f"after {PATIENCE_S:.0f} s {what}; it goes on, see zflow status")
        clock.sleep(LOOK_EVERY_S)


def all_slots(picture: Picture) -> Iterator[SlotCensus]:
    """Every slot of every stage."""
    for stage in picture.stages:
        yield from stage.slots


def incarnations(picture: Picture) -> dict[str, int]:
    """Of the slots that have a process."""
    slots = all_slots(picture)
    return {one.slot: one.replica.incarnation for one in slots if one.replica is not None}


def not_replaced(picture: Picture, old: dict[str, int]) -> str:
    """Which of these slots still has the process it had, or none that runs; empty if none."""
    for one in all_slots(picture):
        if one.slot not in old:
            continue
        replica = one.replica
        if (
            replica is None
            or replica.incarnation <= old[one.slot]
            or replica.state not in ("running", "finished")
        ):
            return f"{one.slot} has not been replaced"
    return ""

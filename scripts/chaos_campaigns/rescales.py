"""Stages that grow and shrink while partitions move and replicas are killed (C19).

Each item carries its number within its key and the stage gives it with the number before, so that
rows and state say for every item whether it was lost, doubled or overtaken.
"""

from collections.abc import Callable

import chaos_durable as user

from chaos_campaigns import exact
from chaos_campaigns.anchors import PatientKiller
from chaos_campaigns.bitter import SOURCE, STAGE, expected_rows
from chaos_campaigns.campaign import Campaign, Job, Twin, finish
from chaos_campaigns.moves import RELEASED_AT_ONCE
from chaos_campaigns.process import Run, Site, Stuck, wait_until
from chaos_campaigns.verdict import Verdict, count
from chaos_campaigns.zombies import PARTITIONS
from zflow.net.control import ask
from zflow.paths import RunDirectory
from zflow.wire.control import Answer, Look, Message, Move, Moved, Scale
from zflow.wire.picture import Picture

MANY, FEW = 8, 2
MOVED_AT_ONCE = 20
ANSWERS_WITHIN_S = 20.0


class Operator:
    """Gives orders to a run as `zflow scale` and `zflow move` do."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def order(self, order: Message) -> None:
        """It is obeyed; raises Stuck with the reason if it is refused."""
        answer = self._ask(order)
        if not isinstance(answer, Answer | Moved) or answer.refusal:
            raise Stuck(f"{order} was not taken: {answer}")

    def states(self) -> dict[str, str]:
        """Of each slot of the stage; none if the run does not answer."""
        picture = self._ask(Look())
        slots = picture.stage(STAGE).slots if isinstance(picture, Picture) else []
        return {
            slot.slot: f"{slot.replica.incarnation} {slot.replica.state}" if slot.replica else "-"
            for slot in slots
        }

    def replicas(self) -> int:
        """Of the stage, if all of them run and none is leaving; 0 meanwhile."""
        states = self.states().values()
        return len(states) if all(state.endswith("running") for state in states) else 0

    def _ask(self, question: Message) -> Message | None:
        if self._run.process.poll() is not None:
            raise Stuck(f"the run ended too early: {self._run.ending()}")
        living = self._run.replicas()
        if not living:
            return None
        return ask(RunDirectory(living[0].run).control, question, within_s=ANSWERS_WITHIN_S)


def play(job: Job) -> Verdict:
    """C19. 1 -> 8 -> 2 again and again, a kill in each step, partitions moving all the time."""
    n, turns = job.number("items"), job.number("turns")
    verdict = Verdict()
    site = job.site()
    given = [f"{SOURCE}.poison=False"]
    run = exact.start(site, n, "ordered", source=SOURCE, parameters=given, replicas=[f"{STAGE}=1"])
    killer = PatientKiller(run, job.dice)
    operator = Operator(run)
    moved = 0
    site.open_gate(n // (4 * turns))
    exact.wait_settled(run, 1, stage=SOURCE)
    for turn in range(turns):

        def step(part: int, act: Callable[[], None], turn: int = turn) -> None:
            """Something is on the way, an order, and a death in the middle of it."""
            site.open_gate(n * (4 * turn + part) // (4 * turns + 1))
            act()
            exact.pause(job)
            killer.kill([killer.victim(STAGE)])

        if turn:
            step(0, lambda: scale(operator, 1))
            wait_scaled(operator, 1, job)
        step(1, lambda: scale(operator, MANY))
        wait_scaled(operator, MANY, job)
        for _ in range(job.number("moves") // MOVED_AT_ONCE):
            moved += move(job, operator)
            exact.pause(job)
        step(2, lambda: move(job, operator))
        step(3, lambda: scale(operator, FEW))
        wait_scaled(operator, FEW, job)
    verdict.faults = {"scaled": 3 * turns - 1, "moved": moved, **killer.kills}
    site.open_gate(n)
    finish(run, verdict, exact.DRAIN_S + n / exact.SLOWEST_PER_S)
    judge(verdict, site, n)
    return verdict


def scale(operator: Operator, replicas: int) -> None:
    """The stage shall have so many."""
    operator.order(Scale(STAGE, replicas))


def wait_scaled(operator: Operator, replicas: int, job: Job) -> None:
    """Until it has them, and no other."""
    try:
        wait_until(
            lambda: operator.replicas() == replicas, job.size["scaled_s"], f"{replicas} replicas"
        )
    except Stuck as stuck:
        raise Stuck(f"{stuck}: {operator.states()}") from stuck


def move(job: Job, operator: Operator) -> int:
    """Some partitions to any of the many replicas; how many."""
    chosen = job.dice.sample(range(PARTITIONS), MOVED_AT_ONCE)
    operator.order(Move(STAGE, {partition: job.dice.randrange(MANY) for partition in chosen}))
    return len(chosen)


def judge(verdict: Verdict, site: Site, n: int) -> None:
    """Every item once and behind the one before it, in the rows and in the state."""
    verdict.items = count(expected_rows(n, {}), exact.read_rows(exact.rows_of(site)))
    items = verdict.items
    verdict.need(
        items.lost == items.duplicated == items.unexpected == 0,
        f"the rows are not exact and in order: {items.lost} missing, {items.duplicated} twice,"
        f" {items.unexpected} behind another number than their own: {list(items.shown)}",
    )
    last = {k: (n - 1 - k) // user.ORDER_KEYS for k in range(min(n, user.ORDER_KEYS))}
    found = exact.read_state(exact.partition_files(site.folder, STAGE))
    verdict.need(found == last, "the state is not exact")
    verdict.dead = len(site.dead_letters())
    verdict.need(verdict.dead == 0, f"{verdict.dead} dead letters")


CAMPAIGNS = (
    Campaign(
        name="C19",
        title="a durable stage grows and shrinks, partitions move, and replicas are killed",
        full={"items": 200_000, "turns": 20, "moves": 200, "pause_s": 0.3, "scaled_s": 60},
        ci={"items": 4_000, "turns": 1, "moves": 40, "pause_s": 0.2, "scaled_s": 60},
        play=play,
        twin=Twin(
            patch=RELEASED_AT_ONCE,
            breaks="replicas: not within",  # what is forgotten stays open, and nobody can leave
            size={"items": 8_000, "turns": 2, "moves": 100, "pause_s": 0.1, "scaled_s": 15},
        ),
    ),
)

"""Rules of `explain` on a run that does not run as it should, or not yet.

Each takes a case and gives a verdict, or None if it has nothing to say.
"""

from collections.abc import Iterator

from zflow.planning.rates import DOWN, StageRates
from zflow.planning.verdict import Case, Verdict
from zflow.planning.words import count, first_line, listed
from zflow.wire.picture import Picture

DYING = 2  # deaths of one stage between two pictures that are more than an accident
DEAD_SHARE = 0.1  # of what a stage settles: then dead letters are the news
MIN_INTERVAL_S = 0.5

# The states of a replica that a phase no longer waits for.
_READY = {"bind": ("bound", "connected", "running"), "connect": ("connected", "running")}


def starting(case: Case) -> Verdict | None:
    """Not everybody is there, or linked to the others."""
    if case.picture.phase not in (*_READY, "gather"):
        return None
    waits = listed(list(waiting_for(case.picture)))
    sentence = f"The run is starting: {waits}." if waits else "The run is starting."
    return Verdict(kind="starting", stage="", sentence=sentence)


def waiting_for(picture: Picture) -> Iterator[str]:
    """What a run that has not begun waits for, stage by stage; nothing in later phases."""
    if picture.waits_for:
        yield f"nobody runs {picture.waits_for} yet"
    ready = _READY.get(picture.phase)
    for stage in picture.stages if ready is not None else ():
        late = [
            one.slot
            for one in stage.slots
            if one.replica is None or one.replica.state not in (ready or ())
        ]
        one_is = len(late) == 1
        if late and picture.phase == "bind":
            yield f"{listed(late)} {'is' if one_is else 'are'} not up yet"
        elif late:
            yield f"{listed(late)} {'has' if one_is else 'have'} not reached all neighbours yet"


def paused(case: Case) -> Verdict | None:
    """Somebody has told the sources to wait."""
    if not case.picture.paused:
        return None
    sentence = "The run is paused: its sources wait until they are told to go on."
    return Verdict(kind="paused", stage="", sentence=sentence, command="zflow resume")


def ending(case: Case) -> Verdict | None:
    """There is nothing left to do."""
    if case.picture.phase != "finish":
        return None
    return Verdict(kind="ending", stage="", sentence="Everything is settled: the run is ending.")


def early(case: Case) -> Verdict | None:
    """There is not enough to go by."""
    counted = any(stage.times.counted for stage in case.rates.stages)
    if case.rates.interval_s >= MIN_INTERVAL_S and counted:
        return None
    sentence = "It is too early to say: ask again when the run has counted for a second."
    return Verdict(kind="early", stage="", sentence=sentence)


def crashing(case: Case) -> Verdict | None:
    """The stage that dies most, if one dies again and again or has nobody left."""
    stages = [s for s in case.rates.stages if s.new_restarts >= DYING or _nobody_lives(s)]
    if not stages:
        return None
    stage = max(stages, key=lambda one: (one.new_restarts, one.restarts))
    if stage.new_restarts:
        what = f"died {count(stage.new_restarts, 'time')} in {case.rates.interval_s:.0f} s"
    else:
        what = "is down and waits to be started again"
    said = next((one.last_error for one in stage.replicas if one.last_error), "")
    cause = f" ({first_line(said)})" if said else ""
    return Verdict(
        kind="crashing",
        stage=stage.name,
        sentence=f"{stage.name} {what}{cause}; {count(stage.restarts, 'death')} in this run.",
        command=f"zflow status {stage.name}",
    )


def _nobody_lives(stage: StageRates) -> bool:
    return stage.restarts > 0 and all(one.state == DOWN for one in stage.replicas)


def dead(case: Case) -> Verdict | None:
    """Much of what a stage gets becomes dead letters."""
    for stage in case.rates.stages:
        settled = stage.rate_per_s * case.rates.interval_s + stage.new_dead_letters
        if not settled or stage.new_dead_letters / settled < DEAD_SHARE:
            continue
        return Verdict(
            kind="dead",
            stage=stage.name,
            sentence=(
                f"{stage.name} gives up {stage.new_dead_letters / settled:.0%} of its items: "
                f"{count(stage.new_dead_letters, 'dead letter')} in "
                f"{case.rates.interval_s:.0f} s, {stage.dead_letters:,} in this run."
            ),
            command=f"zflow dead ls --stage {stage.name}",
            notes=case.notes(stage.name),
        )
    return None

"""Rules of `explain` on a run that does what it should: which stage sets the pace.

Each takes a case and gives a verdict, or None if it has nothing to say.
"""

from zflow.ids import Slot
from zflow.planning.gain import CPU, Gain, one_more
from zflow.planning.rates import StageRates
from zflow.planning.verdict import Case, Verdict
from zflow.planning.words import count, rate

BUSY = 0.9  # a stage that has no time left
BLOCKED = 0.5  # a stage that mostly waits until somebody takes what it has
STARVED = 0.5  # a stage that mostly waits for something to do
COMMITS = 0.5  # of a durable stage: its time goes into storing rather than into user code
MOVING = 0.1  # of the time of any other stage: worth to be told
HELD_S = 1.0  # a queue that takes longer than that to be worked off is one
IDLE = 0.1  # a stage that does next to nothing
WORTH_IT = 1.1  # less gain than that is none


def skew(case: Case) -> Verdict | None:
    """One replica of a keyed stage has no time left while the others wait."""
    keyed = {edge.target for edge in case.rates.edges if edge.keyed}
    for stage in case.rates.stages:
        working = [one for one in stage.replicas if one.times.counted]
        if stage.name not in keyed or len(working) < 2:
            continue
        hot = max(working, key=lambda one: one.times.occupied_ratio)
        others = [one for one in working if one is not hot]
        spare = sum(one.times.starved_ratio for one in others) / len(others)
        if hot.times.occupied_ratio <= BUSY or spare <= STARVED:
            continue
        share = hot.rate_per_s / stage.rate_per_s if stage.rate_per_s else 0.0
        return Verdict(
            kind="skew",
            stage=stage.name,
            sentence=(
                f"{hot.slot} has the keys that come most: it is busy "
                f"{hot.times.occupied_ratio:.0%} of the time with {share:.0%} of the items of "
                f"{stage.name}, while the other replicas starve {spare:.0%}. "
                f"Give them some of its partitions."
            ),
            command=_move(stage, hot.slot),
            notes=case.notes(stage.name),
        )
    return None


def _move(stage: StageRates, hot: str) -> str:
    """Every second partition of the hot slot, to the others in turn."""
    index = Slot.parse(hot).index
    owned = [partition for partition, owner in enumerate(stage.owners) if owner == index]
    slots = [Slot.parse(one.slot).index for one in stage.replicas]
    others = [slot for slot in slots if slot != index]
    moves = [f"{p}={others[n % len(others)]}" for n, p in enumerate(owned[::2])]
    return f"zflow move {stage.name} {' '.join(moves)}" if moves else ""


def bottleneck(case: Case) -> Verdict | None:
    """A stage without time left, and work that waits for it."""
    pressed = {stage.name: stage for stage in _full(case) if _is_pressed(case, stage)}
    # What comes before another one is only ahead of it, until the queue between them is full.
    last = [one for one in pressed.values() if not _reached(case, one) & pressed.keys()]
    return _verdict(case, max(last, key=_occupied)) if last else None


def nearly(case: Case) -> Verdict | None:
    """A stage without time left; nothing waits for it yet, and no source sets the pace."""
    full = _full(case)
    return _verdict(case, max(full, key=_occupied)) if full else None


def _reached(case: Case, stage: StageRates) -> set[str]:
    """The stages behind one."""
    found: set[str] = set()
    to_visit = [stage]
    while to_visit:
        behind = [one for one in case.rates.after(to_visit.pop().name) if one.name not in found]
        found |= {one.name for one in behind}
        to_visit += behind
    return found


def _full(case: Case) -> list[StageRates]:
    """The stages without time left; a stage that is moving items or waits for its disk takes
    nothing more either."""
    stages = case.rates.stages
    return [one for one in stages if one.kind != "source" and _occupied(one) > BUSY]


def _occupied(stage: StageRates) -> float:
    return stage.times.occupied_ratio


def _is_pressed(case: Case, stage: StageRates) -> bool:
    """Somebody before it is blocked, or what waits for it lasts for more than a second."""
    if any(one.times.blocked_ratio > BLOCKED for one in case.rates.before(stage.name)):
        return True
    return _waiting(case, stage) > max(stage.rate_per_s * HELD_S, 2.0 * len(stage.replicas))


def _waiting(case: Case, stage: StageRates) -> int:
    """Items in its inboxes, or where its senders still hold what is not acknowledged."""
    sent = sum(edge.queue_items for edge in case.rates.edges if edge.target == stage.name)
    return max(stage.queue_items, sent)


def _verdict(case: Case, stage: StageRates) -> Verdict:
    gain = one_more(stage, case.rates, case.cores)
    stores = bool(stage.partitions) and stage.times.overhead_ratio > COMMITS
    what = _what(stage, stores=stores)
    around = [what, *_neighbours(case, stage)]
    more, command = _advice(case, stage, gain)
    return Verdict(
        kind="commits" if stores else "sink" if stage.kind == "sink" else "stage",
        stage=stage.name,
        sentence=f"{', '.join(around)}. {more}",
        command=command,
        gain=gain,
        notes=case.notes(stage.name),
    )


def _what(stage: StageRates, *, stores: bool) -> str:
    times = stage.times
    if stores:
        return (
            f"{stage.name} waits for its disk: {times.overhead_ratio:.0%} of its time goes into "
            f"commits, {times.busy_ratio:.0%} into its own code"
        )
    name = "a slow sink" if stage.kind == "sink" else "the bottleneck"
    many = f"its {len(stage.replicas)} replicas are" if len(stage.replicas) > 1 else "it is"
    said = f"{stage.name} is {name}: {many} busy {_occupied(stage):.0%} of the time"
    if times.overhead_ratio > MOVING:
        said += f" ({times.overhead_ratio:.0%} with moving items)"
    return said


def _neighbours(case: Case, stage: StageRates) -> list[str]:
    parts = []
    blocked = [one for one in case.rates.before(stage.name) if one.times.blocked_ratio > BLOCKED]
    starved = [one for one in case.rates.after(stage.name) if one.times.starved_ratio > STARVED]
    if blocked:
        worst = max(blocked, key=lambda one: one.times.blocked_ratio)
        parts.append(f"{worst.name} before it is blocked {worst.times.blocked_ratio:.0%}")
    elif _waiting(case, stage):
        waiting = _waiting(case, stage)
        parts.append(f"{count(waiting, 'item')} {'waits' if waiting == 1 else 'wait'} for it")
    if starved:
        worst = max(starved, key=lambda one: one.times.starved_ratio)
        parts.append(f"{worst.name} after it starves {worst.times.starved_ratio:.0%}")
    return parts


def _advice(case: Case, stage: StageRates, gain: Gain) -> tuple[str, str]:
    """What one more replica gives and the command for it; or why there is none."""
    n = len(stage.replicas)
    if stage.partitions and stage.partitions <= n:
        shared = count(stage.partitions, "partition")
        return f"More replicas would give nothing: it has {shared}, and {n} to own them.", ""
    if 0 < stage.most_replicas <= n:
        return f"It can have no more than {count(n, 'replica')}.", ""
    if not stage.rate_per_s:
        seconds = f"{case.rates.interval_s:.0f} s"
        return f"No item was finished within {seconds}.", f"zflow status {stage.name}"
    if gain.factor < WORTH_IT:
        why = case.full_host() if gain.limit == CPU else f"{gain.limit} is as full"
        return f"One more replica would give nothing: {why}.", ""
    limit = ""
    if gain.limit:
        what = "the processors are" if gain.limit == CPU else f"{gain.limit} is"
        limit = f", then {what} the limit"
    sentence = (
        f"One more replica would give about {rate(gain.rate_per_s)} instead of "
        f"{rate(stage.rate_per_s)} (+{gain.factor - 1:.0%}){limit}."
    )
    return sentence, f"zflow scale {stage.name}={n + 1}"


def source(case: Case) -> Verdict | None:
    """No other stage is full, and no source waits for room: the busiest of them sets the pace."""
    sources = [one for one in case.rates.stages if one.kind == "source" and one.rate_per_s > 0]
    if not sources or any(one.times.blocked_ratio > IDLE for one in sources):
        return None
    first = max(sources, key=lambda one: one.times.busy_ratio)
    does = f"is busy {first.times.busy_ratio:.0%} of the time in its own code"
    if first.times.busy_ratio <= first.times.starved_ratio:
        does = f"waits {first.times.starved_ratio:.0%} of the time for what it reads"
    rest = [one for one in case.rates.stages if one.kind != "source" and one.times.counted]
    waits = "and nobody behind it makes it wait"
    if rest and all(one.times.starved_ratio > STARVED for one in rest):
        waits = "and everything behind it starves"
    return Verdict(
        kind="source",
        stage=first.name,
        sentence=(
            f"{first.name} sets the pace: it gives {rate(first.rate_per_s)} and {does}, {waits}."
            f"{_room_behind(rest)}"
        ),
        notes=case.notes(first.name),
    )


def _room_behind(stages: list[StageRates]) -> str:
    """What the fullest of the other stages could take."""
    fullest = max(stages, key=_occupied, default=None)
    if fullest is None or not _occupied(fullest) or not fullest.rate_per_s:
        return ""
    return (
        f" The fullest stage behind it is {fullest.name}, busy {_occupied(fullest):.0%}; it could "
        f"take about {rate(fullest.rate_per_s / _occupied(fullest))}."
    )


def idle(case: Case) -> Verdict | None:
    """Nothing moves, and nobody is at work."""
    if any(one.rate_per_s > 0 or one.times.busy_ratio > IDLE for one in case.rates.stages):
        return None
    sentence = "There is nothing to do: no stage has an item, and the sources give none."
    if case.picture.phase == "drain":
        sentence = "The run is draining, and nothing moves."
    return Verdict(kind="idle", stage="", sentence=sentence, notes=case.notes())


def free(case: Case) -> Verdict:
    """No stage is full. The last rule, which always has something to say."""
    fullest = max((s for s in case.rates.stages if s.times.counted), key=_occupied)
    sentence = (
        f"No stage is full: {fullest.name} has the most to do, busy {_occupied(fullest):.0%} of "
        f"the time with {rate(fullest.rate_per_s)}."
    )
    full = case.full_host()
    if full:
        sentence = f"No stage is full by itself, but {full}: more replicas would give nothing."
    return Verdict(
        kind="cpu" if full else "free",
        stage="" if full else fullest.name,
        sentence=sentence,
        notes=() if full else case.notes(fullest.name),
    )

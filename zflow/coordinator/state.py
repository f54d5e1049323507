"""What the coordinator knows of one run and when it goes on to the next phase.

Decides only: messages and deaths come in, updates go out. Never on the path of data, and its
state is soft: replicas and supervisors report it again.

| phase   | goes on when                                                                    |
|---------|---------------------------------------------------------------------------------|
| gather  | every declared slot has a supervisor and an address                              |
| bind    | every slot is bound                                                             |
| connect | every slot has all its links up                                                 |
| run     | every slot says twice in a row that it has ended and is settled, nothing between; |
|         | then each durable stage in turn concludes (`finish`), and all settles again       |
| drain   | the same; sources have stopped pulling                                          |
| finish  | -                                                                               |
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from zflow.coordinator.scaling import balanced
from zflow.ids import Slot
from zflow.protocol.keyed import owner_of
from zflow.wire.control import (
    PHASES,
    Answer,
    Move,
    Moved,
    Ownership,
    Register,
    Report,
    Roster,
    RunConfig,
    Scale,
    Snapshot,
    StageConfig,
    Update,
)
from zflow.wire.data import Crash

_RANK = {
    "lost": 0,
    "starting": 0,
    "registered": 1,
    "bound": 2,
    "connected": 3,
    "running": 4,
    "finished": 5,
    "failed": 5,
}
_NEEDED = {"bind": _RANK["bound"], "connect": _RANK["connected"]}


@dataclass(slots=True)
class SlotView:
    """One slot as the coordinator sees it.

    ordered: it was added to the declared ones. leaving: it lets go of what it has, then ends.
    ended: its process has ended in an orderly way.
    """

    incarnation: int = 0
    state: str = "starting"
    report: Report | None = None
    ordered: bool = False
    leaving: bool = False
    ended: bool = False


class RunState:
    """Membership and phase of one run. One thread owns it. epoch: of this coordinator."""

    def __init__(self, config: RunConfig, *, epoch: int = 1) -> None:
        self.config = config
        self.epoch = epoch
        self.phase = "gather"
        self.number = 0
        self.probe = 0
        self.paused = False
        self.wanted = {stage.name: stage.replicas for stage in config.stages}
        self.slots = {
            str(Slot(stage.name, index)): SlotView()
            for stage in config.stages
            for index in range(stage.replicas)
        }
        self.rosters = {stage.name: Roster(stage.name, 0, {}) for stage in config.stages}
        self.taps: dict[str, float] = {}  # edges that somebody looks at; said with every update
        self._addresses: dict[str, str] = {}
        self._signature: tuple[int, ...] | None = None
        self._to_conclude = deque(stage.name for stage in config.stages if stage.partitions)
        self._concluding = ""
        self._adopted = (0, 0)  # epoch and number of the newest word of an older coordinator
        self._left: dict[str, int] = {}  # slot that is gone -> its last incarnation
        self._owners: dict[str, Ownership] = {}  # of stages whose partitions have moved
        self._uneven: set[str] = set()  # durable stages that were rescaled

    # -- what comes in -----------------------------------------------------------------------

    def on_register(self, message: Register) -> Snapshot | None:
        """The configuration for a replica; None if it is not one of this run's newest, or if
        nobody has said yet who is where: it asks again, or goes by what its supervisor keeps."""
        view = self.slots.get(message.slot)
        if view is None or message.incarnation < view.incarnation or self.phase == "gather":
            return None
        if message.incarnation > view.incarnation:
            view.incarnation = message.incarnation
            view.state = "registered"
            view.report = None
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Everything that a replica or a supervisor is told."""
        return Snapshot(
            self.number,
            self.phase,
            self.probe,
            self.config,
            list(self.rosters.values()),
            list(self._owners.values()),
            self._concluding,
            self.paused,
            self.epoch,
        )

    def on_report(self, report: Report) -> None:
        """A replica's newest state."""
        view = self.slots.get(report.slot)
        if view is not None and report.incarnation >= view.incarnation:
            view.incarnation = report.incarnation  # of one that an older coordinator knew
            view.state = report.state
            view.report = report

    def on_death(self, slot: str, crash: Crash) -> Update | None:
        """An incarnation is dead: everybody upstream must know."""
        view = self.slots.get(slot)
        if view is None or crash.incarnation < view.incarnation:
            return None
        view.state = "starting"
        view.report = None
        self._signature = None
        return self._update(crash)

    def ended(self, slot: str) -> None:
        """An incarnation has ended in an orderly way, and nothing starts in its slot again."""
        view = self.slots.get(slot)
        if view is not None:
            view.state, view.ended = "finished", True

    def locate(self, slot: str, address: str) -> Update | None:
        """Where a slot takes messages; everybody hears of one that has come or has changed."""
        self._addresses[slot] = address
        place = Slot.parse(slot)
        roster = self.rosters[place.stage]
        if roster.slots.get(place.index, address) == address:
            return None
        return self._enrol(place.stage, {**roster.slots, place.index: address})

    def is_known(self, slot: str) -> bool:
        """Everybody has heard of the slot, so that it may start."""
        place = Slot.parse(slot)
        return place.index in self.rosters[place.stage].slots or self.slots[slot].leaving

    def adopt(self, heard: Snapshot) -> list[Update]:
        """What a supervisor has heard of an older coordinator of this run; what everybody hears
        of it, since some may have missed that coordinator's last words."""
        if heard.config.run_id != self.config.run_id or heard.epoch >= self.epoch:
            return []
        generation = max(self.config.generation, heard.config.generation)
        self.config = replace(self.config, generation=generation)
        if PHASES.index(heard.phase) > PHASES.index(self.phase):
            self.phase = heard.phase
        self.probe = max(self.probe, heard.probe)
        if (heard.epoch, heard.number) > self._adopted:
            self._adopted = heard.epoch, heard.number
            self.paused = heard.paused
        while heard.concluding in self._to_conclude:
            self._concluding = self._to_conclude.popleft()
        return [*self._adopt_rosters(heard), *self._adopt_owners(heard)]

    def _adopt_rosters(self, heard: Snapshot) -> Iterator[Update]:
        for roster in heard.rosters:
            if roster.generation > self.rosters[roster.stage].generation:
                self.rosters[roster.stage] = roster
                self.wanted[roster.stage] = max(roster.slots, default=-1) + 1
                for name in roster.names():
                    self.slots.setdefault(name, SlotView(ordered=True))
                yield self._update(roster=roster)

    def _adopt_owners(self, heard: Snapshot) -> Iterator[Update]:
        for owners in heard.owners:
            known = self._owners.get(owners.stage)
            if known is None or owners.generation > known.generation:
                self._owners[owners.stage] = owners
                yield self._update(owners=owners)

    # -- orders ------------------------------------------------------------------------------

    def on_move(self, move: Move) -> tuple[Moved, Update | None]:
        """Partitions get another owner; what the operator hears, and everybody else."""
        stage = self._stage(move.stage)
        refusal = self._move_refusal(stage, move)
        if stage is None or refusal:
            return Moved(None, refusal), None
        slots = self.owners_of(stage)
        for partition, slot in move.to.items():
            slots[partition] = slot
        update = self._assign(stage.name, slots)
        return Moved(update.owners), update

    def _stage(self, name: str) -> StageConfig | None:
        return next((one for one in self.config.stages if one.name == name), None)

    def owners_of(self, stage: StageConfig) -> list[int]:
        """The index of the slot that owns each partition of the stage."""
        known = self._owners.get(stage.name)
        if known is not None:
            return list(known.slots)
        return [owner_of(p, stage.replicas) for p in range(stage.partitions)]

    def _assign(self, stage: str, slots: list[int]) -> Update:
        known = self._owners.get(stage)
        generation = 1 if known is None else known.generation + 1
        owners = self._owners[stage] = Ownership(stage, generation, slots)
        self._signature = None
        return self._update(owners=owners)

    def _move_refusal(self, stage: StageConfig | None, move: Move) -> str:
        if stage is None or not stage.partitions:
            durable = ", ".join(one.name for one in self.config.stages if one.partitions)
            return f"{move.stage} is no durable stage of this run; it has: {durable or 'none'}"
        there = [k for k in sorted(self.rosters[stage.name].slots) if k < self.wanted[stage.name]]
        for partition, slot in move.to.items():
            if not 0 <= partition < stage.partitions:
                return f"{stage.name} has partitions 0 to {stage.partitions - 1}, not {partition}"
            if slot not in there:
                return f"{stage.name} has replicas 0 to {len(there) - 1}, not {slot}"
        return self._too_late("partitions move")

    def _too_late(self, what: str) -> str:
        if self.phase == "run" and not self._concluding:
            return ""
        if self.begins():
            return f"{what} while data flows, and this run is not so far: phase {self.phase}"
        now = f"{self._concluding} concludes" if self._concluding else f"phase {self.phase}"
        return f"{what} while data flows, and this run is further: {now}"

    def begins(self) -> bool:
        """Its sources have not started yet."""
        return PHASES.index(self.phase) < PHASES.index("run")

    def on_scale(self, scale: Scale) -> Answer:
        """A stage shall have that many replicas; `advance` brings it about."""
        stage = self._stage(scale.stage)
        refusal = self._scale_refusal(stage, scale)
        if stage is None or refusal:
            return Answer(refusal)
        self._want(stage, scale.replicas)
        return Answer()

    def _want(self, stage: StageConfig, replicas: int) -> None:
        """Slots that are to come have a view at once, those that are to go lose theirs later."""
        if replicas != self.wanted[stage.name] and stage.partitions:
            self._uneven.add(stage.name)
        self.wanted[stage.name] = replicas
        for index in range(replicas):
            name = str(Slot(stage.name, index))
            if name not in self.slots:
                # Above the one that has left, so that its end is not taken for that of a new one.
                self.slots[name] = SlotView(incarnation=self._left.get(name, -1) + 1, ordered=True)
        known = self.rosters[stage.name].slots
        for name in self._slots_of(stage.name):
            index = Slot.parse(name).index
            if index >= replicas and index not in known and not self.slots[name].leaving:
                del self.slots[name]  # nobody has heard of it yet

    def _scale_refusal(self, stage: StageConfig | None, scale: Scale) -> str:
        if stage is None:
            known = ", ".join(one.name for one in self.config.stages)
            return f"there is no stage '{scale.stage}'; this run has: {known}"
        if stage.kind == "source":
            return f"{stage.name} is a source: its replicas are its shares of the input, and stay"
        if scale.replicas < 1:
            return f"{stage.name} needs at least one replica"
        if stage.partitions and scale.replicas > stage.partitions:
            return f"{stage.name} has {stage.partitions} partitions: more replicas have no work"
        if stage.most_replicas and scale.replicas > stage.most_replicas:
            return f"{stage.name} can have {stage.most_replicas} replica: {stage.why_most}"
        leaving = [n for n in self._slots_of(stage.name) if self.slots[n].leaving]
        if leaving and scale.replicas > min(Slot.parse(n).index for n in leaving):
            return f"{', '.join(leaving)} is still leaving; ask again when it has left"
        return self._too_late("stages are scaled")

    def offered(self, stage: str, more: int) -> str:
        """A supervisor has come that would run more replicas than are wanted; why not, or ""."""
        config = self._stage(stage)
        assert config is not None, "only stages of this run are offered"
        replicas = self.wanted[stage] + more
        if self.phase == "gather" and config.kind != "source":
            self._want(config, replicas)
            return ""
        return self.on_scale(Scale(stage, replicas)).refusal

    def _slots_of(self, stage: str) -> list[str]:
        return [name for name in self.slots if Slot.parse(name).stage == stage]

    def on_apply(self, config: RunConfig) -> tuple[Answer, Update | None]:
        """The run is of another version from now on; who has to be replaced is not decided here."""
        mine = self.config
        if config.generation != mine.generation:
            why = f"it was made for generation {config.generation}, this is {mine.generation}"
            return Answer(f"somebody else has applied a version meanwhile: {why}"), None
        if _skeleton(config) != _skeleton(mine):
            return Answer("its stages or edges are others than those of this run"), None
        refusal = self._too_late("versions change")
        if refusal:
            return Answer(refusal), None
        self.config = replace(config, generation=mine.generation + 1, codec=mine.codec)
        return Answer(), self._update()

    def pause(self, paused: bool) -> Update | None:
        """Sources stop yielding, or go on."""
        if paused == self.paused:
            return None
        self.paused = paused
        return self._update()

    def failures(self) -> list[Report]:
        """Replicas that have failed by policy or by their source."""
        views = self.slots.values()
        return [v.report for v in views if v.report is not None and v.report.state == "failed"]

    def drain(self) -> Update | None:
        """Sources stop; None if that is under way already."""
        if PHASES.index(self.phase) >= PHASES.index("drain"):
            return None
        return self._go("drain")

    # -- going on ----------------------------------------------------------------------------

    def advance(self) -> Update | None:
        """The next update, if its time has come; ask again until there is none."""
        self._forget_left()
        if self.phase == "gather":
            return self._begin() if self.slots.keys() <= self._addresses.keys() else None
        needed = _NEEDED.get(self.phase)
        if needed is not None:
            if all(_RANK[view.state] >= needed for view in self.slots.values()):
                return self._go(PHASES[PHASES.index(self.phase) + 1])
            return None
        if self.phase in ("run", "drain"):
            return self._rescale() or self._advance_if_quiet()
        return None

    def _begin(self) -> Update:
        """Everybody is there: who they are does not change before all are connected."""
        for stage in self.config.stages:
            names = self._slots_of(stage.name)
            slots = {Slot.parse(name).index: self._addresses[name] for name in names}
            self.rosters[stage.name] = Roster(stage.name, 1, slots)
            if stage.partitions and len(slots) != stage.replicas:
                even = [owner_of(p, len(slots)) for p in range(stage.partitions)]
                self._owners[stage.name] = Ownership(stage.name, 1, even)
        self._uneven.clear()
        return self._go("bind")

    def _forget_left(self) -> None:
        for name in [n for n, v in self.slots.items() if v.leaving and v.ended]:
            # Who has had links to its last process takes no older one for its successor.
            self._left[name] = self.slots.pop(name).incarnation
            self._addresses.pop(name, None)

    def _rescale(self) -> Update | None:
        """The next step towards what is wanted."""
        for stage in self.config.stages:
            update = self._grow(stage) or self._even_out(stage) or self._shrink(stage)
            if update is not None:
                return update
        return None

    def _grow(self, stage: StageConfig) -> Update | None:
        """Slots that have an address now are dialled by everybody."""
        roster = self.rosters[stage.name]
        new = {
            index: self._addresses[name]
            for index in range(self.wanted[stage.name])
            if index not in roster.slots
            and (name := str(Slot(stage.name, index))) in self._addresses
        }
        return self._enrol(stage.name, {**roster.slots, **new}) if new else None

    def _even_out(self, stage: StageConfig) -> Update | None:
        """Partitions over those that stay, once these can take them."""
        if stage.name not in self._uneven:
            return None
        staying = list(range(self.wanted[stage.name]))
        views = [self.slots[str(Slot(stage.name, index))] for index in staying]
        if any(view.state != "running" for view in views):
            return None
        self._uneven.discard(stage.name)
        before = self.owners_of(stage)
        slots = balanced(before, staying)
        return self._assign(stage.name, slots) if slots != before else None

    def _shrink(self, stage: StageConfig) -> Update | None:
        """Slots that have nothing of their own any more are left by everybody."""
        roster = self.rosters[stage.name]
        leaving = [k for k in roster.slots if k >= self.wanted[stage.name]]
        if not leaving or stage.name in self._uneven or not self._moved(stage.name):
            return None
        for index in leaving:
            self.slots[str(Slot(stage.name, index))].leaving = True
        staying = {k: a for k, a in roster.slots.items() if k not in leaving}
        return self._enrol(stage.name, staying)

    def _enrol(self, stage: str, slots: dict[int, str]) -> Update:
        generation = self.rosters[stage].generation + 1
        roster = self.rosters[stage] = Roster(stage, generation, slots)
        self._signature = None
        return self._update(roster=roster)

    def _advance_if_quiet(self) -> Update | None:
        """Two equal rounds of answers, the second asked for after the first was complete.

        Source: F. Mattern, "Algorithms for distributed termination detection", 1987 (the four
        counter method): nothing was sent or received between the two.
        """
        reports = [view.report for view in self.slots.values()]
        if any(r is None or not r.settled or r.probe != self.probe for r in reports):
            return None
        if not all(self._moved(stage) for stage in self._owners):
            return None
        signature = tuple(report.activity for report in reports if report is not None)
        if signature == self._signature:
            # Not after a drain: the state is kept, and a resumed run goes on with it.
            ended = all(report is not None and report.exhausted for report in reports)
            if self._to_conclude and ended and self.phase == "run":
                return self._conclude(self._to_conclude.popleft())
            return self._go("finish")
        self._signature = signature
        self.probe += 1
        return self._update()

    def _moved(self, stage: str) -> bool:
        """Every slot of the stage has let go of what is not its own any more."""
        owners = self._owners.get(stage)
        if owners is None:
            return True
        reports = [self.slots[name].report for name in self._slots_of(stage)]
        return all(r is not None and r.owners >= owners.generation for r in reports)

    def _conclude(self, stage: str) -> Update:
        """Everything before this stage is settled: its turn to run `finish`."""
        self._concluding = stage
        self._signature = None
        self.probe += 1
        return self._update()

    def _go(self, phase: str) -> Update:
        self.phase = phase
        return self._update()

    def _update(
        self,
        crash: Crash | None = None,
        owners: Ownership | None = None,
        roster: Roster | None = None,
    ) -> Update:
        self.number += 1
        return self._word(crash, owners, roster)

    def beat(self) -> Update:
        """The newest update's number again, for those that missed it."""
        return self._word(None, None, None)

    def _word(self, crash: Crash | None, owners: Ownership | None, roster: Roster | None) -> Update:
        return Update(
            self.number,
            self.phase,
            self.probe,
            crash,
            self._concluding,
            owners,
            roster,
            self.paused,
            self.epoch,
            self.config.generation,
            self.taps,
        )


def _skeleton(config: RunConfig) -> object:
    """What all versions of a run have in common."""
    stages = [(s.name, s.number, s.kind, s.replicas, s.partitions) for s in config.stages]
    return config.run_id, stages, config.edges

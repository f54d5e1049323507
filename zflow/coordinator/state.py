"""What the coordinator knows of one run and when it goes on to the next phase.

Decides only: messages and deaths come in, updates go out. Never on the path of data, and its
state is soft: replicas report it again.

| phase   | goes on when                                                                    |
|---------|---------------------------------------------------------------------------------|
| bind    | every slot is bound                                                             |
| connect | every slot has all its links up                                                 |
| run     | every slot says twice in a row that it has ended and is settled, nothing between; |
|         | then each durable stage in turn concludes (`finish`), and all settles again       |
| drain   | the same; sources have stopped pulling                                          |
| finish  | -                                                                               |
"""

from collections import deque
from dataclasses import dataclass

from zflow.ids import Slot
from zflow.protocol.keyed import owner_of
from zflow.wire.control import (
    PHASES,
    Move,
    Moved,
    Ownership,
    Register,
    Report,
    RunConfig,
    Snapshot,
    StageConfig,
    Update,
)
from zflow.wire.data import Crash

_RANK = {
    "starting": 0,
    "registered": 1,
    "bound": 2,
    "connected": 3,
    "running": 4,
    "finished": 5,
    "failed": 5,
}
_NEEDED = {"bind": _RANK["bound"], "connect": _RANK["connected"]}
MAX_CRASHES_KEPT = 16  # reports of one slot's deaths that its successors pass on


@dataclass(slots=True)
class SlotView:
    """One slot as the coordinator sees it."""

    incarnation: int = 0
    state: str = "starting"
    report: Report | None = None


class RunState:
    """Membership and phase of one run. One thread owns it."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.phase = "bind"
        self.number = 0
        self.probe = 0
        self.slots = {
            str(Slot(stage.name, index)): SlotView()
            for stage in config.stages
            for index in range(stage.replicas)
        }
        self._crashes: dict[str, list[Crash]] = {}
        self._signature: tuple[int, ...] | None = None
        self._to_conclude = deque(stage.name for stage in config.stages if stage.partitions)
        self._concluding = ""
        self._owners: dict[str, Ownership] = {}  # of stages whose partitions have moved

    def on_register(self, message: Register) -> Snapshot | None:
        """The configuration for a replica; None if it is not one of this run's newest."""
        view = self.slots.get(message.slot)
        if view is None or message.incarnation < view.incarnation:
            return None
        if message.incarnation > view.incarnation:
            view.incarnation = message.incarnation
            view.state = "registered"
            view.report = None
        return Snapshot(
            self.number,
            self.phase,
            self.probe,
            self.config,
            self._crashes.get(message.slot, []),
            self._concluding,
            list(self._owners.values()),
        )

    def on_report(self, report: Report) -> None:
        """A replica's newest state."""
        view = self.slots.get(report.slot)
        if view is not None and report.incarnation == view.incarnation:
            view.state = report.state
            view.report = report

    def on_death(self, slot: str, crash: Crash) -> Update:
        """An incarnation is dead: everybody upstream must know, its successors too."""
        view = self.slots[slot]
        view.state = "starting"
        view.report = None
        self._signature = None
        kept = self._crashes.setdefault(slot, [])
        kept.append(crash)
        del kept[:-MAX_CRASHES_KEPT]
        return self._update(crash)

    def on_move(self, move: Move) -> tuple[Moved, Update | None]:
        """Partitions get another owner; what the operator hears, and everybody else."""
        stage = next((one for one in self.config.stages if one.name == move.stage), None)
        refusal = self._move_refusal(stage, move)
        if stage is None or refusal:
            return Moved(None, refusal), None
        known = self._owners.get(stage.name)
        slots = [owner_of(p, stage.replicas) for p in range(stage.partitions)]
        slots = slots if known is None else list(known.slots)
        for partition, slot in move.to.items():
            slots[partition] = slot
        generation = 1 if known is None else known.generation + 1
        owners = self._owners[stage.name] = Ownership(stage.name, generation, slots)
        self._signature = None
        return Moved(owners), self._update(owners=owners)

    def _move_refusal(self, stage: StageConfig | None, move: Move) -> str:
        if stage is None or not stage.partitions:
            durable = ", ".join(one.name for one in self.config.stages if one.partitions)
            return f"{move.stage} is no durable stage of this run; it has: {durable or 'none'}"
        for partition, slot in move.to.items():
            if not 0 <= partition < stage.partitions:
                return f"{stage.name} has partitions 0 to {stage.partitions - 1}, not {partition}"
            if not 0 <= slot < stage.replicas:
                return f"{stage.name} has replicas 0 to {stage.replicas - 1}, not {slot}"
        if self.phase != "run" or self._concluding:
            now = f"{self._concluding} concludes" if self._concluding else f"phase {self.phase}"
            return f"partitions move while data flows, and this run is further: {now}"
        return ""

    def failures(self) -> list[Report]:
        """Replicas that have failed by policy or by their source."""
        views = self.slots.values()
        return [v.report for v in views if v.report is not None and v.report.state == "failed"]

    def drain(self) -> Update | None:
        """Sources stop; None if that is under way already."""
        if PHASES.index(self.phase) >= PHASES.index("drain"):
            return None
        return self._go("drain")

    def advance(self) -> Update | None:
        """The next phase or probe, if the time has come."""
        needed = _NEEDED.get(self.phase)
        if needed is not None:
            if all(_RANK[view.state] >= needed for view in self.slots.values()):
                return self._go(PHASES[PHASES.index(self.phase) + 1])
            return None
        if self.phase in ("run", "drain"):
            return self._advance_if_quiet()
        return None

    def _advance_if_quiet(self) -> Update | None:
        """Two equal rounds of answers, the second asked for after the first was complete.

        Source: F. Mattern, "Algorithms for distributed termination detection", 1987 (the four
        counter method): nothing was sent or received between the two.
        """
        reports = [view.report for view in self.slots.values()]
        if any(r is None or not r.settled or r.probe != self.probe for r in reports):
            return None
        if not self._moves_done():
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

    def _moves_done(self) -> bool:
        """Every slot has let go of what is not its own any more."""
        return all(
            view.report is not None and view.report.owners >= owners.generation
            for owners in self._owners.values()
            for slot, view in self.slots.items()
            if Slot.parse(slot).stage == owners.stage
        )

    def _conclude(self, stage: str) -> Update:
        """Everything before this stage is settled: its turn to run `finish`."""
        self._concluding = stage
        self._signature = None
        self.probe += 1
        return self._update()

    def _go(self, phase: str) -> Update:
        self.phase = phase
        return self._update()

    def _update(self, crash: Crash | None = None, owners: Ownership | None = None) -> Update:
        self.number += 1
        return Update(self.number, self.phase, self.probe, crash, self._concluding, owners)

    def beat(self) -> Update:
        """The newest update's number again, for those that missed it."""
        return Update(self.number, self.phase, self.probe, None, self._concluding)

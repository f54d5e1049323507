"""Partitions that change their owner while data flows, as a coordinator orders it.

Decides which partition moves where, and when each process hears of it: late, twice, in any order.
What a process must do then is decided in `protocol.keyed`, `protocol.inbox` and by its worker.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zflow.protocol.keyed import Owners
from zflow.testing.anchors import AnchorWorker
from zflow.testing.topologies import DURABLE, Stage

if TYPE_CHECKING:
    from zflow.testing.process import Process
    from zflow.testing.world import World

BACK_WITHIN_S = 0.3
BACK_LATER_S = 2.0  # when others have worked on it
LATE_S = 0.3
LATE_AT_FINISH_S = 2.0  # of some: then a stage is looked at before all of it has heard


def evened(owners: Sequence[int], slots: Sequence[int]) -> list[int]:
    """Owners among these slots, as few as can be moved, so that nobody has two more than another.

    owners: the index of the slot, of each partition.
    """
    most = -(-len(owners) // len(slots))
    full = len(owners) - len(slots) * (most - 1)  # so many slots may have `most`
    found, kept = list(owners), dict.fromkeys(slots, 0)
    loose = []
    for partition, slot in enumerate(owners):
        at_most = most if sum(n == most for n in kept.values()) < full else most - 1
        if slot in kept and kept[slot] < at_most:
            kept[slot] += 1
        else:
            loose.append(partition)
    for partition in loose:
        found[partition] = slot = min(kept, key=lambda slot: kept[slot])
        kept[slot] += 1
    return found


class Moves:
    """The assignments of one world; the newest of each stage is what counts."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = world.random
        self.owners = {
            stage.index: Owners(stage.partitions, len(stage.slots))
            for stage in world.topology.stages
            if stage.kind == DURABLE
        }

    def strike(self) -> None:
        """Some partitions of a stage move, and often back: before everybody knows, or later."""
        stages = [self._world.topology.stages[index] for index in self.owners]
        able = [stage for stage in stages if self._can_move(stage)]
        if not able:
            return
        stage = self._random.choice(able)
        before = list(self.owners[stage.index].slots)
        self.move(stage)
        chance = self._random.random()
        if chance < 0.75:
            within_s = BACK_WITHIN_S if chance < 0.5 else BACK_LATER_S
            back_s = self._world.now_s + self._random.random() * within_s
            self._world.at(back_s, self._back, (stage, before))

    def move(self, stage: Stage) -> None:
        """About half of the partitions of a stage move, if they can."""
        if self._can_move(stage):
            before = self.owners[stage.index].slots
            slots = [s if self._random.random() < 0.5 else self._another(stage, s) for s in before]
            self.assign(stage, slots)

    def move_at_finish(self, stage: Stage) -> None:
        """One partition moves, if it can: whoever had it may be through before the other hears."""
        if self._can_move(stage):
            slots = list(self.owners[stage.index].slots)
            number = self._random.randrange(len(slots))
            slots[number] = self._another(stage, slots[number])
            self.assign(stage, slots, late_s=LATE_AT_FINISH_S)

    def _can_move(self, stage: Stage) -> bool:
        return stage.index in self.owners and len(self._world.rescales.slots(stage)) > 1

    def _another(self, stage: Stage, slot: int) -> int:
        there = self._world.rescales.indexes(stage)
        at = there.index(slot) if slot in there else len(there)
        others = there[at + 1 :] + there[:at]
        return self._random.choice(others) if others else slot

    def _back(self, stage: Stage, slots: list[int]) -> None:
        if not self._world.nemesis.healed:
            self._world.network.faults["moved away and back"] += 1
            there = self._world.rescales.indexes(stage)
            self.assign(stage, [s if s in there else self._another(stage, s) for s in slots])

    def assign(self, stage: Stage, slots: list[int], late_s: float = LATE_S) -> None:
        """A new generation; everybody hears of it some time."""
        owners = self.owners[stage.index]
        moved = owners.assign(owners.generation + 1, slots)
        self._world.network.faults["moved partition"] += len(moved)
        for process in self._concerned(stage):
            latest_s = self._random.choice((LATE_S, late_s))
            for _ in range(self._random.choice((1, 1, 2))):
                told_s = self._world.now_s + self._random.random() ** 2 * latest_s
                word = stage, owners.generation, list(slots)
                self._world.at(told_s, process.assign, word)

    def _concerned(self, stage: Stage) -> "list[Process]":
        """Who owns partitions of the stage or sends to them; zombies hear it now and then."""
        near = {stage.index, *(edge.source for edge in stage.ins)}
        found = []
        for seat in self._world.seats.values():
            if seat.stage.index in near:
                zombies = [z for z in seat.zombies if self._random.random() < 0.5]
                found += [p for p in (seat.process, *zombies) if p is not None]
        return found

    def spawned(self, process: "Process") -> None:
        """A new process is told at its start."""
        for index, owners in self.owners.items():
            stage = self._world.topology.stages[index]
            if stage is process.stage or any(edge.target == index for edge in process.stage.outs):
                process.assign(stage, owners.generation, owners.slots)

    def heal(self) -> None:
        """The last word on every stage reaches everybody."""
        for index, owners in self.owners.items():
            stage = self._world.topology.stages[index]
            if owners.generation or len(stage.slots) > 1:
                for process in self._concerned(stage):
                    self.spawned(process)

    def known(self, stage: Stage) -> bool:
        """Every process of the stage knows the newest word."""
        owners = self.owners.get(stage.index)
        return owners is None or all(
            seat.process is not None
            and isinstance(seat.process.worker, AnchorWorker)
            and seat.process.worker.owners.generation == owners.generation
            for seat in self._world.seats_of(stage)
        )

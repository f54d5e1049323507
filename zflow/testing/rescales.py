"""Stages that grow and shrink while data flows, as a coordinator orders it.

Decides which slots a stage has, when each process hears of it (late, twice, in any order, or of an
older word at its birth), and what becomes of the processes that leave. What a process must do then
is decided in `protocol.core`, `protocol.roster` and `protocol.inbox`.

Every third world is rescaled, by random numbers of its own: the others tell the story that they
told before there was this.
"""

from random import Random
from typing import TYPE_CHECKING

from zflow.hashing import text_hash64
from zflow.ids import Slot
from zflow.testing.moves import evened
from zflow.testing.topologies import EXACT, SOURCE, Stage

if TYPE_CHECKING:
    from zflow.testing.process import Process
    from zflow.testing.world import Seat, World

EVERY = 3
STRIKES = 2, 8  # in a world that is rescaled
RESTS = 0, 3  # gentle restarts
MOST_SLOTS = 4
BACK_WITHIN_S = 0.4  # so that some are wanted again before they have left
LATE_S = 0.3
EXIT_S = 0.3
OLD_WORD = 0.3  # of those who are born after a rescale: they know an older word at first
NOT_AGAIN = 0.5  # of those who die while they leave: nobody starts a successor

Word = tuple[int, tuple[str, ...]]  # generation, slots


class Rescales:
    """The slots of every stage of one world. words: the newest last."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = Random(text_hash64("rescales", str(world.seed)))
        stages = world.topology.stages
        self.words: dict[int, list[Word]] = {stage.index: [(0, stage.slots)] for stage in stages}
        self.ever = {stage.index: set(stage.slots) for stage in stages}
        self.attic: dict[str, Seat] = {}  # of slots that have left
        self._able = [stage for stage in stages if stage.kind not in (SOURCE, EXACT)]

    def slots(self, stage: Stage) -> tuple[str, ...]:
        """That are wanted now."""
        return self.words[stage.index][-1][1]

    def indexes(self, stage: Stage) -> list[int]:
        """The same, as their numbers."""
        return [Slot.parse(slot).index for slot in self.slots(stage)]

    def leaves(self, seat: "Seat") -> bool:
        """Its slot is not wanted any more."""
        return seat.slot not in self.slots(seat.stage)

    def settled(self, stage: Stage) -> bool:
        """Whoever had to leave the stage has left."""
        return not any(self.leaves(seat) for seat in self._world.seats_of(stage))

    # -- orders ----------------------------------------------------------------------------------

    def schedule(self) -> None:
        """All rescales and gentle restarts of this world, at random times."""
        if self._world.seed % EVERY:
            return
        nemesis = self._world.nemesis
        strikes = [("rescale", self.strike)] * self._random.randint(*STRIKES)
        strikes += [("gentle restart", self._rest)] * self._random.randint(*RESTS)
        for name, strike in strikes:
            at_s = 0.02 + self._random.random() * nemesis.ends_s
            self._world.at(at_s, nemesis.strike, (name, strike))

    def _rest(self) -> None:
        """A process takes nothing more, finishes what it has begun, and is started again."""
        inner = [process for process in self._world.nemesis.alive() if process.stage.ins]
        if inner:
            self._random.choice(inner).rest()

    def strike(self) -> None:
        """A stage grows or shrinks, and often goes back: before everybody knows, or later."""
        if not self._able:
            return
        stage = self._random.choice(self._able)
        before = self.slots(stage)
        numbers = self.indexes(stage)
        shrinks = len(numbers) > 1 and (len(numbers) == MOST_SLOTS or self._random.random() < 0.5)
        if shrinks:
            numbers.remove(self._random.choice(numbers))
        else:
            free = [k for k in range(MOST_SLOTS) if k not in numbers]
            numbers += free[: self._random.choice((1, 1, 2))]
        self._world.network.faults["shrunk" if shrinks else "grown"] += 1
        self._order(stage, numbers)
        if self._random.random() < 0.5:
            back_s = self._world.now_s + self._random.random() * BACK_WITHIN_S
            self._world.at(back_s, self._back, (stage, before))

    def _back(self, stage: Stage, slots: tuple[str, ...]) -> None:
        if not self._world.nemesis.healed:
            self._world.network.faults["rescaled and back"] += 1
            self._order(stage, [Slot.parse(slot).index for slot in slots])

    def _order(self, stage: Stage, numbers: list[int]) -> None:
        """The stage has these slots from now on; partitions move with them."""
        slots = tuple(f"{stage.name}/{k}" for k in numbers)
        gone = [seat for seat in self._world.seats_of(stage) if seat.slot not in slots]
        generation = self.words[stage.index][-1][0] + 1
        self.words[stage.index].append((generation, slots))
        self.ever[stage.index].update(slots)
        for slot in sorted(set(slots) - set(self.words[stage.index][-2][1])):
            self._start(stage, slot)
        for seat in gone:
            if seat.process is not None:
                self._later(seat.process.leave)
        for process in self._concerned(stage):
            for _ in range(self._random.choice((1, 1, 2))):
                self._later(process.resize, stage, generation, slots)
        moves = self._world.moves
        if stage.index in moves.owners:
            moves.assign(stage, evened(moves.owners[stage.index].slots, numbers))

    def _start(self, stage: Stage, slot: str) -> None:
        world = self._world
        if slot in world.seats:  # it has not left yet, and goes on or is started again
            world.count("wanted again before it has left")
            return
        world.seats[slot] = seat = self.attic.pop(slot, None) or world.new_seat(slot, stage)
        world.restart(seat)

    def _later(self, call: object, *arguments: object) -> None:
        told_s = self._world.now_s + self._random.random() ** 2 * LATE_S
        self._world.at(told_s, call, arguments)  # type: ignore[arg-type]

    def _concerned(self, stage: Stage) -> "list[Process]":
        """The neighbours of the stage on both sides; zombies hear it now and then."""
        near = {edge.source for edge in stage.ins} | {edge.target for edge in stage.outs}
        found = []
        for seat in self._world.seats.values():
            if seat.stage.index in near:
                zombies = [z for z in seat.zombies if self._random.random() < 0.5]
                found += [p for p in (seat.process, *zombies) if p is not None]
        return found

    # -- processes -------------------------------------------------------------------------------

    def birth(self, stage: Stage) -> Word:
        """What a process that is born now knows of a stage."""
        words = self.words[stage.index]
        if len(words) > 1 and self._random.random() < OLD_WORD:
            self._world.count("born with an old word")
            return self._random.choice(words)
        return words[-1]

    def spawned(self, process: "Process") -> None:
        """The newest words reach a new process a little later; whether it has to leave, too."""
        for stage in self._world.topology.stages:
            generation, slots = self.words[stage.index][-1]
            if process.words.get(stage.name, (generation,))[0] < generation:
                self._later(process.resize, stage, generation, slots)
        if self.leaves(process.seat):
            self._later(process.leave)

    def heal(self) -> None:
        """The last word on every stage reaches everybody."""
        for stage in self._able:
            for process in self._concerned(stage):
                process.resize(stage, *self.words[stage.index][-1])
            for seat in self._world.seats_of(stage):
                if seat.process is not None and self.leaves(seat):
                    seat.process.leave()

    def stays_away(self, seat: "Seat") -> bool:
        """A process that had to leave has died: sometimes that is its end."""
        if not self.leaves(seat):
            return False
        gone = self._random.random() < NOT_AGAIN
        if gone:
            self._world.count("died while leaving, and was not started again")
            self._remove(seat)
        return gone

    def retired(self, process: "Process") -> None:
        """It says so; the order to go takes a while, and somebody may come back meanwhile."""
        goes_s = self._world.now_s + self._random.random() * EXIT_S
        self._world.at(goes_s, self._exits, (process,))

    def _exits(self, process: "Process") -> None:
        world = self._world
        if not process.alive or not process.core.retired():
            return
        process.core.finish()
        process.act(world.now_s)
        process.die(world.now_s)
        seat = process.seat
        if seat.process is not process:
            return
        if self.leaves(seat):
            world.count("slot retired")
            self._remove(seat)
        else:
            world.count("retired, and wanted again")
            world.restart(seat)

    def _remove(self, seat: "Seat") -> None:
        self.attic[seat.slot] = self._world.seats.pop(seat.slot)

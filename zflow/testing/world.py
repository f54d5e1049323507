"""A seeded world: processes of a random pipeline that die, and what survives them.

Decides everything from one seed: topology, items, faults, times. The processes run the real
`protocol.core`; clock, network, disks and the supervisor are the world's. Faults come in a first
phase; then everything is restarted and has to drain.

    World(7).run()                # a Result, or a Violation that names seed and invariant
    World(7, trace=True).run()    # the same, with the last events in the Violation
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from zflow.hashing import text_hash64
from zflow.testing.disk import Disk
from zflow.testing.effects import Effects
from zflow.testing.ending import Ending
from zflow.testing.faults import Nemesis
from zflow.testing.invariants import Invariants, Violation
from zflow.testing.items import Fate, grow
from zflow.testing.moves import Moves
from zflow.testing.network import Network
from zflow.testing.process import Process
from zflow.testing.redrive import Redrives, with_redrives
from zflow.testing.rescales import Rescales
from zflow.testing.topologies import SOURCE, Stage, Topology, random_topology
from zflow.testing.urgent import EVERY_SEED, WITH_LANES, with_lanes
from zflow.wire.data import Crash, Frame

DRAIN_S = 300.0  # of virtual time, for everything after the last fault
LOOK_S = 0.1  # between two looks at whether all is done
TRACED = 60
REMEMBERED_CRASHES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one seed went through."""

    seed: int
    stages: int
    items: int
    effects: int
    virtual_s: float
    faults: Counter[str]
    transitions: Counter[str]


class Seat:
    """What outlives the processes of one slot: its number, its disk and its black boxes."""

    def __init__(self, slot: str, stage: Stage) -> None:
        self.slot = slot
        self.stage = stage
        self.incarnation = 0
        self.process: Process | None = None
        self.zombies: list[Process] = []
        self.low = 0
        self.gone = 0  # items that a source that cannot go back gave to earlier incarnations
        self.origin = text_hash64("origin", slot)
        self.crashes: deque[Crash] = deque(maxlen=REMEMBERED_CRASHES)
        self._yielded = 0

    def yielded(self, n: int) -> None:
        """A source process has yielded `n` more."""
        self._yielded += n

    def born(self) -> bool:
        """The next incarnation; True if it is an origin of its own, that begins behind the last."""
        self.incarnation += 1
        if self.stage.replayable:
            return False
        self.gone = self._yielded
        self.origin = self.new_origin()
        return True

    def new_origin(self) -> int:
        """The number of a birth."""
        return text_hash64("origin", self.slot, str(self.incarnation))

    def zombie_of(self, incarnation: int) -> Process | None:
        """An old incarnation that still runs; connections to it still stand."""
        return next((z for z in self.zombies if z.incarnation == incarnation and z.alive), None)


class World:
    """See the module. topology: instead of a random one. trace: remember the last events.

    synced: False makes commits that their owner hears of before they are on the disk: a world that
    a power loss must break.
    """

    def __init__(
        self,
        seed: int,
        *,
        trace: bool = False,
        topology: Topology | None = None,
        synced: bool = True,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_s = 0.0
        made = topology or random_topology(self.random)
        if seed % EVERY_SEED == WITH_LANES:
            made = with_lanes(made, Random(seed))
        self.topology = with_redrives(made, self.random)
        self.roots, self.items, self.finals = grow(self.topology, self.random)
        self.invariants = Invariants()
        self.frames: Counter[type[Frame]] = Counter()
        self.transitions: Counter[str] = Counter()
        self.network = Network(self.random, self.at, wired=seed % 8 == 0)
        self.seats = {
            slot: Seat(slot, stage) for stage in self.topology.stages for slot in stage.slots
        }
        self.disks = self._new_disks(synced=synced)
        self.rescales = Rescales(self)
        self.moves = Moves(self)
        self.effects = Effects(self.topology, self.items)
        self.effects.rows.update(
            (seat.origin, self.roots.get(slot, [])) for slot, seat in self.seats.items()
        )
        self.effects.rows.update((disk.origin, []) for disk in self.disks.values())
        self.ending = Ending(self)
        self.nemesis = Nemesis(self)
        self.redrives = Redrives(self)
        self._trace: deque[tuple[Any, ...]] | None = deque(maxlen=TRACED) if trace else None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0
        self._done = False

    def _new_disks(self, *, synced: bool) -> dict[tuple[int, int], Disk]:
        flocked = self.random.random() < 0.5
        return {
            (stage.index, number): Disk(
                stage, number, self.random.getrandbits(64), flocked=flocked, full=synced
            )
            for stage in self.topology.stages
            for number in range(stage.partitions)
        }

    def disks_of(self, stage: Stage) -> list[Disk]:
        """The files of a stage's partitions."""
        return [self.disks[stage.index, number] for number in range(stage.partitions)]

    def seats_of(self, stage: Stage) -> list[Seat]:
        """The seats of a stage's slots, and of those that have not left it yet."""
        return [seat for seat in self.seats.values() if seat.stage.index == stage.index]

    def all_seats(self) -> list[Seat]:
        """Those of slots that have left too: a zombie may still sit there."""
        return [*self.seats.values(), *self.rescales.attic.values()]

    @staticmethod
    def new_seat(slot: str, stage: Stage) -> Seat:
        """For a slot that there never was."""
        return Seat(slot, stage)

    # -- time ------------------------------------------------------------------------------------

    def at(self, at_s: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call that at a virtual time."""
        self._seq += 1
        heapq.heappush(self._heap, (at_s, self._seq, call, arguments))

    def advance(self, until_s: float) -> None:
        """Let time pass; raises Violation with seed and trace."""
        heap = self._heap
        try:
            while heap and heap[0][0] <= until_s and not self._done:
                self.now_s, _, call, arguments = heapq.heappop(heap)
                call(*arguments)
        except Violation as violation:
            raise self._explained(violation) from violation
        if not self._done:
            self.now_s = until_s

    def _explained(self, violation: Violation) -> Violation:
        facts = f"seed {self.seed}, {self.now_s:.4f} s: {violation.facts}"
        if self._trace is not None:
            facts += "\n" + "\n".join(" ".join(map(str, line)) for line in self._trace)
        return Violation(violation.invariant, facts)

    def note(self, now_s: float, process: Process, verb: str, what: object) -> None:
        """Remember an event for the trace of a failing seed."""
        if self._trace is not None:
            self._trace.append((f"{now_s:.4f}", process, verb, what))

    def count(self, transition: str) -> None:
        """One more of these was seen."""
        self.transitions[transition] += 1

    def new_token(self) -> int:
        """A token for a link."""
        return self.random.getrandbits(64) | 1

    # -- a whole run -----------------------------------------------------------------------------

    def run(self) -> Result:
        """Start, faults, calm, end."""
        self.start()
        self.nemesis.schedule()
        self.advance(self.nemesis.ends_s)
        self.drain()
        return self.result()

    def start(self) -> None:
        """Everything binds before anything connects."""
        first = [seat for seat in self.seats.values() if seat.stage.resends is None]
        for seat in first:
            self._spawn(seat)
        for seat in first:
            self._begin(seat)
        self._look()

    def begin(self, seat: Seat) -> None:
        """A process joins those that run."""
        self._spawn(seat)
        self._begin(seat)

    def _begin(self, seat: Seat) -> None:
        self._connect(seat)
        if seat.stage.kind == SOURCE and seat.stage.replayable:
            self._persist(seat)

    def drain(self) -> None:
        """No more faults: everything must be done within `DRAIN_S` (I13)."""
        self.nemesis.heal()
        self.advance(self.now_s + DRAIN_S)
        if not self._done:
            raise self._explained(Violation("I13", f"not drained: {self._open()}"))

    def _look(self) -> None:
        if self.ending.look() and self.nemesis.healed:
            self._finish()
        else:
            self.at(self.now_s + LOOK_S, self._look, ())

    def _open(self) -> str:
        return "; ".join(
            f"{process} {'settled' if process.core.settled() else 'open'}"
            f" {'quiet' if process.core.quiet() else 'awake'}"
            f" {'ready' if process.worker.ready() else 'at work'}"
            for seat in self.seats.values()
            for process in [seat.process]
            if process is not None and not self.ending.over(process)
        )

    def _finish(self) -> None:
        """I17: every origin is empty, every link closes, and the books of all items balance."""
        for seat in self.seats.values():
            process = seat.process
            assert process is not None, "all processes run at the end"
            roots = process.roots
            if process.core.origin is not None and process.core.origin.low != len(roots):
                raise Violation("I17", f"{process} ended at {process.core.origin.low}")
            process.core.finish()
            process.act(self.now_s)
            self.invariants.low_mark(roots, 0, len(roots))
        self.redrives.ended()
        self.effects.ended(self.disks.values(), self.items, self.invariants.dead)
        self.count("BYE, all links closed")
        self._done = True

    def result(self) -> Result:
        """What happened."""
        for seat in self.seats.values():
            if seat.process is not None and seat.process.alive:
                seat.process.count_ledger()
        seen = self.transitions
        seen.update({f"{kind.__name__.upper()} handled": n for kind, n in self.frames.items()})
        return Result(
            seed=self.seed,
            stages=sum(stage.resends is None for stage in self.topology.stages),
            items=sum(len(roots) for roots in self.roots.values()),
            effects=sum(item.done for item in self.items),
            virtual_s=self.now_s,
            faults=self.network.faults,
            transitions=seen,
        )

    # -- supervisor ------------------------------------------------------------------------------

    def _spawn(self, seat: Seat) -> Process:
        birth = seat.born()
        process = seat.process = Process(self, seat.stage, seat)
        self.moves.spawned(process)
        self.rescales.spawned(process)
        if birth:
            self.effects.rows[seat.origin] = process.roots
            self.count("source born again" if process.incarnation > 1 else "source born")
        elif process.incarnation > 1 and seat.stage.resends is not None:
            self.count("source of dead letters started again")
        self.network.bound[seat.slot] = process
        return process

    def _connect(self, seat: Seat) -> None:
        assert seat.process is not None, "only a spawned process connects"
        seat.process.core.connect(self.now_s)
        seat.process.wake(self.now_s)

    def restart(self, seat: Seat) -> None:
        """The supervisor starts a successor, unless somebody else has or the slot has left."""
        if self.seats.get(seat.slot) is not seat or self.rescales.stays_away(seat):
            return
        if seat.process is None or not seat.process.alive:
            self._spawn(seat)
            self._connect(seat)

    def kill(self, process: Process, *, strikes: int = 1, cause: str = "SIGKILL") -> None:
        """A death with its report; the successor comes a little later."""
        if not process.alive:
            return
        crash = process.crash(strikes, cause)
        process.die(self.now_s)
        self.note(self.now_s, process, "died of", cause)
        if process.zombie:  # reported when its successor was started
            return
        if crash.runs:
            self.count("died inside a slice" + (", alone" if crash.alone else ""))
        self.report(process.seat, crash)
        again_s = self.now_s + 0.01 + self.random.random() ** 2
        self.at(again_s, self.restart, (process.seat,))

    def relieve(self, process: Process) -> None:
        """A process has come to rest and goes; its successor comes at once."""
        if process.alive:
            self.count("came to rest")
            process.die(self.now_s)
            if not process.zombie:
                self.at(self.now_s + 0.01, self.restart, (process.seat,))

    def poisoned(self, process: Process, now_s: float) -> None:
        """User code has killed the process."""
        worker = process.worker
        for item in worker.items:
            if item.fate is Fate.POISON:
                assert item.edge is not None, "sources execute nothing"
                if not process.zombie:
                    slots = len(self.rescales.ever[process.stage.index])
                    limit = item.edge.settings.max_crashes
                    self.invariants.killed(item, worker.sender, slots, limit)
                break
        self.network.faults["poison"] += 1
        self.kill(process, strikes=3, cause="exit code 1")

    def lose_power(self) -> None:
        """The machine stops: what was written and is not on a disk is gone."""
        for seat in self.all_seats():
            for process in [*seat.zombies, seat.process]:
                if process is not None and process.alive:
                    self.network.faults["killed process"] += 1
                    self.kill(process, cause="power loss")
        for disk in self.disks.values():
            gone = disk.lose_power()
            self.effects.gone(disk, gone)
            if gone:
                self.count("power loss took a commit back")
            if any(written.alarms for written in gone):
                self.count("power loss took a timer back")

    def report(self, seat: Seat, crash: Crash) -> None:
        """Tell everybody upstream, soon; successors tell it in their WELCOME."""
        seat.crashes.append(crash)
        for edge in seat.stage.ins:
            for sender in self.seats_of(self.topology.stages[edge.source]):
                told_s = self.now_s + self.random.random() * 0.05
                self.at(told_s, self._tell, (sender, crash, told_s))

    def _tell(self, seat: Seat, crash: Crash, now_s: float) -> None:
        for process in [*seat.zombies, seat.process]:
            if process is not None:
                process.on_crash(crash, now_s)

    def succeed(self, process: Process) -> None:
        """Start a successor although the process still runs: a zombie is made."""
        seat = process.seat
        process.zombie = True
        seat.zombies.append(process)
        self.report(seat, process.crash(1, "lost"))
        self._spawn(seat)
        self._connect(seat)

    def retire(self, process: Process) -> None:
        """A process was told that it is a zombie; the newest incarnation never is."""
        if process.alive and not process.zombie:
            raise Violation("I9", f"{process} was retired, but it is the newest")
        process.die(self.now_s)

    # -- disks -----------------------------------------------------------------------------------

    def _persist(self, seat: Seat) -> None:
        """A source's low mark is written lazily, by zombies too (I1)."""
        for process in [*seat.zombies, seat.process]:
            if process is not None and process.alive and process.core.origin is not None:
                mark = process.core.origin.mark
                low = mark[1] if mark is not None else seat.low
                self.invariants.low_mark(self.roots[seat.slot], seat.low, low)
                seat.low = max(seat.low, low)
        self.at(self.now_s + 0.05 + self.random.random() * 0.3, self._persist, (seat,))

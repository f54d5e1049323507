"""The enemy of the simulated world: what is killed, paused, suspected and cut, and when.

Decides faults from the world's random numbers. Never touches a core; it acts through what a
supervisor, an operating system or a network can do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from zflow.testing.invariants import Violation
from zflow.testing.items import Fate, Item
from zflow.testing.network import Rates, random_rates
from zflow.testing.process import CODEC, GENERATION, RUN_ID, Process
from zflow.testing.topologies import Stage
from zflow.wire.data import Crash, Hello

if TYPE_CHECKING:
    from zflow.testing.world import World

STUCK_FOR_S = 45.0  # longer than it takes to be called stuck
SILENT_FOR_S = 15.0  # longer than it takes to be given up
LAST_STRIKES = 3  # at durable stages that finish, even in the calm
LAST_MOVES = 3
HUNT_KILLS = 3  # as many as would convict a poison item


class Nemesis:
    """Schedules faults until `ends_s`; `heal` ends them all."""

    def __init__(self, world: "World") -> None:
        random = world.random
        self._world = world
        self._random = random
        self.ends_s = 1.0 + random.random() * 3.0
        self.rates = random_rates(random)
        self.healed = False
        self._last_strikes = LAST_STRIKES
        self._last_moves = LAST_MOVES
        self.graves_fail = 0.0  # the chance that a commit of dead letters fails, of anybody
        self.prey: dict[Item, int] = {}  # innocent items that are hunted, and kills to come
        self._table: tuple[tuple[float, str, Callable[[], None]], ...] = (
            (4.0, "kill", self._kill),
            (2.0, "kill in slice", self._kill_in_slice),
            (1.0, "kill pair", self._kill_pair),
            (0.2, "kill all", self._kill_all),
            (1.0, "hunt", self._hunt),
            (0.25, "silent death", self._silent_death),
            (2.0, "zombie", self._zombie),
            (1.0, "pause", self._pause),
            (2.0, "false suspicion", self._suspect),
            (2.0, "cut", self._cut),
            (1.0, "slow", self._slow),
            (1.0, "slow disk", self._slow_disk),
            (1.0, "stranger", self._stranger),
            (0.15, "stuck", self._stuck),
            (2.0, "kill in commit", self._kill_in_commit),
            (1.0, "failing disk", self._failing_disk),
            (1.0, "failing dead letters", self._failing_graves),
            (0.5, "power loss", self._world.lose_power),
            (3.0, "move", self._world.moves.strike),
        )

    def schedule(self) -> None:
        """All faults of this world, at random times."""
        world, random = self._world, self._random
        world.network.rates = self.rates
        weights = [row[0] for row in self._table]
        for _ in range(random.randint(10, 20)):
            _, name, strike = random.choices(self._table, weights)[0]
            world.at(0.02 + random.random() * self.ends_s, self.strike, (name, strike))
        world.rescales.schedule()

    def strike(self, name: str, fault: Callable[[], None]) -> None:
        """One fault now."""
        if self._world.network.rates is not self.rates:
            return
        self._world.network.faults[name] += 1
        fault()

    def heal(self) -> None:
        """No more faults, and no more zombies or pauses; poison stays what it is."""
        world = self._world
        self.healed = True
        world.network.rates = Rates()
        self.graves_fail = 0.0
        self.prey.clear()
        world.moves.heal()
        world.rescales.heal()
        for seat in world.all_seats():
            for zombie in seat.zombies:
                world.at(world.now_s + self._random.random(), world.kill, (zombie,))
            if seat.process is not None:
                seat.process.paused_until_s = 0.0
                seat.process.worker.slow = 1.0
                seat.process.disk_s = 0.002
                seat.process.disk_fails = 0.0
                seat.process.wake(world.now_s)

    # -- faults ----------------------------------------------------------------------------------

    def alive(self) -> list[Process]:
        """The newest process of every slot, if it lives."""
        seats = self._world.seats.values()
        return [seat.process for seat in seats if seat.process and seat.process.alive]

    def _any(self) -> Process | None:
        alive = self.alive()
        return self._random.choice(alive) if alive else None

    def _slay(self, processes: list[Process]) -> None:
        for process in processes:
            self._world.network.faults["killed process"] += 1
            self._world.kill(process)

    def _kill(self) -> None:
        victim = self._any()
        self._slay([victim] if victim else [])

    def _kill_in_slice(self) -> None:
        """A process in the middle of something."""
        busy = [process for process in self.alive() if process.worker.executing]
        self._slay([self._random.choice(busy)] if busy else [])

    def _kill_in_commit(self) -> None:
        """An anchor whose commit is under way, on either side of the moment that it is durable."""
        committing = [p for p in self.alive() if p.worker.committing]
        self._slay([self._random.choice(committing)] if committing else [])

    def _kill_pair(self) -> None:
        """Two neighbours at the same moment."""
        first = self._any()
        if first is None:
            return
        near = {edge.source for edge in first.stage.ins} | {e.target for e in first.stage.outs}
        others = [process for process in self.alive() if process.stage.index in near]
        self._slay([first, self._random.choice(others)] if others else [first])

    def _kill_all(self) -> None:
        self._slay(self.alive())

    def _hunt(self) -> None:
        """Whoever executes a certain innocent item is killed by somebody else, again and again."""
        innocent = [item for item in self._world.items if item.edge and item.fate is Fate.WELL]
        if innocent:
            self.prey[self._random.choice(innocent)] = HUNT_KILLS

    def executes(self, process: Process, items: list[Item], until_s: float) -> None:
        """A slice of these items has begun."""
        if self.prey and any(item in self.prey for item in items):
            strikes_s = self._world.now_s + (until_s - self._world.now_s) * self._random.random()
            self._world.at(strikes_s, self._slay_executor, (process, items))

    def _slay_executor(self, process: Process, items: list[Item]) -> None:
        """Strike if the slice goes on."""
        if process.alive and process.worker.items is items:
            for item in items:
                if self.prey.get(item, 0):
                    self.prey[item] -= 1
                    if not self.prey[item]:
                        del self.prey[item]
            self._slay([process])

    def finishes(self, process: Process) -> None:
        """A durable stage finishes: sometimes it is killed around its last commit."""
        if self._last_strikes and self._random.random() < 0.4:
            self._last_strikes -= 1
            strikes_s = self._world.now_s + self._random.random() * 0.1
            self._world.at(strikes_s, self._last_strike, (process,))

    def resends(self, process: Process) -> None:
        """A source of dead letters starts: sometimes it is killed on its way."""
        if self._random.random() < 0.3:
            strikes_s = self._world.now_s + self._random.random() * 0.3
            self._world.at(strikes_s, self._slay_resender, (process,))

    def _slay_resender(self, process: Process) -> None:
        if process.alive:
            self._world.network.faults["kill of a source of dead letters"] += 1
            self._slay([process])

    def fires(self, process: Process) -> None:
        """A timer fires: sometimes its replica is killed around the commit."""
        if not self.healed and self._random.random() < 0.1:
            strikes_s = self._world.now_s + self._random.random() * 0.05
            self._world.at(strikes_s, self._slay_alarmed, (process,))

    def _slay_alarmed(self, process: Process) -> None:
        if process.alive and not self.healed:
            self._world.network.faults["kill at a timer"] += 1
            self._slay([process])

    def delays_finish(self, stage: Stage) -> bool:
        """All upstream of a durable stage is over: sometimes a partition moves before it ends."""
        strikes = self._last_moves > 0 and self._random.random() < 0.4
        if strikes:
            self._last_moves -= 1
            self._world.network.faults["move at finish"] += 1
            self._world.moves.move_at_finish(stage)
        return strikes

    def _last_strike(self, process: Process) -> None:
        if process.alive:
            self._world.network.faults["kill at finish"] += 1
            if self._random.random() < 0.2:
                self._world.lose_power()
            else:
                self._slay([process])

    def _silent_death(self) -> None:
        """A process is gone for long, and no supervisor says so."""
        process = self._any()
        if process is not None:
            process.die(self._world.now_s)
            back_s = self._world.now_s + SILENT_FOR_S
            self._world.at(back_s, self._world.restart, (process.seat,))

    def _zombie(self) -> None:
        """A successor starts while the old one runs; it dies later, if it is not retired."""
        anchors = [process for process in self.alive() if process.worker.committing]
        among = anchors if anchors and self._random.random() < 0.5 else self.alive()
        process = self._random.choice(among) if among else None
        if process is not None and process.stage.replayable:
            self._world.succeed(process)
            dies_s = self._world.now_s + 0.2 + self._random.random() * 3.0
            self._world.at(dies_s, self._world.kill, (process,))

    def _pause(self) -> None:
        """SIGSTOP and SIGCONT."""
        process = self._any()
        if process is not None:
            process.paused_until_s = self._world.now_s + 0.05 + self._random.random() * 2.0

    def _suspect(self) -> None:
        """A live process is called dead."""
        process = self._any()
        if process is not None:
            crash = Crash(process.slot, process.incarnation, [], False, 0, "suspected")
            for edge in process.stage.ins:
                for seat in self._world.seats_of(self._world.topology.stages[edge.source]):
                    sender = seat.process
                    if sender is not None:
                        sender.on_crash(crash, self._world.now_s)

    def _cut(self) -> None:
        """Connections are reset with frames on the way, both directions."""
        process = self._any()
        if process is not None:
            for socket in [*process.sockets.values(), *process.replies.values()]:
                if self._random.random() < 0.5:
                    self._world.network.cut(socket)

    def _slow(self) -> None:
        process = self._any()
        if process is not None:
            process.worker.slow_down(20.0)
            self._world.at(self._world.now_s + 0.5, process.worker.slow_down, (1.0,))

    def _slow_disk(self) -> None:
        for process in self.alive():
            process.disk_s = 0.3

    def _failing_disk(self) -> None:
        """Commits fail, and are tried again."""
        for process in self.alive():
            process.disk_fails = self._random.choice((0.0, 0.3, 0.7))

    def _failing_graves(self) -> None:
        """The disk of the dead letters is full, for everybody, until somebody makes room."""
        self.graves_fail = self._random.choice((0.5, 1.0, 1.0))
        mended_s = self._world.now_s + 0.2 + self._random.random() * 2.0
        self._world.at(mended_s, self._mend_graves, ())

    def _mend_graves(self) -> None:
        self.graves_fail = 0.0

    def _stuck(self) -> None:
        """One slice takes so long that senders must look elsewhere, and none may send again."""
        busy = [process for process in self.alive() if process.worker.executing]
        if busy:  # never a source: it executes nothing that anybody sent
            self._random.choice(busy).worker.due_s += STUCK_FOR_S

    def _stranger(self) -> None:
        """A HELLO from another run, of another codec or a newer generation."""
        process = self._any()
        if process is None or not process.stage.ins:
            return
        edge = process.stage.ins[0]
        wrong = self._random.choice(("run", "codec", "generation", "edge"))
        hello = Hello(
            self._world.new_token(),
            "another" if wrong == "run" else RUN_ID,
            self._world.topology.stages[edge.source].slots[0],
            1 << 20,
            1,
            "nowhere",
            edge.number + (wrong == "edge"),
            GENERATION + (wrong == "generation"),
            "another" if wrong == "codec" else CODEC,
            False,
        )
        links = dict(process.core.inbox.links)
        process.core.on_frame(hello, None, self._world.now_s)
        if links != process.core.inbox.links:
            raise Violation("I9", f"a stranger ({wrong}) has made a link to {process}")
        process.wake(self._world.now_s)

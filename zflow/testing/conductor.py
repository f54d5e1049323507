"""Coordinator and supervisor of a run in one process.

Decides with the coordinator's own state (`coordinator.state`) when the run goes on, and when a
successor of a dead replica starts, with the supervisor's waits and limits. Never on the path of an
item.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zflow.books import Books
from zflow.coordinator.state import RunState
from zflow.errors import Unavailable
from zflow.ids import Slot
from zflow.paths import RunDirectory, StateDirectory
from zflow.replica.place import Place
from zflow.replica.worker import describe
from zflow.state.blackbox import read_black_box
from zflow.supervisor.supervise import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    BARE_DEATH,
    CRASH_LOOP,
    MAX_CRASHES_KEPT,
    UNAVAILABLE_RETRY_S,
    UNAVAILABLE_S,
    WHOLE_DEATH,
)
from zflow.testing.kills import KILLED, Fault, Hung, Killed
from zflow.testing.life import Life, Stagehands
from zflow.wire.control import Register, Report, RunConfig, Update
from zflow.wire.data import Crash

WORD_NS = (100_000, 1_000_000)  # how long a word to a replica is on its way


@dataclass(slots=True)
class Seat:
    """What outlives the processes of a slot."""

    slot: Slot
    incarnation: int = 0
    life: Life | None = None
    crashes: list[Crash] = field(default_factory=list)
    failures: int = 0
    fruitless: int = 0
    refused_since_s: float | None = None


class Conductor:
    """Of one run. failure: why it has failed; empty while it has not."""

    def __init__(self, config: RunConfig, root: Path, hands: Stagehands) -> None:
        self.config = config
        self.failure = ""
        self.state = RunState(config)
        self.books = Books((edge.label, edge.source) for edge in config.edges)
        self.state_directory = StateDirectory(root / "state")
        self.run_directory = RunDirectory(root / "run")
        self.state_directory.make()
        self.run_directory.make()
        self.seats = {name: Seat(Slot.parse(name)) for name in self.state.slots}
        self._hands = hands

    def start(self, faults: Iterable[Fault]) -> None:
        """All slots have their place; their replicas start."""
        for name in self.seats:
            self.state.locate(name, f"in-process:{name}")
        self._advance()
        for seat in self.seats.values():
            self._spawn(seat)
        for fault in faults:
            if not fault.at_item:
                at_ns = self._hands.timeline.now_ns + int(fault.at_s * 1e9)
                self._hands.timeline.at(at_ns, self.kill, fault.slot)

    def is_over(self) -> bool:
        """Every replica has ended in an orderly way."""
        ended = all(view.ended for view in self.state.slots.values())
        return self.state.phase == "finish" and ended

    # -- words -------------------------------------------------------------------------------

    def reported(self, life: Life, report: Report) -> None:
        """A replica's newest state."""
        if self.seats[report.slot].life is life:
            self.state.on_report(report)
            if report.error:
                self.failure = f"{report.slot} failed: {report.error}"
            self._advance()

    def _advance(self) -> None:
        while (update := self.state.advance()) is not None:
            self._tell(update)

    def _tell(self, update: Update) -> None:
        timeline = self._hands.timeline
        for seat in self.seats.values():
            if seat.life is not None:
                wait_ns = self._hands.random.randint(*WORD_NS)
                timeline.at(timeline.now_ns + wait_ns, seat.life.hear, update)

    # -- lives -------------------------------------------------------------------------------

    def _spawn(self, seat: Seat) -> None:
        seat.incarnation += 1
        slot = str(seat.slot)
        snapshot = self.state.on_register(Register(slot, seat.incarnation, 0))
        assert snapshot is not None, "the newest incarnation of a slot of this run"
        place = Place(
            config=self.config,
            slot=seat.slot,
            incarnation=seat.incarnation,
            crashes=tuple(seat.crashes),
            run=self.run_directory,
            state=self.state_directory,
            into=f"in-process:{slot}",
            ack=f"in-process:{slot}",
            rosters={roster.stage: roster for roster in snapshot.rosters},
        )
        seat.life = Life(place, snapshot, self._hands, self)
        self._hands.post.bound[slot] = seat.life.links
        seat.life.wake()

    def kill(self, slot: str) -> None:
        """Like `kill -9`; nothing if no process of the slot lives."""
        life = self.seats[slot].life
        if life is not None:
            self.died(life, Killed())

    def died(self, life: Life, error: BaseException) -> None:
        """Its black box accuses, everybody hears of it, and a successor starts a little later."""
        slot = str(life.place.slot)
        seat = self.seats[slot]
        box = read_black_box(life.house.box_path)
        assert box is not None, "a life begins with its black box"
        seat.life = None
        del self._hands.post.bound[slot]
        life.die()
        life.house.box_path.unlink()
        cause, strikes = _cause(life, error)
        crash = Crash(
            slot=slot,
            incarnation=seat.incarnation,
            runs=box.runs,
            alone=box.alone,
            strikes=strikes,
            cause=cause,
            place=box.place if box.alone else -1,
        )
        seat.crashes.append(crash)
        del seat.crashes[:-MAX_CRASHES_KEPT]
        self.books.died(slot, box.counters)
        wait_s = self._plan(seat, crash, box.counters, refused=isinstance(error, Unavailable))
        if seat.fruitless >= CRASH_LOOP:
            self.failure = f"{slot} dies again and again before it has done anything: {cause}"
            return
        update = self.state.on_death(slot, crash)
        if update is not None:
            self._tell(update)
        timeline = self._hands.timeline
        timeline.at(timeline.now_ns + int(wait_s * 1e9), self._spawn, seat)

    def _plan(self, seat: Seat, crash: Crash, counters: dict[str, int], *, refused: bool) -> float:
        """When the successor starts; counts what speaks for a crash loop, as the supervisor."""
        now_s = self._hands.timeline.elapsed_s
        if not refused:
            seat.refused_since_s = None
        elif seat.refused_since_s is None:
            seat.refused_since_s = now_s
        since_s = now_s if seat.refused_since_s is None else seat.refused_since_s
        if counters.get("processed", 0) + counters.get("duplicates", 0) > 0:
            seat.failures = seat.fruitless = 0
        elif refused and now_s - since_s < UNAVAILABLE_S:
            pass  # a database may be away for that long
        elif not crash.runs or crash.strikes < WHOLE_DEATH:
            seat.fruitless += 1
        most_s = UNAVAILABLE_RETRY_S if refused else BACKOFF_MAX_S
        wait_s = min(most_s, BACKOFF_FIRST_S * 2.0**seat.failures)
        seat.failures += 1
        return wait_s

    def ended(self, life: Life) -> None:
        """It has done everything that it was told to do."""
        slot = str(life.place.slot)
        self.seats[slot].life = None
        del self._hands.post.bound[slot]
        box = read_black_box(life.house.box_path)
        assert box is not None, "a life begins with its black box"
        self.books.died(slot, box.counters)
        self.state.ended(slot)

    def close(self) -> None:
        """Nothing lives any more."""
        for seat in self.seats.values():
            if seat.life is not None:
                seat.life.die()
                seat.life = None

    def open_work(self) -> list[str]:
        """A line for each slot where something is open."""
        found = []
        for name, seat in self.seats.items():
            said = seat.life.open_work() if seat.life is not None else ""
            if seat.life is None and not self.state.slots[name].ended:
                said = f"is dead ({seat.crashes[-1].cause.strip().rpartition(chr(10))[2]})"
            if said:
                found.append(f"{name}: {said}")
        return found


def _cause(life: Life, error: BaseException) -> tuple[str, int]:
    """What ended it, and how far that speaks against what it executed."""
    if isinstance(error, Killed):
        return KILLED, BARE_DEATH
    if isinstance(error, Hung):
        limit_s = life.place.stage.timeout_s
        return f"stuck: it ran for longer than timeout_s={limit_s:g}", WHOLE_DEATH
    if isinstance(error, Unavailable):
        return describe(error)[1], 0
    return describe(error)[1], WHOLE_DEATH

"""Who killed the process: units that were executing when it died, and what speaks against each.

Decides whether a unit may be sent, must run alone, or is guilty. Never blames a unit that has not
died alone at least once, so an innocent neighbour is never dead-lettered.

A death counts in thirds of one. A cause that only the work can have made (a crash signal, an exit
code, an out-of-memory kill, the supervisor's own kill of a stuck item) is a whole death: 3
strikes. A bare SIGKILL may be anybody's, so it counts a third, and only if the unit was alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from zflow.wire.data import Crash
from zflow.wire.run import Run, Unit

STRIKES_PER_DEATH = 3
MAX_REMEMBERED = 200_000  # units; the oldest suspicion is forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What is known against one unit."""

    strikes: int
    deaths: int
    alone: bool  # it died alone at least once
    cause: str
    place: int = -1  # of the item that was executing when it last died alone, if it was named


class Suspects:
    """The suspicions of one edge's sender. Empty on the fault-free path, and then free."""

    def __init__(self, *, max_crashes: int) -> None:
        self._limit = STRIKES_PER_DEATH * max_crashes
        self._units: dict[Unit, Suspicion] = {}
        self._heard: set[tuple[str, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def accuse(self, crash: Crash) -> bool:
        """Take in a report of a death; False if this death was reported before."""
        death = (crash.slot, crash.incarnation)
        if death in self._heard:
            return False
        self._heard.add(death)
        for run in crash.runs:
            for unit in run.units():
                self._add(unit, crash)
        return True

    def _add(self, unit: Unit, crash: Crash) -> None:
        known = self._units.pop(unit, None) or Suspicion(strikes=0, deaths=0, alone=False, cause="")
        bare = crash.strikes < STRIKES_PER_DEATH
        counted = 0 if bare and not crash.alone else crash.strikes
        self._units[unit] = replace(
            known,
            strikes=known.strikes + counted,
            deaths=known.deaths + 1,
            alone=known.alone or crash.alone,
            cause=crash.cause,
            place=crash.place if crash.alone else known.place,
        )
        if len(self._units) > MAX_REMEMBERED:
            del self._units[next(iter(self._units))]

    def verdict(self, unit: Unit) -> Suspicion | None:
        """The suspicion against `unit` if it is guilty: never to be sent again."""
        known = self._units.get(unit)
        if known is not None and known.alone and known.strikes >= self._limit:
            return known
        return None

    def relieve(self, unit: Unit) -> None:
        """One item of the unit was given up: the others are under suspicion, and not yet guilty."""
        self._units[unit] = Suspicion(strikes=0, deaths=0, alone=False, cause="")

    def stretches(self, run: Run) -> Iterator[tuple[int, int, bool]]:
        """Cut a run into (begin, end, suspected) stretches of positions."""
        begin, state = 0, False
        for position, unit in enumerate(run.units()):
            suspected = unit in self._units
            if position and suspected != state:
                yield begin, position, state
                begin = position
            state = suspected
        yield begin, run.n, state

    def acquit(self, run: Run) -> None:
        """Forget the units of a run: they are settled."""
        for unit in run.units():
            self._units.pop(unit, None)

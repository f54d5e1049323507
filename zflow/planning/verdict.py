"""What can be said of a run: a verdict, and the case that it is made from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from zflow.planning.gain import Gain
from zflow.planning.rates import Rates
from zflow.planning.words import count
from zflow.wire.picture import Picture

CPUS_FULL = 0.9  # of the processors of a machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence, what it is about, and what to type next ("" if there is nothing to do).

    kind: starting, paused, ending, crashing, early, dead, skew, stage, sink, commits, source, idle,
    cpu, free. stage: "" if it is about none. notes: sentences on what else is worth knowing.
    """

    kind: str
    stage: str
    sentence: str
    command: str = ""
    gain: Gain | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What there is to judge by. picture: the newer one. cores: of hosts whose number is known."""

    picture: Picture
    rates: Rates
    cores: Mapping[str, float]

    def full_host(self) -> str:
        """A sentence without its end on a machine without a processor left; "" if none is known."""
        for host, used in self.rates.cpu_by_host.items():
            cores = self.cores.get(host)
            if cores and used > CPUS_FULL * cores:
                return f"the replicas use {used:.1f} of the {cores:g} processors of {host}"
        return ""

    def notes(self, about: str = "") -> tuple[str, ...]:
        """What else is worth knowing, beside what is said about one stage."""
        return tuple(self._notes(about))

    def _notes(self, about: str) -> Iterator[str]:
        for stage in self.rates.stages:
            if stage.new_restarts:
                yield f"{stage.name} died {count(stage.new_restarts, 'time')} meanwhile."
            if stage.new_dead_letters and stage.name != about:
                yield f"{stage.name} gave up {count(stage.new_dead_letters, 'item')} meanwhile."
        yield from self.picture.alarms
        full = self.full_host()
        if full:
            yield f"{full[0].upper()}{full[1:]}."

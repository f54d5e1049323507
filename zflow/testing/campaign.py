"""Many simulated worlds over several processes, and what they add up to.

Decides which seeds run where, and whether the campaign as a whole is good: no violation, and
nothing that should be reachable left out. Never prints; `scripts/simulate` does.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from zflow.clock import Clock
from zflow.testing import coverage
from zflow.testing.invariants import Violation
from zflow.testing.mutants import MUTANTS, mutated
from zflow.testing.world import World

CHUNK = 10  # seeds handed to a process at once
ENOUGH_SEEDS = 500  # before a campaign may complain of what was never hit
ERROR = "error"  # the "invariant" of a core that raises


@dataclass(slots=True)
class Totals:
    """What some seeds went through. failures: (seed, invariant, facts)."""

    seeds: int = 0
    items: int = 0
    effects: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: "Totals") -> None:
        """Both together."""
        self.seeds += other.seeds
        self.items += other.items
        self.effects += other.effects
        self.virtual_s += other.virtual_s
        self.faults.update(other.faults)
        self.transitions.update(other.transitions)
        self.failures.extend(other.failures)

    def missing(self) -> list[str]:
        """What enough seeds should have hit and never did."""
        if self.seeds < ENOUGH_SEEDS:
            return []
        return coverage.missing(self.faults, self.transitions)

    def good(self) -> bool:
        """Nothing failed and nothing was left out."""
        return not self.failures and not self.missing()


def fails(seed: int, *, trace: bool = False, totals: Totals | None = None) -> tuple[str, str]:
    """Run one seed: (invariant, facts) of what it violates, or two empty texts."""
    try:
        result = World(seed, trace=trace).run()
    except Violation as violation:
        return violation.invariant, str(violation)
    except Exception as error:  # noqa: BLE001  the core itself raised: a failing seed like any other
        return ERROR, f"seed {seed}: {type(error).__name__}: {error}"
    if totals is not None:
        totals.items += result.items
        totals.effects += result.effects
        totals.virtual_s += result.virtual_s
        totals.faults.update(result.faults)
        totals.transitions.update(result.transitions)
    return "", ""


def run_seeds(seeds: Iterable[int]) -> Totals:
    """Run these seeds one after the other."""
    totals = Totals()
    seen: Counter[str] = Counter()
    with coverage.watched(seen):
        for seed in seeds:
            totals.seeds += 1
            invariant, facts = fails(seed, totals=totals)
            if invariant:
                totals.failures.append((seed, invariant, facts))
    totals.transitions.update(seen)
    return totals


def run_campaign(
    seeds: range,
    *,
    jobs: int,
    within_s: float = float("inf"),
    at_least: int = 0,
    progress: Callable[[Totals], None] | None = None,
) -> Totals:
    """Run `seeds` over `jobs` processes; after `within_s` only what makes `at_least` of them.

    blocks: until all have run.
    """
    clock = Clock()
    ends_s = clock.now_s() + within_s
    totals = Totals()
    chunks = iter([seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)])
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        while batch := _batch(chunks, jobs):
            for done in pool.map(run_seeds, batch):
                totals.add(done)
            if progress is not None:
                progress(totals)
            if clock.now_s() > ends_s and totals.seeds >= at_least:
                break
    return totals


def _batch(chunks: Iterator[range], jobs: int) -> list[range]:
    """A few chunks for each process, so that none waits for long."""
    return list(islice(chunks, jobs * 4))


# --- mutants ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """Which seed caught a mutant, and by which invariant; seed is -1 if none did."""

    name: str
    seed: int
    invariant: str


def hunt_mutant(name: str, seeds: Iterable[int]) -> Caught:
    """The first of `seeds` that catches the mutant."""
    with mutated(MUTANTS[name]):
        for seed in seeds:
            invariant, _ = fails(seed)
            if invariant not in ("", ERROR):  # a mutant that no longer fits the core proves nothing
                return Caught(name=name, seed=seed, invariant=invariant)
    return Caught(name=name, seed=-1, invariant="")


def read_recorded(path: Path) -> dict[str, int]:
    """The seed that catches each mutant."""
    recorded = json.loads(path.read_text())["mutants"]
    return {name: int(seed) for name, seed in recorded.items()}


def write_recorded(path: Path, caught: list[Caught]) -> None:
    """Write the seeds that caught a mutant; whatever else is in the file stays."""
    record = json.loads(path.read_text())
    record["mutants"] = {c.name: c.seed for c in caught if c.seed >= 0}
    path.write_text(json.dumps(record, indent=2) + "\n")


def hunt_from_records(recorded: dict[str, int], *, jobs: int, beyond: int) -> list[Caught]:
    """Every mutant: its recorded seed first, then up to `beyond` others."""
    names = list(MUTANTS)
    tries = [
        [*([recorded[name]] if name in recorded else []), *range(1, beyond + 1)] for name in names
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(hunt_mutant, names, tries))


# --- words --------------------------------------------------------------------------------------


def described(totals: Totals, took_s: float) -> str:
    """The campaign as text."""
    n = max(1, totals.seeds)
    kills = totals.faults["killed process"] + totals.faults["poison"]
    lines = [
        f"{totals.seeds} seeds in {took_s:.0f} s ({totals.seeds / max(took_s, 1e-9):.1f} per s):"
        f" {len(totals.failures)} failures",
        f"per seed: {totals.items / n:.0f} source items, {totals.effects / n:.0f} effects,"
        f" {kills / n:.1f} kills, {totals.virtual_s / n:.1f} virtual s",
        "faults: " + _table(totals.faults),
        "transitions: " + _table(totals.transitions),
    ]
    lines += [f"never hit: {name}" for name in totals.missing()]
    lines += [f"FAILED {facts}" for _, _, facts in totals.failures]
    return "\n".join(lines)


def _table(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))


def described_mutants(caught: list[Caught]) -> str:
    """One line per mutant."""
    return "\n".join(
        f"{c.name:24} {f'caught by seed {c.seed} ({c.invariant})' if c.seed >= 0 else 'NOT CAUGHT'}"
        f"  -- {MUTANTS[c.name].removes}"
        for c in caught
    )


def as_json(totals: Totals, caught: list[Caught], took_s: float) -> str:
    """The same for machines."""
    record = {
        "took_s": took_s,
        "seeds": totals.seeds,
        "failures": totals.failures,
        "faults": dict(totals.faults),
        "transitions": dict(totals.transitions),
        "missing": totals.missing(),
        "mutants": [asdict(c) for c in caught],
    }
    return json.dumps(record, indent=2, sort_keys=True)

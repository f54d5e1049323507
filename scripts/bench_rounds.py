"""Systems that take turns: rounds, medians, ratios, tables. Knows no system and no workload."""

import resource
import statistics
import sys
from collections.abc import Callable

Figures = dict[str, float]


def children_cpu_s() -> float:
    """CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_rounds(
    name: str, systems: list[str], rounds: int, measure: Callable[[str], Figures]
) -> dict[str, list[Figures]]:
    """{system: its figures, one dict per round}, every second round in reverse order."""
    measured: dict[str, list[Figures]] = {system: [] for system in systems}
    width = max(map(len, systems), default=0)
    for number in range(rounds):
        for system in systems if number % 2 == 0 else reversed(systems):
            figures = measure(system)
            measured[system].append(figures)
            line = f"{name} round {number + 1}: {system:{width}}{shown(figures)}"
            print(line, file=sys.stderr, flush=True)
    return measured


def summary_of(measured: dict[str, list[Figures]], base: str) -> dict[str, dict]:
    """Medians per system and the median over rounds of the ratio to `base`, where that ran."""
    found = {}
    for system, rounds in measured.items():
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        found[system] = {"median": medians, "rounds": rounds}
        if base in measured:
            found[system][f"ratio_to_{base}"] = {
                key: statistics.median(
                    mine[key] / theirs[key]
                    for mine, theirs in zip(rounds, measured[base], strict=True)
                )
                for key in medians
            }
    return found


def shown(figures: Figures) -> str:
    return "".join(f"  {key} {value:,.2f}" for key, value in figures.items())


def print_table(name: str, summary: dict[str, dict], base: str) -> None:
    print(f"\n{name}, medians")
    width = max(map(len, summary), default=0)
    for system, found in summary.items():
        ratios = found.get(f"ratio_to_{base}", {})
        for key, value in found["median"].items():
            against = f"{ratios[key]:9.3g} x {base}" if key in ratios else ""
            print(f"  {system:{width}} {key:26} {value:14,.2f}{against}")

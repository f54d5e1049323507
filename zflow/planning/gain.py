"""What one more replica of a stage would give: the utilisation law, and what limits it.

A stage that is occupied a share U of its time at the present rate can do at most 1/U of it, so the
next stage that fills up limits what any other gains, and so do the processors of the machine.
Source: E. Lazowska et al., "Quantitative System Performance", 1984, chapters 3 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zflow.planning.rates import Rates, StageRates

CPU = "cpu"  # the limit that is no stage
LEAST_RATIO = 1e-3  # of a stage that is hardly ever occupied


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one more replica of a stage would give, at most.

    rate_per_s: of the stage. factor: against now, at least 1.0. limit: what is full then: a stage,
    `cpu`, or "" for the stage itself.
    """

    rate_per_s: float
    factor: float
    limit: str


def one_more(stage: StageRates, rates: Rates, cores: Mapping[str, float]) -> Gain:
    """The gain of one more replica, if replicas share the work evenly.

    Any other stage goes on until it is full; one before it that fills a queue shows what it can do.
    More items need more processor time in proportion. cores: of the hosts whose number is known.
    """
    n = max(1, len(stage.replicas))
    limits = {"": (n + 1) / n * _room(stage)}
    ahead = _ahead(stage.name, rates)
    for other in rates.stages:
        if other.name != stage.name and other.times.counted:
            limits[other.name] = ahead.get(other.name, 1.0) * _room(other)
    limits[CPU] = min(
        (cores[host] / used for host, used in rates.cpu_by_host.items() if used and host in cores),
        default=float("inf"),
    )
    limit = min(limits, key=lambda name: limits[name])
    factor = max(1.0, limits[limit])
    return Gain(rate_per_s=stage.rate_per_s * factor, factor=factor, limit=limit)


def _ahead(name: str, rates: Rates) -> dict[str, float]:
    """By stage: how much faster those before one work than it takes, where queues between grow."""
    found = {name: 1.0}
    to_visit = [name]
    while to_visit:
        target = to_visit.pop()
        for edge in rates.edges:
            if edge.target != target:
                continue
            taken_per_s = edge.processed_per_s
            grows_per_s = max(0.0, edge.queue_growth_per_s)
            factor = found[target] * (1 + grows_per_s / taken_per_s if taken_per_s else 1)
            if factor > found.get(edge.source, 0.0):
                found[edge.source] = factor
                to_visit.append(edge.source)
    return found


def _room(stage: StageRates) -> float:
    """How much of the present rate a stage could do, at most, as it is."""
    return 1 / max(stage.times.occupied_ratio, LEAST_RATIO)

"""How a run ended: one exit code, one sentence, and its books.

Decides the exit code where several hold: a hole in the books, then forced, then timed out, then
interrupted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zflow.books import Books, EdgeBooks
from zflow.errors import ExitCode
from zflow.local.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class HotKey:
    """A key of a keyed edge, as text, its partition, and how many of its items had it, at least."""

    key: str
    partition: int
    items: int
    share: float


def hot_keys(paths: Iterable[Path], most: int) -> dict[str, list[HotKey]]:
    """The most frequent keys per edge, over what each sender's last process has counted."""
    totals: dict[str, int] = {}
    counts: dict[str, Counter[tuple[str, int]]] = {}
    for path in paths:
        for label, (items, ranked) in json.loads(path.read_text()).items():
            totals[label] = totals.get(label, 0) + items
            found = {(key, partition): n for key, n, partition in ranked}
            counts.setdefault(label, Counter()).update(found)
    return {
        label: [
            HotKey(key=key, partition=partition, items=n, share=n / totals[label])
            for (key, partition), n in ranked.most_common(most)
        ]
        for label, ranked in counts.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The end of a run, as people and programs read it."""

    run_id: str
    exit_code: int
    outcome: str
    seconds: float
    items: int  # that the sources have yielded and that are settled
    rate_per_s: float
    latency_p50_s: float | None
    latency_p99_s: float | None
    dead_letters: int
    holes: list[str]
    edges: list[EdgeBooks]
    stages: dict[str, dict[str, int]]
    hot_keys: dict[str, list[HotKey]]

    def as_data(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        data = asdict(self)
        data["ledger"] = [
            {
                "edge": edge.label,
                **asdict(edge.ledger),
                "open": edge.open_units,
            }
            for edge in self.edges
        ]
        del data["edges"]
        return data


def make_result(
    plan: Plan,
    books: Books,
    *,
    verdict: tuple[ExitCode, str] | None,
    drained: bool,
    restarts: Mapping[str, int],
    seconds: float,
    keys: dict[str, list[HotKey]],
) -> RunResult:
    """Close the books of a run. verdict: what ended it early, None if it came to its end."""
    sources = [stage.name for stage in plan.config.stages if stage.kind == "source"]
    sinks = [stage.name for stage in plan.config.stages if stage.kind == "sink"]
    holes = books.holes(sources) if verdict is None else []
    exit_code, outcome = _ending(verdict, drained, holes)
    items = sum(books.stage(name).get("low", 0) for name in sources)
    return RunResult(
        run_id=plan.stored.record.run_id,
        exit_code=int(exit_code),
        outcome=outcome,
        seconds=seconds,
        items=items,
        rate_per_s=items / seconds if seconds else 0.0,
        latency_p50_s=books.latency_s(sinks, 0.5),
        latency_p99_s=books.latency_s(sinks, 0.99),
        dead_letters=plan.stored.dead_letters(),
        holes=holes,
        edges=books.edges(),
        stages={
            stage.name: {
                **{
                    name: books.stage(stage.name).get(name, 0)
                    for name in ("received", "processed", "errors", "duplicates", "late")
                },
                "restarts": restarts.get(stage.name, 0),
            }
            for stage in plan.config.stages
        },
        hot_keys=keys,
    )


def _ending(
    verdict: tuple[ExitCode, str] | None, drained: bool, holes: list[str]
) -> tuple[ExitCode, str]:
    if holes:
        return ExitCode.FAILED, "the books do not balance: " + "; ".join(holes)
    if verdict is not None:
        return verdict
    if drained:
        return ExitCode.INTERRUPTED, "interrupted; everything that was begun is settled"
    return ExitCode.OK, "finished"

"""The books of a run as lines of text. Decides wording only."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from zflow.books import EdgeBooks
from zflow.cli.output import aligned, span
from zflow.local.plan import Plan
from zflow.local.result import RunResult
from zflow.paths import runs_folder

SHOWN_KEYS = 3  # per edge; --json has more


def ledger_lines(plan: Plan, result: RunResult) -> Iterator[str]:
    """Per edge where every unit went, then the totals, then what to do next."""
    rows = [("edge", "sent", "processed", "dead", "dropped", "replayed")]
    rows += [_row(edge) for edge in result.edges]
    yield from aligned(rows, right=range(1, len(rows[0])))
    yield (
        f"{result.items:,} items in {result.seconds:.1f} s ({result.rate_per_s:,.0f}/s), "
        f"latency p50 {span(result.latency_p50_s)}, p99 {span(result.latency_p99_s)}"
    )
    for stage, counts in result.stages.items():
        if counts["late"]:
            items = "1 item" if counts["late"] == 1 else f"{counts['late']:,} items"
            yield f"{stage}: {items} came too late"
    for label, keys in result.hot_keys.items():
        shown = keys[:SHOWN_KEYS]
        named = ", ".join(f"{one.key} {one.share:.1%} (in {one.partition})" for one in shown)
        yield f"{label}: most frequent keys, with their partitions: {named}"
    yield f"run {result.run_id}: {result.outcome}"
    if result.dead_letters:
        letters = "letter" if result.dead_letters == 1 else "letters"
        yield f"{result.dead_letters} dead {letters}: {shlex.join(_dead_ls(plan))}"
    if result.exit_code != 0 and not plan.config.redrive:
        yield f"continue it: {shlex.join(_resume(plan))}"


def _dead_ls(plan: Plan) -> list[str]:
    """The command that lists the run's dead letters, from this very folder."""
    if not _in_its_place(plan):
        return ["zflow", "dead", "ls", "--state", str(plan.state.root)]
    run_id = plan.config.run_id
    return ["zflow", "dead", "ls", "--topology", plan.config.topology, "--run", run_id]


def _resume(plan: Plan) -> list[str]:
    command = ["zflow", "run", plan.config.target.target, "--resume", plan.config.run_id]
    return command if _in_its_place(plan) else [*command, "--state", str(plan.state.root)]


def _in_its_place(plan: Plan) -> bool:
    """True if the run lies where its topology and id alone say."""
    usual = runs_folder(Path.cwd(), plan.config.topology) / plan.config.run_id
    return plan.state.root == usual


def _row(edge: EdgeBooks) -> tuple[str, str, str, str, str, str]:
    books = edge.ledger
    return (
        edge.label,
        f"{books.sent:,}",
        f"{books.processed:,}",
        f"{books.dead_lettered:,}",
        _reasons(books.dropped),
        _reasons(books.replayed),
    )


def _reasons(counts: dict[str, int]) -> str:
    """`3 nack, 1 reset`, or 0."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "0"

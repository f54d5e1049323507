"""The books of a run as lines of text. Decides wording only."""

from collections.abc import Iterator

from zflow.local.plan import Plan
from zflow.local.result import RunResult
from zflow.state.books import EdgeBooks


def ledger_lines(plan: Plan, result: RunResult) -> Iterator[str]:
    """Per edge where every unit went, then the totals, then what to do next."""
    rows = [("edge", "sent", "processed", "dead", "dropped", "replayed")]
    rows += [_row(edge) for edge in result.edges]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
    yield (
        f"{result.items:,} items in {result.seconds:.1f} s ({result.rate_per_s:,.0f}/s), "
        f"latency p50 {_time(result.latency_p50_s)}, p99 {_time(result.latency_p99_s)}"
    )
    yield f"run {result.run_id}: {result.outcome}"
    if result.dead_letters:
        yield (
            f"{result.dead_letters} dead letters: zflow dead ls --run {result.run_id} "
            f"--topology {plan.config.topology}"
        )
    if result.exit_code not in (0, 1):
        yield f"continue it: zflow run {plan.config.target.target} --resume {result.run_id}"


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


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"

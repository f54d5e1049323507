"""`zflow runs`: the runs below the working folder, how they ended, and their removal.

Decides which runs a person may remove at once. Never removes one that is running.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from zflow.cli.output import aligned, show_json, size
from zflow.cli.stored import refused, runs_here
from zflow.errors import ConfigError, ExitCode, Problem
from zflow.paths import run_directory_of
from zflow.state.runs import StoredRun, is_running, remove_run

HEADINGS = ("topology", "run", "started", "outcome", "dead", "size")
RUNNING, KILLED = "running", "killed"
# How a run ended, in a word; the sentence is in its record.
ENDINGS = {
    ExitCode.OK: "finished",
    ExitCode.FAILED: "failed",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.CRASH_LOOP: "crash loop",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.FORCED: "stopped",
}

topology_option = click.option("--topology", metavar="NAME", help="Only the runs of this topology.")


@click.group()
def runs() -> None:
    """List the runs of this folder, and remove old ones.

    \b
    Example:
      zflow runs ls
      zflow runs rm --keep 5
    """


@runs.command()
@topology_option
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def ls(topology: str | None, as_json: bool) -> None:
    """List the runs below ./.zflow, oldest first.

    A run that was killed can be continued: zflow run TARGET --resume RUN.

    \b
    Example:
      zflow runs ls
      zflow runs ls --topology wordcount --json
    """
    rows = [_as_data(run) for run in runs_here(topology)]
    if as_json:
        for row in rows:
            show_json(row)
    elif rows:
        for line in aligned([HEADINGS, *map(_row, rows)], right={4, 5}):
            click.echo(line)
    else:
        click.echo(f"there are no runs in {Path.cwd()}", err=True)


@runs.command()
@click.argument("names", metavar="[RUN]...", nargs=-1)
@topology_option
@click.option("--all-ended", is_flag=True, help="All that have ended and hold no dead letters.")
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="N",
    help="The same, without the newest N of each topology.",
)
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
def rm(
    names: tuple[str, ...],
    topology: str | None,
    all_ended: bool,
    keep: int | None,
    as_json: bool,
) -> None:
    """Remove runs: their positions, dead letters and logs.

    Runs that were killed, and runs with dead letters, are removed only by name; a run that is
    running is never removed.

    \b
    Example:
      zflow runs rm 20260131-235959-1a2b
      zflow runs rm --keep 5
    """
    if bool(names) + all_ended + (keep is not None) != 1:
        raise click.UsageError("give RUN..., --all-ended or --keep N, one of them")
    found = runs_here(topology)
    chosen = _named(found, names) if names else list(_ended(found, keep or 0))
    spared = [] if names else [run for run in chosen if run.dead_letters()]
    removed = [run for run in chosen if run not in spared]
    for run in removed:
        remove_run(run)
        shutil.rmtree(run_directory_of(run.state.root, os.environ), ignore_errors=True)
    _say(removed, spared, as_json)


def _named(found: list[StoredRun], names: Iterable[str]) -> list[StoredRun]:
    """These runs, none of them running; raises ConfigError with all that is wrong."""
    by_name = {run.record.run_id: run for run in found}
    problems: list[Problem] = []
    for name in names:
        if name not in by_name:
            fix = "list them: zflow runs ls"
            problems += refused(f"run {name}", "there is no such run here", fix).problems
        elif is_running(by_name[name].state):
            fix = "stop it first: Ctrl-C where it runs"
            problems += refused(f"run {name}", "it is running", fix).problems
    if problems:
        raise ConfigError(problems)
    return [by_name[name] for name in dict.fromkeys(names)]


def _ended(found: list[StoredRun], keep: int) -> Iterator[StoredRun]:
    """Runs that came to an end, without the newest `keep` of each topology."""
    ended: dict[str, list[StoredRun]] = {}
    for run in found:
        if run.record.outcome and not is_running(run.state):
            ended.setdefault(run.record.topology, []).append(run)
    for runs_of_one in ended.values():
        yield from runs_of_one[: max(0, len(runs_of_one) - keep)]


def _say(removed: list[StoredRun], spared: list[StoredRun], as_json: bool) -> None:
    gone, left = ([run.record.run_id for run in runs] for runs in (removed, spared))
    if as_json:
        show_json({"removed": gone, "kept_for_dead_letters": left})
        return
    click.echo(f"removed {len(gone)} run{'' if len(gone) == 1 else 's'}", err=True)
    if left:
        click.echo(f"kept for their dead letters: {' '.join(left)}; name them to remove", err=True)


def _as_data(run: StoredRun) -> dict[str, Any]:
    files = [path for path in run.state.root.rglob("*") if path.is_file()]
    return {
        **asdict(run.record),
        "state": _state(run),
        "dead_letters": run.dead_letters(),
        "size_bytes": sum(path.stat().st_size for path in files),
        "state_directory": str(run.state.root),
    }


def _state(run: StoredRun) -> str:
    if is_running(run.state):
        return RUNNING
    code = run.record.exit_code
    if not run.record.outcome or code is None:
        return KILLED
    return ENDINGS.get(ExitCode(code), f"exit code {code}")


def _row(data: dict[str, Any]) -> tuple[str, ...]:
    started = datetime.fromtimestamp(data["started_at_s"])
    return (
        data["topology"],
        data["run_id"],
        started.isoformat(sep=" ", timespec="seconds"),
        data["state"],
        f"{data['dead_letters']:,}",
        size(data["size_bytes"]),
    )

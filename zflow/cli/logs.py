"""`zflow logs`: what the replicas of a run have printed, as one stream.

Decides which lines are shown and how. A run's files go with its run directory when it ends.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from zflow.cli.asking import meant_run
from zflow.cli.output import show_json
from zflow.cli.stored import refused, run_options
from zflow.clock import Clock
from zflow.errors import Unavailable, suggest
from zflow.ids import Slot
from zflow.local.logs import LogLine, Logs
from zflow.paths import RunDirectory, run_directory_of
from zflow.state.runs import StoredRun, is_used

LOOK_EVERY_S = 0.1
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red", "bright_cyan", "white")
MARKS = {"out": "|", "err": "!"}


@click.command()
@click.argument("which", metavar="[STAGE[/N]]...", nargs=-1)
@run_options
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what is printed, until the run ends."
)
@click.option("--grep", metavar="RE", help="Only lines in which this regular expression is found.")
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    metavar="N",
    help="Begin with the last N lines of each replica and stream.",
)
@click.option("--out", "stream", flag_value="out", help="Only what was printed to stdout.")
@click.option("--err", "stream", flag_value="err", help="Only what was printed to stderr.")
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def logs(
    which: tuple[str, ...],
    topology: str | None,
    run: str,
    state: Path | None,
    follow: bool,
    grep: str | None,
    tail: int | None,
    stream: str | None,
    as_json: bool,
) -> None:
    """Show what the replicas of a run print.

    All of them, or those of the stages and replicas that are named; after `|` what went to stdout,
    after `!` what went to stderr. Lines that were there before come file by file; with -f new ones
    come as they are printed. A file that has grown beyond 16 MiB is begun anew, and all of them go
    with the run directory when the run ends: what `zflow run` passes on can be kept, 2>&1 | tee.

    \b
    Example:
      zflow logs parse --tail 20
      zflow logs -f --err --grep 'Warning|Error'
      zflow logs parse/0 count --json
    """
    pattern = _compiled(grep)
    meant = meant_run(topology, run, state)
    place = _place_of(meant.on_disk("zflow logs"))
    _check(which, place)
    reader = Logs(place, lambda slot, name: _is_wanted(slot, which) and stream in (None, name))
    show = _show_data if as_json else _Lines(place, which)
    try:
        for line in _chosen(reader, place, pattern, tail, follow=follow):
            show(line)
    finally:
        reader.close()


def _compiled(grep: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(grep) if grep is not None else None
    except re.error as error:
        fix = "quote what is meant literally with a backslash"
        raise refused(f"--grep {grep}", f"is no regular expression: {error}", fix) from error


def _place_of(run: StoredRun) -> RunDirectory:
    """Where its files are; raises Unavailable if it has ended and they are gone."""
    place = RunDirectory(run_directory_of(run.state.root, os.environ))
    if not place.root.exists():
        raise Unavailable(
            f"run {run.record.run_id} has ended, and what its replicas printed was removed with "
            f"its run directory {place.root}; keep it next time: zflow run TARGET 2>&1 | tee FILE"
        )
    return place


def _check(which: Iterable[str], place: RunDirectory) -> None:
    """Raises ConfigError for what is neither a stage nor a replica."""
    slots = list(place.logged())
    stages = {slot.stage for slot in slots}
    for text in which:
        if text not in stages and text not in map(str, slots):
            known = {*stages, *(map(str, slots) if "/" in text else ())}
            message = "is no stage and no replica that has run"
            raise refused(text, message, suggest(text, known))


def _is_wanted(slot: Slot, which: tuple[str, ...]) -> bool:
    return not which or slot.stage in which or str(slot) in which


def _chosen(
    logs: Logs,
    place: RunDirectory,
    pattern: re.Pattern[str] | None,
    tail: int | None,
    *,
    follow: bool,
) -> Iterator[LogLine]:
    def matching(lines: Iterable[LogLine]) -> Iterator[LogLine]:
        return (line for line in lines if pattern is None or pattern.search(line.text))

    used = follow and is_used(place)  # asked first: what comes until the end is still read
    begun = matching(logs.lines() if used else logs.last())
    yield from begun if tail is None else _ends(begun, tail)
    clock = Clock()
    while used:
        clock.sleep(LOOK_EVERY_S)
        used = is_used(place)
        yield from matching(logs.lines())
    yield from matching(logs.last())


def _ends(lines: Iterable[LogLine], tail: int) -> Iterator[LogLine]:
    """The last lines of each file, files in the order of their first lines."""
    kept: dict[tuple[Slot, str], deque[LogLine]] = {}
    for line in lines:
        kept.setdefault((line.slot, line.stream), deque(maxlen=tail)).append(line)
    for of_one in kept.values():
        yield from of_one


def _show_data(line: LogLine) -> None:
    show_json({"slot": str(line.slot), "stream": line.stream, "line": line.text})


class _Lines:
    """Lines for people: the replica in front, in the colour of its stage on a terminal."""

    def __init__(self, place: RunDirectory, which: tuple[str, ...]) -> None:
        slots = list(place.logged())
        shown = [str(slot) for slot in slots if _is_wanted(slot, which)]
        self._colourful = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._width = max(map(len, shown), default=0)
        self._colours: dict[str, str] = {}
        for slot in slots:  # the same ones, whichever of them are shown
            self._colour_of(slot.stage)

    def __call__(self, line: LogLine) -> None:
        name = str(line.slot)
        self._width = max(self._width, len(name))
        head = f"{name.ljust(self._width)} {MARKS[line.stream]}"
        if self._colourful:
            head = click.style(head, fg=self._colour_of(line.slot.stage))
        click.echo(f"{head} {line.text}")

    def _colour_of(self, stage: str) -> str:
        return self._colours.setdefault(stage, COLOURS[len(self._colours) % len(COLOURS)])

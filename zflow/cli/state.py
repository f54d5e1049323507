"""`zflow state`: what the durable stages of a run have stored, to look at and to copy.

Decides how keys and values are written as text. Never changes a partition, so that all of it
works while the run is alive.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pprint import pformat
from typing import Any

import click

from zflow.cli.output import aligned, show_json, size
from zflow.cli.stored import chosen_run, refused, run_options
from zflow.errors import ConfigError, suggest
from zflow.local.plan import load_stored
from zflow.paths import StateDirectory, make_private
from zflow.state.entries import Entry, StateError, raw_key, unpack_row
from zflow.state.reader import read_partition, stored_partitions
from zflow.state.runs import StoredRun

HEADINGS = ("stage", "partitions", "keys", "size", "fence", "outbox", "done")
SUMMED = ("keys", "size_bytes", "outbox_rows", "done")


@click.group()
def state() -> None:
    """Look at what durable stages have stored, and copy it.

    \b
    Example:
      zflow state ls
      zflow state get Count '"word"'
      zflow state export Count > count.jsonl
    """


@state.command()
@click.argument("stage", required=False)
@run_options
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def ls(
    stage: str | None, topology: str | None, run: str, state: Path | None, as_json: bool
) -> None:
    """List the durable stages of a run, or the partitions of one.

    Only partitions that were ever used are there. fence: how often one was acquired; outbox: rows
    of outputs that are not acknowledged; done: partitions whose finish() is committed.

    \b
    Example:
      zflow state ls
      zflow state ls Count --json
    """
    stored = chosen_run(topology, run, state)
    rows = list(_stages(stored) if stage is None else _partitions(stored, stage))
    if as_json:
        for row in rows:
            show_json(row)
    elif rows:
        headings = ("partition" if stage and name == "partitions" else name for name in HEADINGS)
        for line in aligned([tuple(headings), *map(_cells, rows)], right={1, 2, 3, 4, 5, 6}):
            click.echo(line)
    else:
        click.echo(f"run {stored.record.run_id} has no durable stages", err=True)


@state.command()
@click.argument("stage")
@click.argument("key")
@run_options
@click.option("--json", "as_json", is_flag=True, help="One object per partition that has it.")
def get(
    stage: str, key: str, topology: str | None, run: str, state: Path | None, as_json: bool
) -> None:
    """Print the value that a stage has stored under KEY.

    KEY is JSON, a list for a tuple; what is no JSON, or is not found, is taken as text.

    \b
    Example:
      zflow state get Count word
      zflow state get Sums '["alice", 7]' --json
    """
    stored = chosen_run(topology, run, state)
    _load_classes(stored)
    hits = (list(_find(stored, stage, wanted)) for wanted in _meanings(key))
    found = next(filter(None, hits), None)
    if found is None:
        fix = f"see what there is: zflow state export {stage}"
        raise refused(f"key {key}", f"stage {stage} has stored nothing under it", fix)
    for number, entry in found:
        if as_json:
            show_json(_as_data(number, entry))
        else:
            place = f"partition {number}: " if len(found) > 1 else ""
            click.echo(f"{place}{pformat(entry[1], width=100)}")


@state.command()
@click.argument("stage")
@run_options
def export(stage: str, topology: str | None, run: str, state: Path | None) -> None:
    """Write all that a stage has stored as JSON Lines: partition, key, value.

    Each partition is read as it is at one moment. What JSON cannot hold is written as its repr.

    \b
    Example:
      zflow state export Count > count.jsonl
    """
    stored = chosen_run(topology, run, state)
    _load_classes(stored)
    for path in _files(stored, stage):
        with read_partition(path) as reader:
            if reader is not None:
                for raw, row in reader.items():
                    show_json(_as_data(reader.partition, unpack_row(raw, row)))


@state.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@run_options
def backup(folder: Path, topology: str | None, run: str, state: Path | None) -> None:
    """Copy the partitions of all durable stages to FOLDER, which must be new or empty.

    Each copy is complete and of one moment; partitions are copied one after the other. A copy has
    a birth of its own, so whatever continues from it is not taken for the run that went on.

    \b
    Example:
      zflow state backup /backups/monday
    """
    stored = chosen_run(topology, run, state)
    if folder.exists() and any(folder.iterdir()):
        raise refused(str(folder), "is not empty", "name a new folder")
    make_private(folder)
    target, copied = StateDirectory(folder.absolute()), 0
    for stage, paths in stored_partitions(stored.state).items():
        target.make_partitions(stage)
        for path in paths:
            with read_partition(path) as reader:
                if reader is not None:
                    reader.backup(target.partitions_folder / stage / path.name)
                    copied += 1
    click.echo(f"copied {copied} partition{'' if copied == 1 else 's'} to {folder}", err=True)


def _files(stored: StoredRun, stage: str) -> list[Path]:
    """The partitions of a stage; raises ConfigError if it has none."""
    known = stored_partitions(stored.state)
    if stage not in known:
        message = f"run {stored.record.run_id} has no durable stage of this name"
        raise refused(f"stage {stage}", message, suggest(stage, known))
    return known[stage]


def _load_classes(stored: StoredRun) -> None:
    """Those of the topology's own file; without them, only values of them are unreadable."""
    with suppress(ConfigError, OSError):
        load_stored(stored)


def _partitions(stored: StoredRun, stage: str) -> Iterator[dict[str, Any]]:
    """What is known of each partition."""
    for path in _files(stored, stage):
        with read_partition(path) as reader:
            if reader is None:
                continue
            loaded = reader.load()
            yield {
                "stage": reader.stage,
                "partitions": reader.partition,
                "keys": reader.count(),
                "size_bytes": reader.size_bytes(),
                "fence": loaded.fence,
                "outbox_rows": len(loaded.outbox),
                "done": int(loaded.done),
            }


def _stages(stored: StoredRun) -> Iterator[dict[str, Any]]:
    """The partitions of each stage added up; the fence is the highest."""
    for stage in stored_partitions(stored.state):
        rows = list(_partitions(stored, stage))
        sums = {name: sum(row[name] for row in rows) for name in SUMMED}
        fence = max((row["fence"] for row in rows), default=0)
        yield {"stage": stage, "partitions": len(rows), **sums, "fence": fence}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = (row[name] for name in ("fence", "outbox_rows", "done"))
    return (
        row["stage"],
        str(row["partitions"]),
        f"{row['keys']:,}",
        size(row["size_bytes"]),
        *(f"{number:,}" for number in numbers),
    )


def _meanings(key: str) -> Iterator[Any]:
    """What was meant on the command line, the likelier first."""
    with suppress(ValueError):
        yield _hashable(json.loads(key))
    yield key


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _find(stored: StoredRun, stage: str, key: Any) -> Iterator[tuple[int, Entry]]:
    """The partitions that have the key: each may have its own."""
    try:
        raw = raw_key(key)
    except (TypeError, StateError):  # a JSON object, or NaN
        return
    for path in _files(stored, stage):
        with read_partition(path) as reader:
            row = reader.get(raw) if reader is not None else None
            if reader is not None and row is not None:
                yield reader.partition, unpack_row(raw, row)


def _as_data(partition: int, entry: Entry) -> dict[str, Any]:
    return {"partition": partition, "key": _plain(entry[0]), "value": _plain(entry[1])}


def _plain(value: Any) -> Any:
    """The value if JSON can hold it, else its repr."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)
    return value

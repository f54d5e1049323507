"""`zflow dead edit`: change the item of a dead letter before it is sent again.

Decides which items can be changed as JSON: those that come back from it exactly as they were.
Never writes an item that did not change, and never loses what was written in the editor.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zflow.cli.dead_choice import chosen_letter, held_still, problem, refuse_if_running
from zflow.cli.letters import load_stored_item
from zflow.cli.stored import chosen_run, run_options, typed
from zflow.errors import ConfigError, ZflowError
from zflow.state.deadletter import StoredLetter, edit_letter, shown_item
from zflow.state.runs import StoredRun
from zflow.wire.codec import dump_item
from zflow.wire.payload import DecodeError

PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """New text for an item. fix: what to do if it is no JSON. draft: a file of ours that has it."""

    text: str | bytes
    fix: str
    draft: Path | None = None


@click.command()
@click.argument("letter_id", metavar="ID")
@run_options
@click.option("--json", "value", metavar="VALUE", help="The new item, as JSON.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="F",
    help="A file with it; - for standard input.",
)
def edit(
    letter_id: str,
    topology: str | None,
    run: str,
    state: Path | None,
    value: str | None,
    file: str | None,
) -> None:
    """Change the item of a dead letter, before it is sent again.

    For items that are JSON data: dict, list, str, int, float, bool and None. Without --json or
    --file it opens $VISUAL or $EDITOR. The item that failed is kept beside the new one, and `show`
    tells both. Refused while the run is running.

    \b
    Example:
      zflow dead edit parse-0:3
      zflow dead edit parse-0:3 --json '{"price": 12.5}'
      zflow dead edit parse-0:3 --file mended.json
    """
    if value is not None and file is not None:
        raise click.UsageError("give --json VALUE or --file F, one of them")
    stored = chosen_run(topology, run, state)
    letter = chosen_letter(stored, letter_id)
    refuse_if_running(stored)
    item = _editable(stored, letter)
    if value is not None:
        written = Written(text=value, fix=f"look at the item: {typed('dead', 'show', letter_id)}")
    elif file is not None:
        written = _from_file(letter_id, file)
    else:
        written = _from_editor(letter_id, as_text(item))
    try:
        _change(stored, letter, item, _parsed(letter_id, written))
    except ZflowError:
        if written.draft is not None:
            click.echo(f"what you wrote is kept in {written.draft}", err=True)
        raise
    if written.draft is not None:
        written.draft.unlink()


def _editable(stored: StoredRun, letter: StoredLetter) -> Any:
    """The item as it is now; raises ConfigError if it cannot be changed, with the reason."""
    raw = letter.letter.item
    if not letter.letter.edge:
        reason = f"it failed in the source {letter.letter.stage}, and is never sent again"
    elif raw is None:
        reason = "its item could not be pickled, only its text is kept"
    else:
        try:
            item = load_stored_item(stored, raw)
            reason = "; ".join(why_not_json(item))
            if not reason:
                return item
        except (ConfigError, DecodeError) as error:
            reason = f"its item cannot be read: {error}"
    look = f"look at it: {typed('dead', 'show', letter.id)}"
    raise ConfigError([problem(letter.id, f"cannot be edited: {reason}", look)])


def _from_file(letter_id: str, name: str) -> Written:
    again = typed("dead", "edit", letter_id, "--file", name)
    with click.open_file(name, "rb") as file:
        return Written(text=file.read(), fix=f"mend it, and again: {again}")


def _from_editor(letter_id: str, text: str) -> Written:
    """Let a person write it; the draft stays until what is in it is stored."""
    no_editor = not (os.environ.get("VISUAL") or os.environ.get("EDITOR"))
    if no_editor and not sys.stdin.isatty():
        raise click.UsageError("give --json VALUE or --file F, or set EDITOR")
    descriptor, name = tempfile.mkstemp(prefix="zflow-", suffix=".json")
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    draft = Path(name)
    try:
        click.edit(filename=name)
    except click.ClickException as error:
        draft.unlink()
        fix = "set EDITOR to one that works, or give --json VALUE or --file F"
        failed = problem(letter_id, f"is not changed: {error.format_message()}", fix)
        raise ConfigError([failed]) from error
    again = typed("dead", "edit", letter_id, "--file", name)
    return Written(text=draft.read_bytes(), fix=f"mend it, and again: {again}", draft=draft)


def _parsed(letter_id: str, written: Written) -> Any:
    """The new item; raises ConfigError with the place of what is no JSON."""
    try:
        item = json.loads(written.text)
        wrong = "; ".join(why_not_json(item))
    except json.JSONDecodeError as error:
        wrong = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of too many digits, depth
        wrong = str(error)
    if wrong:
        message = f"is not changed: what was given is no JSON, {wrong}"
        raise ConfigError([problem(letter_id, message, written.fix)])
    return item


def _change(stored: StoredRun, letter: StoredLetter, item: Any, new: Any) -> None:
    """Write the new item, if it is another one, and say so; raises ConfigError, Unavailable."""
    if same(item, new):
        click.echo(f"{letter.id}: unchanged, nothing was written", err=True)
        return
    _store(stored, letter, new)
    again = typed("dead", "replay", letter.id)
    click.echo(f"{letter.id}: changed; send it again: {again}", err=True)


def _store(stored: StoredRun, letter: StoredLetter, item: Any) -> None:
    raw = dump_item(item)
    assert raw is not None, "JSON data can be pickled"
    if letter.original is not None and same(item, load_stored_item(stored, letter.original)):
        raw = letter.original  # so that it counts as unedited
    with held_still(stored):
        done = edit_letter(stored.state.dead_folder, letter, raw, shown_item(item))
    if not done:
        message = "is not changed: somebody else has changed or removed it meanwhile"
        look = f"look at it: {typed('dead', 'show', letter.id)}"
        raise ConfigError([problem(letter.id, message, look)])


# -- items as JSON -------------------------------------------------------------------------------


def as_text(item: Any) -> str:
    """JSON for people."""
    return json.dumps(item, indent=2, ensure_ascii=False)


def same(one: Any, other: Any) -> bool:
    """True if two items of JSON data are the same to the last type: 1, 1.0 and True are not."""
    return repr(one) == repr(other)


def why_not_json(item: Any) -> Iterator[str]:
    """What would not come back from JSON as it was; nothing if all of it would."""
    try:
        found = next(_foreign(item, "item"), None)
        if found is not None:
            yield f"{found}, and only JSON data can be edited"
        elif not same(item, json.loads(as_text(item).encode())):
            yield "it does not come back from JSON as it was"
    except RecursionError:
        yield "it is nested too deeply for JSON"
    except ValueError as error:  # half a surrogate pair, or a number of too many digits
        yield f"it cannot be written as JSON: {error}"


def _foreign(item: Any, place: str) -> Iterator[str]:
    """The parts that JSON does not have, by their place."""
    kind = type(item)
    if kind is list:
        for k, part in enumerate(item):
            yield from _foreign(part, f"{place}[{k}]")
    elif kind is dict:
        for key, part in item.items():
            if type(key) is not str:
                yield f"a key of {place} is of type {type(key).__name__}"
            yield from _foreign(part, f"{place}[{key!r}]")
    elif kind not in PLAIN:
        yield f"{place} is of type {kind.__name__}"

"""Dead letters as lines of text and as plain data, and their items as the run's code makes them.

Decides wording only. Never changes a letter.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pprint import pformat
from typing import Any

from zflow.cli.output import aligned, duration, shortened
from zflow.errors import ConfigError
from zflow.local.plan import load_stored
from zflow.state.deadletter import StoredLetter
from zflow.state.runs import StoredRun
from zflow.wire.codec import load_item
from zflow.wire.payload import DecodeError

MAX_SHOWN_CHARS = 60  # of an item in the table
HEADINGS = ("id", "stage", "edge", "error", "attempts", "age", "item")


def letter_table(letters: list[StoredLetter], now_s: float) -> Iterator[str]:
    """One line each. now_s: seconds since the epoch."""
    return aligned([HEADINGS, *(_row(letter, now_s) for letter in letters)], right={4, 5})


def _row(stored: StoredLetter, now_s: float) -> tuple[str, ...]:
    letter = stored.letter
    return (
        stored.id,
        letter.stage,
        letter.edge or "-",
        letter.error_class,
        str(letter.attempts),
        duration(now_s - letter.buried_at_s),
        shortened(letter.shown, MAX_SHOWN_CHARS),
    )


def letter_data(stored: StoredLetter) -> dict[str, Any]:
    """A letter for programs; the item as its repr, since only Python could read the pickle."""
    data = asdict(stored.letter)
    del data["item"]
    data["item"] = data.pop("shown")
    return {
        "id": stored.id,
        "replayed": stored.replayed,
        "edited": stored.original is not None,
        "identity": identity(stored),
        **data,
    }


def full_data(stored: StoredLetter, original: str | None) -> dict[str, Any]:
    """The same, with the item that failed if it was edited since, as text."""
    return {**letter_data(stored), "original": original}


def identity(stored: StoredLetter) -> str:
    """The item's identity, as `self.context.item_id` gives it."""
    letter = stored.letter
    return f"{letter.origin}-{letter.oseq}-{letter.path}-{letter.index}"


def letter_lines(stored: StoredLetter, item: str, original: str | None) -> Iterator[str]:
    """Everything about one letter. item, original: as text, of any number of lines."""
    letter = stored.letter
    when = datetime.fromtimestamp(letter.buried_at_s).isoformat(sep=" ", timespec="seconds")
    effect = "yes: an attempt may have had its effect" if letter.maybe_applied else "no"
    edited = "no" if original is None else "yes: the item below is not the one that failed"
    fields = [
        ("id", stored.id),
        ("stage", letter.stage),
        ("edge", letter.edge or "none: it failed in the source that yielded it"),
        ("error", letter.error_class),
        ("attempts", str(letter.attempts)),
        ("version", letter.version or "unknown: an older zflow wrote it"),
        ("given up", when),
        ("identity", identity(stored)),
        ("maybe applied", effect),
        ("sent again", "yes" if stored.replayed else "no"),
        ("edited", edited),
    ]
    yield from aligned(fields, right=set())
    yield from ("", "item:", *_indented(item))
    if original is not None:
        yield from ("", "item that failed:", *_indented(original))
    yield from ("", "traceback:", *_indented(letter.error.strip()))


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.splitlines())


def load_stored_item(stored: StoredRun, raw: bytes) -> Any:
    """An item, with the classes of the run's own topology; raises ConfigError or DecodeError."""
    load_stored(stored)
    return load_item(raw)


def readable(stored: StoredRun, raw: bytes | None, otherwise: str) -> str:
    """An item on as many lines as it needs; `otherwise` where it cannot be had."""
    if raw is None:
        return otherwise
    try:
        return pformat(load_stored_item(stored, raw), width=100)
    except (ConfigError, DecodeError):
        return otherwise
    except Exception:  # noqa: BLE001 - the user's own __repr__
        return otherwise

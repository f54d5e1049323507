"""Dead letters as lines of text and as plain data. Decides wording only."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from zflow.cli.output import aligned, duration, shortened
from zflow.state.deadletter import StoredLetter

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
    return {"id": stored.id, "replayed": stored.replayed, "identity": identity(stored), **data}


def identity(stored: StoredLetter) -> str:
    """The item's identity, as `self.context.item_id` gives it."""
    letter = stored.letter
    return f"{letter.origin}-{letter.oseq}-{letter.path}-{letter.index}"


def letter_lines(stored: StoredLetter, item: str) -> Iterator[str]:
    """Everything about one letter. item: as text, of any number of lines."""
    letter = stored.letter
    when = datetime.fromtimestamp(letter.buried_at_s).isoformat(sep=" ", timespec="seconds")
    effect = "yes: an attempt may have had its effect" if letter.maybe_applied else "no"
    fields = [
        ("id", stored.id),
        ("stage", letter.stage),
        ("edge", letter.edge or "none: it failed in the source that yielded it"),
        ("error", letter.error_class),
        ("attempts", str(letter.attempts)),
        ("given up", when),
        ("identity", identity(stored)),
        ("maybe applied", effect),
        ("sent again", "yes" if stored.replayed else "no"),
    ]
    yield from aligned(fields, right=set())
    yield from ("", "item:", *_indented(item))
    yield from ("", "traceback:", *_indented(letter.error.strip()))


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.splitlines())

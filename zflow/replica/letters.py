"""What is kept of units that are given up. Decides what a dead letter says."""

from typing import Any

from zflow.protocol.actions import Bury
from zflow.state.deadletter import DeadLetter, shown_item
from zflow.wire.codec import dump_item


def letters_of(action: Bury, *, version: str, now_s: float) -> list[DeadLetter]:
    """One for each item. version: of the user's code; now_s: wall clock."""
    items = action.items or [None]
    return [
        _letter(action, item, place, version, now_s)
        for item, place in zip(items, action.places, strict=True)
    ]


def _letter(action: Bury, item: Any, place: int, version: str, now_s: float) -> DeadLetter:
    origin, oseq, path, index = action.run.unit(0)
    return DeadLetter(
        origin=f"{origin:016x}",
        oseq=oseq,
        path=f"{path:016x}",
        index=index,
        stage=action.stage,
        edge=action.edge,
        attempts=action.attempts,
        code=action.code,
        error_class=action.error_class,
        error=action.error,
        item=dump_item(item),
        shown=shown_item(item),
        maybe_applied=action.maybe_applied,
        buried_at_s=now_s,
        version=version,
        place=place,
    )

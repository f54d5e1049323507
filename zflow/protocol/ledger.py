"""The books of one edge, kept by its sender: every unit that left is settled in one column.

Counts only. Invariant (I4), in every state: sent = settled + open, where open is what the links
hold unacknowledged.
"""

from dataclasses import dataclass

REPLAY_REASONS = ("reset", "peer_lost", "nack", "sender_died", "not_owner")
DROP_REASONS = ("lost", "error", "full", "expired")
COLUMNS = (
    "sent",
    "processed",
    "dead_lettered",
    *(f"replayed_{reason}" for reason in REPLAY_REASONS),
    *("dropped_lost", "dropped_error"),
    "sent_bytes",
    "retries",
    *("dropped_full", "dropped_expired"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot:
    """One edge's books at one moment, in units."""

    sent: int
    processed: int
    dead_lettered: int
    replayed: dict[str, int]
    dropped: dict[str, int]

    @property
    def settled(self) -> int:
        """Units that have left the sender for good or were taken back to be sent again."""
        return (
            self.processed
            + self.dead_lettered
            + sum(self.replayed.values())
            + sum(self.dropped.values())
        )


class EdgeLedger:
    """Plain integers, one per column of COLUMNS, in that order when read as a list."""

    __slots__ = COLUMNS

    def __init__(self) -> None:
        for column in COLUMNS:
            setattr(self, column, 0)

    sent: int
    processed: int
    dead_lettered: int
    sent_bytes: int
    retries: int

    def replayed(self, reason: str, n: int) -> None:
        """`n` units are the sender's again."""
        name = f"replayed_{reason}"
        setattr(self, name, getattr(self, name) + n)

    def dropped(self, reason: str, n: int) -> None:
        """`n` units are given up by declared policy."""
        name = f"dropped_{reason}"
        setattr(self, name, getattr(self, name) + n)

    def row(self) -> list[int]:
        """All columns, in the order of COLUMNS."""
        return [getattr(self, column) for column in COLUMNS]

    def snapshot(self) -> LedgerSnapshot:
        """The books now."""
        return snapshot_of(self.row())


def snapshot_of(row: list[int]) -> LedgerSnapshot:
    """The books in a row of numbers, as `EdgeLedger.row` gives them."""
    books = dict(zip(COLUMNS, row, strict=True))
    return LedgerSnapshot(
        sent=books["sent"],
        processed=books["processed"],
        dead_lettered=books["dead_lettered"],
        replayed={reason: books[f"replayed_{reason}"] for reason in REPLAY_REASONS},
        dropped={reason: books[f"dropped_{reason}"] for reason in DROP_REASONS},
    )

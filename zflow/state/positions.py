"""Where a source is: its birth, its low mark and the checksum of an item it has settled.

One small SQLite file per source slot. The mark is stored with `max()`: a late writer of an older
incarnation cannot take it back (H33).
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from zflow.errors import Unavailable
from zflow.ids import new_birth
from zflow.state.schema import closed_on_error

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    birth INTEGER NOT NULL, low INTEGER NOT NULL, ended INTEGER NOT NULL,
    mark_end INTEGER NOT NULL, checksum INTEGER NOT NULL, place BLOB
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """low: items settled from the start; ended: the source came to its end, all of it settled.

    mark: of the newest settled end that has one: its number, the checksum of the item before it
    (0: none) and what the source's own `position()` said there, pickled.
    """

    birth: int
    low: int
    ended: bool
    mark: "Mark | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What is known of the place behind item `end - 1`."""

    end: int
    checksum: int
    place: bytes | None


class PositionFile:
    """One slot's position. Every method blocks for a disk write or read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closed_on_error(self._db):
            self._prepare()

    def _prepare(self) -> None:
        self.path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise ValueError(f"{self.path} has schema {version}; this zflow reads {SCHEMA_VERSION}")
        if version == 0:
            self._make()

    def _make(self) -> None:
        """Only in a new file: a source that starts again writes nothing, or it could not while
        the disk is full."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(_SCHEMA)
        self._db.execute(
            "INSERT OR IGNORE INTO position VALUES (1, ?, 0, 0, 0, 0, NULL)", (new_birth(),)
        )
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._db.execute("COMMIT")

    def load(self) -> Position:
        """The stored position; a new file begins at 0 with a birth of its own."""
        row = self._db.execute(
            "SELECT birth, low, ended, mark_end, checksum, place FROM position"
        ).fetchone()
        mark = Mark(end=row[3], checksum=row[4], place=row[5]) if row[3] else None
        return Position(birth=row[0], low=row[1], ended=bool(row[2]), mark=mark)

    def store(self, low: int, *, ended: bool, mark: Mark | None) -> None:
        """Raise the mark; raises Unavailable (disk full, I/O)."""
        mark = mark or Mark(end=0, checksum=0, place=None)
        newer = {"end": mark.end, "checksum": mark.checksum, "place": mark.place}
        try:
            self._db.execute(
                "UPDATE position SET low = max(low, :low), ended = max(ended, :ended),"
                " checksum = iif(:end > mark_end, :checksum, checksum),"
                " place = iif(:end > mark_end, :place, place), mark_end = max(mark_end, :end)",
                {"low": low, "ended": ended, **newer},
            )
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

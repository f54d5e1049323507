"""Dead letters: one SQLite file per slot, committed before the unit is settled.

Decides what a row holds. Never drops one: a store that cannot be written raises, and the caller
tries again while the unit stays open (H16).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zflow.errors import Unavailable

SCHEMA_VERSION = 1
SUFFIX = ".dead.sqlite"

_SCHEMA = """
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    origin TEXT NOT NULL, oseq INTEGER NOT NULL, path TEXT NOT NULL, "index" INTEGER NOT NULL,
    stage TEXT NOT NULL, edge TEXT NOT NULL, attempts INTEGER NOT NULL,
    code TEXT NOT NULL, error_class TEXT NOT NULL, error TEXT NOT NULL,
    item BLOB, shown TEXT NOT NULL, maybe_applied INTEGER NOT NULL, buried_at_s REAL NOT NULL,
    replayed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (origin, oseq, path, "index", stage, edge)
)
"""
# The newest attempt at the same unit is the one worth reading; a unit never has two rows.
_UPSERT = """
INSERT INTO dead (origin, oseq, path, "index", stage, edge, attempts, code, error_class, error,
                  item, shown, maybe_applied, buried_at_s)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (origin, oseq, path, "index", stage, edge) DO UPDATE SET
    attempts = excluded.attempts, code = excluded.code, error_class = excluded.error_class,
    error = excluded.error, maybe_applied = max(maybe_applied, excluded.maybe_applied),
    buried_at_s = excluded.buried_at_s
"""
_COLUMNS = (
    'origin, oseq, path, "index", stage, edge, attempts, code, error_class, error, item, shown, '
    "maybe_applied, buried_at_s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One item that was given up. origin and path are 64-bit numbers, in hex.

    stage: where it failed; edge: the label of the edge it was on, "" at a source. item: pickled,
    None if it cannot be; shown: its repr, cut.
    """

    origin: str
    oseq: int
    path: str
    index: int
    stage: str
    edge: str
    attempts: int
    code: str
    error_class: str
    error: str
    item: bytes | None
    shown: str
    maybe_applied: bool
    buried_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLetter:
    """A row of a store; `id` is unique in a run as `slot:row`."""

    id: str
    replayed: bool
    letter: DeadLetter


class DeadLetterStore:
    """The writing side of one slot. Every method blocks for a disk write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._open(path)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{path}: {error}") from error

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        elif version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema {version}; this zflow reads {SCHEMA_VERSION}")

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Commit all or none; raises Unavailable (disk full, I/O)."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_UPSERT, [_row(letter) for letter in letters])
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise Unavailable(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.origin,
        letter.oseq,
        letter.path,
        letter.index,
        letter.stage,
        letter.edge,
        letter.attempts,
        letter.code,
        letter.error_class,
        letter.error,
        letter.item,
        letter.shown,
        letter.maybe_applied,
        letter.buried_at_s,
    )


def read_dead_letters(folder: Path) -> Iterator[StoredLetter]:
    """All dead letters of a run, store by store, oldest first."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        slot = path.name.removesuffix(SUFFIX)
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                continue  # its writer died before it had made the table
            for row in db.execute(f"SELECT id, replayed, {_COLUMNS} FROM dead ORDER BY id"):
                yield StoredLetter(
                    id=f"{slot}:{row[0]}", replayed=bool(row[1]), letter=_letter(row[2:])
                )
        finally:
            db.close()


def _letter(row: Sequence[object]) -> DeadLetter:
    names = [name.strip().strip('"') for name in _COLUMNS.split(",")]
    fields = dict(zip(names, row, strict=True))
    fields["maybe_applied"] = bool(fields["maybe_applied"])
    return DeadLetter(**fields)  # type: ignore[arg-type]


def mark_replayed(folder: Path, ids: Sequence[str]) -> None:
    """These letters were sent again and are settled."""
    for letter_id in ids:
        slot, _, row = letter_id.rpartition(":")
        db = sqlite3.connect(folder / f"{slot}{SUFFIX}", isolation_level=None)
        try:
            db.execute("UPDATE dead SET replayed = 1 WHERE id = ?", (int(row),))
        finally:
            db.close()

"""Dead letters: one SQLite file per slot, committed before the unit is settled.

Decides what a row holds and how an older file becomes a present one. Never drops a letter unasked:
a store that cannot be written raises, and the caller tries again while the unit stays open (H16).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zflow.errors import Incompatible, Unavailable
from zflow.state.schema import closed_on_error

SCHEMA_VERSION = 2
SUFFIX = ".dead.sqlite"
MAX_SHOWN_CHARS = 2000

_SCHEMA = """
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    origin TEXT NOT NULL, oseq INTEGER NOT NULL, path TEXT NOT NULL, "index" INTEGER NOT NULL,
    stage TEXT NOT NULL, edge TEXT NOT NULL, attempts INTEGER NOT NULL,
    code TEXT NOT NULL, error_class TEXT NOT NULL, error TEXT NOT NULL,
    item BLOB, shown TEXT NOT NULL, maybe_applied INTEGER NOT NULL, buried_at_s REAL NOT NULL,
    replayed INTEGER NOT NULL DEFAULT 0, version TEXT NOT NULL DEFAULT '', original BLOB,
    place INTEGER NOT NULL DEFAULT 0,
    UNIQUE (origin, oseq, path, "index", place, stage, edge)
)
"""
_FIRST = (  # the columns of schema 1
    'origin, oseq, path, "index", stage, edge, attempts, code, error_class, error, item, shown, '
    "maybe_applied, buried_at_s"
)
# What makes a file of a schema one of the present schema; 0 is a file without a table.
_STEPS: dict[int, tuple[str, ...]] = {
    0: (_SCHEMA,),
    1: (
        "ALTER TABLE dead RENAME TO older",
        _SCHEMA,
        f"INSERT INTO dead (id, replayed, {_FIRST}) SELECT id, replayed, {_FIRST} FROM older",
        "DROP TABLE older",
    ),
}
# The newest attempt at the same unit is the one worth reading; a unit never has two rows.
_UPSERT = """
INSERT INTO dead (origin, oseq, path, "index", stage, edge, attempts, code, error_class, error,
                  item, shown, maybe_applied, buried_at_s, version, place)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (origin, oseq, path, "index", place, stage, edge) DO UPDATE SET
    attempts = excluded.attempts, code = excluded.code, error_class = excluded.error_class,
    error = excluded.error, maybe_applied = max(maybe_applied, excluded.maybe_applied),
    buried_at_s = excluded.buried_at_s, version = excluded.version
"""
_SELECT = {
    1: f"SELECT id, replayed, NULL, {_FIRST}, '', 0 FROM dead ORDER BY id",
    2: f"SELECT id, replayed, original, {_FIRST}, version, place FROM dead ORDER BY id",
}
# The first item is kept, however often the letter is edited; an item that is what it was at
# first is no longer edited.
_EDIT = """
UPDATE dead SET original = NULLIF(COALESCE(original, item), :item), item = :item, shown = :shown
WHERE id = :id AND item IS :known
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One item that was given up. origin and path are 64-bit numbers, in hex.

    stage: where it failed; edge: the label of the edge it was on, "" at a source. item: pickled,
    None if it cannot be; shown: its repr, cut. version: the beginning of the digest of the
    topology's code that failed, "" in letters of before schema 2. place: of the item in its unit.
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
    version: str = ""
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLetter:
    """A row of a store; `id` is unique in a run as `slot:row`.

    original: the item that failed, pickled, if it was edited since; then `letter.item` is the
    edited one.
    """

    id: str
    replayed: bool
    original: bytes | None
    letter: DeadLetter


_NAMES = tuple(field.name for field in fields(DeadLetter))  # in the order of the columns


def shown_item(item: Any) -> str:
    """The repr of an item, cut; never raises."""
    try:
        text = repr(item)
    except Exception as error:  # noqa: BLE001 - the user's own __repr__
        text = f"<{type(item).__name__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."


# -- the replica's side --------------------------------------------------------------------------


class DeadLetterStore:
    """The writing side of one slot. Every method blocks for a disk write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        try:
            with closed_on_error(self._db):
                self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{path}: {error}") from error

    def _prepare(self) -> None:
        self._path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        _migrate(self._db, self._path)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Commit all or none; raises Unavailable (disk full, I/O)."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_UPSERT, [_row(letter) for letter in letters])
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(self._db)
            raise Unavailable(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return tuple(getattr(letter, name) for name in _NAMES)


def _schema(db: sqlite3.Connection, path: Path) -> int:
    """The schema of a file; raises Incompatible if it is newer than this zflow."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise Incompatible(
            f"{path} has schema {version}; this zflow reads up to {SCHEMA_VERSION}: "
            "use the zflow that wrote it, or a newer one"
        )
    return version


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Make the file one of the present schema, all at once or not at all."""
    if _schema(db, path) == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have migrated it before the lock was ours.
        for step in _STEPS.get(_schema(db, path), ()):
            db.execute(step)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except (sqlite3.Error, Incompatible):
        _roll_back(db)
        raise


def _roll_back(db: sqlite3.Connection) -> None:
    """After an error, which says more than one that rolling back may end in.

    Where it fails the transaction stays open, so that the next attempt fails and comes here too.
    """
    with suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")


# -- the side of people --------------------------------------------------------------------------


def read_dead_letters(folder: Path) -> Iterator[StoredLetter]:
    """All dead letters of a run, store by store, oldest first.

    Changes no file, so that one of an older schema stays as it is. raises: Unavailable for a file
    that cannot be read.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        slot = path.name.removesuffix(SUFFIX)
        try:
            with closing(_open_to_read(path)) as db:
                select = _SELECT.get(_schema(db, path))
                if select is None:
                    continue  # its writer died before it had made the table
                for row in db.execute(select):
                    yield _stored(slot, row)
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error


def _open_to_read(path: Path) -> sqlite3.Connection:
    place = path.absolute().as_uri()
    db = sqlite3.connect(f"{place}?mode=ro", uri=True)
    try:
        with closed_on_error(db):
            db.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # A file that was closed in order, on a file system that cannot be written: SQLite could
        # not make the shared memory of a WAL, and with nobody writing it needs none.
        return sqlite3.connect(f"{place}?immutable=1", uri=True)
    return db


def _stored(slot: str, row: Sequence[Any]) -> StoredLetter:
    number, replayed, original, *values = row
    letter = dict(zip(_NAMES, values, strict=True))
    letter["maybe_applied"] = bool(letter["maybe_applied"])
    return StoredLetter(
        id=f"{slot}:{number}",
        replayed=bool(replayed),
        original=original,
        letter=DeadLetter(**letter),
    )


@contextmanager
def _changing(path: Path) -> Iterator[sqlite3.Connection]:
    """An existing store, open to be changed; raises Unavailable (disk full, I/O)."""
    try:
        place = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(place, uri=True, isolation_level=None)) as db:
            _migrate(db, path)
            yield db
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: {error}") from error


def _by_store(folder: Path, ids: Sequence[str]) -> Iterator[tuple[Path, list[tuple[int]]]]:
    """The rows of these letters, store by store."""
    rows: dict[str, list[tuple[int]]] = {}
    for letter_id in ids:
        slot, _, row = letter_id.rpartition(":")
        rows.setdefault(slot, []).append((int(row),))
    return ((folder / f"{slot}{SUFFIX}", numbers) for slot, numbers in rows.items())


def mark_replayed(folder: Path, ids: Sequence[str]) -> None:
    """These letters were sent again and are settled."""
    for path, rows in _by_store(folder, ids):
        with _changing(path) as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("UPDATE dead SET replayed = 1 WHERE id = ?", rows)
            db.execute("COMMIT")


def edit_letter(folder: Path, known: StoredLetter, item: bytes, shown: str) -> bool:
    """Give a letter another item; False if it is no longer as it is `known`, and then unchanged."""
    ((path, ((number,),)),) = _by_store(folder, [known.id])
    with _changing(path) as db:
        row = {"id": number, "known": known.letter.item, "item": item, "shown": shown}
        return db.execute(_EDIT, row).rowcount == 1


def purge(folder: Path, ids: Sequence[str]) -> int:
    """Remove letters for good and give their space back; how many there were.

    Of one store all are removed or none. Ids are never used again. raises: Unavailable, which says
    so if only the space could not be given back.
    """
    stores = list(_by_store(folder, ids))
    removed = 0
    for path, rows in stores:
        with _changing(path) as db:
            db.execute("BEGIN IMMEDIATE")
            removed += db.executemany("DELETE FROM dead WHERE id = ?", rows).rowcount
            db.execute("COMMIT")
    for path, _ in stores:
        try:
            with _changing(path) as db:
                db.execute("VACUUM")
        except Unavailable as error:
            raise Unavailable(f"{removed} removed, but their space is not free: {error}") from error
    return removed

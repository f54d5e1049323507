"""The tables of a partition file, and how a connection to them is made.

Decides what is stored where and which files are refused. Never changes what a stage has stored.
"""

import functools
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from zflow.errors import ConfigError, Problem, Unavailable
from zflow.ids import new_birth
from zflow.state.filesystem import refuse_network_folder

SCHEMA_VERSION = 2
Durability = Literal["power", "process"]
# With NORMAL the last commits before a power failure may be gone, never half of one (H23).
SYNCHRONOUS: dict[Durability, str] = {"power": "FULL", "process": "NORMAL"}
BUSY_S = 30.0  # the longest that a reader's checkpoint or a backup may keep a commit waiting

_FORMAT = slice(18, 20)  # in the header: who may write and read the file
_FORMAT_WAL = b"\x02\x02"

_ONE = "one INTEGER PRIMARY KEY CHECK (one = 1)"
# `keys` is kept by triggers: counting a large table for each len() would read all of it.
_TABLES = (
    f"""CREATE TABLE meta ({_ONE},
        stage TEXT NOT NULL, partition INTEGER NOT NULL, partitions INTEGER NOT NULL,
        birth INTEGER NOT NULL, fence INTEGER NOT NULL, next_oseq INTEGER NOT NULL,
        outbox_low INTEGER NOT NULL, done INTEGER NOT NULL, keys INTEGER NOT NULL)""",
    "CREATE TABLE watermark (origin INTEGER PRIMARY KEY, low INTEGER NOT NULL)",
    """CREATE TABLE seen (id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, path INTEGER NOT NULL,
        axis INTEGER NOT NULL, fixed INTEGER NOT NULL, numbers BLOB NOT NULL,
        top INTEGER NOT NULL)""",
    "CREATE INDEX seen_top ON seen (origin, top)",
    "CREATE TABLE outbox (first INTEGER PRIMARY KEY, n INTEGER NOT NULL, raw BLOB NOT NULL)",
    "CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TRIGGER state_more AFTER INSERT ON state
        BEGIN UPDATE meta SET keys = keys + 1; END""",
    """CREATE TRIGGER state_less AFTER DELETE ON state
        BEGIN UPDATE meta SET keys = keys - 1; END""",
)


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite stores it."""
    return number - (1 << 64) if number >> 63 else number


def unsigned(number: int) -> int:
    """The inverse of `signed`."""
    return number & ((1 << 64) - 1)


def _make_tables(db: sqlite3.Connection) -> None:
    for statement in _TABLES:
        db.execute(statement)


def _add_timers(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE timer (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")


# What makes each version out of the one before it.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _make_tables, 2: _add_timers}


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """A connection of this process; used by one thread at a time, whichever."""
    mode = "rw" if writable else "ro"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_S,
    )


@contextmanager
def closed_on_error(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Within the block a connection is being prepared; whatever is raised there closes it."""
    try:
        yield db
    except BaseException:
        db.close()
        raise


def create(path: Path) -> None:
    """Make an empty private file; an existing one is left as it is.

    SQLite gives the files beside it the same mode.
    """
    refuse_network_folder(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


@functools.cache
def _ownerless() -> bytes:
    """The bytes of a file that has its tables, in WAL mode, and belongs to nobody yet."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for version in sorted(MIGRATIONS):
            MIGRATIONS[version](db)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        raw = bytearray(db.serialize())
    raw[_FORMAT] = _FORMAT_WAL
    return bytes(raw)


def make(path: Path) -> bool:
    """Make a file with its tables, wholly or not at all; False if there is one, which is left as
    it is.

    A copy of one that is ready costs two syncs and nothing else. Under the lock of the path.
    """
    if path.exists():
        return False
    draft = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(draft, flags, 0o600), "wb") as file:
        file.write(_ownerless())
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync_folder(path)
    return True


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # or a new file could be gone after a power failure, with all its commits
    finally:
        os.close(folder)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to this version; raises ConfigError if they are of a newer one.

    In the caller's transaction.
    """
    found = refuse_newer(db, path)
    if found == SCHEMA_VERSION:
        return
    if found == 0:
        _sync_folder(path)
    for version in range(found + 1, SCHEMA_VERSION + 1):
        MIGRATIONS[version](db)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def refuse_newer(db: sqlite3.Connection, path: Path) -> int:
    """The version of the tables, 0 if there are none; raises ConfigError if it is newer."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        message = f"has schema {found}, made by a newer zflow; this one reads {SCHEMA_VERSION}"
        raise _refused(path, message, "use that zflow, or start a new run")
    return found


def claim(db: sqlite3.Connection, path: Path, stage: str, place: tuple[int, int]) -> None:
    """Write down whose file it is if it is new, else compare. place: partition, partitions."""
    row = db.execute("SELECT stage, partition, partitions FROM meta").fetchone()
    if row is None:
        db.execute(
            "INSERT INTO meta VALUES (1, ?, ?, ?, ?, 0, 0, 0, 0, 0)", (stage, *place, new_birth())
        )
        return
    if row[2] != place[1]:
        message = (
            f"was made for {row[2]} partitions and the topology now says {place[1]}; "
            "their number is fixed when the first is made, since it decides where each key lives"
        )
        raise _refused(path, message, f"declare {row[2]} partitions again, or start a new run")
    if (row[0], row[1]) != (stage, place[0]):
        message = (
            f"holds partition {row[1]} of stage {row[0]!r}; "
            f"partition {place[0]} of stage {stage!r} was wanted"
        )
        raise _refused(path, message, "put the files back where they were")


def unreadable(path: Path, error: Exception) -> Unavailable:
    """What the disk or SQLite said, with the file."""
    return Unavailable(f"{path}: {error}")


def _refused(path: Path, message: str, fix: str) -> ConfigError:
    return ConfigError([Problem(where=str(path), file="", line=0, message=message, fix=fix)])

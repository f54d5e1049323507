"""An SQLite file that sinks write to: how durable it is, who owns it, what its errors mean.

Decides how a transaction begins and ends. Never knows what the items are. Rules:
1. Whatever is written is written inside `transaction()`: all of it or nothing.
2. In an `OwnedDatabase` every transaction first looks whether this process still owns the name,
   under the lock that it writes with: a process that was taken for dead cannot write last (H33).
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from zflow.connectors.contract import Progress
from zflow.errors import StageError, Superseded, Unavailable
from zflow.state.schema import closed_on_error

Durability = Literal["power", "process"]  # what a commit outlives

# In WAL mode NORMAL may take a commit back when the power fails (H23).
SYNCHRONOUS: dict[Durability, str] = {"power": "FULL", "process": "NORMAL"}
BUSY_TIMEOUT_S = 5.0  # another process may hold the lock for one commit, not for longer

# Result codes that say that the values or the table are wrong; all others are the environment's.
NOT_THE_ENVIRONMENT = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_RANGE,
}
OWN_PREFIX = "zflow_"  # of the tables that are not the user's
_OWNED_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS zflow_owner (sink TEXT PRIMARY KEY, claim INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS zflow_progress ("
    " sink TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (sink, key))"
    " WITHOUT ROWID",
)
_CLAIM = (
    "INSERT INTO zflow_owner VALUES (?, 1) ON CONFLICT (sink) DO UPDATE SET claim = claim + 1"
    " RETURNING claim"
)


def checked_durability(durability: Durability) -> Durability:
    """The same value; raises ValueError for another word."""
    if durability not in get_args(Durability):
        raise ValueError(f"durability is 'power' or 'process'; got {durability!r}")
    return durability


class Database:
    """One connection to an SQLite file. One thread at a time, any thread; every method blocks for
    the disk, and for other writers up to `BUSY_TIMEOUT_S`."""

    def __init__(self, path: str | os.PathLike[str], durability: Durability) -> None:
        self.path = Path(path)
        self._durability = checked_durability(durability)
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make the file; raises Unavailable."""
        try:
            with _alone_in(self.path.parent):
                self._db = self._connected()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{self.path}: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
        with closed_on_error(db):
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={SYNCHRONOUS[self._durability]}")
        return db

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; raises ValueError without one."""
        if self._db is None:
            raise ValueError(
                f"{self.path} is not open: open() comes first, and nothing after close()"
            )
        return self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done with the connection inside, or nothing if it raises.

        **raises** Unavailable for disk and locks, StageError for values that cannot be stored,
        and whatever the block raises.
        """
        db = self.connection
        try:
            db.execute("BEGIN IMMEDIATE")  # takes the writer's lock now: what is read stays true
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                with suppress(sqlite3.Error):  # what failed first is what is worth telling
                    db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._told(error) from error
            raise

    def _told(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # Python's own have none
        primary = code & 0xFF  # the upper bits say more about the same
        kind = StageError if primary in NOT_THE_ENVIRONMENT else Unavailable
        return kind(f"{self.path}: {error}")

    def close(self) -> None:
        """Close the file; twice is harmless."""
        if self._db is not None:
            self._db.close()
            self._db = None


class OwnedDatabase(Database):
    """A database in which one process owns the name of a sink, and keeps that sink's progress.

    Several sinks may share a file under different names. The newest `open` of a name owns it.
    """

    def __init__(
        self, path: str | os.PathLike[str], durability: Durability, *, sink: str = ""
    ) -> None:
        super().__init__(path, durability)
        self._sink = sink
        self._claim = 0

    def open(self) -> None:
        """Open the file and claim the name: the process that had it can commit no more."""
        super().open()
        try:
            with super().transaction() as db:
                for statement in _OWNED_SCHEMA:
                    db.execute(statement)
                self._claim = db.execute(_CLAIM, (self._sink,)).fetchone()[0]
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """As in Database; also raises Superseded if another process has opened the sink since."""
        with super().transaction() as db:
            sql = "SELECT claim FROM zflow_owner WHERE sink = ?"
            (newest,) = db.execute(sql, (self._sink,)).fetchone() or (0,)
            if newest != self._claim:
                raise Superseded(
                    f"{self.path}: another process has opened this sink since (claim {newest}, ours"
                    f" is {self._claim}); only the newest may write, so this one has to end"
                )
            yield db

    def load_progress(self) -> list[tuple[bytes, bytes]]:
        """The progress rows of this sink."""
        with self.transaction() as db:
            sql = "SELECT key, value FROM zflow_progress WHERE sink = ?"
            return db.execute(sql, (self._sink,)).fetchall()

    def store_progress(self, progress: Progress) -> None:
        """Replace and delete rows; belongs into a `transaction()`."""
        db = self.connection
        for key, value in progress:
            if value is None:
                db.execute(
                    "DELETE FROM zflow_progress WHERE (sink, key) = (?, ?)", (self._sink, key)
                )
            else:
                db.execute("REPLACE INTO zflow_progress VALUES (?, ?, ?)", (self._sink, key, value))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    # SQLite (3.40) does not wait for a lock when a file becomes WAL: of several processes that
    # open a new file at once, some are told that it is locked. Measured: 7 of 60 starts with four.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

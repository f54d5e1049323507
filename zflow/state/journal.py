"""What a source has yielded and could not give again, on disk before its code goes on.

Decides what is kept: every item from the low mark on. One SQLite file per source slot; an item is
committed, and synced to the disk, before `append` returns.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from zflow.errors import Incompatible, Unavailable
from zflow.state.schema import closed_on_error

SCHEMA_VERSION = 1
_SCHEMA = "CREATE TABLE item (oseq INTEGER PRIMARY KEY, raw BLOB NOT NULL)"
_PAGE_ROWS = 256


class Journal:
    """The journal of one source slot; every method blocks for the disk.

    next: the number of the next item. Numbers never fall, although settled items are deleted:
    the source's own low mark is the least that the next one can be.
    """

    def __init__(self, path: Path, *, low: int) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            with closed_on_error(self._db):
                self._prepare(path)
                row = self._db.execute("SELECT max(oseq) FROM item").fetchone()
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        self.next = max(low, -1 if row[0] is None else row[0] + 1)

    def _prepare(self, path: Path) -> None:
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise Incompatible(f"{path} has schema {version}; this zflow reads {SCHEMA_VERSION}")
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")

    def append(self, raw: bytes, *, low: int) -> None:
        """Keep one more item, and nothing below `low`; raises Unavailable (disk full, I/O)."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO item VALUES (?, ?)", (self.next, raw))
            self._db.execute("DELETE FROM item WHERE oseq < ?", (low,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise Unavailable(f"{self._path}: {error}") from error
        self.next += 1

    def items(self, first: int) -> Iterator[bytes]:
        """What is kept, from that number on, in order and without a gap."""
        while rows := self._page(first):
            for oseq, raw in rows:
                if oseq != first:
                    raise ValueError(f"{self._path}: item {first} is missing")
                yield raw
                first += 1

    def _page(self, first: int) -> list[tuple[int, bytes]]:
        query = "SELECT oseq, raw FROM item WHERE oseq >= ? ORDER BY oseq LIMIT ?"
        return self._db.execute(query, (first, _PAGE_ROWS)).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

"""Sinks that append to a JSON Lines file: exactly once, or at least once.

    @sink
    class Results(JsonLines):
        def __init__(self, path: str = "results.jsonl"):
            super().__init__(path)

How JsonLines is exactly once. Beside the file lies an SQLite file that holds the progress and the
length that the lines had with it. Rules:
1. Append, make durable, then record length and progress in one transaction. What lies behind the
   recorded length was never committed, and is cut off before anything is appended.
2. All of it happens under the lock of that transaction, cutting too: a process that was taken for
   dead cannot cut off or overwrite what its successor has appended.
"""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from zflow.connectors.contract import Progress
from zflow.connectors.database import Durability, OwnedDatabase, checked_durability
from zflow.connectors.lines import FileEnd, json_lines
from zflow.errors import Unavailable

RECORD_SUFFIX = ".progress"  # of the SQLite file beside the lines
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS zflow_length ("
    " one INTEGER PRIMARY KEY CHECK (one = 1), size_bytes INTEGER NOT NULL)"
)


class JsonLines:
    """Exactly once: one line per item, and nothing twice after a crash. A TransactionalSink.

    `durability`: what was committed outlives the loss of power, or ("process", faster) only the
    death of the process. The file and its `.progress` belong together: copy, move or delete both.
    One replica writes to one file: the newest process that opens it shuts the others out.

    Who reads the file meanwhile may see lines a moment before they are committed; after a crash
    these are cut off and appended again.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "power") -> None:
        self._path = Path(path)
        self._must_sync = checked_durability(durability) == "power"
        self._record = OwnedDatabase(
            self._path.with_name(self._path.name + RECORD_SUFFIX), durability
        )
        self._file = FileEnd(self._path)

    def open(self) -> None:
        """Open or make the files, shut out a process that has them open, and cut off what was not
        committed.

        **raises** Unavailable, also for a file that is shorter than recorded, or that has content
        and no record: neither was left by this sink.
        """
        self._record.open()
        try:
            with self._record.transaction() as db:
                self._file.open(os.O_RDWR)
                db.execute(_SCHEMA)
                self._cut(self._recorded_bytes(db))
        except BaseException:
            self.close()
            raise

    def _recorded_bytes(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT size_bytes FROM zflow_length").fetchone()
        if row is not None:
            return int(row[0])
        if has := self._file.size_bytes():
            raise Unavailable(
                f"{self._path} has {has} bytes and no record in {self._record.path.name}: this sink"
                " did not write it, and could not tell what to cut off; move it away"
            )
        db.execute("INSERT INTO zflow_length VALUES (1, 0)")
        return 0

    def _cut(self, recorded_bytes: int) -> None:
        """Back to the recorded length. Only inside a transaction: another may own the file."""
        has = self._file.size_bytes()
        if has < recorded_bytes:
            raise Unavailable(
                f"{self._path} has {has} bytes, but {recorded_bytes} were committed: lines are"
                f" missing; put them back, or delete {self._record.path.name} too to begin anew"
            )
        if has > recorded_bytes:
            self._file.truncate(recorded_bytes)

    def load_progress(self) -> list[tuple[bytes, bytes]]:
        """All progress rows."""
        return self._record.load_progress()

    def commit(self, items: list[Any], ids: list[str], progress: Progress) -> None:
        """Append the items, then record them together with the progress.

        **raises** StageError for an item that JSON cannot represent, Unavailable for disk, locks,
        and a newer process that has opened the file.
        """
        lines = json_lines(items)
        with self._record.transaction() as db:
            begin = self._recorded_bytes(db)
            self._cut(begin)
            try:
                self._append(db, lines, begin)
                self._record.store_progress(progress)
            except BaseException:
                # Not if the record itself fails: what a restart finds of it may be either one.
                with suppress(Unavailable):
                    self._cut(begin)
                raise

    def _append(self, db: sqlite3.Connection, lines: bytes, begin: int) -> None:
        if not lines:
            return
        self._file.write(lines, at=begin)
        if self._must_sync:
            self._file.sync()
        db.execute("UPDATE zflow_length SET size_bytes = ?", (begin + len(lines),))

    def close(self) -> None:
        """Close the files; twice is harmless."""
        self._file.close()
        self._record.close()


class AppendLines:
    """At least once: one line per item, written and synced before `write` returns. A PlainSink.

    After a crash lines may be there twice, and a piece of a line may stay, ended by a line break:
    whoever reads the file has to skip what is no JSON. JsonLines leaves neither. Several replicas
    may append to one file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = FileEnd(Path(path))

    def open(self) -> None:
        """Open or make the file; raises Unavailable."""
        self._file.open(os.O_RDWR | os.O_APPEND)

    def write(self, items: list[Any]) -> None:
        """Append the items; raises StageError for one that JSON cannot represent, Unavailable."""
        lines = json_lines(items)
        if not lines:
            return
        # What a crash or a full disk has left of a line must not run into the next one.
        if not self._file.ends_with_line():
            lines = b"\n" + lines
        self._file.write(lines, at=self._file.size_bytes())  # O_APPEND: at the end, wherever it is
        self._file.sync()

    def close(self) -> None:
        """Close the file; twice is harmless."""
        self._file.close()

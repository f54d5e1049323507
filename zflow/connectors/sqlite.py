"""Sinks that write to a table of an SQLite file: exactly once, or once per id.

    @sink
    class Counts(SqliteTable):
        def __init__(self, path: str = "counts.db"):
            super().__init__(path, table="counts", key="word")

The table is made with the first item. One with types, indexes or further columns may be there
before; then name the columns that the items fill.
"""

import os
import sqlite3
from collections.abc import Sequence
from typing import Any

from zflow.connectors.contract import Progress
from zflow.connectors.database import Database, Durability, OwnedDatabase
from zflow.connectors.rows import Row, TableShape
from zflow.errors import StageError

ID_COLUMN = "item_id"


class SqliteTable:
    """Exactly once: one row per item, committed together with the progress. A TransactionalSink.

    Items are dicts, or tuples if `columns` names the columns. `key`: an item replaces the row that
    has the same value there. `durability`: what was committed outlives the loss of power, or
    ("process", faster) only the death of the process.

    One replica writes to one table: the newest process that opens it shuts the others out. Sinks
    with tables of their own may share a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str,
        columns: Sequence[str] | None = None,
        key: str | None = None,
        durability: Durability = "power",
    ) -> None:
        self._shape = TableShape(table, columns, key)
        self._database = OwnedDatabase(path, durability, sink=table)

    def open(self) -> None:
        """Open or make the file, and shut out a process that has it open; raises Unavailable."""
        self._database.open()

    def load_progress(self) -> list[tuple[bytes, bytes]]:
        """All progress rows of this table."""
        return self._database.load_progress()

    def commit(self, items: list[Any], ids: list[str], progress: Progress) -> None:
        """Items and progress in one transaction.

        **raises** StageError for an item that the table cannot hold, Unavailable for disk, locks,
        and a newer process that has opened the table.
        """
        with self._database.transaction() as db:
            _insert(db, self._shape, items)
            self._database.store_progress(progress)

    def close(self) -> None:
        """Close the file; twice is harmless."""
        self._database.close()


class SqliteUpsert:
    """Once per id: one row per item, with its id in the column `item_id`. An IdempotentSink.

    Items, `columns` and `durability` are those of SqliteTable. Any number of processes may write.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str,
        columns: Sequence[str] | None = None,
        durability: Durability = "power",
    ) -> None:
        self._shape = TableShape(table, columns, key=ID_COLUMN, front=ID_COLUMN)
        self._database = Database(path, durability)

    def open(self) -> None:
        """Open or make the file; raises Unavailable."""
        self._database.open()

    def upsert(self, items: list[Any], ids: list[str]) -> None:
        """All items in one transaction, each in the row of its id; raises as SqliteTable does."""
        with self._database.transaction() as db:
            _insert(db, self._shape, items, [(item_id,) for item_id in ids])

    def close(self) -> None:
        """Close the file; twice is harmless."""
        self._database.close()


def _insert(
    db: sqlite3.Connection, shape: TableShape, items: list[Any], fronts: list[Row] | None = None
) -> None:
    """Make the table if it is not there, and insert the items, each behind its front."""
    if not items:
        return
    # Asked for each time: a table whose making was rolled back must not be taken for granted.
    existing = [
        name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (shape.table,))
    ]
    columns = shape.columns_for(items[0], existing)
    rows = shape.rows(items, columns)
    if fronts is not None:
        rows = [front + row for front, row in zip(fronts, rows, strict=True)]
    if not existing:
        db.execute(shape.create(columns))
    try:
        db.executemany(shape.insert(columns), rows)
    except (OverflowError, UnicodeEncodeError) as error:
        raise StageError(f"table '{shape.table}' cannot hold a value: {error}") from error

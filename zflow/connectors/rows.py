"""Which row of a table an item becomes, and the SQL for it.

Decides only. Never touches a database: it is told which columns the table has.
"""

from collections.abc import Sequence
from typing import Any

from zflow.connectors.database import OWN_PREFIX
from zflow.errors import StageError

STORABLE = (type(None), int, float, str, bytes, bytearray, memoryview)
WANTED = "an item is a dict, or a tuple if the sink names its columns"
Row = tuple[Any, ...]


class TableShape:
    """A table with its name, the columns that were declared (None: those of the first dict) and
    the column that names a row, if one does.

    front: a column before those of the items, whose values the caller has.
    """

    def __init__(
        self, table: str, columns: Sequence[str] | None, key: str | None, front: str | None = None
    ) -> None:
        if isinstance(columns, str):
            raise TypeError(f"columns is a list of names; got the text {columns!r}")
        if not table or table.lower().startswith(OWN_PREFIX):
            raise ValueError(
                f"a table has a name that begins without '{OWN_PREFIX}'; got {table!r}"
            )
        self.table = table
        self._declared = None if columns is None else tuple(columns)
        self._key = key
        self._front = () if front is None else (front,)
        if self._declared is not None:
            self._check(self._declared, ValueError)

    def _check(self, columns: Sequence[str], error: type[Exception]) -> None:
        if not columns:
            raise error(f"table '{self.table}' would have no column")
        if self._front and self._front[0] in columns:
            raise error(
                f"the column '{self._front[0]}' of '{self.table}' holds the ids; rename yours"
            )
        if self._key is not None and self._key not in (*self._front, *columns):
            raise error(f"the key '{self._key}' of '{self.table}' is not among {_listed(columns)}")

    def columns_for(self, item: Any, existing: Sequence[str]) -> tuple[str, ...]:
        """The columns of the items, from what the table has (nothing: not made yet) or else from
        the first item; raises StageError."""
        if self._declared is not None:
            if existing and (lacks := set(self._declared) - set(existing)):
                raise StageError(f"table '{self.table}' has no column {_listed(sorted(lacks))}")
            return self._declared
        if existing:
            return tuple(name for name in existing if name not in self._front)
        if not isinstance(item, dict) or not all(isinstance(name, str) for name in item):
            raise StageError(f"{WANTED}; the first for '{self.table}' is {_told(item)}")
        self._check(tuple(item), StageError)
        return tuple(item)

    def create(self, columns: Sequence[str]) -> str:
        """The SQL that makes the table; columns without a type store any value as it is."""
        defined = [
            _quoted(name) + (" NOT NULL PRIMARY KEY" if name == self._key else "")
            for name in (*self._front, *columns)
        ]
        return f"CREATE TABLE {_quoted(self.table)} ({', '.join(defined)})"

    def insert(self, columns: Sequence[str]) -> str:
        """The SQL that inserts one row, or replaces the row of the same key."""
        names = [_quoted(name) for name in (*self._front, *columns)]
        sql = (
            f"INSERT INTO {_quoted(self.table)} ({', '.join(names)})"
            f" VALUES ({', '.join('?' * len(names))})"
        )
        if self._key is None:
            return sql
        # Not INSERT OR REPLACE: that inserts a second row, without a word, into a table of the
        # user's own where the key is not unique.
        key = _quoted(self._key)
        others = ", ".join(f"{name} = excluded.{name}" for name in names if name != key)
        return f"{sql} ON CONFLICT ({key}) DO " + (f"UPDATE SET {others}" if others else "NOTHING")

    def rows(self, items: Sequence[Any], columns: Sequence[str]) -> list[Row]:
        """Each item's values in the order of the columns; raises StageError, naming its type.

        What a dict lacks is NULL. What it has too much is refused, since it would be lost.
        """
        known = set(columns)
        rows = [self._row(item, columns, known) for item in items]
        for item, row in zip(items, rows, strict=True):
            for value in row:
                if not isinstance(value, STORABLE):
                    raise StageError(
                        f"{_told(item)} holds {_told(value)}; table '{self.table}' stores None,"
                        " int, float, str and bytes"
                    )
        return rows

    def _row(self, item: Any, columns: Sequence[str], known: set[str]) -> Row:
        if isinstance(item, dict):
            if strange := item.keys() - known:
                raise self._misfit(item, _listed(sorted(map(str, strange))), columns)
            return tuple(map(item.get, columns))
        if not isinstance(item, tuple) or self._declared is None:
            raise StageError(f"{WANTED}; got {_told(item)} for table '{self.table}'")
        if len(item) != len(columns):
            raise self._misfit(item, f"{len(item)} values", columns)
        return item

    def _misfit(self, item: Any, what: str, columns: Sequence[str]) -> StageError:
        return StageError(
            f"{_told(item)} has {what}; table '{self.table}' has {len(columns)} columns:"
            f" {_listed(columns)}"
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _told(value: object) -> str:
    return f"a value of type {type(value).__name__}"

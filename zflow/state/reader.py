"""A partition file for tools: read while its owner works, never changed.

Decides nothing. Takes no lock and leaves the fence alone.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from zflow.errors import Unavailable
from zflow.ids import new_birth
from zflow.paths import StateDirectory
from zflow.state import partition, schema
from zflow.state.partition import Loaded


def stored_partitions(state: StateDirectory) -> dict[str, list[Path]]:
    """The partition files of a run by stage, in order; the partitions that were ever acquired."""
    folders = state.partitions_folder
    found = sorted(folders.iterdir()) if folders.is_dir() else []
    return {folder.name: sorted(folder.glob("*.sqlite")) for folder in found}


class PartitionReader:
    """The file as it was when it was opened, however long the reading takes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        row = db.execute("SELECT stage, partition, partitions FROM meta").fetchone()
        self.stage: str = row[0]
        self.partition: int = row[1]
        self.partitions: int = row[2]

    def load(self) -> Loaded:
        """All but the state."""
        return partition.load(self._db)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return partition.get(self._db, key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The state in key order, a page in memory at a time."""
        return partition.paged(lambda after: partition.page(self._db, after))

    def count(self) -> int:
        """How many keys there are."""
        return int(self._db.execute("SELECT keys FROM meta").fetchone()[0])

    def size_bytes(self) -> int:
        """Of all keys and values; reads the whole state."""
        total = "SELECT coalesce(sum(length(key) + length(value)), 0) FROM state"
        return int(self._db.execute(total).fetchone()[0])

    def backup(self, target: Path) -> None:
        """Copy the file, complete and consistent, to a path that does not exist yet.

        The copy has a birth of its own: whoever starts from it continues from an older moment, so
        its outputs must not be taken for those that came from here since.
        """
        schema.create(target)
        with closing(schema.connect(target, writable=True)) as copy:
            self._db.backup(copy)
            copy.execute("UPDATE meta SET birth = ?", (new_birth(),))


@contextmanager
def read_partition(path: Path) -> Iterator[PartitionReader | None]:
    """Open a partition file; None if its owner died before it had made it.

    raises: Unavailable if it cannot be read, ConfigError if a newer zflow made it.
    """
    try:
        with closing(schema.connect(path, writable=False)) as db:
            if schema.refuse_newer(db, path) == 0:
                yield None
                return
            db.execute("BEGIN")
            claimed = db.execute("SELECT 1 FROM meta").fetchone()
            yield PartitionReader(db) if claimed else None
    except sqlite3.Error as error:
        raise Unavailable(f"{path}: {error}") from error

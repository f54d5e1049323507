"""One partition of a durable stage: its state, its dedupe records and its outbox in one file.

Decides what one commit is: all of a batch or nothing, and only by the process that acquired the
partition last (R9, H12). Never runs user code, and never decides what is a duplicate.

`commit` and `reload` may be called by another thread than the reading methods, one at a time.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import msgspec

from zflow.errors import InternalError, Unavailable
from zflow.intervals import Range
from zflow.locks import FileLock
from zflow.state import schema
from zflow.state.filesystem import refuse_network_folder
from zflow.state.schema import Durability, signed, unreadable, unsigned

PAGE_ROWS = 256
LOCK_SUFFIX = ".lock"
_PROBED_AT_ONCE = 500  # below SQLite's limit of variables in every version

_INSERT_SEEN = (
    "INSERT INTO seen (origin, path, axis, fixed, numbers, top) VALUES (?, ?, ?, ?, ?, ?)"
)
_RAISE_WATERMARK = (
    "INSERT INTO watermark VALUES (?, ?)"
    " ON CONFLICT (origin) DO UPDATE SET low = max(low, excluded.low)"
)
_PUT_ROWS = 16  # in one statement: each of them alone costs a third more, and a turn of the GIL


def _put_statement(rows: int) -> str:
    values = ", ".join(["(?, ?)"] * rows)
    return (
        f"INSERT INTO state VALUES {values} ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )


_PUT, _PUT_MANY = _put_statement(1), _put_statement(_PUT_ROWS)
_RAISE_META = (
    "UPDATE meta SET next_oseq = max(next_oseq, ?), outbox_low = max(outbox_low, ?),"
    " done = max(done, ?)"
)
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[int])


class Fenced(Unavailable):
    """Another process has acquired the partition: this one must let go of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRow:
    """One run of units that one commit applied: the dedupe record.

    axis, fixed: as in `wire.run.Run`. numbers: `encode_numbers` of the ranges along the axis.
    top: the highest oseq in it; the row goes when the watermark of the origin is above.
    """

    origin: int
    path: int
    axis: int
    fixed: int
    numbers: bytes
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """The outputs of one commit: numbers `first` to `first + n - 1`; raw is not looked at."""

    first: int
    n: int
    raw: bytes


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one commit changes. state: key and value, or None to delete it.

    outbox rows wholly below outbox_low are deleted. Watermarks, outbox_low and next_oseq never
    fall and done never ends, whatever a batch says.
    """

    seen: list[SeenRow] = field(default_factory=list)
    watermarks: dict[int, int] = field(default_factory=dict)
    state: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    outbox_low: int = 0
    next_oseq: int = 0
    done: bool = False
    timers: list[tuple[bytes, bytes | None]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Loaded:
    """All that a file holds but the state."""

    birth: int
    fence: int
    watermarks: dict[int, int]
    seen: list[SeenRow]
    outbox: list[OutboxRow]
    next_oseq: int
    outbox_low: int
    done: bool
    timers: list[tuple[bytes, bytes]] = field(default_factory=list)


def encode_numbers(ranges: Iterable[Range]) -> bytes:
    """Ranges [start, end) as one msgpack list: start, end, start, end, ..."""
    return _ENCODER.encode(list(chain.from_iterable(ranges)))


def decode_numbers(raw: bytes) -> list[Range]:
    """The inverse of `encode_numbers`."""
    flat = _DECODER.decode(raw)
    return list(zip(flat[::2], flat[1::2], strict=True))


class PartitionFile:
    """The owner's side; made by acquiring the partition. Every method blocks for the disk.

    loaded: what the file said at acquisition, the new fence included.

    raises: Unavailable if another process holds it or the disk fails, ConfigError if it is not
    the file that it should be.
    """

    loaded: Loaded

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        partition: int,
        partitions: int,
        durability: Durability,
    ) -> None:
        self._path = path
        self._synchronous = schema.SYNCHRONOUS[durability]
        held = (
            f"another process holds partition {partition} of stage {stage!r} ({path}): it must "
            "release it or be dead before another may take it"
        )
        refuse_network_folder(path.parent)
        try:
            self._lock = FileLock(path.with_name(path.name + LOCK_SUFFIX), held)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            new = schema.make(path)
            self._acquire(stage, (partition, partitions), new=new)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise unreadable(path, error) from error
            raise

    def _acquire(self, stage: str, place: tuple[int, int], *, new: bool) -> None:
        self._open()
        try:
            # The raised fence takes to the disk what a predecessor has written and died before it
            # was there: from now on duplicates of that are acknowledged, and its outputs sent. In
            # a new file there is nothing of that kind; the first commit takes its claim with it.
            if new:
                self._writer.execute("PRAGMA synchronous=NORMAL")
            self._writer.execute("BEGIN IMMEDIATE")
            schema.migrate(self._writer, self._path)
            schema.claim(self._writer, self._path, stage, place)
            self._writer.execute("UPDATE meta SET fence = fence + 1")
            self._writer.execute("COMMIT")
            self._writer.execute(f"PRAGMA synchronous={self._synchronous}")
            self.loaded = _load_all(self._writer)
        except BaseException:
            self._close_files()
            raise

    def _open(self) -> None:
        self._writer = schema.connect(self._path, writable=True)
        with schema.closed_on_error(self._writer):
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute(f"PRAGMA synchronous={self._synchronous}")
            # Of its own, so that the data thread reads while a worker commits.
            self._reader = schema.connect(self._path, writable=True)

    def _close_files(self) -> None:
        self._reader.close()
        self._writer.close()

    def reload(self) -> Loaded:
        """What the file says after a failed commit; opened anew, since the old connections may
        have seen a disk that is gone. Raises Fenced if another process has acquired it."""
        try:
            self._close_files()
            self._open()
            loaded = _load_all(self._writer)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error
        self._check(loaded.fence)
        self.loaded = loaded
        return loaded

    def _check(self, fence: int) -> None:
        if fence != self.loaded.fence:
            raise Fenced(
                f"{self._path}: another process has acquired this partition (fence {fence}, "
                f"ours is {self.loaded.fence})"
            )

    def commit(self, batch: Batch) -> None:
        """All of it in one transaction, or nothing: raises Unavailable (disk full, I/O), after
        which `reload` says what holds, or Fenced."""
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            self._check(db.execute("SELECT fence FROM meta").fetchone()[0])
            _apply(db, batch)
            db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself, or is closed
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise InternalError(f"{self._path}: a batch does not fit: {error}") from error
            if isinstance(error, sqlite3.Error):
                raise unreadable(self._path, error) from error
            raise

    def next_oseq(self) -> int:
        """The number of the next output, as it is committed; from the thread that commits."""
        try:
            return int(self._writer.execute("SELECT next_oseq FROM meta").fetchone()[0])
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def get(self, key: bytes) -> bytes | None:
        """The committed value of a key."""
        try:
            return get(self._reader, key)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def page(self, after: bytes | None) -> list[tuple[bytes, bytes]]:
        """The next committed keys behind `after` in their order, at most PAGE_ROWS, with values."""
        try:
            return page(self._reader, after)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The committed state in key order, a page in memory at a time.

        While commits go on, a key that stays comes exactly once; its value is at least as new as
        the call.
        """
        return paged(self.page)

    def count(self, keys: Iterable[bytes] = ()) -> tuple[int, int]:
        """How many keys are committed, and how many of `keys` are among them, at one moment."""
        try:
            return count(self._reader, list(keys))
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def close(self) -> None:
        """Close the file and let the next owner have it."""
        try:
            with suppress(sqlite3.Error):  # the last checkpoint failed; the WAL has it all
                self._close_files()
        finally:
            self._lock.release()


def _apply(db: sqlite3.Connection, batch: Batch) -> None:
    if batch.seen:
        db.executemany(_INSERT_SEEN, map(_seen_values, batch.seen))
    if batch.watermarks:
        marks = [(signed(origin), low) for origin, low in batch.watermarks.items()]
        db.executemany(_RAISE_WATERMARK, marks)
        db.executemany("DELETE FROM seen WHERE origin = ? AND top < ?", marks)
    puts = [row for row in batch.state if row[1] is not None]
    _put(db, puts)
    if len(puts) < len(batch.state):
        gone = [(key,) for key, value in batch.state if value is None]
        db.executemany("DELETE FROM state WHERE key = ?", gone)
    for key, value in batch.timers:
        db.execute("DELETE FROM timer WHERE key = ?", (key,))
        if value is not None:
            db.execute("INSERT INTO timer VALUES (?, ?)", (key, value))
    if batch.outbox:
        rows = [(row.first, row.n, row.raw) for row in batch.outbox]
        db.executemany("INSERT INTO outbox VALUES (?, ?, ?)", rows)
    low = batch.outbox_low
    db.execute("DELETE FROM outbox WHERE first < ? AND first + n <= ?", (low, low))
    db.execute(_RAISE_META, (batch.next_oseq, low, batch.done))


def _put(db: sqlite3.Connection, rows: list[tuple[bytes, bytes | None]]) -> None:
    whole = len(rows) - len(rows) % _PUT_ROWS
    for begin in range(0, whole, _PUT_ROWS):
        db.execute(_PUT_MANY, list(chain.from_iterable(rows[begin : begin + _PUT_ROWS])))
    if whole < len(rows):
        db.executemany(_PUT, rows[whole:])


def _seen_values(row: SeenRow) -> tuple[object, ...]:
    return signed(row.origin), signed(row.path), row.axis, row.fixed, row.numbers, row.top


def load(db: sqlite3.Connection) -> Loaded:
    """All but the state and the timers."""
    meta = db.execute("SELECT birth, fence, next_oseq, outbox_low, done FROM meta").fetchone()
    marks = db.execute("SELECT origin, low FROM watermark")
    seen = db.execute("SELECT origin, path, axis, fixed, numbers, top FROM seen ORDER BY id")
    outbox = db.execute("SELECT first, n, raw FROM outbox ORDER BY first")
    return Loaded(
        birth=meta[0],
        fence=meta[1],
        next_oseq=meta[2],
        outbox_low=meta[3],
        done=bool(meta[4]),
        watermarks={unsigned(origin): low for origin, low in marks},
        seen=[_seen_row(row) for row in seen],
        outbox=[OutboxRow(first=first, n=n, raw=raw) for first, n, raw in outbox],
    )


def _load_all(db: sqlite3.Connection) -> Loaded:
    """With the timers, which a file of an older zflow has not before it is migrated."""
    loaded = load(db)
    loaded.timers = db.execute("SELECT key, value FROM timer ORDER BY key").fetchall()
    return loaded


def _seen_row(row: tuple[int, int, int, int, bytes, int]) -> SeenRow:
    origin, path, axis, fixed, numbers, top = row
    return SeenRow(
        origin=unsigned(origin),
        path=unsigned(path),
        axis=axis,
        fixed=fixed,
        numbers=numbers,
        top=top,
    )


def get(db: sqlite3.Connection, key: bytes) -> bytes | None:
    """The value of a key."""
    row = db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def page(db: sqlite3.Connection, after: bytes | None) -> list[tuple[bytes, bytes]]:
    """The next rows of the state behind `after`, at most PAGE_ROWS."""
    # A page of its own transaction each: one that stayed open would keep the WAL from shrinking.
    if after is None:
        rows = db.execute("SELECT key, value FROM state ORDER BY key LIMIT ?", (PAGE_ROWS,))
    else:
        rows = db.execute(
            "SELECT key, value FROM state WHERE key > ? ORDER BY key LIMIT ?", (after, PAGE_ROWS)
        )
    return rows.fetchall()


def paged(
    next_page: Callable[[bytes | None], list[tuple[bytes, bytes]]],
) -> Iterator[tuple[bytes, bytes]]:
    """Page after page, row by row."""
    after: bytes | None = None
    while rows := next_page(after):
        yield from rows
        after = rows[-1][0]


def count(db: sqlite3.Connection, keys: Sequence[bytes]) -> tuple[int, int]:
    """How many keys there are, and how many of `keys` are among them, at one moment."""
    db.execute("BEGIN")
    try:
        (total,) = db.execute("SELECT keys FROM meta").fetchone()
        known = 0
        for begin in range(0, len(keys), _PROBED_AT_ONCE):
            some = keys[begin : begin + _PROBED_AT_ONCE]
            marks = ",".join("?" * len(some))
            found = db.execute(f"SELECT count(*) FROM state WHERE key IN ({marks})", some)
            known += found.fetchone()[0]
    finally:
        db.execute("ROLLBACK")
    return total, known

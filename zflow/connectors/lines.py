"""Items as lines of JSON, and the file whose end they are written to.

Decides how a line looks and what an error means; never what is written when. A line is strict JSON
in UTF-8 and holds no line break but its last byte.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zflow.errors import StageError, Unavailable


def json_line(item: Any) -> bytes:
    """One line; raises StageError, naming the item's type, if JSON cannot represent it.

    NaN and the infinities are refused, since most readers refuse the whole line.
    """
    try:
        return json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: a lone surrogate, too
        raise StageError(
            f"an item of type {type(item).__name__} cannot be written as JSON: {error};"
            " make it a dict, list, text or number in the stage before"
        ) from error


def json_lines(items: list[Any]) -> bytes:
    """All lines in a row, made before any of them is written."""
    return b"".join(map(json_line, items))


class FileEnd:
    """A file by its descriptor, so that no line ever waits in a buffer.

    **raises** Unavailable where the disk refuses, ValueError where it is not open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def open(self, flags: int) -> None:
        """Open the file, or make it so that its name outlives the loss of power, too."""
        with _told(self._path):
            self._descriptor = os.open(self._path, flags | os.O_CREAT | os.O_CLOEXEC, 0o666)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def size_bytes(self) -> int:
        """How long it is now."""
        with self._opened() as descriptor:
            return os.fstat(descriptor).st_size

    def ends_with_line(self) -> bool:
        """Its last byte is a line break, or it has none."""
        size_bytes = self.size_bytes()
        with self._opened() as descriptor:
            return size_bytes == 0 or os.pread(descriptor, 1, size_bytes - 1) == b"\n"

    def write(self, data: bytes, *, at: int) -> None:
        """Write all of it. If it raises, a part of it may be in the file."""
        rest = memoryview(data)
        with self._opened() as descriptor:
            while rest:
                written = os.pwrite(descriptor, rest, at)
                rest, at = rest[written:], at + written

    def truncate(self, size_bytes: int) -> None:
        """Cut off what is behind."""
        with self._opened() as descriptor:
            os.ftruncate(descriptor, size_bytes)

    def sync(self) -> None:
        """Block until what was written outlives the loss of power."""
        with self._opened() as descriptor:
            os.fsync(descriptor)

    def close(self) -> None:
        """Close the file; twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self._descriptor is None:
            raise ValueError(
                f"{self._path} is not open: open() comes first, and nothing after close()"
            )
        with _told(self._path):
            yield self._descriptor


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}") from error

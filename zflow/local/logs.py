"""What the replicas of a run have printed, and print: their log files, read on from where one was.

Decides in which order lines of several files come. Only reads, and takes no lock.

The files hold no times. Within one look, files come in the order in which they were last written;
so between two looks of somebody who follows, lines come in order of arrival.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zflow.ids import Slot
from zflow.paths import RunDirectory

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. stream: `out` or `err`; text: without its end."""

    slot: Slot
    stream: str
    text: str


class _Followed:
    """One file. It stays open: what was written last can be read after the run has removed it."""

    def __init__(self, slot: Slot, stream: str, path: Path) -> None:
        self.slot = slot
        self.stream = stream
        self._path = path
        self._file: BinaryIO | None = None
        self._read_to = 0
        self._rest = b""

    def written_ns(self) -> int:
        """When something was last written; 0 if there is no file yet."""
        self._open()
        return os.fstat(self._file.fileno()).st_mtime_ns if self._file is not None else 0

    def lines(self) -> Iterator[LogLine]:
        """Those that are whole and new."""
        self._open()
        yield from self._new()
        if self._is_replaced():
            yield from self.last()
            self.close()
            self._read_to = 0
            self._open()
            yield from self._new()

    def last(self) -> Iterator[LogLine]:
        """A line without an end, once no more is to come."""
        if self._rest:
            yield self._line(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        if self._file is None:
            with suppress(FileNotFoundError):
                self._file = self._path.open("rb")

    def _is_replaced(self) -> bool:
        """There is another file by the name."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is not None and now.st_ino != os.fstat(self._file.fileno()).st_ino

    def _new(self) -> Iterator[LogLine]:
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._read_to:
            self._read_to = 0  # it had grown too long and was cut; its writer appends from 0
        self._file.seek(self._read_to)
        while raw := self._file.read(CHUNK_BYTES):
            self._read_to += len(raw)
            *lines, self._rest = (self._rest + raw).split(b"\n")
            for line in lines:
                yield self._line(line)

    def _line(self, raw: bytes) -> LogLine:
        return LogLine(self.slot, self.stream, raw.decode(errors="replace"))


class Logs:
    """The log files of a run directory, those of slots that come later too. One thread owns it.

    wanted: which files are read.
    """

    def __init__(self, run: RunDirectory, wanted: Callable[[Slot, str], bool]) -> None:
        self._run = run
        self._wanted = wanted
        self._files: dict[tuple[Slot, str], _Followed] = {}

    def lines(self) -> Iterator[LogLine]:
        """All that has come since the last call."""
        for slot, paths in self._run.logged().items():
            for stream, path in paths.items():
                if (slot, stream) not in self._files and self._wanted(slot, stream):
                    self._files[slot, stream] = _Followed(slot, stream, path)
        for file in sorted(self._files.values(), key=_Followed.written_ns):
            yield from file.lines()

    def last(self) -> Iterator[LogLine]:
        """What has come since, and lines that were left without an end."""
        yield from self.lines()
        for file in self._files.values():
            yield from file.last()

    def close(self) -> None:
        """Give all files back."""
        for file in self._files.values():
            file.close()

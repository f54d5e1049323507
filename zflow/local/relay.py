"""Passes on what the replicas print, line by line, and keeps their log files small.

Decides which stream a line goes to. A replica writes into a file and never waits for us.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zflow.ids import Slot

MAX_LOG_BYTES = 16 * 1024 * 1024
MAX_READ_BYTES = 1024 * 1024

OnLine = Callable[[Slot, str, str], None]  # slot, "out" or "err", the line without its end


@dataclass(slots=True)
class _Stream:
    slot: Slot
    name: str
    path: Path
    read_to: int = 0
    rest: bytes = b""


class Relay:
    """Follows the log files of a run. One thread owns it."""

    def __init__(self, on_line: OnLine) -> None:
        self._streams: list[_Stream] = []
        self._followed: set[Slot] = set()
        self._on_line = on_line

    def follow(self, slot: Slot, paths: Mapping[str, Path]) -> None:
        """This slot too. paths: by `out` and `err`."""
        if slot not in self._followed:
            self._followed.add(slot)
            self._streams += [_Stream(slot, name, path) for name, path in paths.items()]

    def turn(self) -> None:
        """Pass on the lines that are whole."""
        for stream in self._streams:
            while self._read(stream):
                pass

    def finish(self) -> None:
        """Pass on everything, half a line too."""
        self.turn()
        for stream in self._streams:
            if stream.rest:
                self._say(stream, stream.rest)
                stream.rest = b""

    def _read(self, stream: _Stream) -> bool:
        try:
            with stream.path.open("rb+") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                file.seek(stream.read_to)
                raw = file.read(MAX_READ_BYTES)
                stream.read_to += len(raw)
                if stream.read_to >= size_bytes > MAX_LOG_BYTES:
                    # The writer appends, so its next line begins at 0 again.
                    file.truncate(0)
                    stream.read_to = 0
        except FileNotFoundError:
            return False
        *lines, stream.rest = (stream.rest + raw).split(b"\n")
        for line in lines:
            self._say(stream, line)
        return len(raw) == MAX_READ_BYTES

    def _say(self, stream: _Stream, line: bytes) -> None:
        self._on_line(stream.slot, stream.name, line.decode(errors="replace"))

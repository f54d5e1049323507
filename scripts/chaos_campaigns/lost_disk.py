"""A disk that forgets, when the power fails, what was never synced.

Decides from the system calls of a process, as strace tells them, what each of its files may hold
afterwards. Rules, stricter than any file system that is in use:
1. Of what was written to a file since its last fsync, any part may be there, in any order.
2. A new file is there if its folder was synced since it was made; a deleted one may be back
   until then, and a renamed one may have its old name.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

CALLS = "openat,pwrite64,write,ftruncate,fdatasync,fsync,unlink,unlinkat,rename,renameat,renameat2"
STRACE = (
    *("strace", "-f", "--seccomp-bpf", "-qq", "-y"),
    *("-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o"),
)
_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_FILE = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call that succeeded. text: what is written, or the new name. number: bytes,
    offset or size, as the call has it."""

    name: str
    path: str
    text: bytes = b""
    number: int = 0
    descriptor: int = -1


def calls_of(lines: Iterable[str]) -> Iterator[Call]:
    """What a log says; a line that was cut off at the end is left out."""
    for line in lines:
        found = _CALL.match(line)
        if found is None or int(found[3]) < 0:
            continue
        name, arguments = found[1], found[2]
        if name.startswith("rename"):
            old, new = map(_bytes, _TEXT.findall(arguments))
            yield Call(name="rename", path=old.decode(), text=new)
            continue
        file, text = _FILE.match(arguments), _TEXT.search(arguments)
        raw = _bytes(text[1]) if text is not None else b""
        last = arguments.rpartition(", ")[2]
        if name in ("unlink", "unlinkat", "openat"):
            if name != "openat" or "O_CREAT" in arguments:
                yield Call(name=name[:6], path=raw.decode())
        elif file is not None:
            number = int(last) if last.isdigit() else 0
            path = _bytes(file[2]).decode(errors="replace")
            yield Call(name=name, path=path, text=raw, number=number, descriptor=int(file[1]))


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


@dataclass(slots=True)
class File:
    """content: what is safe. open: writes and cuts since the last sync."""

    content: bytearray = field(default_factory=bytearray)
    open: list[Call] = field(default_factory=list)
    is_named: bool = False  # a synced folder holds its name
    is_gone: bool = False  # deleted, and the folder not synced since
    was: str = ""  # its name before, until the folder is synced
    size: int = 0  # where a write without an offset goes


class Disk:
    """The files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._files: dict[str, File] = {}

    def feed(self, call: Call) -> None:
        """The process has made this call."""
        if not call.path.startswith(self._folder):
            return
        if call.name in ("fsync", "fdatasync"):
            self._sync(call.path)
        elif call.name == "unlink":
            self._files[call.path].is_gone = True
        elif call.name == "openat":
            found = self._files.get(call.path)
            if found is None or found.is_gone:
                self._files[call.path] = File()
        elif call.name == "rename":
            file = self._files.pop(call.path)
            file.is_named, file.was = False, call.path
            self._files[call.text.decode()] = file
        elif call.name == "write":
            file = self._files[call.path]
            file.open.append(replace(call, name="pwrite64", number=file.size))
            file.size += len(call.text)
        elif call.name in ("pwrite64", "ftruncate"):
            self._files[call.path].open.append(call)

    def _sync(self, path: str) -> None:
        if path in self._files:
            file = self._files[path]
            for call in file.open:
                _apply(file.content, call)
            file.open.clear()
            return
        for name, file in list(self._files.items()):
            if str(Path(name).parent) == path:
                file.is_named, file.was = True, ""
                if file.is_gone:
                    del self._files[name]

    def after_power_loss(self, dice: random.Random, chance: float) -> dict[str, bytes]:
        """What is there when the power is back. chance: of each write that was not synced."""
        found = {}
        for name, file in self._files.items():
            kept = file.is_named or dice.random() < chance
            if not kept or (file.is_gone and dice.random() < chance):
                continue
            content = bytearray(file.content)
            for call in file.open:
                if dice.random() < chance:
                    _apply(content, call)
            found[file.was if file.was and dice.random() < chance else name] = bytes(content)
        return found


def _apply(content: bytearray, call: Call) -> None:
    if call.name == "ftruncate":
        size = call.number
        content[size:] = b""
        content.extend(bytes(size - len(content)))
        return
    end = call.number + len(call.text)
    content.extend(bytes(max(0, end - len(content))))
    content[call.number : end] = call.text

"""The key folder: who is who in a run, as files that only one user can read.

Decides which key belongs to which name, and that a folder somebody else could read or write is
refused. Never shows a secret: not in a repr, an error, an argument or a log.

    coordinator.key   the coordinator's secret    | z85, 40 characters, a newline
    operator.key      may order                   |
    reader.key        may only look               |
    public.json       the public keys of these three, by name
    stages.seed       32 bytes; the keys of all slots come from it
    epoch             a decimal number; `rotate` raises it

The secret of a slot, or of the supervisor of a stage (named `stage:NAME`), is BLAKE2b(key=seed,
person="zflow.curve", data="EPOCH NAME"), so that slots that are added to a running topology have
keys without anybody handing them out. Of each slot the
keys of this epoch and of the one before are accepted (S9). Whoever has the seed can be any slot;
a folder need only hold what its machine uses: `stages.seed`, `epoch` and `public.json` for stages,
`operator.key` or `reader.key` with `public.json` for a person.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zflow.errors import ConfigError, Problem
from zflow.ids import Slot
from zflow.net.curve import COORDINATOR, OPERATOR, READER, SUPERVISOR, Curve, Pair

SEED_BYTES = 32
FIRST_EPOCH = 1
PERSON = b"zflow.curve"
MAX_FILE_BYTES = 64 * 1024
PEOPLE = (COORDINATOR, OPERATOR, READER)
SEED, EPOCH, PUBLIC = "stages.seed", "epoch", "public.json"
NEW_FIX = "make one: zflow keys new DIR"


class PublicKeys(NamedTuple):
    """What may be shown of a folder. name -> public key, z85."""

    epoch: int
    people: dict[str, str]


class KeyFolder:
    """An open key folder. raises: ConfigError for one that others could read, write or swap."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_private(path)
        self._people = _read_public(path)
        self._seed: bytes | None = None
        if (path / SEED).exists():
            self._seed = _read(path / SEED)
            if len(self._seed) != SEED_BYTES:
                raise _refused(path / SEED, f"it holds {len(self._seed)} bytes and not 32", NEW_FIX)
        self.epoch = _read_epoch(path)

    def __repr__(self) -> str:
        return f"KeyFolder({str(self.path)!r}, epoch={self.epoch})"

    def reread(self) -> bool:
        """True if the epoch has changed since; then tell every `Curve` (`Curve.accept`)."""
        before, self.epoch = self.epoch, _read_epoch(self.path)
        return self.epoch != before

    def public(self) -> PublicKeys:
        """What may be shown to anybody."""
        return PublicKeys(self.epoch, dict(self._people))

    def keys_of(self, name: str) -> tuple[str, ...]:
        """The public keys that `name` may come with, the newest first.

        name: a slot, a supervisor ("stage:NAME"), "coordinator", "operator" or "reader".
        raises: ConfigError.
        """
        if name in PEOPLE:
            if name not in self._people:
                raise _refused(self.path / PUBLIC, f"it does not name the {name}", NEW_FIX)
            return (self._people[name],)
        epochs = [self.epoch, self.epoch - 1] if self.epoch > FIRST_EPOCH else [self.epoch]
        return tuple(self._slot_pair(name, epoch).public for epoch in epochs)

    def curve(self, name: str, clients: Iterable[str] = ()) -> Curve:
        """What the process `name` holds. clients: who may connect to it, by name.

        raises: ConfigError if this folder lacks the secret.
        """
        return Curve(name, self._pair(name), self.accepted(clients), self.keys_of)

    def accepted(self, clients: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """What to hand to `Curve.accept`, after `reread` or when slots come and go."""
        return {client: self.keys_of(client) for client in clients}

    def _pair(self, name: str) -> Pair:
        if name not in PEOPLE:
            return self._slot_pair(name, self.epoch)
        path = self.path / f"{name}.key"
        if not path.exists():
            raise _refused(path, "it is not there", f"copy it here to be the {name}")
        secret = _read(path).strip()
        try:
            public = zmq.curve_public(secret).decode()
        except (ValueError, zmq.ZMQError):
            raise _refused(path, "it holds no key", NEW_FIX) from None  # the cause shows the bytes
        if self.keys_of(name) != (public,):
            fix = "they come from different folders: copy both from the same"
            raise _refused(path, f"it does not fit the public key in {PUBLIC}", fix)
        return Pair(public, secret)

    def _slot_pair(self, name: str, epoch: int) -> Pair:
        if not name.startswith(SUPERVISOR):
            try:
                Slot.parse(name)
            except ValueError:
                raise _refused(self.path, f"nobody is called {name!r}", "name a slot") from None
        if self._seed is None:
            fix = "copy it here: whoever runs stages or the coordinator needs it"
            raise _refused(self.path / SEED, "it is not there", fix)
        # The epoch comes first and ends at a space, so that no two inputs are the same bytes.
        data = f"{epoch} {name}".encode()
        raw = hashlib.blake2b(data, digest_size=32, key=self._seed, person=PERSON).digest()
        secret = z85.encode(raw)
        return Pair(zmq.curve_public(secret).decode(), secret)


def new_folder(path: Path) -> KeyFolder:
    """Make a key folder; raises ConfigError if something is there already."""
    if path.is_symlink() or path.exists():
        check_private(path)
        if (path / SEED).exists():
            raise _refused(path, "it holds keys already", "renew them: zflow keys rotate DIR")
        if any(path.iterdir()):
            raise _refused(path, "it is not empty", "name a new folder")
    else:
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            fix = "name a folder in one that you may write to"
            raise _refused(path, f"it cannot be made: {error.strerror}", fix) from error
        path.chmod(0o700)  # a umask may have taken more
    public: dict[str, str] = {}
    for name in PEOPLE:
        key, secret = zmq.curve_keypair()
        public[name] = key.decode()
        _write(path / f"{name}.key", secret + b"\n")
    _write(path / PUBLIC, json.dumps(public, indent=2).encode() + b"\n")
    _write(path / EPOCH, b"%d\n" % FIRST_EPOCH)
    _write(path / SEED, secrets.token_bytes(SEED_BYTES))  # last: with it, the folder is whole
    return KeyFolder(path)


def rotate(path: Path) -> KeyFolder:
    """Raise the epoch, so that every slot gets a new key at its next start."""
    folder = KeyFolder(path)
    renewed = path / f".{EPOCH}.{os.getpid()}"
    with suppress(FileNotFoundError):
        renewed.unlink()
    _write(renewed, b"%d\n" % (folder.epoch + 1))
    renewed.replace(path / EPOCH)
    return KeyFolder(path)


def check_private(path: Path) -> None:
    """Refuse a folder that is a symlink, another user's, or open to others; raises ConfigError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise _refused(path, "there is no such folder", NEW_FIX) from None
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}", NEW_FIX) from error
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "it is a symlink, which may point elsewhere tomorrow", "name its end")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, "it is no folder", NEW_FIX)
    _check_owner(path, found, "chmod 700")


def _check_owner(path: Path, found: os.stat_result, chmod: str) -> None:
    if found.st_uid != os.getuid():
        fix = "use a copy of your own"
        raise _refused(path, f"it belongs to user {found.st_uid}", fix)
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):o}"
        raise _refused(path, f"other users may use it (mode {mode})", f"{chmod} {path}")


def _read(path: Path) -> bytes:
    """A file of the folder, opened first and then looked at, so that nobody swaps it between."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror}", NEW_FIX) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "it is no plain file", NEW_FIX)
        _check_owner(path, found, "chmod 600")
        return file.read(MAX_FILE_BYTES)


def _write(path: Path, raw: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(raw)
        file.flush()
        os.fsync(descriptor)


def _read_public(path: Path) -> dict[str, str]:
    try:
        found = json.loads(_read(path / PUBLIC))
        keys = {name: str(found[name]) for name in PEOPLE if name in found}
        if not all(len(z85.decode(key)) == 32 for key in keys.values()):
            raise ValueError("a key of another length")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refused(path / PUBLIC, f"it holds no public keys: {error}", NEW_FIX) from error
    return keys


def _read_epoch(path: Path) -> int:
    raw = _read(path / EPOCH).strip()
    if not raw.isdigit() or int(raw) < FIRST_EPOCH:
        raise _refused(path / EPOCH, "it holds no epoch", "copy it from the folder it came from")
    return int(raw)


def _refused(path: Path, message: str, fix: str) -> ConfigError:
    return ConfigError(
        [Problem(where=f"keys in {path}", file="", line=0, message=message, fix=fix)]
    )

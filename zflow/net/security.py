"""How a process speaks with others: with the keys of a folder, or plainly on this machine.

Decides which sockets a process has for its name, and keeps the list of those that may connect.
"""

from collections.abc import Iterable
from pathlib import Path

from zflow.net.addresses import check_bind, check_connect
from zflow.net.curve import OPERATOR, READER
from zflow.net.keys import KeyFolder
from zflow.net.sockets import Sockets
from zflow.wire.codec import MsgpackCodec, PickleCodec


class Security:
    """Of one process. keys: a key folder; without one only ipc is spoken, and with
    `insecure_loopback` plain tcp on this machine, which carries plain data and no code.

    raises: ConfigError for a folder that others could use.
    """

    def __init__(self, keys: Path | None = None, *, insecure_loopback: bool = False) -> None:
        self.keys = keys
        self.insecure_loopback = insecure_loopback
        self._folder = KeyFolder(keys) if keys is not None else None
        self._sockets: Sockets | None = None
        self._clients: frozenset[str] = frozenset()

    def sockets(self, name: str, clients: Iterable[str] = ()) -> Sockets:
        """Those of the process `name`. clients: who may connect, see `accept`."""
        curve = None
        if self._folder is not None:
            self._clients = frozenset(clients)
            curve = self._folder.curve(name, self._clients)
        self._sockets = Sockets(curve=curve, insecure_loopback=self.insecure_loopback)
        return self._sockets

    @property
    def person(self) -> str:
        """Who asks: whoever the folder has a key of; an operator if it has both."""
        if self.keys is None or (self.keys / f"{OPERATOR}.key").exists():
            return OPERATOR
        return READER

    def accept(self, clients: Iterable[str]) -> None:
        """From now on these may connect, with the keys that they have now. About once a second."""
        if self._folder is None or self._sockets is None or self._sockets.curve is None:
            return
        wanted = frozenset(clients)
        if self._folder.reread() or wanted != self._clients:
            self._clients = wanted
            self._sockets.curve.accept(self._folder.accepted(wanted))

    def check_bind(self, endpoint: str) -> None:
        """Before anything opens; raises ConfigError."""
        secure = self.keys is not None
        check_bind(endpoint, curve=secure, insecure_loopback=self.insecure_loopback)

    def check_connect(self, endpoint: str) -> None:
        """Before anything opens; raises ConfigError."""
        secure = self.keys is not None
        check_connect(endpoint, curve=secure, insecure_loopback=self.insecure_loopback)

    @property
    def codec(self) -> str:
        """How items travel: pickle runs what it reads, so it goes only where keys are checked or
        nobody else can enter."""
        return MsgpackCodec.name if self.insecure_loopback else PickleCodec.name

    @property
    def ships_code(self) -> bool:
        """Whether the code of a topology may travel."""
        return not self.insecure_loopback

    def options(self) -> list[str]:
        """The same, on the command line of a replica; no secret among them."""
        found = ["--keys", str(self.keys)] if self.keys is not None else []
        return [*found, "--insecure-loopback"] if self.insecure_loopback else found

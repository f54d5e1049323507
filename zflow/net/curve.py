"""CURVE: what a process proves, whom it lets in, and the thread that says so (ZAP, RFC 27).

Decides who a public key is. Never decides what a name may do (`permissions` does), and never shows
a secret. Closed by default: a key that nobody named is refused, and without the authenticator
nobody new comes in at all (S5; `ZAP_ENFORCE_DOMAIN`, F24).
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils import z85

from zflow.net.poll import Waiter

_LOG = logging.getLogger("zflow.net")

COORDINATOR, OPERATOR, READER = "coordinator", "operator", "reader"
SUPERVISOR = "stage:"  # of a stage: the name of its supervisor begins with this
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"zflow"
ZAP_VERSION = b"1.0"
ZAP_PARTS = 7  # version, request id, domain, address, routing id, mechanism, the CURVE key
LOOK_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A CURVE key pair, z85. Its repr shows no secret."""

    public: str
    secret: bytes = field(repr=False)


class Curve:
    """Everything a process needs to speak CURVE. Safe from every thread.

    name: its own, a slot or "coordinator", "operator", "reader". clients: by name, the public keys
    that may connect here. servers: the public keys that a name may answer with, the newest first.
    """

    def __init__(
        self,
        name: str,
        pair: Pair,
        clients: Mapping[str, Collection[str]],
        servers: Callable[[str], tuple[str, ...]],
    ) -> None:
        self.name = name
        self.pair = pair
        self.servers = servers
        self._name_of: dict[str, str] = {}
        self.accept(clients)

    def __repr__(self) -> str:
        return f"Curve({self.name!r}, public={self.pair.public!r})"

    def accept(self, clients: Mapping[str, Collection[str]]) -> None:
        """From now on exactly these may connect; a connection of any other key, even one that
        stands, delivers nothing more (libzmq cannot close it).

        raises: ValueError if one key is given to two names: it would be either of them.
        """
        name_of: dict[str, str] = {}
        for name, keys in clients.items():
            for key in keys:
                if name_of.setdefault(key, name) != name:
                    raise ValueError(f"{name} and {name_of[key]} have the same key")
        self._name_of = name_of  # replaced as a whole: the authenticator reads it meanwhile

    def name_of(self, key: str) -> str | None:
        """Whose public key that is; None for one that is not (or no longer) accepted."""
        return self._name_of.get(key)

    def identity_of(self, part: "zmq.Frame") -> str | None:
        """Who has sent this message; None if its sender is no longer accepted."""
        try:
            return self._name_of.get(part.get("User-Id"))  # type: ignore[arg-type]
        except zmq.ZMQError:  # it came over a connection that was never authenticated
            return None

    def be_server(self, socket: "zmq.Socket[bytes]") -> None:
        """Before bind: only accepted keys come in."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._be(socket)

    def be_client(self, socket: "zmq.Socket[bytes]", peer: str, attempt: int = 0) -> None:
        """Before connect: only `peer` can answer. attempt: which of its keys to expect."""
        keys = self.servers(peer)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys[attempt % len(keys)].encode())
        self._be(socket)

    def _be(self, socket: "zmq.Socket[bytes]") -> None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.pair.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


class Authenticator:
    """The thread that libzmq asks about every new connection of a context; one per process (F25).

    It is there before the constructor returns, so before anything is bound. When it ends, for
    whatever reason, its socket goes with it, and every handshake from then on fails.
    """

    def __init__(self, context: "zmq.Context[Any]", curve: Curve) -> None:
        self._curve = curve
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)
        self._waiter = Waiter([self._socket])
        self._stopping = False
        self.refused = 0  # connections
        self.last_refused = ""  # address and public key, for the person who has to add it
        self._thread = threading.Thread(target=self._run, name="zflow-zap", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once nobody new is let in."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread; connections that stand go on, new ones fail. Twice is harmless."""
        if self._stopping:
            return
        self._stopping = True
        self._waiter.wake()
        self._thread.join()
        self._waiter.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                if self._waiter.wait(LOOK_UP_S):
                    self._answer(self._socket.recv_multipart())
        except Exception:  # noqa: BLE001 - a thread of its own: nobody else would ever hear of it
            _LOG.exception("the authenticator has failed: no new connection is accepted")
        finally:
            self._socket.close()

    def _answer(self, request: list[bytes]) -> None:
        """One ZAP request, one reply: 200 with the key as the user id, or 400."""
        version, number = (request + [b"", b""])[:2]
        key = _key_in(request)
        name = self._curve.name_of(key) if key else None
        if name is None:
            self.refused += 1
            address = request[3].decode(errors="replace") if len(request) > 3 else ""
            self.last_refused = f"{key or 'no CURVE key'} from {address or 'this machine'}"
            _LOG.debug("refused %s", self.last_refused)
            self._socket.send_multipart([version, number, b"400", b"not on the list", b"", b""])
            return
        # The key and not the name: so that a key that is taken off the list is nobody's at once.
        self._socket.send_multipart([version, number, b"200", b"OK", key.encode(), b""])


def _key_in(request: list[bytes]) -> str:
    """The client's public key in a ZAP request, z85; empty if it is no request of ours."""
    if len(request) != ZAP_PARTS or request[0] != ZAP_VERSION or request[2] != ZAP_DOMAIN:
        return ""
    if request[5] != b"CURVE" or len(request[6]) != 32:
        return ""
    return z85.encode(request[6]).decode()

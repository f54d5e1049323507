"""Every ZeroMQ socket of a process: made with the same options, owned in one place, closed there.

Decides options, never what is sent. A PUSH has exactly one peer (F5); nothing may rely on linger
(F10, F11); options are set before bind or connect (F6).
"""

import resource
from contextlib import suppress
from pathlib import Path

import zmq

from zflow.errors import ConfigError, Problem, Unavailable
from zflow.paths import MAX_IPC_PATH_BYTES
from zflow.wire.data import MAX_FRAME_BYTES

FDS_AT_REST = 64  # Python, logs, the context's own
FDS_PER_LINK = 4  # a PUSH with its connection at one end, the accepted one, its way back
RECONNECT_FIRST_S = 0.01
RECONNECT_MAX_S = 1.0
HANDSHAKE_S = 3.0  # a peer that accepts and says nothing is tried again (libzmq's own: 30 s)
COPIED_BYTES = 256 * 1024  # below it, copying costs less than giving the buffer back
MAX_MESSAGE_BYTES = 2 * MAX_FRAME_BYTES  # an encoded message may overshoot by one item


def check_fds(links: int) -> None:
    """Raise the soft limit of open files to the hard one; refuse if `links` links do not fit.

    libzmq aborts the process when accept runs out of descriptors (F18), so this comes first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    need = 2 * (FDS_AT_REST + FDS_PER_LINK * links)
    if hard != resource.RLIM_INFINITY and hard < need:
        raise ConfigError(
            [
                Problem(
                    where="open files",
                    file="",
                    line=0,
                    message=f"{links} links need up to {need} and the limit is {hard}",
                    fix="raise it (ulimit -Hn) or use fewer replicas",
                )
            ]
        )


def check_endpoint(endpoint: str) -> None:
    """Refuse an ipc path that the kernel would cut."""
    path = endpoint.removeprefix("ipc://")
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        raise Unavailable(f"{path} is longer than {MAX_IPC_PATH_BYTES} bytes")


class Sockets:
    """The context of a process and all sockets made from it. Closing it never blocks."""

    def __init__(self, max_sockets: int = 1023) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, max(1023, max_sockets))
        self._open: set[zmq.Socket[bytes]] = set()

    def _make(self, kind: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, int(RECONNECT_FIRST_S * 1000))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(RECONNECT_MAX_S * 1000))
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
        socket.setsockopt(zmq.BACKLOG, 1024)
        self._open.add(socket)
        return socket

    def pull(self, endpoint: str) -> "zmq.Socket[bytes]":
        """A bound PULL without a high-water mark: credit is what bounds it.

        The caller holds the slot's lock, so a socket file that is there is a dead process's.
        """
        socket = self._make(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, 0)
        self._bind(socket, endpoint)
        return socket

    def push(self, endpoint: str, high_water: int) -> "zmq.Socket[bytes]":
        """A PUSH connected to one peer; it takes nothing until the connection stands (F3, F7)."""
        check_endpoint(endpoint)
        socket = self._make(zmq.PUSH)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.copy_threshold = COPIED_BYTES
        socket.setsockopt(zmq.SNDHWM, high_water)
        socket.connect(endpoint)
        return socket

    def router(self, *endpoints: str) -> "zmq.Socket[bytes]":
        """The coordinator's end of the control links."""
        socket = self._make(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        for endpoint in endpoints:
            self._bind(socket, endpoint)
        return socket

    def dealer(self, endpoint: str) -> "zmq.Socket[bytes]":
        """A replica's end of its control link."""
        check_endpoint(endpoint)
        socket = self._make(zmq.DEALER)
        socket.connect(endpoint)
        return socket

    def publisher(self, *endpoints: str) -> "zmq.Socket[bytes]":
        """The coordinator's numbered updates."""
        socket = self._make(zmq.PUB)
        for endpoint in endpoints:
            self._bind(socket, endpoint)
        return socket

    def subscriber(self, endpoint: str) -> "zmq.Socket[bytes]":
        """A replica's view of them."""
        check_endpoint(endpoint)
        socket = self._make(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        return socket

    def _bind(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        check_endpoint(endpoint)
        if endpoint.startswith("ipc://"):
            with suppress(FileNotFoundError):
                Path(endpoint.removeprefix("ipc://")).unlink()
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise Unavailable(f"{endpoint}: {error}") from error

    def close(self, socket: "zmq.Socket[bytes]") -> None:
        """Close one socket."""
        self._open.discard(socket)
        socket.close()

    def close_all(self) -> None:
        """Close whatever is open, then the context; with linger 0 nothing can hold it up."""
        for socket in list(self._open):
            self.close(socket)
        self._context.term()

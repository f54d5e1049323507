"""Every ZeroMQ socket of a process: made with the same options, owned in one place, closed there.

Decides options, never what is sent. A PUSH has exactly one peer (F5); nothing may rely on linger
(F10, F11); options are set before bind or connect (F6). With a `Curve` every socket is CURVE, who
binds is the server, and the authenticator is there before anything is (F24, F25).
"""

import resource
from contextlib import suppress
from pathlib import Path

import zmq

from zflow.clock import Clock
from zflow.errors import ConfigError, Problem, Unavailable
from zflow.net.addresses import check_bind, check_connect, parse_tcp
from zflow.net.curve import COORDINATOR, Authenticator, Curve
from zflow.net.monitor import NO_DETAIL, Failure, Monitor
from zflow.paths import MAX_IPC_PATH_BYTES
from zflow.wire.data import MAX_FRAME_BYTES

FDS_AT_REST = 64  # Python, logs, the context's own
FDS_PER_LINK = 4  # a PUSH with its connection at one end, the accepted one, its way back
FDS_PER_MONITORED_LINK = 6  # its PUSH has a monitor, which is two sockets
SOCKETS_PER_MONITORED = 3
RECONNECT_FIRST_S = 0.01
RECONNECT_MAX_S = 1.0
HANDSHAKE_S = 3.0  # a peer that accepts and says nothing is tried again (libzmq's own: 30 s)
MIRROR_HIGH_WATER = 4  # messages for somebody who looks; what he does not take is dropped
COPIED_BYTES = 256 * 1024  # below it, copying costs less than giving the buffer back
# A host that is gone says nothing. Keepalive finds an idle connection to it, ZMTP's own heartbeat
# one with data under way, which TCP alone would repeat for a quarter of an hour (F20).
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 10, 5, 3
HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 2.0, 6.0
MAX_MESSAGE_BYTES = 2 * MAX_FRAME_BYTES  # an encoded message may overshoot by one item


def check_fds(links: int, *, curve: bool = False) -> None:
    """Raise the soft limit of open files to the hard one; refuse if `links` links do not fit.

    curve: each of them is monitored.

    libzmq aborts the process when accept runs out of descriptors (F18), so this comes first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    need = 2 * (FDS_AT_REST + (FDS_PER_MONITORED_LINK if curve else FDS_PER_LINK) * links)
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
    """Refuse an ipc path that the kernel would cut; of tcp, `addresses` knows all."""
    if not endpoint.startswith("ipc://"):
        return
    path = endpoint.removeprefix("ipc://")
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        raise Unavailable(f"{path} is longer than {MAX_IPC_PATH_BYTES} bytes")


class Sockets:
    """The context of a process and all sockets made from it. Closing it never blocks.

    curve: who this process is and whom it lets in; without, only ipc is spoken.
    insecure_loopback: plain tcp on this machine's own address is spoken too.
    """

    def __init__(
        self,
        max_sockets: int = 1023,
        *,
        curve: Curve | None = None,
        insecure_loopback: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.curve = curve
        self._insecure_loopback = insecure_loopback
        self._context = zmq.Context()
        most = max(1023, max_sockets)
        most *= SOCKETS_PER_MONITORED if curve is not None else 1
        self._context.set(zmq.MAX_SOCKETS, most)
        self._open: set[zmq.Socket[bytes]] = set()
        self.authenticator: Authenticator | None = None
        self._monitor: Monitor | None = None
        self._dialled: dict[zmq.Socket[bytes], _Dialled] = {}
        if curve is not None:
            self.authenticator = Authenticator(self._context, curve)
            self._monitor = Monitor(self._context, clock or Clock())

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

    def push(self, endpoint: str, high_water: int, peer: str = "") -> "zmq.Socket[bytes]":
        """A PUSH connected to one peer; it takes nothing until the connection stands (F3, F7).

        peer: with CURVE, the slot that alone can answer there.
        """
        socket = self._make(zmq.PUSH)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.copy_threshold = COPIED_BYTES
        socket.setsockopt(zmq.SNDHWM, high_water)
        self._connect(socket, endpoint, peer)
        return socket

    def router(self, endpoint: str) -> "zmq.Socket[bytes]":
        """The coordinator's end of the control links."""
        socket = self._make(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._bind(socket, endpoint)
        return socket

    def dealer(self, endpoint: str, peer: str = COORDINATOR) -> "zmq.Socket[bytes]":
        """A replica's end of its control link."""
        socket = self._make(zmq.DEALER)
        self._connect(socket, endpoint, peer)
        return socket

    def publisher(self, endpoint: str) -> "zmq.Socket[bytes]":
        """The coordinator's numbered updates."""
        socket = self._make(zmq.PUB)
        self._bind(socket, endpoint)
        return socket

    def subscriber(self, endpoint: str, peer: str = COORDINATOR) -> "zmq.Socket[bytes]":
        """A replica's view of them."""
        socket = self._make(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._connect(socket, endpoint, peer)
        return socket

    def mirror(self, endpoint: str) -> "zmq.Socket[bytes]":
        """A bound PUB whose slow subscribers lose messages at once, and hold hardly any."""
        socket = self._make(zmq.PUB)
        socket.setsockopt(zmq.SNDHWM, MIRROR_HIGH_WATER)
        socket.copy_threshold = COPIED_BYTES
        self._bind(socket, endpoint)
        return socket

    def onlooker(self, topic: bytes) -> "zmq.Socket[bytes]":
        """The other end, not connected yet."""
        socket = self._make(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, MIRROR_HIGH_WATER)
        socket.setsockopt(zmq.SUBSCRIBE, topic)
        return socket

    def endpoint_of(self, socket: "zmq.Socket[bytes]") -> str:
        """What was bound, with the port that port 0 became."""
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        try:
            check_endpoint(endpoint)
            secure = self.curve is not None
            check_bind(endpoint, curve=secure, insecure_loopback=self._insecure_loopback)
            _prepare_tcp(socket, endpoint)
            if self.curve is not None:
                self.curve.be_server(socket)
            if self._monitor is not None:
                self._monitor.watch(socket, endpoint, is_server=True)
            if endpoint.startswith("ipc://"):
                with suppress(FileNotFoundError):
                    Path(endpoint.removeprefix("ipc://")).unlink()
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close(socket)
            raise Unavailable(f"{endpoint} cannot be bound: {error.strerror}") from error
        except Exception:
            self.close(socket)  # or it stays open with nobody to close it
            raise
        if self._monitor is not None:
            self._monitor.rename(socket, self.endpoint_of(socket))

    def _connect(self, socket: "zmq.Socket[bytes]", endpoint: str, peer: str) -> None:
        try:
            check_endpoint(endpoint)
            secure = self.curve is not None
            check_connect(endpoint, curve=secure, insecure_loopback=self._insecure_loopback)
            _prepare_tcp(socket, endpoint)
            if self.curve is not None:
                self.curve.be_client(socket, peer)
                self._dialled[socket] = _Dialled(endpoint, peer)
            if self._monitor is not None:
                self._monitor.watch(socket, peer, is_server=False)
            socket.connect(endpoint)
        except Exception:
            self.close(socket)
            raise

    # -- handshakes --------------------------------------------------------------------------

    def handshake_failures(self) -> dict[str, Failure]:
        """Which handshakes have failed: by peer where this process dials, by endpoint where it
        binds. Dials again whoever has failed. Empty without CURVE.

        To be called about once a second by a thread that may use every socket (the replica's
        control thread under the reactor's lock). Never blocks.
        """
        if self._monitor is None:
            return {}
        for socket, code in self._monitor.turn().items():
            self._dial_again(socket, code)
        return self._monitor.failures()

    def _dial_again(self, socket: "zmq.Socket[bytes]", code: str) -> None:
        # libzmq never dials again after a refusal, and for ever with the same key after a server
        # that is not who it should be; but lists are amended, and a peer restarts with a new key.
        dialled = self._dialled.get(socket)
        if dialled is None or self.curve is None:
            return
        if code == NO_DETAIL and len(self.curve.servers(dialled.peer)) == 1:
            return  # libzmq does dial again, and there is no other key to try
        dialled.attempt += 1
        self.curve.be_client(socket, dialled.peer, dialled.attempt)
        with suppress(zmq.ZMQError):  # it knows nothing of this endpoint any more
            socket.disconnect(dialled.endpoint)
        socket.connect(dialled.endpoint)

    # -- the end -----------------------------------------------------------------------------

    def close(self, socket: "zmq.Socket[bytes]") -> None:
        """Close one socket."""
        self._open.discard(socket)
        self._dialled.pop(socket, None)
        if self._monitor is not None:
            self._monitor.forget(socket)
        socket.close()

    def close_all(self) -> None:
        """Close whatever is open, then the context; with linger 0 nothing can hold it up."""
        for socket in list(self._open):
            self.close(socket)
        if self.authenticator is not None:
            self.authenticator.stop()
        self._context.term()


class _Dialled:
    """Where a socket is connected to, and how often it had to be connected again."""

    __slots__ = ("attempt", "endpoint", "peer")

    def __init__(self, endpoint: str, peer: str) -> None:
        self.endpoint = endpoint
        self.peer = peer
        self.attempt = 0


def _prepare_tcp(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    """What a connection between machines needs and one on a machine does not."""
    if not endpoint.startswith("tcp://"):
        return
    if parse_tcp(endpoint).is_ipv6:
        # Not for a name: libzmq would then take its IPv6 address alone, where perhaps nobody is.
        socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(HEARTBEAT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(HEARTBEAT_TIMEOUT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TTL, int(HEARTBEAT_TIMEOUT_S * 1000))

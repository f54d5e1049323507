"""The data sockets of one replica: carries out what the core asks, and hands it what arrives.

Decides nothing about units. Under the reactor's lock; never blocks. With CURVE every message says
who sent it, and one that speaks for somebody else is dropped before anybody looks at it (S7).
"""

import logging
from collections.abc import Callable
from typing import Any

import zmq

from zflow.errors import ConfigError, ProtocolError, Unavailable
from zflow.net.curve import Curve
from zflow.net.identity import Identities
from zflow.net.sockets import Sockets
from zflow.protocol.actions import Dial, Hangup, LinkKey, Reply, Send
from zflow.wire import data
from zflow.wire.codec import Parts

_LOG = logging.getLogger("zflow.net")

IN_PER_STEP = 256  # messages; a step stays short, the rest waits for the next
TRIP_WIRE = 4096  # messages on one PUSH; credit stops the sender long before

Ready = list[tuple[Any, int]]  # sockets with their events
FrameHandler = Callable[[data.Frame, Parts | None], None]


class DataLinks:
    """All data sockets of one replica."""

    def __init__(self, sockets: Sockets, endpoints: Callable[[LinkKey], str]) -> None:
        self._sockets = sockets
        self._endpoint_of = endpoints
        self._in: zmq.Socket[bytes] | None = None
        self._arrivals: list[tuple[Any, int]] = []
        self._ack: zmq.Socket[bytes] | None = None
        self._out: dict[LinkKey, zmq.Socket[bytes]] = {}
        self._back: dict[LinkKey, tuple[str, int, zmq.Socket[bytes]]] = {}
        self.bad_frames = 0
        self.tap: Callable[[Send], None] | None = None  # while somebody looks at what is sent
        self.bad_identity = 0  # frames that somebody sent in another one's name
        self._take = self._take_any
        self._secure = sockets.curve is not None
        if sockets.curve is not None:
            self._curve: Curve = sockets.curve
            self._identities = Identities()
            self._take = self._take_known

    def bind(self, in_endpoint: str | None, ack_endpoint: str | None) -> None:
        """Bind before anything connects; a source has no `in`, a sink no `ack`."""
        if in_endpoint is not None:
            self._in = self._sockets.pull(in_endpoint)
        if ack_endpoint is not None:
            self._ack = self._sockets.pull(ack_endpoint)
        self._arrivals = [(socket, zmq.POLLIN) for socket in self.pollable()]

    def endpoints(self) -> tuple[str, str]:
        """Where `in` and `ack` are bound, with the ports that port 0 became; "" for neither."""
        bound = (self._in, self._ack)
        told = ("" if socket is None else self._sockets.endpoint_of(socket) for socket in bound)
        incoming, acknowledgements = told
        return incoming, acknowledgements

    def pollable(self) -> "list[zmq.Socket[bytes]]":
        """What an idle data thread waits on."""
        return [socket for socket in (self._ack, self._in) if socket is not None]

    # -- out ---------------------------------------------------------------------------------

    def dial(self, action: Dial) -> None:
        """A fresh socket for the link; whatever the old one still held is gone with it."""
        self.hangup(Hangup(action.link))
        endpoint = self._endpoint_of(action.link)
        self._out[action.link] = self._sockets.push(endpoint, TRIP_WIRE, action.link[1])

    def hangup(self, action: Hangup) -> None:
        """Close the link's socket."""
        old = self._out.pop(action.link, None)
        if old is not None:
            self._sockets.close(old)

    def send(self, action: Send) -> bool:
        """False if the socket does not take it now."""
        socket = self._out.get(action.link)
        if socket is None:
            return False
        if self._secure and type(action.frame) is data.Hello:
            self._identities.dialled(action.link, action.frame.token)
        payload = action.payload.parts if action.payload is not None else ()  # type: ignore[attr-defined]
        sent = _try_send(socket, data.encode_parts(action.frame, payload))
        if self.tap is not None and sent:
            self.tap(action)
        return sent

    def reply(self, action: Reply) -> bool:
        """False if the socket does not take it now."""
        known = self._back.get(action.link)
        if known is None or known[:2] != (action.endpoint, action.incarnation):
            if known is not None:
                if known[1] > action.incarnation:
                    return True  # an answer to a zombie is not worth a socket
                self._sockets.close(known[2])
                del self._back[action.link]
            try:
                socket = self._sockets.push(action.endpoint, TRIP_WIRE, action.link[1])
            except (ConfigError, Unavailable, zmq.ZMQError):
                self.bad_frames += 1  # the peer has named an address that is none
                return True
            known = self._back[action.link] = (action.endpoint, action.incarnation, socket)
        return _try_send(known[2], data.encode_parts(action.frame))

    # -- in ----------------------------------------------------------------------------------

    def receive(
        self, on_reply: FrameHandler, on_frame: FrameHandler, known: Ready | None = None
    ) -> int:
        """Hand over what has arrived, acknowledgements first; how many messages that was.

        known: what a wait has just found; then only the first message of each is taken, so that
        it is executed before anybody looks for a second.
        """
        count = 0
        while count < IN_PER_STEP:
            # Cheaper than to be told EAGAIN by an exception, and one call asks for both.
            ready = known or zmq.zmq_poll(self._arrivals, 0)
            if not ready:
                break
            for socket, _ in ready:
                self._take(socket, on_reply if socket is self._ack else on_frame)
            count += len(ready)
            if known:
                break
        return count

    def _take_any(self, socket: Any, handle: FrameHandler) -> None:
        """One message; its first part says how many more there are."""
        try:
            parts = [socket.recv(zmq.NOBLOCK)]
        except zmq.Again:  # the other thread has taken what a wait had found
            return
        try:
            for _ in range(data.parts_behind(parts[0])):
                parts.append(socket.recv(zmq.NOBLOCK))
            frame, payload = data.decode_parts(parts)
        except (ProtocolError, zmq.Again):
            # Nobody in this run sends such a frame; the link notices the gap and dials again.
            self.bad_frames += 1
            _drop_rest(socket)
            return
        handle(frame, Parts(payload) if payload else None)

    def _take_known(self, socket: Any, handle: FrameHandler) -> None:
        """The same with CURVE. Who sent it is asked of the message itself, and before its
        fields are looked at: a connection outlives the list that let it in."""
        try:
            part = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        identity = self._curve.identity_of(part)
        if identity is None:
            _drop_rest(socket)
            self._impostor("a key that is no longer accepted")
            return
        parts = [part.bytes]
        try:
            behind = data.parts_behind(parts[0])
            while part.more and len(parts) <= behind:  # never the next message's
                part = socket.recv(zmq.NOBLOCK, copy=False)
                parts.append(part.bytes)
            if part.more or len(parts) <= behind:
                raise ProtocolError("a message has as many parts as its first one says")
            frame, payload = data.decode_parts(parts)
        except (ProtocolError, zmq.Again):
            self.bad_frames += 1
            _drop_rest(socket)
            return
        allowed = self._identities.answers if socket is self._ack else self._identities.speaks
        if allowed(identity, frame):
            handle(frame, Parts(payload) if payload else None)
        else:
            self._impostor(identity)

    def _impostor(self, who: str) -> None:
        self.bad_identity += 1
        if self.bad_identity == 1:
            _LOG.warning("a frame of %s speaks for somebody else: dropped, as all like it are", who)


def _drop_rest(socket: Any) -> None:
    """Or the other parts of a message would be taken for messages."""
    while socket.get(zmq.RCVMORE):
        socket.recv(zmq.NOBLOCK)


def _try_send(socket: "zmq.Socket[bytes]", parts: "list[bytes | memoryview]") -> bool:
    try:
        if len(parts) == 1:
            socket.send(parts[0], zmq.NOBLOCK)
        else:
            socket.send_multipart(parts, zmq.NOBLOCK, copy=False)  # from COPIED_BYTES on
    except zmq.Again:
        return False
    return True

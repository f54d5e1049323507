"""The data sockets of one replica: carries out what the core asks, and hands it what arrives.

Decides nothing about units. Under the reactor's lock; never blocks.
"""

from collections.abc import Callable
from typing import Any

import zmq

from zflow.errors import ProtocolError
from zflow.net.sockets import Sockets
from zflow.protocol.actions import Dial, Hangup, LinkKey, Reply, Send
from zflow.wire import data
from zflow.wire.codec import Parts

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

    def bind(self, in_endpoint: str | None, ack_endpoint: str | None) -> None:
        """Bind before anything connects; a source has no `in`, a sink no `ack`."""
        if in_endpoint is not None:
            self._in = self._sockets.pull(in_endpoint)
        if ack_endpoint is not None:
            self._ack = self._sockets.pull(ack_endpoint)
        self._arrivals = [(socket, zmq.POLLIN) for socket in self.pollable()]

    def pollable(self) -> "list[zmq.Socket[bytes]]":
        """What an idle data thread waits on."""
        return [socket for socket in (self._ack, self._in) if socket is not None]

    # -- out ---------------------------------------------------------------------------------

    def dial(self, action: Dial) -> None:
        """A fresh socket for the link; whatever the old one still held is gone with it."""
        self.hangup(Hangup(action.link))
        self._out[action.link] = self._sockets.push(self._endpoint_of(action.link), TRIP_WIRE)

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
            socket = self._sockets.push(action.endpoint, TRIP_WIRE)
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

    def _take(self, socket: Any, handle: FrameHandler) -> None:
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
            while socket.get(zmq.RCVMORE):  # or its other parts would be taken for messages
                socket.recv(zmq.NOBLOCK)
            return
        handle(frame, Parts(payload) if payload else None)


def _try_send(socket: "zmq.Socket[bytes]", parts: "list[bytes | memoryview]") -> bool:
    try:
        if len(parts) == 1:
            socket.send(parts[0], zmq.NOBLOCK)
        else:
            socket.send_multipart(parts, zmq.NOBLOCK, copy=False)  # from COPIED_BYTES on
    except zmq.Again:
        return False
    return True

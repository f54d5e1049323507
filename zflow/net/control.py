"""The control sockets: ROUTER and PUB at the coordinator, DEALER and SUB at each replica.

Decides nothing. Identities travel in the messages, not in routing ids (F27); with CURVE the key
behind each message says whether that is true.
"""

from typing import NamedTuple

import zmq

from zflow.clock import Clock, Deadline
from zflow.errors import ProtocolError, Unavailable
from zflow.net.curve import COORDINATOR, Curve
from zflow.net.sockets import Sockets
from zflow.wire import control

LOOK_EVERY_S = 0.25  # for a handshake that fails, while somebody waits for an answer


class Peer(NamedTuple):
    """Whom to answer. identity: who that is by his key; None without CURVE (`permissions`)."""

    route: bytes
    identity: str | None


class ControlServer:
    """The coordinator's end. One thread owns it. endpoints: all of them answer alike."""

    def __init__(self, sockets: Sockets, *endpoints: str) -> None:
        self._sockets = sockets
        self._router = sockets.router(*endpoints)
        self._publisher = sockets.publisher(*map(control.updates_of, endpoints))
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)

    def watch(self, descriptor: int) -> None:
        """Let `wait` end when this descriptor becomes readable."""
        self._poller.register(descriptor, zmq.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """The inverse of `watch`."""
        self._poller.unregister(descriptor)

    def wait(self, timeout_s: float) -> set[int]:
        """Block until something is there; the watched descriptors that are readable."""
        ready = self._poller.poll(int(max(0.0, timeout_s) * 1000 + 0.999))
        return {what for what, _ in ready if isinstance(what, int)}

    def endpoints(self) -> tuple[str, str]:
        """Where control and updates are bound, with the ports that port 0 became."""
        bound = (self._router, self._publisher)
        control_endpoint, updates_endpoint = map(self._sockets.endpoint_of, bound)
        return control_endpoint, updates_endpoint

    def receive(self) -> "list[tuple[Peer, control.Message]]":
        """Everything that has arrived, with whom to answer; malformed ones are left out, and with
        CURVE those of a key that is no longer accepted."""
        messages: list[tuple[Peer, control.Message]] = []
        while True:
            try:
                peer, raw = self._receive_one()
            except zmq.Again:
                return messages
            except ValueError:  # not two parts: no replica of ours
                continue
            try:
                if peer is not None:
                    messages.append((peer, control.decode(raw)))
            except ProtocolError:
                continue

    def _receive_one(self) -> tuple[Peer | None, bytes]:
        curve = self._sockets.curve
        if curve is None:
            route, raw = self._router.recv_multipart(zmq.NOBLOCK)
            return Peer(route, None), raw
        first, second = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        identity = curve.identity_of(second)  # the first was made by the ROUTER
        return Peer(first.bytes, identity) if identity is not None else None, second.bytes

    def send(self, peer: Peer, message: control.Message) -> None:
        """Answer one replica; one that is gone registers again when it is back."""
        try:
            self._router.send_multipart([peer.route, control.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def publish(self, message: control.Message) -> None:
        """To every subscriber that keeps up; the numbers show a gap to the others."""
        self._publisher.send(control.encode(message), zmq.NOBLOCK)


class ControlClient:
    """A replica's or a supervisor's end. One thread owns it."""

    def __init__(self, sockets: Sockets, endpoint: str) -> None:
        # First: nothing falls between the snapshot and the updates (the guide's Clone pattern).
        self._subscriber = sockets.subscriber(control.updates_of(endpoint))
        self._dealer = sockets.dealer(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._dealer, zmq.POLLIN)
        self._poller.register(self._subscriber, zmq.POLLIN)

    def watch(self, descriptor: int) -> None:
        """Let `wait` end when this descriptor becomes readable."""
        self._poller.register(descriptor, zmq.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """The inverse of `watch`."""
        self._poller.unregister(descriptor)

    def wait(self, timeout_s: float) -> set[int]:
        """Block until something is there; the watched descriptors that are readable."""
        ready = self._poller.poll(int(max(0.0, timeout_s) * 1000 + 0.999))
        return {what for what, _ in ready if isinstance(what, int)}

    def receive(self) -> "list[control.Message]":
        """Everything that has arrived; malformed messages are left out."""
        messages: list[control.Message] = []
        for socket in (self._dealer, self._subscriber):
            while True:
                try:
                    messages.append(control.decode(socket.recv(zmq.NOBLOCK)))
                except zmq.Again:
                    break
                except ProtocolError:
                    continue
        return messages

    def send(self, message: control.Message) -> None:
        """Never blocks; a lost report is followed by the next."""
        try:
            self._dealer.send(control.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return


def ask(
    endpoint: str, question: control.Message, *, within_s: float, curve: Curve | None = None
) -> control.Message | None:
    """A coordinator's answer to somebody who is not part of its run; None if there is none in time.

    raises: ProtocolError if it answers with what is no message; Unavailable if its key or ours is
    refused.
    """
    sockets = Sockets(curve=curve)
    deadline = Deadline(Clock(), within_s)
    try:
        dealer = sockets.dealer(endpoint)
        dealer.send(control.encode(question))
        while not dealer.poll(int(min(LOOK_EVERY_S, deadline.left_s()) * 1000 + 0.999)):
            failure = sockets.handshake_failures().get(COORDINATOR)
            if failure is not None:
                raise Unavailable(f"{endpoint}: {failure.reason}")
            if deadline.passed():
                return None
        answer: control.Message = control.decode(dealer.recv())
        return answer
    finally:
        sockets.close_all()

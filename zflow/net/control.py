"""The control sockets: ROUTER and PUB at the coordinator, DEALER and SUB at each replica.

Decides nothing. Identities travel in the messages, not in routing ids (F27); with CURVE the key
behind each message says whether that is true.
"""

from typing import NamedTuple

import zmq

from zflow.clock import Clock, Deadline
from zflow.errors import ProtocolError, Unavailable
from zflow.net.curve import COORDINATOR
from zflow.net.monitor import Failure
from zflow.net.security import Security
from zflow.net.sockets import Sockets
from zflow.wire import control

LOOK_EVERY_S = 0.25  # for a handshake that fails, while somebody waits for an answer


class Peer(NamedTuple):
    """Whom to answer. identity: who that is by his key; None without CURVE (`permissions`).

    door: the how-manieth endpoint it came to.
    """

    route: bytes
    identity: str | None
    door: int = 0


class _Door(NamedTuple):
    sockets: Sockets
    router: "zmq.Socket[bytes]"
    publisher: "zmq.Socket[bytes]"


class ControlServer:
    """The coordinator's end. One thread owns it.

    doors: endpoints, each with the context that binds it: one may ask for keys where another, in a
    folder that only this user can enter, need not. All of them answer alike.
    """

    def __init__(self, *doors: tuple[Sockets, str]) -> None:
        self._doors = [
            _Door(
                sockets,
                sockets.router(endpoint),
                sockets.publisher(control.updates_of(endpoint)),
            )
            for sockets, endpoint in doors
        ]
        self._poller = zmq.Poller()
        for door in self._doors:
            self._poller.register(door.router, zmq.POLLIN)

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

    def receive(self) -> "list[tuple[Peer, control.Message]]":
        """Everything that has arrived, with whom to answer; malformed ones are left out, and with
        CURVE those of a key that is no longer accepted."""
        messages: list[tuple[Peer, control.Message]] = []
        for number in range(len(self._doors)):
            self._receive_at(number, messages)
        return messages

    def _receive_at(self, number: int, messages: "list[tuple[Peer, control.Message]]") -> None:
        while True:
            try:
                peer, raw = self._receive_one(number)
            except zmq.Again:
                return
            except ValueError:  # not two parts: no replica of ours
                continue
            try:
                if peer is not None:
                    messages.append((peer, control.decode(raw)))
            except ProtocolError:
                continue

    def _receive_one(self, number: int) -> tuple[Peer | None, bytes]:
        door = self._doors[number]
        curve = door.sockets.curve
        if curve is None:
            route, raw = door.router.recv_multipart(zmq.NOBLOCK)
            return Peer(route, None, number), raw
        first, second = door.router.recv_multipart(zmq.NOBLOCK, copy=False)
        identity = curve.identity_of(second)  # the first was made by the ROUTER
        known = Peer(first.bytes, identity, number) if identity is not None else None
        return known, second.bytes

    def send(self, peer: Peer, message: control.Message) -> None:
        """Answer one replica; one that is gone registers again when it is back."""
        try:
            router = self._doors[peer.door].router
            router.send_multipart([peer.route, control.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def publish(self, message: control.Message) -> None:
        """To every subscriber that keeps up; the numbers show a gap to the others."""
        raw = control.encode(message)
        for door in self._doors:
            door.publisher.send(raw, zmq.NOBLOCK)

    def handshake_failures(self) -> dict[str, Failure]:
        """Who has failed to come in, by endpoint; about once a second."""
        found: dict[str, Failure] = {}
        for door in self._doors:
            found |= door.sockets.handshake_failures()
        return found


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
    endpoint: str,
    question: control.Message,
    *,
    within_s: float,
    security: Security | None = None,
) -> control.Message | None:
    """A coordinator's answer to somebody who is not part of its run; None if there is none in time.

    raises: ProtocolError if it answers with what is no message; Unavailable if its key or ours is
    refused.
    """
    security = security or Security()
    sockets = security.sockets(security.person)
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

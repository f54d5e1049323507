"""The control sockets: ROUTER and PUB at the coordinator, DEALER and SUB at each replica.

Decides nothing. Identities travel in the messages, not in routing ids (F27).
"""

import zmq

from zflow.errors import ProtocolError
from zflow.net.sockets import Sockets
from zflow.wire import control


class ControlServer:
    """The coordinator's end. One thread owns it. endpoints: all of them answer alike."""

    def __init__(self, sockets: Sockets, *endpoints: str) -> None:
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

    def receive(self) -> "list[tuple[bytes, control.Message]]":
        """Everything that has arrived, with the peer's routing id; malformed ones are left out."""
        messages: list[tuple[bytes, control.Message]] = []
        while True:
            try:
                peer, raw = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return messages
            except ValueError:  # not two parts: no replica of ours
                continue
            try:
                messages.append((peer, control.decode(raw)))
            except ProtocolError:
                continue

    def send(self, peer: bytes, message: control.Message) -> None:
        """Answer one replica; one that is gone registers again when it is back."""
        try:
            self._router.send_multipart([peer, control.encode(message)], zmq.NOBLOCK)
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


def ask(endpoint: str, question: control.Message, *, within_s: float) -> control.Message | None:
    """A coordinator's answer to somebody who is not part of its run; None if there is none in time.

    raises: ProtocolError if it answers with what is no message.
    """
    sockets = Sockets()
    try:
        dealer = sockets.dealer(endpoint)
        dealer.send(control.encode(question))
        if not dealer.poll(int(within_s * 1000)):
            return None
        answer: control.Message = control.decode(dealer.recv())
        return answer
    finally:
        sockets.close_all()

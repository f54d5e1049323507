"""What became of handshakes: libzmq's events, counted by peer and by endpoint.

Decides how an event reads. A refused key is silent for whoever sends (F23), so this is where it is
seen. Never used for correctness (F26), and nothing of it is on the way of a message.
"""

import itertools
import logging
import struct
from dataclasses import dataclass, replace
from typing import Any

import zmq

from zflow.clock import Clock

_LOG = logging.getLogger("zflow.net")

_NO_DETAIL = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
NO_DETAIL = "no_detail"
FAILED = {_NO_DETAIL: NO_DETAIL, _PROTOCOL: "protocol", _AUTH: "auth"}
WATCHED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED) | sum(FAILED)
WARN_EVERY_S = 5.0
KNOCKED_S = 60.0  # a stranger that has stopped knocking is no alarm any more
EVENTS_PER_TURN = 10_000  # under attack the rest waits for the next

_EVENT = struct.Struct("=HI")  # event, value; the endpoint is a part of its own
_CRYPTOGRAPHIC = 0x11000001  # ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

NOT_LISTED = "a client's key is not on the list of those that may connect"
REFUSED = "the peer does not accept this process's key"
NOT_CURVE = "a client without CURVE, or one that broke off"
# Whichever end notices first closes the connection, and then this is all the other one sees.
WRONG_SERVER = "the peer has not the key that belongs to its name, speaks no CURVE, or broke off"
EXPECTS_ANOTHER = "a client expects another key here"
PEER_NOT_CURVE = "the peer does not speak CURVE"
BROKEN = "the other end does not keep to the protocol"

# (this end is the server, event) -> what that means; measured against libzmq 4.3.5.
REASONS = {
    (True, _AUTH): NOT_LISTED,
    (False, _AUTH): REFUSED,
    (True, _NO_DETAIL): NOT_CURVE,
    (False, _NO_DETAIL): WRONG_SERVER,
}
PROTOCOL_REASONS = {
    (True, _CRYPTOGRAPHIC): EXPECTS_ANOTHER,
    (True, _MISMATCH): NOT_CURVE,
    (False, _MISMATCH): PEER_NOT_CURVE,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """The handshakes that failed with one peer or at one endpoint.

    code: "auth", "no_detail" or "protocol", of the last one, for a label; reason: a sentence.
    failing: with a peer that this process dials, none has succeeded since; at an endpoint, where
    others succeed all the while, the last one is younger than KNOCKED_S. last_s: monotonic.
    """

    code: str
    reason: str
    count: int
    last_s: float
    failing: bool = True


@dataclass(slots=True)
class _Watched:
    socket: "zmq.Socket[bytes]"
    name: str
    is_server: bool


class Monitor:
    """The monitors of a process's sockets. Used by one thread at a time, as the sockets are."""

    def __init__(self, context: "zmq.Context[Any]", clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._number = itertools.count()
        self._watched: dict[zmq.Socket[bytes], _Watched] = {}  # by the end the events come from
        self._monitor_of: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}
        self._failures: dict[str, Failure] = {}
        self._warned_s: dict[str, float] = {}

    def watch(self, socket: "zmq.Socket[bytes]", name: str, *, is_server: bool) -> None:
        """Before bind or connect, so that nothing is missed."""
        endpoint = f"inproc://zflow-monitor-{next(self._number)}"
        socket.monitor(endpoint, WATCHED)
        events: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        events.setsockopt(zmq.LINGER, 0)
        # Without an end: libzmq's own thread would wait for room, and with it every connection.
        events.setsockopt(zmq.RCVHWM, 0)
        events.connect(endpoint)
        self._watched[events] = _Watched(socket, name, is_server)
        self._monitor_of[socket] = events

    def rename(self, socket: "zmq.Socket[bytes]", name: str) -> None:
        """What was bound is known only afterwards."""
        self._watched[self._monitor_of[socket]].name = name

    def forget(self, socket: "zmq.Socket[bytes]") -> None:
        """Before the socket is closed (F26: its own end of the pair has to go first)."""
        events = self._monitor_of.pop(socket, None)
        if events is not None:
            socket.monitor(None, 0)
            del self._watched[events]
            events.close()

    def turn(self) -> "dict[zmq.Socket[bytes], str]":
        """Take in what has happened; the dialling sockets whose last handshake has failed, with
        the code of that."""
        failing: dict[zmq.Socket[bytes], str] = {}
        for _ in range(EVENTS_PER_TURN):
            ready: Any = zmq.zmq_poll([(events, zmq.POLLIN) for events in self._watched], 0)
            if not ready:
                break
            for events, _ in ready:
                watched = self._watched[events]
                event, value = _EVENT.unpack(events.recv_multipart()[0])
                failing.pop(watched.socket, None)
                if event in FAILED:
                    self._failed(watched, event, value)
                    if not watched.is_server:
                        failing[watched.socket] = FAILED[event]
                else:
                    self._succeeded(watched)
        return failing

    def failures(self) -> dict[str, Failure]:
        """By peer, or by endpoint where this process is the server."""
        since_s = self._clock.now_s() - KNOCKED_S
        endpoints = {one.name for one in self._watched.values() if one.is_server}
        for name in endpoints & self._failures.keys():
            if self._failures[name].last_s < since_s:
                self._failures[name] = replace(self._failures[name], failing=False)
        return dict(self._failures)

    def _failed(self, watched: _Watched, event: int, value: int) -> None:
        now_s = self._clock.now_s()
        key = (watched.is_server, event)
        reason = REASONS.get(key) or PROTOCOL_REASONS.get((watched.is_server, value), BROKEN)
        before = self._failures.get(watched.name)
        count = before.count + 1 if before is not None else 1
        self._failures[watched.name] = Failure(FAILED[event], reason, count, now_s)
        if now_s - self._warned_s.get(watched.name, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned_s[watched.name] = now_s
            where = "at" if watched.is_server else "with"
            _LOG.warning("%s handshakes %s %s failed: %s", count, where, watched.name, reason)

    def _succeeded(self, watched: _Watched) -> None:
        before = self._failures.get(watched.name)
        if before is not None and not watched.is_server:
            self._failures[watched.name] = replace(before, failing=False)

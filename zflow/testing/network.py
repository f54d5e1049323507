"""The wires of the simulated world: which frame arrives where, when, and what goes wrong.

Decides the fate of each frame from its own random numbers. Never looks inside a frame.

A socket is one way, from one process to one slot, in order like a stream; it finds whatever
process is bound to the slot when it connects, stays with it, and connects again when it dies.
While it has no peer it refuses, as sockets with IMMEDIATE=1 do.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from zflow.protocol.actions import LinkKey
from zflow.testing.items import SimPayload
from zflow.wire.data import Frame, decode_parts, encode_parts

if TYPE_CHECKING:
    from zflow.testing.process import Process

LATENCY_S = 0.0005
SPREAD_S = 0.002
CONNECT_S = 0.002
LATEST_S = 3.0  # a late frame comes within this time, so also in the calm after the faults
UNNOTICED = 0.3  # the chance that a send to a peer that has just died is taken and lost


@dataclass(slots=True, kw_only=True)
class Rates:
    """How often a frame meets a fault, while there are faults."""

    lost: float = 0.0
    repeated: float = 0.0
    reordered: float = 0.0
    late: float = 0.0
    refused: float = 0.0
    any: float = field(init=False)  # of the first four

    def __post_init__(self) -> None:
        self.any = self.lost + self.repeated + self.reordered + self.late


def random_rates(random: Random) -> Rates:
    """Quiet networks and terrible ones."""
    some = (0.0, 0.003, 0.01, 0.03)
    return Rates(
        lost=random.choice(some),
        repeated=random.choice(some),
        reordered=random.choice(some),
        late=random.choice(some),
        refused=random.choice((0.0, 0.002, 0.01)),
    )


class Socket:
    """One way from a process to a slot. epoch: frames of an older one never arrive."""

    __slots__ = ("epoch", "key", "last_s", "peer", "ready_s", "slot", "upward")

    def __init__(self, key: LinkKey, slot: str, ready_s: float, *, upward: bool) -> None:
        self.key = key  # (edge, sending slot) for the receiver of the frames
        self.slot = slot
        self.peer: Process | None = None
        self.ready_s = ready_s
        self.last_s = 0.0
        self.epoch = 0
        self.upward = upward


Letter = tuple[float, int, int, Socket, Frame, SimPayload | None]


class Network:
    """All wires of one world."""

    def __init__(self, random: Random, later: Callable[..., None], *, wired: bool) -> None:
        self.random = random
        self.bound: dict[str, Process] = {}  # whoever bound a slot's endpoints last
        self.rates = Rates()
        self.faults: Counter[str] = Counter()
        self._later = later
        self._wired = wired
        self._seq = 0

    def connect(self, key: LinkKey, slot: str, now_s: float, *, upward: bool) -> Socket:
        """A new socket; it has a peer a moment later, if there is one."""
        ready_s = now_s + self.random.random() * CONNECT_S
        return Socket(key, slot, ready_s, upward=upward)

    def close(self, socket: Socket) -> None:
        """Linger 0: what is on the way may or may not arrive."""
        if self.random.random() < 0.5:
            socket.epoch += 1
        socket.peer = None

    def cut(self, socket: Socket) -> None:
        """The connection is reset: what is on the way is lost, and nobody is told."""
        socket.epoch += 1
        self.faults["cut"] += 1

    def send(self, socket: Socket, frame: Frame, payload: SimPayload | None, now_s: float) -> bool:
        """False if the socket does not take the frame (EAGAIN)."""
        peer = socket.peer
        if peer is None or not peer.alive:
            if peer is not None and self.random.random() < UNNOTICED:
                self.faults["unnoticed"] += 1
                return True
            if not self._reconnect(socket, now_s):
                return False
            peer = socket.peer
        assert peer is not None, "a connected socket has a peer"
        rates = self.rates
        if rates.refused and self.random.random() < rates.refused:
            self.faults["refused"] += 1
            return False
        arrival_s = now_s + LATENCY_S + self.random.random() * SPREAD_S
        if rates.any and self.random.random() < rates.any:
            return self._spoil(socket, peer, frame, payload, arrival_s)
        if arrival_s < socket.last_s:
            arrival_s = socket.last_s
        socket.last_s = arrival_s
        self._post(peer, socket, frame, payload, arrival_s)
        return True

    def _reconnect(self, socket: Socket, now_s: float) -> bool:
        if socket.peer is not None:
            socket.peer = None
            socket.ready_s = now_s + self.random.random() * 10 * CONNECT_S
        target = self.bound.get(socket.slot)
        if now_s < socket.ready_s or target is None or not target.alive:
            return False
        socket.peer = target
        return True

    def _spoil(
        self,
        socket: Socket,
        peer: "Process",
        frame: Frame,
        payload: SimPayload | None,
        arrival_s: float,
    ) -> bool:
        """The frame meets one of the faults."""
        rates = self.rates
        at = self.random.random() * rates.any
        if at < rates.lost:
            self.faults["lost"] += 1
        elif at < rates.lost + rates.repeated:
            self.faults["repeated"] += 1
            again_s = arrival_s + self.random.random() * 0.05
            self._post(peer, socket, frame, payload, arrival_s)
            self._post(peer, socket, frame, payload, again_s)
        elif at < rates.lost + rates.repeated + rates.reordered:
            self.faults["reordered"] += 1
            self._post(peer, socket, frame, payload, arrival_s + self.random.random() * 0.02)
        else:
            self.late(socket, frame, payload, arrival_s)
        return True

    def late(self, socket: Socket, frame: Frame, payload: SimPayload | None, now_s: float) -> None:
        """Deliver a frame long after, to whoever is bound to the slot by then."""
        self.faults["late"] += 1
        arrival_s = now_s + self.random.random() ** 2 * LATEST_S
        self._later(arrival_s, self._deliver_late, (socket, frame, payload, arrival_s))

    def _deliver_late(
        self, socket: Socket, frame: Frame, payload: SimPayload | None, arrival_s: float
    ) -> None:
        peer = self.bound.get(socket.slot)
        if peer is not None and peer.alive:
            copy = Socket(socket.key, socket.slot, 0.0, upward=socket.upward)
            self._post(peer, copy, frame, payload, arrival_s)

    def _post(
        self,
        peer: "Process",
        socket: Socket,
        frame: Frame,
        payload: SimPayload | None,
        arrival_s: float,
    ) -> None:
        if self._wired:
            parts = [bytes(size_bytes) for size_bytes in payload.sizes] if payload else []
            frame, _ = decode_parts([bytes(part) for part in encode_parts(frame, parts)])
        self._seq += 1
        peer.receive((arrival_s, self._seq, socket.epoch, socket, frame, payload))

    def died(self, process: "Process", now_s: float) -> None:
        """A few of the frames in a dead process's queues reach its successor."""
        if not self.rates.late:
            return
        for _, _, epoch, socket, frame, payload in process.mail:
            if epoch == socket.epoch and self.random.random() < 0.05:
                self.late(socket, frame, payload, now_s)

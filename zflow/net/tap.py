"""The two ends of a tap: where a replica mirrors what it sends, and where somebody looks at it.

Decides nothing. Never waits: what a slow onlooker does not take is dropped, and counted by the
numbers in the next message that it gets.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zmq

from zflow.errors import ProtocolError, Unavailable
from zflow.net.sockets import Sockets
from zflow.protocol.sample import Sample
from zflow.wire import tap
from zflow.wire.codec import Part, Parts
from zflow.wire.data import Data
from zflow.wire.tap import Mirrored

MESSAGES_AT_ONCE = 64  # that an onlooker takes before it looks up


class Mirror:
    """A replica's end: what it sends on some of its edges. Under the reactor's lock."""

    def __init__(self, endpoint: str, slot: str, incarnation: int) -> None:
        # A context of its own, while it lasts: whoever looks does so in the run directory, which
        # is its user's alone, and needs no key where the links do.
        self._sockets = Sockets()
        try:
            self._socket = self._sockets.mirror(endpoint)
        except Unavailable:
            self._sockets.close_all()
            raise
        self._endpoint = endpoint
        self._slot = slot
        self._incarnation = incarnation
        self._samples: dict[int, Sample] = {}

    def choose(self, edges: Iterable[int], now_s: float) -> None:
        """These edges from now on."""
        self._samples = {e: self._samples.get(e) or Sample(now_s) for e in edges}

    def mirror(self, edge: int, frame: Any, parts: Iterable[Part], now_s: float) -> None:
        """One message that was sent, if it is one of items and of such an edge."""
        sample = self._samples.get(edge)
        if sample is None or type(frame) is not Data:
            return
        items = sum(run.items for run in frame.runs)
        if sample.takes(items, sum(frame.sizes), now_s):
            self._say(edge, sample, items, parts)

    def tell(self, now_s: float) -> None:
        """The counts, where nothing was said for a while."""
        for edge, sample in self._samples.items():
            if sample.is_to_tell(now_s):
                self._say(edge, sample, 0, ())

    def _say(self, edge: int, sample: Sample, items: int, payload: Iterable[Part]) -> None:
        header = Mirrored(self._slot, self._incarnation, items, sample.seen, sample.mirrored)
        parts = [*tap.encode(edge, header), *payload]
        self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)

    def close(self) -> None:
        """Nobody looks any more."""
        self._sockets.close_all()
        # libzmq (4.3.5) leaves a file that it did not name itself.
        Path(self._endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


class Onlooker:
    """The other end: what several replicas mirror of one edge. One thread owns it."""

    def __init__(self, edge: int) -> None:
        self._sockets = Sockets()
        self._socket = self._sockets.onlooker(tap.topic(edge))
        self._endpoints: dict[str, str] = {}
        self.malformed = 0

    def look_at(self, endpoints: Mapping[str, str]) -> None:
        """Where the slots are now; those that are not named are let be."""
        for slot, endpoint in endpoints.items():
            before = self._endpoints.get(slot)
            if before == endpoint:
                continue
            if before is not None:
                self._socket.disconnect(before)
            self._socket.connect(endpoint)
            self._endpoints[slot] = endpoint

    def receive(self, timeout_s: float) -> list[tuple[Mirrored, Parts | None]]:
        """What has come, after at most so long; without a payload where only counts are told."""
        found: list[tuple[Mirrored, Parts | None]] = []
        if not self._socket.poll(int(max(0.0, timeout_s) * 1000)):
            return found
        while len(found) < MESSAGES_AT_ONCE:
            try:
                header, payload = tap.decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            except ProtocolError:
                self.malformed += 1
                continue
            found.append((header, Parts(payload) if payload else None))
        return found

    def close(self) -> None:
        """Look no more."""
        self._sockets.close_all()

"""Two replicas over tcp with CURVE, real cores: keys are renewed under load, nothing is lost."""

import random
import time

import pytest

from zflow.clock import Clock
from zflow.ids import new_token
from zflow.net.keys import KeyFolder, rotate
from zflow.net.links import DataLinks
from zflow.net.sockets import Sockets
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import InboxSettings
from zflow.protocol.outbox import EdgeSettings
from zflow.protocol.outputs import Output
from zflow.protocol.sender import Identity
from zflow.replica.reactor import Reactor
from zflow.wire.codec import PickleCodec
from zflow.wire.data import Crash

EDGE = 9
ITEMS = 4_000
CHUNK = 50
WITHIN_S = 60.0
LOOPBACK = "tcp://127.0.0.1:0"


class Process:
    """One incarnation of a slot: reads the key folder when it starts, and again when it looks."""

    def __init__(self, path, slot, peer, incarnation, endpoints):
        self.slot, self.peer = slot, peer
        self.keys = KeyFolder(path)
        self.sockets = Sockets(curve=self.keys.curve(slot, [peer]))
        self.links = DataLinks(self.sockets, lambda link: endpoints[link[1], "in"])
        bound = [endpoints.get((slot, side), LOOPBACK) for side in ("in", "ack")]
        self.links.bind(*bound)
        endpoints[slot, "in"], endpoints[slot, "ack"] = self.links.endpoints()
        self.clock = Clock()
        self.buried = []
        self.core = self._core(incarnation, endpoints[slot, "ack"])
        self.reactor = Reactor(
            self.core,
            self.links,
            self.clock,
            on_bury=self.buried.append,
            on_fail=self.buried.append,
            on_retire=self.buried.append,
        )
        self.core.connect(self.clock.now_s())

    def _core(self, incarnation, ack):
        source = self.slot == "read/0"
        codec = PickleCodec()
        mine = {
            "run_id": "run",
            "slot": self.slot,
            "incarnation": incarnation,
            "generation": 1,
            "codec": codec.name,
        }
        out = EdgeSettings(edge=EDGE, label="read->sink", stage="sink", targets=(self.peer,))
        return Core(
            CoreSettings(
                identity=Identity(**mine, ack_endpoint=ack),
                inbox=InboxSettings(**mine, edges=frozenset({EDGE})),
                edges=(out,) if source else (),
                upstream=frozenset() if source else frozenset({(EDGE, self.peer)}),
            ),
            codec=codec,
            new_token=new_token,
            random=random.Random(1),
            origin=OriginSettings(origin=77, stage="read", low=0) if source else None,
        )

    def look(self):
        """What the control thread does once a second."""
        if self.keys.reread():
            self.sockets.curve.accept(self.keys.accepted([self.peer]))
        self.sockets.handshake_failures()

    def turn(self):
        self.reactor.receive()
        self.reactor.tick()

    def execute(self):
        """The items that are here, done."""
        items = []
        while (parcel := self.core.next_parcel(self.clock.now_s())) is not None:
            portion = self.core.take(parcel, parcel.n, self.clock.now_s())
            items += portion.items
            self.core.returned(portion, 0, portion.n, [])
        return items


@pytest.mark.slow
def test_keys_are_renewed_under_load_and_nothing_is_lost(folder):
    endpoints, path = {}, folder.path
    source = Process(path, "read/0", "sink/0", 1, endpoints)
    sink = Process(path, "sink/0", "read/0", 1, endpoints)
    first_keys = sink.sockets.curve.pair
    made, done, restarts = 0, [], 0
    deadline = time.monotonic() + WITHIN_S
    try:
        while not (made == ITEMS and source.core.settled()):
            assert time.monotonic() < deadline, f"{made} made, {len(set(done))} done"
            if made < ITEMS and not source.core.full():
                source.core.produced(
                    [Output(EDGE, None, list(range(made, made + CHUNK)))], CHUNK, 0, made
                )
                made += CHUNK
                if made == ITEMS:
                    source.core.source_ended = True
            for process in (source, sink):
                process.turn()
            done += sink.execute()
            if len(done) > (restarts + 1) * ITEMS // 4 and restarts < 3:
                restarts += 1
                if restarts == 2:  # a new process with an old key, one with a new, and one more
                    rotate(path)
                sink.sockets.close_all()  # with what it has just executed and not acknowledged
                # The supervisor's word; without it the source waits for ten seconds of silence.
                death = Crash("sink/0", restarts, [], False, 0, "stopped")
                source.core.on_crash(death, source.clock.now_s())
                sink = Process(path, "sink/0", "read/0", 1 + restarts, endpoints)
            for process in (source, sink):
                process.look()
        assert restarts == 3
        assert sink.sockets.curve.pair != first_keys
        assert set(done) == set(range(ITEMS))
        assert source.buried == sink.buried == []
        assert source.links.bad_frames == sink.links.bad_frames == 0
        assert source.links.bad_identity == sink.links.bad_identity == 0
    finally:
        source.sockets.close_all()
        sink.sockets.close_all()

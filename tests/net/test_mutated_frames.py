"""Frames of a peer with a good key and a bad mind: nothing that it sends ends the process (S13)."""

import random

import pytest
import zmq

from zflow.clock import Clock
from zflow.ids import new_token
from zflow.net.curve import Curve, Pair
from zflow.net.links import DataLinks
from zflow.net.sockets import Sockets
from zflow.protocol.core import Core, CoreSettings
from zflow.protocol.inbox import InboxSettings
from zflow.protocol.outbox import EdgeSettings
from zflow.protocol.sender import Identity
from zflow.replica.reactor import Reactor
from zflow.wire import data
from zflow.wire.codec import MsgpackCodec
from zflow.wire.run import INDEX, OSEQ, Run

FRAMES = 100_000  # over all rounds
IN_EDGE, OUT_EDGE = 5, 6
PEER = "read/0"
PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())


class Part:
    """What a socket gives with `copy=False`."""

    def __init__(self, raw, more):
        self.bytes = raw
        self.more = more

    def get(self, name):
        return PUBLIC if name == "User-Id" else None


class Fed:
    """A PULL that has one message."""

    def __init__(self):
        self.parts = []

    def recv(self, flags=0, copy=True):
        if not self.parts:
            raise zmq.Again
        raw = self.parts.pop(0)
        return raw if copy else Part(raw, bool(self.parts))

    def get(self, option):
        return int(bool(self.parts))


class Victim:
    """A replica between two others, its real links and core, and sockets that are fed by hand."""

    def __init__(self, sockets):
        identity = {"run_id": "run", "slot": "work/0", "incarnation": 1, "generation": 1}
        self.codec = MsgpackCodec()
        self.core = Core(
            CoreSettings(
                identity=Identity(**identity, ack_endpoint="ipc:///a", codec="msgpack"),
                inbox=InboxSettings(**identity, codec="msgpack", edges=frozenset({IN_EDGE})),
                edges=(EdgeSettings(edge=OUT_EDGE, label="out", stage="read", targets=(PEER,)),),
                upstream=frozenset({(IN_EDGE, PEER)}),
            ),
            codec=self.codec,
            new_token=new_token,
            random=random.Random(1),
        )
        self.links = DataLinks(sockets, lambda link: "tcp://127.0.0.1:1")
        self.links._in, self.links._ack = Fed(), Fed()
        self.links.send = self.keep  # what it says, and nobody answers
        self.links.dial = self.links.hangup = lambda action: None
        self.links.reply = lambda action: True
        self.said = []
        self.reactor = Reactor(
            self.core,
            self.links,
            Clock(),
            on_bury=lambda action: self.core.buried(action.ticket),
            on_fail=lambda action: None,
            on_retire=lambda action: None,
        )
        self.core.connect(0.0)
        self.reactor.tick()

    def keep(self, action):
        if type(action.frame) is data.Hello and self.links._sockets.curve is not None:
            self.links._identities.dialled(action.link, action.frame.token)
        self.said.append(action.frame)
        return True

    def feed(self, parts, *, to_ack):
        socket = self.links._ack if to_ack else self.links._in
        socket.parts = list(parts)
        handle = self.reactor._on_reply if to_ack else self.reactor._on_frame
        self.links._take(socket, handle)
        assert not socket.parts  # the next message is not taken for this one's parts
        self.reactor.perform()


def good_frames(victim, chance):
    """A conversation that goes well, as (parts, to_ack), with the tokens of this moment."""
    token = 77
    payload = victim.codec.encode([1, "two", {"three": 3}])
    hello = data.Hello(token, "run", PEER, 1, 1, "ipc:///b", IN_EDGE, 1, "msgpack", False)
    asked = victim.said[0].token
    at = victim.core.inbox.links[IN_EDGE, PEER].next if victim.core.inbox.links else 0
    runs = [Run(7, 8, OSEQ, 0, at, 2), Run(7, 9, INDEX, 4, 2, 1)]
    frames = [
        (hello, (), False),
        (data.Data(token, at, 3, runs, payload.sizes), payload.parts, False),
        (data.Heartbeat(token, at, 0, False, IN_EDGE, PEER, 1, "ipc:///b", [7, at]), (), False),
        (data.Welcome(asked, PEER, 1, 100, 10_000, []), (), True),
        (data.State(asked, chance.randrange(2**20), 0, 9, 99, 9, [0, 1], [], 0.0), (), True),
        (data.Reset(asked, "gap"), (), True),
        (data.Refuse(asked, "codec", 0, 1.0), (), True),
    ]
    return [(data.encode_parts(frame, parts), to_ack) for frame, parts, to_ack in frames]


def mutated(chance, parts):
    raw = bytearray(parts[0])
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        raw[chance.randrange(len(raw))] = chance.choice(
            [0, 1, 127, 128, 255, chance.randrange(256)]
        )
    cut = chance.choice([len(raw)] * 8 + [chance.randrange(len(raw) + 1)])
    rest = [chance.randbytes(chance.randrange(5)) for _ in range(chance.choice([0] * 8 + [1, 3]))]
    return [bytes(raw[:cut]), *parts[1:], *rest]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_no_frame_of_a_peer_ends_the_process(seed):
    curve = Curve("work/0", Pair(PUBLIC, SECRET.encode()), {PEER: [PUBLIC]}, lambda name: (PUBLIC,))
    sockets = Sockets(curve=curve)
    try:
        chance = random.Random(seed)
        victim, heard, executed = Victim(sockets), 0, 0
        for k in range(FRAMES // 5):
            if k % 500 == 0:  # what an earlier frame has done to it is part of the matter
                victim = Victim(sockets)
            parts, to_ack = chance.choice(good_frames(victim, chance))
            parts = mutated(chance, parts)
            try:
                victim.feed(parts, to_ack=to_ack)
                if k % 50 == 0:
                    victim.reactor.tick()
                    executed += execute(victim)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                pytest.fail(f"seed {seed}, frame {k}: {parts} raised {error!r}")
            heard += 1
        assert heard == FRAMES // 5
        assert executed > 100, "hardly anything was ever accepted: the test does not bite"
    finally:
        sockets.close_all()


def execute(victim):
    """Take what waits, as the worker does; payloads that cannot be read go back."""
    taken = 0
    while (parcel := victim.core.next_parcel(0.0)) is not None:
        taken += victim.core.inbox.leave(parcel, parcel.n, 0.0).n
    return taken

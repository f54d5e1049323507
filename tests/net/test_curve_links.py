"""Data links with CURVE: a frame counts only if its key is that of the slot it speaks for (S7)."""

from types import SimpleNamespace

import pytest
import zmq

from zflow.net.links import DataLinks
from zflow.protocol.actions import Dial, Reply, Send
from zflow.wire import data
from zflow.wire.codec import PickleCodec
from zflow.wire.run import OSEQ, Run

EDGE = 9
LINK = (EDGE, "sink/0")
LOOPBACK = "tcp://127.0.0.1:0"
TOKEN, OTHER = 1001, 2002


def hello(token, sender, ack="ipc:///ack"):
    return data.Hello(token, "run", sender, 1, 1, ack, EDGE, 1, "pickle5", False)


def units(token, items):
    payload = PickleCodec().encode(items)
    return data.Data(token, 0, 1, [Run(7, 8, OSEQ, 0, 0, 1)], payload.sizes), payload


@pytest.fixture
def joined(party):
    """`joined("parse/0")` is a slot with its links; sink/0 lets in parse/0 and parse/1."""
    endpoints = {}

    def join(name, clients=()):
        sockets = party(name, clients=clients)
        links = DataLinks(sockets, lambda link: endpoints[link[1]])
        links.bind(LOOPBACK, LOOPBACK)
        endpoints[name], ack = links.endpoints()
        got = []

        def receive():
            links.receive(*[lambda frame, payload: got.append((frame, payload))] * 2)
            return got

        return SimpleNamespace(name=name, links=links, sockets=sockets, ack=ack, receive=receive)

    return join


@pytest.fixture
def sink(joined):
    return joined("sink/0", clients=["parse/0", "parse/1"])


def send(slot, until, frame, payload=None):
    until(lambda: slot.links.send(Send(LINK, frame, payload)), slot.sockets)


def dialled(joined, name, clients=()):
    slot = joined(name, clients)
    slot.links.dial(Dial(LINK))
    return slot


def counted(until, sink, n):
    return until(lambda: sink.receive() is not None and sink.links.bad_identity == n)


@pytest.mark.parametrize("items", [[1], [b"x" * 100_000]])
def test_who_speaks_for_itself_is_heard(sink, joined, until, items):
    parse = dialled(joined, "parse/0")
    frame, payload = units(TOKEN, items)
    send(parse, until, hello(TOKEN, "parse/0"))
    send(parse, until, frame, payload)
    until(lambda: len(sink.receive()) == 2)
    (_, nothing), (arrived, parts) = sink.receive()
    assert nothing is None
    assert (arrived, PickleCodec().decode(parts)) == (frame, items)
    assert sink.links.bad_identity == sink.links.bad_frames == 0


def test_a_slot_with_a_good_key_cannot_be_another_slot(sink, joined, until, caplog):
    mallory = dialled(joined, "parse/1")
    for n in (1, 2):
        send(mallory, until, hello(TOKEN, "parse/0"))
        counted(until, sink, n)
    assert sink.receive() == []
    said = [record.getMessage() for record in caplog.records if record.name == "zflow.net"]
    assert [line for line in said if "speaks for somebody else" in line] == [
        "a frame of parse/1 speaks for somebody else: dropped, as all like it are"
    ]


@pytest.mark.parametrize("items", [[1], [b"x" * 100_000]])
def test_captured_units_sent_again_over_another_connection_are_dropped(sink, joined, until, items):
    parse, mallory = dialled(joined, "parse/0"), dialled(joined, "parse/1")
    frame, payload = units(TOKEN, items)
    send(parse, until, hello(TOKEN, "parse/0"))
    send(parse, until, frame, payload)
    until(lambda: len(sink.receive()) == 2)
    send(mallory, until, frame, payload)
    send(mallory, until, hello(OTHER, "parse/1"))  # and in between nothing of it was taken
    until(lambda: len(sink.receive()) == 3)
    assert sink.receive()[2] == (hello(OTHER, "parse/1"), None)
    assert sink.links.bad_identity == 1
    assert sink.links.bad_frames == 0


def test_an_acknowledgement_of_somebody_else_is_dropped(sink, joined, until):
    parse = dialled(joined, "parse/0", clients=["sink/0", "sink/1"])
    send(parse, until, hello(TOKEN, "parse/0", parse.ack))
    until(sink.receive)
    mallory = joined("sink/1")
    forged = data.State(TOKEN, 1, 1, 8, 1024, 8, [0, 1], [], 0.0)
    back = (EDGE, "parse/0")
    until(lambda: mallory.links.reply(Reply(back, parse.ack, 1, forged)), mallory.sockets)
    counted(until, parse, 1)
    honest = data.State(TOKEN, 1, 0, 8, 1024, 8, [], [], 0.0)
    until(lambda: sink.links.reply(Reply(back, parse.ack, 1, honest)), sink.sockets)
    until(parse.receive)
    assert parse.receive() == [(honest, None)]


@pytest.mark.parametrize("items", [[1], [b"x" * 100_000]])
def test_a_key_that_was_taken_back_delivers_nothing_more(sink, joined, until, items):
    parse = dialled(joined, "parse/0")
    send(parse, until, hello(TOKEN, "parse/0"))
    until(sink.receive)
    sink.sockets.curve.accept({})
    send(parse, until, *units(TOKEN, items))
    counted(until, sink, 1)
    assert len(sink.receive()) == 1


@pytest.mark.parametrize("junk", [[b""], [b"garbage"], [b"\xff" * 100, b"more"], [b"\x01\x02\x03"]])
def test_garbage_of_a_peer_is_counted_and_the_next_frame_is_taken(sink, joined, until, junk):
    parse = dialled(joined, "parse/0")
    socket = parse.links._out[LINK]
    until(lambda: socket.poll(0, zmq.POLLOUT))
    socket.send_multipart(junk)
    send(parse, until, hello(TOKEN, "parse/0"))
    until(sink.receive)
    assert sink.links.bad_frames == 1
    assert sink.receive() == [(hello(TOKEN, "parse/0"), None)]


@pytest.mark.parametrize(
    "ack", ["", "garbage", "inproc://x", "tcp://", "tcp://*:1", "tcp://a:99999", "ipc://@x", "\0"]
)
def test_an_address_that_is_none_does_not_stop_who_answers_it(sink, ack):
    reply = Reply((EDGE, "parse/0"), ack, 1, data.Reset(TOKEN, "token"))
    before = len(sink.sockets._open)
    assert sink.links.reply(reply)
    assert sink.links.bad_frames == 1
    assert len(sink.sockets._open) == before


def test_an_answer_reaches_nobody_but_the_slot_it_is_for(sink, joined, until):
    mallory = joined("parse/1", clients=["sink/0"])
    reply = Reply((EDGE, "parse/0"), mallory.ack, 1, data.Reset(TOKEN, "token"))
    assert not sink.links.reply(reply)
    until(lambda: sink.sockets.handshake_failures().get("parse/0"))
    assert not sink.links.reply(reply)
    assert mallory.receive() == []

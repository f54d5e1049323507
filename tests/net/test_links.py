"""The data sockets of a replica: real PUSH and PULL over ipc."""

import time
from types import SimpleNamespace

import pytest
import zmq
from zmq.utils.garbage import gc

from zflow.net.links import DataLinks
from zflow.net.sockets import Sockets
from zflow.protocol.actions import Dial, Hangup, Reply, Send
from zflow.wire import data
from zflow.wire.codec import PickleCodec
from zflow.wire.run import OSEQ, Run

LINK = (9, "parse/0")  # as the sender names it: edge, slot of the peer
BACK = (9, "read/0")
WITHIN_S = 5.0
BYE = data.Bye(1)


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    made.close_all()
    gc.stop()  # the thread that pyzmq starts for the first message it does not copy


@pytest.fixture
def pair(sockets, tmp_path):
    """A sender and a receiver in one process, bound, not connected."""
    address = SimpleNamespace(input=f"ipc://{tmp_path}/in", ack=f"ipc://{tmp_path}/ack")
    sender = DataLinks(sockets, lambda link: address.input)
    receiver = DataLinks(sockets, lambda link: "")
    return SimpleNamespace(sender=sender, receiver=receiver, address=address)


def bind(pair):
    pair.receiver.bind(pair.address.input, None)
    pair.sender.bind(None, pair.address.ack)


def message(items, token=1):
    payload = PickleCodec().encode(items)
    n = len(items)
    runs = [Run(7, 8, OSEQ, 0, 0, n)]
    return data.Data(token, 0, n, runs, payload.sizes), payload


def until(ask):
    """What `ask()` gives once it is something."""
    deadline = time.monotonic() + WITHIN_S
    while not (got := ask()):
        assert time.monotonic() < deadline, "nothing came"
        zmq.select([], [], [], timeout=0.001)
    return got


def push(pair, frame, payload=None):
    until(lambda: pair.sender.send(Send(LINK, frame, payload)))


def arrivals(links):
    """Everything that has arrived at once, as (frame, payload)."""
    got = []

    def keep(frame, payload):
        got.append((frame, payload))

    links.receive(keep, keep)
    return got


def test_nothing_is_taken_before_the_connection_stands(pair):
    pair.sender.dial(Dial(LINK))
    assert not pair.sender.send(Send(LINK, BYE))
    bind(pair)
    push(pair, BYE)
    assert until(lambda: arrivals(pair.receiver)) == [(BYE, None)]


def test_nothing_is_taken_for_a_link_that_was_never_dialled(pair):
    assert not pair.sender.send(Send(LINK, BYE))


@pytest.mark.parametrize("items", [[1, "two"], [b"x" * 100_000], [bytearray(b"y" * 100_000)] * 3])
def test_a_message_arrives_as_it_was_sent(pair, items):
    bind(pair)
    pair.sender.dial(Dial(LINK))
    frame, payload = message(items)
    push(pair, frame, payload)
    ((arrived, parts),) = until(lambda: arrivals(pair.receiver))
    assert arrived == frame
    assert PickleCodec().decode(parts) == items


def test_messages_of_one_link_arrive_in_the_order_in_which_they_were_sent(pair):
    bind(pair)
    pair.sender.dial(Dial(LINK))
    for number in range(1000):
        push(pair, data.Bye(number))
    got = []
    until(lambda: got.extend(arrivals(pair.receiver)) or len(got) == 1000)
    assert [frame.token for frame, _ in got] == list(range(1000))


def test_a_reply_goes_to_the_endpoint_that_the_peer_named(pair):
    bind(pair)
    frame = data.Reset(1, "token")
    reply = Reply(BACK, pair.address.ack, 1, frame)
    until(lambda: pair.receiver.reply(reply))
    assert until(lambda: arrivals(pair.sender)) == [(frame, None)]


def test_an_answer_to_an_incarnation_that_has_a_successor_is_dropped(pair, tmp_path):
    bind(pair)
    frame = data.Reset(1, "token")
    until(lambda: pair.receiver.reply(Reply(BACK, pair.address.ack, 2, frame)))
    assert pair.receiver.reply(Reply(BACK, f"ipc://{tmp_path}/old", 1, frame))
    assert until(lambda: arrivals(pair.sender)) == [(frame, None)]


def test_a_successor_gets_a_socket_of_its_own(pair):
    bind(pair)
    for incarnation in (1, 2):
        frame = data.Reset(incarnation, "token")
        reply = Reply(BACK, pair.address.ack, incarnation, frame)
        until(lambda reply=reply: pair.receiver.reply(reply))
        assert until(lambda: arrivals(pair.sender)) == [(frame, None)]


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"garbage"],
        [b"\xff" * 100],
        [data.encode(BYE), b"a part too many"],
        [data.encode(message([1])[0])],  # its body is missing
        [data.encode(message([1])[0]), b"not as long as the header says"],
    ],
)
def test_a_garbage_frame_is_counted_and_the_next_one_arrives(pair, sockets, parts):
    bind(pair)
    stranger = sockets.push(pair.address.input, 10)
    stranger.setsockopt(zmq.SNDTIMEO, int(WITHIN_S * 1000))
    stranger.send_multipart(parts)
    until(lambda: arrivals(pair.receiver) or pair.receiver.bad_frames)
    assert pair.receiver.bad_frames == 1
    stranger.send(data.encode(BYE))
    assert until(lambda: arrivals(pair.receiver)) == [(BYE, None)]


def test_a_dial_drops_what_the_old_socket_still_held(pair):
    pair.sender.dial(Dial(LINK))
    bind(pair)
    push(pair, BYE)
    until(lambda: arrivals(pair.receiver))
    pair.sender.dial(Dial(LINK))
    newer = data.Bye(2)
    push(pair, newer)
    assert until(lambda: arrivals(pair.receiver)) == [(newer, None)]


def test_a_link_that_was_hung_up_takes_nothing(pair):
    bind(pair)
    pair.sender.dial(Dial(LINK))
    push(pair, BYE)
    pair.sender.hangup(Hangup(LINK))
    assert not pair.sender.send(Send(LINK, BYE))


def test_a_receiver_that_does_not_read_stops_the_sender_instead_of_blocking_it(pair):
    bind(pair)
    pair.sender.dial(Dial(LINK))
    frame, payload = message([b"x" * 1_000_000])
    push(pair, frame, payload)
    # ipc and two queues hold some of it; then the socket says no, at once. The receiver's queue
    # has no end, so nothing is lost: it is credit that stops a sender long before.
    sent = 1
    while sent < 50 and pair.sender.send(Send(LINK, frame, payload)):
        sent += 1
    got = []
    until(lambda: got.extend(arrivals(pair.receiver)) or len(got) == sent)


def test_a_redial_and_a_new_reply_leave_one_socket_per_link(pair, sockets):
    bind(pair)
    for incarnation in range(1, 6):
        pair.sender.dial(Dial(LINK))
        reply = Reply(BACK, pair.address.ack, incarnation, data.Reset(1, "token"))
        until(lambda reply=reply: pair.receiver.reply(reply))
    assert len(sockets._open) == 4  # in, ack, one each way


def test_closing_leaves_no_socket_open_even_with_messages_under_way(tmp_path):
    sockets = Sockets()
    links = DataLinks(sockets, lambda link: f"ipc://{tmp_path}/nobody")
    links.bind(f"ipc://{tmp_path}/in", None)
    links.dial(Dial(LINK))
    began_s = time.monotonic()
    sockets.close_all()
    assert time.monotonic() - began_s < 1.0
    assert not sockets._open

"""A mirror and who looks into it, over ipc."""

import time
from collections import deque

import pytest
import zmq
from zmq.utils.garbage import gc

from zflow.errors import Unavailable
from zflow.net.sockets import MIRROR_HIGH_WATER, Sockets
from zflow.net.tap import Mirror, Onlooker
from zflow.wire import data
from zflow.wire.codec import PickleCodec
from zflow.wire.run import OSEQ, Run

EDGE = 9
WITHIN_S = 10.0


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    made.close_all()
    gc.stop()  # the thread that pyzmq starts for the first message it does not copy


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/0-0.tap"


@pytest.fixture
def mirror(sockets, endpoint):
    made = Mirror(endpoint, "read/0", 1)
    made.choose([EDGE], 0.0)
    yield made
    made.close()


@pytest.fixture
def onlooker(endpoint, mirror):
    made = Onlooker(EDGE)
    made.look_at({"read/0": endpoint})
    yield made
    made.close()


def give(mirror, items, *, edge=EDGE, now_s=0.0):
    payload = PickleCodec().encode(items)
    frame = data.Data(1, 0, len(items), [Run(7, 8, OSEQ, 0, 0, len(items))], payload.sizes)
    mirror.mirror(edge, frame, payload.parts, now_s)


def first(onlooker, mirror, items=("x",)):
    """Give until the subscription has arrived; the first that is seen."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := onlooker.receive(0.01)):
        give(mirror, list(items))
        assert time.monotonic() < deadline, "nothing came"
    return found[-1]


def test_what_is_sent_is_seen_with_its_counts(mirror, onlooker):
    header, payload = first(onlooker, mirror, ["a", {"b": 1}])
    assert PickleCodec().decode(payload) == ["a", {"b": 1}]
    assert (header.slot, header.incarnation, header.items) == ("read/0", 1, 2)
    assert header.seen == header.mirrored >= 2


def test_other_edges_and_frames_without_items_are_not_mirrored(mirror, onlooker):
    first(onlooker, mirror)
    while onlooker.receive(0.05):
        pass
    give(mirror, ["other"], edge=EDGE + 1)
    mirror.mirror(EDGE, data.Bye(1), (), 0.0)
    give(mirror, ["mine"])
    ((_, payload),) = onlooker.receive(WITHIN_S)
    assert PickleCodec().decode(payload) == ["mine"]


def test_buffers_travel_beside_the_body(mirror, onlooker):
    import pickle  # noqa: PLC0415 - a buffer that any codec takes out of band

    big = pickle.PickleBuffer(bytes(range(256)) * 4096)
    first(onlooker, mirror)
    while onlooker.receive(0.05):
        pass
    give(mirror, [big])
    ((_, payload),) = onlooker.receive(WITHIN_S)
    assert bytes(PickleCodec().decode(payload)[0]) == bytes(range(256)) * 4096


def test_who_does_not_look_is_not_waited_for(mirror, onlooker):
    header, _ = first(onlooker, mirror)
    large = ["y" * 1000] * 100
    begun = time.monotonic()
    for at in range(2000):
        give(mirror, large, now_s=1000.0 + at)
    assert time.monotonic() - begun < WITHIN_S
    seen = deque((h for h, _ in onlooker.receive(WITHIN_S)), maxlen=3)
    assert seen, "nothing was kept for it"
    give(mirror, ["last"], now_s=5000.0)
    found = seen
    deadline = time.monotonic() + WITHIN_S
    while found[-1].items != 1 and time.monotonic() < deadline:
        found = [h for h, _ in onlooker.receive(1.0)] or found
        give(mirror, ["last"], now_s=6000.0)
    assert found[-1].seen > header.seen + 2000 * 100  # and he knows how much he has missed


def test_counts_are_told_when_nothing_may_be_mirrored(mirror, onlooker):
    first(onlooker, mirror)
    while onlooker.receive(0.05):
        pass
    mirror.tell(now_s=10.0)
    ((header, payload),) = onlooker.receive(WITHIN_S)
    assert (header.items, payload) == (0, None)


def test_a_successor_at_the_same_place_is_found(request, mirror, onlooker, endpoint):
    first(onlooker, mirror)
    mirror.close()
    successor = Mirror(endpoint, "read/0", 2)
    request.addfinalizer(successor.close)
    successor.choose([EDGE], 0.0)
    deadline = time.monotonic() + WITHIN_S
    header = None
    while header is None or header.incarnation != 2:
        give(successor, ["again"])
        header = ([h for h, _ in onlooker.receive(0.02)] or [header])[-1]
        assert time.monotonic() < deadline, "the successor was not found"


def test_a_place_where_no_socket_can_be_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="missing"):
        Mirror(f"ipc://{tmp_path}/missing/0-0.tap", "read/0", 1)


def test_what_is_no_mirrored_message_is_counted(sockets, onlooker, mirror):
    first(onlooker, mirror)
    while onlooker.receive(0.05):
        pass
    mirror._socket.send_multipart([b"ZFT\x01" + EDGE.to_bytes(8, "big"), b"junk"], zmq.NOBLOCK)
    assert onlooker.receive(WITHIN_S) == []
    assert onlooker.malformed == 1


def test_hardly_anything_is_kept_for_who_looks():
    assert MIRROR_HIGH_WATER <= 8

"""Items to bytes and back: large buffers travel apart, and what may change is copied."""

import os
import pickle
import subprocess
import sys
import threading
from array import array

import pytest

from zflow.wire.codec import (
    MIN_BUFFER_BYTES,
    Parts,
    PickleCodec,
    checksum_bytes,
    dump_item,
    holds_writable_buffer,
    load_item,
    snapshot,
    why_not_shippable,
)
from zflow.wire.data import MAX_BUFFERS
from zflow.wire.payload import DecodeError, EncodeError

CODEC = PickleCodec()
LARGE = MIN_BUFFER_BYTES


class Array:
    """What numpy does, without numpy: pickled around its buffer, writable or not."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, protocol):
        return type(self), (pickle.PickleBuffer(self.buffer),)

    def __eq__(self, other):
        return bytes(self.buffer) == bytes(other.buffer)

    __hash__ = None


class Strided(Array):
    """Its buffer is not contiguous."""

    def __reduce_ex__(self, protocol):
        return type(self), (pickle.PickleBuffer(memoryview(self.buffer)[::2]),)


class Explodes:
    def __reduce__(self):
        return exploding, ()


def exploding():
    raise KeyError("gone")


def received(parts):
    """The parts as a socket gives them: bytes of its own."""
    return Parts([bytes(part) for part in parts.parts])


def round_trip(items):
    return CODEC.decode(received(CODEC.encode(items)))


# --- any items ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items", [[], [None], [1, "two", b"3", 4.0], [{"a": [1, (2,)]}], [[1], [1]], [bytearray(b"x")]]
)
def test_items_come_back_equal(items):
    assert round_trip(items) == items


def test_the_sizes_are_those_of_the_body_and_each_buffer():
    parts = CODEC.encode([Array(b"x" * LARGE), 1])
    assert parts.sizes == [len(parts.parts[0]), LARGE]
    assert parts.size_bytes == sum(parts.sizes)


def test_an_item_that_cannot_be_pickled_is_refused_with_the_picklers_own_error():
    with pytest.raises(EncodeError, match=r"cannot be pickled: cannot pickle '.*lock' object") as e:
        CODEC.encode([1, threading.Lock()])
    assert isinstance(e.value.__cause__, TypeError)


def test_an_item_whose_own_pickling_raises_is_refused():
    class Bad:
        def __reduce__(self):
            raise ZeroDivisionError("mine")

    with pytest.raises(EncodeError, match="cannot be pickled: mine"):
        CODEC.encode([Bad()])


def test_a_body_that_is_no_pickle_is_refused():
    with pytest.raises(DecodeError, match="cannot be unpickled"):
        CODEC.decode(Parts([b"garbage"]))


def test_an_item_that_cannot_be_made_again_is_refused_with_its_own_error():
    with pytest.raises(DecodeError, match="gone") as caught:
        round_trip([Explodes()])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_body_that_holds_no_list_is_refused():
    with pytest.raises(DecodeError, match="a message holds a list of items; got dict"):
        CODEC.decode(Parts([pickle.dumps({})]))


def test_a_message_that_lacks_a_buffer_is_refused():
    body, _ = CODEC.encode([Array(b"x" * LARGE)]).parts
    with pytest.raises(DecodeError, match="cannot be unpickled"):
        CODEC.decode(Parts([body]))


# --- buffers -----------------------------------------------------------------------------------


def test_a_large_buffer_travels_apart_and_a_small_one_in_the_body():
    assert len(CODEC.encode([Array(b"x" * LARGE)]).parts) == 2
    assert len(CODEC.encode([Array(b"x" * (LARGE - 1))]).parts) == 1


def test_a_writable_buffer_is_copied_so_that_writing_to_it_changes_nothing_that_was_encoded():
    buffer = bytearray(b"a" * LARGE)
    parts = CODEC.encode([Array(buffer)])
    buffer[:] = b"b" * LARGE
    assert CODEC.decode(received(parts)) == [Array(b"a" * LARGE)]


def test_a_read_only_buffer_is_not_copied():
    buffer = b"a" * LARGE
    part = CODEC.encode([Array(buffer)]).parts[1]
    assert part.obj is buffer


def test_received_buffers_are_read_only():
    (item,) = round_trip([Array(bytearray(LARGE))])
    assert memoryview(item.buffer).readonly


def test_a_received_buffer_is_shared_with_the_message_and_not_copied():
    parts = received(CODEC.encode([Array(b"x" * LARGE)]))
    (item,) = CODEC.decode(parts)
    assert memoryview(item.buffer).obj is parts.parts[1]


def test_no_part_that_is_sent_can_be_written_to():
    parts = CODEC.encode([Array(bytearray(LARGE)), Array(b"x" * LARGE)])
    assert all(memoryview(part).readonly for part in parts.parts)


def test_more_buffers_than_a_message_has_frames_go_into_the_body():
    items = [Array(bytes([k % 251]) * LARGE) for k in range(MAX_BUFFERS + 10)]
    parts = CODEC.encode(items)
    assert len(parts.parts) == 1 + MAX_BUFFERS
    assert CODEC.decode(received(parts)) == items


def test_a_buffer_that_is_not_contiguous_is_refused_as_pickle_itself_does():
    with pytest.raises(EncodeError, match="non-contiguous buffer"):
        CODEC.encode([Strided(b"ab" * LARGE)])
    item = Strided(bytearray(b"ab" * LARGE))
    assert snapshot(item) is item


def test_numpy_arrays_travel_apart_and_arrive_read_only():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(LARGE, dtype="f8")
    parts = CODEC.encode([{"frame": array}])
    array[:] = 0
    (item,) = CODEC.decode(received(parts))
    assert len(parts.parts) == 2
    assert item["frame"].sum() == sum(range(LARGE))
    assert not item["frame"].flags.writeable


# --- what is kept while its maker may still write to it -----------------------------------------


@pytest.mark.parametrize(
    ("item", "writable"),
    [
        (Array(bytearray(8)), True),
        (Array(b"12345678"), False),
        ({"deep": [Array(bytearray(8))]}, True),
        (bytearray(8), True),
        ((1, {"deep": bytearray(8)}), True),
        (array("d", [1.0]), True),
        ((b"\x96", "\x96", 0x96), False),
        ([1, 2], False),
        ("text", False),
        (threading.Lock, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_writable_buffer_is_found_wherever_it_is_in_an_item(item, writable):
    assert holds_writable_buffer(item) is writable


def test_an_item_that_cannot_travel_is_not_copied_but_reported_when_it_is_encoded():
    lock = threading.Lock()
    assert not holds_writable_buffer(lock)
    assert snapshot(lock) is lock


@pytest.mark.parametrize("make", [Array, lambda buffer: buffer, lambda buffer: [Array(buffer)]])
def test_a_snapshot_stays_what_it_was_when_its_maker_goes_on_writing(make):
    buffer = bytearray(b"a" * 10)
    kept = snapshot(make(buffer))
    buffer[:] = b"b" * 10
    assert kept == make(bytearray(b"a" * 10))


def test_a_snapshot_is_copied_once_and_not_again_when_it_is_encoded():
    kept = snapshot(Array(bytearray(LARGE)))
    assert CODEC.encode([kept]).parts[1].obj is memoryview(kept.buffer).obj


# --- checksums ---------------------------------------------------------------------------------

SAME = """[{'b': 1, 'a': [1, 'x', ('y', None)]}, 'text', 7, 2.5, b'raw', True, ['x', 'x']]"""
PRINT_CHECKSUM = f"""
from zflow.wire.codec import checksum_bytes
print(checksum_bytes({SAME}).hex())
"""


@pytest.mark.slow
def test_equal_items_have_equal_checksums_in_processes_with_other_hash_seeds():
    def run(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PRINT_CHECKSUM]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert run("1") == run("2")


def test_an_item_that_shares_a_part_has_the_checksum_of_one_that_repeats_it():
    shared = "".join(["x", "y"])  # not the object that a literal would be
    assert checksum_bytes([shared, shared]) == checksum_bytes(["xy", "".join(["x", "y"])])


def test_different_items_have_different_checksums():
    assert checksum_bytes([1, 2]) != checksum_bytes([2, 1])


def test_an_item_without_stable_bytes_has_no_checksum():
    loop = []
    loop.append(loop)
    assert checksum_bytes(loop) is None
    assert checksum_bytes(threading.Lock()) is None


# --- one item for the dead-letter store ----------------------------------------------------------


def test_a_single_item_is_dumped_and_loaded():
    assert load_item(dump_item({"a": 1})) == {"a": 1}


def test_an_item_that_cannot_be_pickled_has_no_dump():
    assert dump_item(threading.Lock()) is None


def test_a_dump_that_cannot_be_loaded_is_refused():
    with pytest.raises(DecodeError, match="cannot be unpickled"):
        load_item(b"garbage")


def test_a_function_that_holds_what_cannot_travel_cannot_be_shipped():
    lock = threading.Lock()
    assert why_not_shippable(lambda item: lock).startswith("TypeError: cannot pickle")
    assert why_not_shippable(lambda item: item) is None

"""The codec for links whose peer may be anybody: plain data, and nothing is ever executed."""

import pickle
import random
import tracemalloc
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from zflow.wire.codec import (
    MAX_MSGPACK_BYTES,
    MAX_MSGPACK_DEPTH,
    MsgpackCodec,
    Parts,
    PickleCodec,
)
from zflow.wire.payload import DecodeError, EncodeError

CODEC = MsgpackCodec()
CODECS = [PickleCodec(), CODEC]
NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)


def sent(codec, items):
    payload = codec.encode(items)
    return codec.decode(Parts([bytes(part) for part in payload.parts]))


def nested(depth):
    item = []
    for _ in range(depth - 1):
        item = [item]
    return item


# -- what every codec promises --------------------------------------------------------------------

PLAIN = [
    [],
    [None, True, False, 0, -1, 2**63 - 1, 2**64 - 1, -(2**63), 1.5, float("inf")],
    ["", "ü", "\0", b"", b"\xff", "x" * 100_000, b"y" * 100_000],
    [{}, [], {"a": {"b": [1, {"c": None}]}}, {1: 2, "1": 3, b"1": 4, 1.5: 5, None: 6, False: 7}],
    [NOON],
    [{"at": NOON, "rows": [[1, 2.0, "3"]] * 100}] * 100,
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("items", PLAIN)
def test_plain_items_come_back_equal_and_of_the_same_types(codec, items):
    arrived = sent(codec, items)
    assert arrived == items
    assert repr(arrived) == repr(items).replace("timezone.utc", "timezone.utc")


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_the_sizes_are_those_of_the_parts(codec):
    payload = codec.encode([b"x" * 100, "y"])
    assert payload.sizes == [len(part) for part in payload.parts]
    assert payload.size_bytes == sum(payload.sizes)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_what_cannot_travel_is_refused_and_not_sent_by_half(codec):
    with pytest.raises(EncodeError):
        codec.encode([1, lambda: None])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x00garbage", b"\x91", b"\xff" * 100])
def test_what_is_no_list_of_items_is_refused(codec, body):
    with pytest.raises(DecodeError):
        codec.decode(Parts([body]))


def test_their_names_differ():
    assert [codec.name for codec in CODECS] == ["pickle5", "msgpack"]


# -- what changes on the way, and what may not ----------------------------------------------------


def test_what_changes_on_the_way_is_what_the_docstring_says():
    east = timezone(timedelta(hours=2))
    items = [(1, (2,)), bytearray(b"a"), memoryview(b"b"), NOON.astimezone(east)]
    assert sent(CODEC, items) == [[1, [2]], b"a", b"b", NOON]
    assert sent(CODEC, items)[3].tzinfo == UTC


class Level(IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Point(msgspec.Struct):
    x: int


REFUSED = [
    (2**64, "int"),
    (datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001 - that is the case
    (Level.LOW, "Level"),
    (Text("x"), "Text"),
    (OrderedDict(a=1), "OrderedDict"),
    (Point(1), "Point"),
    ({1, 2}, "set"),
    (Decimal("1.5"), "Decimal"),
    (UUID(int=1), "UUID"),
    (NOON.date(), "date"),
    (timedelta(1), "timedelta"),
    (1j, "complex"),
    (Path("/"), "Path"),
    (msgspec.msgpack.Ext(5, b"x"), "Ext"),
    (msgspec.Raw(b"\xc0"), "Raw"),
    (msgspec.UNSET, "UnsetType"),
    (object(), "builtins.object"),
    ("\ud800", "surrogates"),
    ({(1, 2): 3}, "key of a dict is plain; got tuple"),
    ({NOON: 1}, "key of a dict is plain; got datetime"),
    (memoryview(b"abcd")[::2], "msgpack"),
]


@pytest.mark.parametrize(("item", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_nothing_arrives_as_what_it_was_not(item, named):
    for items in ([item], [[{"deep": (item,)}]]):
        with pytest.raises(EncodeError, match=named):
            CODEC.encode(items)


# -- limits ---------------------------------------------------------------------------------------


def test_an_item_may_be_as_deep_as_the_limit_and_no_deeper():
    assert sent(CODEC, [nested(MAX_MSGPACK_DEPTH)]) == [nested(MAX_MSGPACK_DEPTH)]
    with pytest.raises(EncodeError, match="deeper than 64"):
        CODEC.encode([nested(MAX_MSGPACK_DEPTH + 1)])
    with pytest.raises(DecodeError, match="deeper than 64"):
        CODEC.decode(Parts([b"\x91" + b"\x91" * MAX_MSGPACK_DEPTH + b"\x90"]))


def test_an_item_that_holds_itself_is_refused():
    item = []
    item.append(item)
    with pytest.raises(EncodeError, match="deeper than 64"):
        CODEC.encode([item])


def test_a_bottomless_message_is_refused():
    with pytest.raises(DecodeError):
        CODEC.decode(Parts([b"\x91" * 1_000_000 + b"\xc0"]))


def test_a_message_may_be_as_large_as_the_limit_and_no_larger():
    head = 1 + 5  # the list's and the item's own
    assert sent(CODEC, [bytes(MAX_MSGPACK_BYTES - head)]) == [bytes(MAX_MSGPACK_BYTES - head)]
    with pytest.raises(EncodeError, match="16777216 are the limit"):
        CODEC.encode([bytes(MAX_MSGPACK_BYTES)])
    with pytest.raises(DecodeError, match="16777217 bytes"):
        CODEC.decode(Parts([bytes(MAX_MSGPACK_BYTES + 1)]))


def test_a_message_in_parts_is_not_one_of_ours():
    with pytest.raises(DecodeError, match="2 parts"):
        CODEC.decode(Parts([b"\x90", b""]))


LYING = [b"\xdd\xff\xff\xff\xff", b"\x91\xdf\xff\xff\xff\xff", b"\x91\xc6\xff\xff\xff\xff", b"\xdb"]


@pytest.mark.parametrize("body", [*LYING, b"\xdd\xff\xff\xff\xff" * 100])
def test_a_length_that_lies_costs_no_memory(body):
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            CODEC.decode(Parts([body]))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"\x91\xc7\x01\x05a",
        b"\x91\xd4\x00a",
        b"\x91\xc7\x0c\xff" + b"\xff" * 12,  # a time that never is
        b"\x91\x81\x91\x01\x02",  # a key that is a list
        b"\x91\x81\x90\x01",
        b"\x91\xa2\xff\xff",  # no UTF-8
        b"\x90\x90",
        b"\x80",
        b"\xc0",
    ],
)
def test_what_is_not_plain_is_refused_on_arrival_too(body):
    with pytest.raises(DecodeError):
        CODEC.decode(Parts([body]))


# -- nothing is executed --------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_bomb_does_not_go_off(tmp_path, protocol):
    body = pickle.dumps([Bomb(tmp_path / "boom")], protocol)
    for hidden in (body, b"\x91" + body, msgspec.msgpack.encode([body])):
        try:
            assert CODEC.decode(Parts([hidden])) == [body]
        except DecodeError:
            continue
    assert not (tmp_path / "boom").exists()
    pickle.loads(body)  # it would have
    assert (tmp_path / "boom").exists()


@pytest.mark.slow
def test_any_bytes_are_items_or_refused():
    chance = random.Random(7)
    good = [bytes(CODEC.encode(items).parts[0]) for items in PLAIN if items and len(items) < 50]
    refused = 0
    for _ in range(20_000):
        raw = bytearray(chance.choice(good)[:400])
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            items = CODEC.decode(Parts([bytes(raw)]))
        except DecodeError:
            refused += 1
            continue
        CODEC.encode(items)  # it is plain data, so it can go on
    assert 1_000 < refused < 20_000

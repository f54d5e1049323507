"""The frames of the data plane: their bytes for good, and what a broken peer can do: nothing."""

import random
import struct
import tracemalloc

import msgspec
import pytest

from zflow.errors import ProtocolError
from zflow.wire.data import (
    FRAME_TYPES,
    MAX_BUFFERS,
    MAX_ERROR_BYTES,
    MAX_FRAME_BYTES,
    MAX_INLINE_BYTES,
    PROTOCOL,
    Bye,
    Crash,
    Data,
    Frame,
    Heartbeat,
    Hello,
    Nack,
    Refuse,
    Reset,
    State,
    Welcome,
    decode,
    decode_parts,
    encode,
    encode_parts,
)
from zflow.wire.run import INDEX, OSEQ, RESENT, SUSPECT, Run

TOKEN = 0x0102030405060708
RUN = Run(5, 6, OSEQ, 0, 70, 2)
RUN_OF_ONE = Run(5, 6, OSEQ, 0, 70, 1)
RUN_WITH_COLUMN = Run(5, 6, INDEX, 9, 4, 2, 8, 2, RESENT, [4, 6])
RUN_WITH_COUNTS = Run(5, 6, OSEQ, 0, 4, 2, 8, 0, 0, None, 17, [1, 3])

# | protocol 01 | type | parts behind | size of the array, big-endian | msgpack array |
GOLDEN = [
    (
        Hello(TOKEN, "run", "read/0", 3, 2, "ipc:///a", 9, 1, "pickle", False),
        "01 01 00 0000002a 9a cf0102030405060708 a372756e a6726561642f30 03 02"
        " a86970633a2f2f2f61 09 01 a67069636b6c65 c2",
    ),
    (
        Data(TOKEN, 7, 6, [RUN, RUN_WITH_COLUMN, RUN_WITH_COUNTS], [10, 4]),
        "01 02 00 0000003b 95 cf0102030405060708 07 06"
        " 93 9c 05 06 00 00 46 02 00 00 00 c0 ff c0 9c 05 06 01 09 04 02 08 02 02 92 04 06 ff c0"
        " 9c 05 06 00 00 04 02 08 00 00 c0 11 92 01 03"
        " 92 0a 04",
    ),
    (
        Heartbeat(TOKEN, 10, 4, True, 9, "read/0", 3, "ipc:///a", [5, 7]),
        "01 03 00 00000022 99 cf0102030405060708 0a 04 c3 09 a6726561642f30 03 a86970633a2f2f2f61"
        " 92 05 07",
    ),
    (Bye(TOKEN), "01 04 00 0000000a 91 cf0102030405060708"),
    (
        Welcome(TOKEN, "sink/1", 4, 8, 1024, [Crash("sink/1", 3, [RUN], True, 3, "SIGSEGV")]),
        "01 10 00 00000039 96 cf0102030405060708 a673696e6b2f31 04 08 cd0400"
        " 91 97 a673696e6b2f31 03 91 9c 05 06 00 00 46 02 00 00 00 c0 ff c0 c3 03 a753494753454756"
        " ff",
    ),
    (
        Refuse(TOKEN, "codec", 0, 1.0),
        "01 11 00 0000001a 94 cf0102030405060708 a5636f646563 00 cb3ff0000000000000",
    ),
    (
        State(TOKEN, 5, 10, 18, 2048, 8, [0, 3, 5, 6], [Nack(4, 1, "error", "E", "no")], 0.5),
        "01 12 00 0000002f 99 cf0102030405060708 05 0a 12 cd0800 08 94 00 03 05 06"
        " 91 96 04 01 a56572726f72 a145 a26e6f c2 cb3fe0000000000000",
    ),
    (Reset(TOKEN, "gap"), "01 13 00 0000000e 92 cf0102030405060708 a3676170"),
]
KINDS = [type(frame).__name__ for frame, _ in GOLDEN]


def header(number: int, fields: object, *, protocol: int = PROTOCOL) -> bytes:
    raw = msgspec.msgpack.encode([TOKEN, *fields] if isinstance(fields, list) else fields)
    return struct.pack("!BBBI", protocol, number, 0, len(raw)) + raw


def data_header(n: int, runs: list, sizes: list) -> bytes:
    return header(2, [0, n, runs, sizes])


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=KINDS)
def test_the_bytes_of_a_frame_never_change(frame, golden):
    assert encode(frame).hex() == golden.replace(" ", "")


@pytest.mark.parametrize("view", [bytes, memoryview, bytearray])
@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=KINDS)
def test_the_bytes_of_a_frame_are_read_back_as_the_frame(frame, golden, view):
    found = decode(view(bytes.fromhex(golden)))
    assert type(found) is type(frame)
    assert found == frame


def test_the_limits_are_those_that_every_peer_knows():
    assert (PROTOCOL, MAX_BUFFERS) == (1, 62)
    assert (MAX_FRAME_BYTES, MAX_ERROR_BYTES) == (64 * 2**20, 4096)


def test_there_is_a_golden_frame_of_every_type():
    assert {type(frame) for frame, _ in GOLDEN} == set(FRAME_TYPES.values())


def test_numbers_of_64_bits_travel():
    top = 2**64 - 1
    frame = Data(top, 0, 1, [Run(top, top, OSEQ, 0, 2**63, 1)], [0])
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=KINDS)
def test_a_newer_peer_may_add_fields_at_the_end(frame, golden):
    raw = bytes.fromhex(golden)
    fields = [*msgspec.msgpack.decode(raw[7:])[1:], {"new": [1, 2]}]
    assert decode(header(raw[1], fields)) == frame


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=KINDS)
def test_a_frame_cut_short_anywhere_is_refused(frame, golden):
    raw = bytes.fromhex(golden)
    for length in range(len(raw)):
        with pytest.raises(ProtocolError):
            decode(raw[:length])


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=KINDS)
def test_bytes_behind_the_last_field_are_refused(frame, golden):
    with pytest.raises(ProtocolError):
        decode_parts([bytes.fromhex(golden) + b"\0"])


@pytest.mark.parametrize("protocol", [0, 2, 255])
def test_another_protocol_is_refused_by_number(protocol):
    with pytest.raises(ProtocolError, match=f"protocol 1 is spoken here; got {protocol}"):
        decode(header(4, [], protocol=protocol))


@pytest.mark.parametrize("number", sorted(set(range(256)) - set(FRAME_TYPES)))
def test_an_unknown_type_is_refused(number):
    with pytest.raises(ProtocolError, match=f"unknown frame type {number}"):
        decode(header(number, []))


RUN_OF_2 = [5, 6, 0, 0, 70, 2]
HUGE = 2**63 - 1
WRONG_COUNTS = {
    "more units than the runs hold": data_header(3, [RUN_OF_2], [1]),
    "fewer units than the runs hold": data_header(1, [RUN_OF_2], [1]),
    "no units": data_header(0, [], [1]),
    "negative units": data_header(-1, [[5, 6, 0, 0, 70, -1]], [1]),
    "an empty run": data_header(2, [RUN_OF_2, [5, 6, 0, 0, 70, 0]], [1]),
    "a negative run made up for by another": data_header(
        2, [[5, 6, 0, 0, 70, 4], [5, 6, 0, 0, 70, -2]], [1]
    ),
    "a short column": data_header(2, [[*RUN_OF_2, 0, 0, 0, [70]]], [1]),
    "a long column": data_header(2, [[*RUN_OF_2, 0, 0, 0, [70, 71, 72]]], [1]),
    "an empty column": data_header(2, [[*RUN_OF_2, 0, 0, 0, []]], [1]),
    "no body": data_header(2, [RUN_OF_2], []),
    "a negative size": data_header(2, [RUN_OF_2], [-1]),
    "too many buffers": data_header(2, [RUN_OF_2], [0] * (MAX_BUFFERS + 2)),
}


@pytest.mark.parametrize("raw", WRONG_COUNTS.values(), ids=WRONG_COUNTS)
def test_counts_that_do_not_add_up_are_refused(raw):
    with pytest.raises(ProtocolError):
        decode(raw)


def test_as_many_buffers_as_allowed_are_taken():
    sizes = [0] * (MAX_BUFFERS + 1)
    assert decode(data_header(2, [RUN_OF_2], sizes)).sizes == sizes


# A unit is worked through one by one here, so these counts are as dangerous as those of DATA.
CRASH_RUNS = {
    "a column of another length": [*RUN_OF_2, 0, 0, 0, [70]],
    "a run without end": [5, 6, 0, 0, 70, HUGE],
    "a negative run": [5, 6, 0, 0, 70, -2],
}


@pytest.mark.parametrize("run", CRASH_RUNS.values(), ids=CRASH_RUNS)
def test_a_crash_report_with_counts_that_cannot_be_is_refused(run):
    with pytest.raises(ProtocolError):
        decode(header(16, ["sink/1", 4, 8, 1024, [["sink/1", 3, [run], True, 3, "SIGSEGV"]]]))


@pytest.mark.parametrize(
    "numbers", [[71, 70], [70, 70], [70, 2**64 - 1, 71]], ids=["falling", "repeated", "mixed"]
)
def test_a_column_that_does_not_rise_is_refused(numbers):
    run = [5, 6, 0, 0, numbers[0], len(numbers), 0, 0, 0, numbers]
    with pytest.raises(ProtocolError):
        decode(data_header(len(numbers), [run], [1]))


@pytest.mark.parametrize("axis", [-1, 2, 255])
def test_an_axis_that_does_not_exist_is_refused(axis):
    with pytest.raises(ProtocolError):
        decode(data_header(2, [[5, 6, axis, 0, 70, 2]], [1]))


LYING_LENGTHS = {
    "an array of 4 billion runs": b"\x94\x00\x01\xdd\xff\xff\xff\xff",
    "an array of 4 billion sizes": b"\x94\x00\x01\x90\xdd\xff\xff\xff\xff\x01",
    "4 billion fields": b"\xdd\xff\xff\xff\xff\x00",
    "4 billion nested in themselves": b"\x95\x00\x01\x90\x90" + b"\xdd\xff\xff\xff\xff" * 1000,
    "a text of 4 billion bytes": b"\x94\xdb\xff\xff\xff\xff",
    "arrays a million deep": b"\x95\x00\x01\x90\x90" + b"\x91" * 1_000_000,
}


@pytest.mark.parametrize("body", LYING_LENGTHS.values(), ids=LYING_LENGTHS)
def test_a_length_that_lies_costs_no_memory(body):
    raw = struct.pack("!BBQ", PROTOCOL, 2, TOKEN) + body
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(raw)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


# -- the fuzzer --------------------------------------------------------------------------------

JUNK = [0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), True, None, "", "x" * 300]
JUNK += [b"\xff\xfe", [], [[]], {}, {"a": 1}, [0] * 100, [[5, 6, 0, 0, 70, 2]], [None]]


def flipped(chance: random.Random, raw: bytes) -> bytes:
    """Some bytes are others, the token's apart: every token is a good one."""
    found = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        at = chance.choice([0, 1, *range(10, len(found))])
        found[at] = chance.randrange(256)
    return bytes(found)


def spliced(chance: random.Random, raw: bytes) -> bytes:
    """A piece is left out, doubled, or made of chance."""
    begin = chance.randrange(len(raw))
    end = chance.randrange(begin, len(raw) + 1)
    middle = chance.choice([b"", raw[begin:end] * 2, chance.randbytes(end - begin)])
    return raw[:begin] + middle + raw[end:]


def retyped(chance: random.Random, raw: bytes) -> bytes:
    """One field, at some depth, is something else entirely."""
    fields = whole = msgspec.msgpack.decode(raw[7:])[1:]
    while fields:
        at = chance.randrange(len(fields))
        if isinstance(fields[at], list) and chance.random() < 0.7:
            fields = fields[at]
            continue
        fields[at] = chance.choice(JUNK)
        break
    return header(raw[1], whole)


def of_another_type(chance: random.Random, raw: bytes) -> bytes:
    return raw[:1] + bytes([chance.choice(list(FRAME_TYPES))]) + raw[2:]


def of_chance(chance: random.Random, raw: bytes) -> bytes:
    return raw[: chance.choice([0, 1, 2, 10])] + chance.randbytes(chance.randrange(60))


MUTATIONS = [flipped, spliced, retyped, of_another_type, of_chance]
PER_MUTATION = 12_000


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_any_bytes_end_as_a_frame_or_as_a_protocol_error(mutation):
    chance = random.Random(mutation.__name__)
    good = [bytes.fromhex(golden.replace(" ", "")) for _, golden in GOLDEN]
    refused = 0
    for k in range(PER_MUTATION):
        raw = mutation(chance, chance.choice(good))
        try:
            found = decode(raw)
        except ProtocolError:
            refused += 1
            continue
        except Exception as error:  # noqa: BLE001 - whatever else it is, it is the finding
            pytest.fail(f"frame {k}: {raw.hex()} raised {error!r}")
        assert isinstance(found, Frame)
        # What was taken in can be worked with: it can be written down and its units be named.
        assert encode(decode(encode(found))) == encode(found), raw.hex()
        if isinstance(found, Data):
            assert sum(len([*run.units()]) for run in found.runs) == found.n < 1000, raw.hex()
    assert refused > PER_MUTATION // 10


def test_a_message_that_mixes_suspects_with_others_is_refused():
    runs = [Run(5, 6, OSEQ, 0, 0, 1), Run(5, 6, OSEQ, 0, 9, 1, 0, 0, SUSPECT)]
    with pytest.raises(ProtocolError, match="a message of suspects holds nothing else"):
        decode(encode(Data(TOKEN, 0, 2, runs, [0])))


# -- the payload behind the fields ---------------------------------------------------------------


def data_of(*sizes: int) -> Data:
    return Data(TOKEN, 0, 1, [RUN_OF_ONE], list(sizes))


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        ([b"abc"], 1),
        ([b"x" * MAX_INLINE_BYTES], 1),
        ([b"x" * (MAX_INLINE_BYTES + 1)], 2),
        ([b"abc", memoryview(b"")], 3),
        ([b"abc"] + [b"d"] * MAX_BUFFERS, MAX_BUFFERS + 2),
    ],
    ids=["small", "just small", "large", "with a buffer", "with as many as may be"],
)
def test_a_payload_arrives_as_it_was_and_a_small_one_in_the_part_of_its_header(payload, parts):
    frame = data_of(*map(len, payload))
    sent = encode_parts(frame, payload)
    assert len(sent) == parts
    found, received = decode_parts([bytes(part) for part in sent])
    assert found == frame
    assert [bytes(part) for part in received] == [bytes(part) for part in payload]


@pytest.mark.parametrize("payload", [[], [b"ab"], [b"abcd"], [b"abc", b""], [b"ab", b"c"]])
def test_a_payload_that_the_fields_do_not_name_is_refused(payload):
    with pytest.raises(ProtocolError, match=r"names a payload of \[3\] bytes"):
        decode_parts(encode_parts(data_of(3), payload))


@pytest.mark.parametrize(("frame", "golden"), GOLDEN[2:], ids=KINDS[2:])
def test_only_data_has_a_payload(frame, golden):
    with pytest.raises(ProtocolError, match="names a payload of"):
        decode_parts([encode(frame), b"abc"])
    with pytest.raises(ProtocolError, match="names a payload of"):
        decode_parts([encode(frame) + b"abc"])

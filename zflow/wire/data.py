"""The frames of the data plane: bytes <-> typed frames, and nothing else.

Never decodes a payload, and never trusts a length: whatever a peer sends ends as a frame or as
a ProtocolError.

    | protocol u8 | type u8 | parts behind this one u8 | size of the array u32, big-endian |
    | msgpack array: token, then the other fields |

DATA has a payload: the body (one encoded list of items) and at most 62
out-of-band buffers, whose sizes the fields name. A small body without buffers follows the fields
in the same ZeroMQ part; otherwise each is a part of its own.

Type numbers are written out and never reused. The fields' order is the wire order; new fields
are added at the end with a default.
"""

import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec

from zflow.errors import ProtocolError
from zflow.wire.run import SUSPECT, Run

PROTOCOL = 1
MAX_BUFFERS = 62
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 4096
MAX_INLINE_BYTES = 64 * 1024  # a larger body costs less as a part of its own than copied
MAX_CRASH_UNITS = 1_000_000
NOT_OWNER = "not_owner"  # why a unit of a partition comes back that is somebody else's
EXPIRED = "expired"  # why a unit comes back that is too old to be executed: to be dropped
DEADLINE = "deadline"  # the same, to be buried
DEADLINE_ERROR = "DeadlineExceeded"  # the class of its error

_PREFIX = struct.Struct("!BBBI")
_AT_PARTS = 2
_ENCODER = msgspec.msgpack.Encoder()

Part = bytes | memoryview


class Crash(msgspec.Struct, array_like=True, frozen=True):
    """What one dead incarnation was executing, as the black box named it.

    strikes: how far the death speaks against the units, in thirds of one (see `suspects`). place:
    of a unit of several items that ran alone, which of them was executing; -1 if nobody knows.
    """

    slot: str
    incarnation: int
    runs: list[Run]
    alone: bool
    strikes: int
    cause: str
    place: int = -1


def encode_crashes(crashes: Sequence[Crash]) -> bytes:
    """As a supervisor leaves them for a slot's next process."""
    return _ENCODER.encode(crashes)


def decode_crashes(raw: bytes) -> list[Crash]:
    """The inverse; raises ProtocolError."""
    try:
        return _CRASHES.decode(raw)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"malformed reports of deaths: {error}") from error


_CRASHES = msgspec.msgpack.Decoder(list[Crash])


class Nack(msgspec.Struct, array_like=True, frozen=True):
    """Units [first, first + n) of the link failed at the receiver and are the sender's again."""

    first: int
    n: int
    # "error" may be retried, "final" not; "encode": an output cannot travel; NOT_OWNER: somebody
    # else's; EXPIRED and DEADLINE: older than the stage takes, to be dropped or buried
    code: str
    error_class: str
    error: str  # traceback, at most MAX_ERROR_BYTES
    partial: bool = False  # outputs of the unit had left before it failed


class Frame(msgspec.Struct, array_like=True):
    """What every frame has: the token of the link it belongs to."""

    token: int


class Hello(Frame):
    """Sender -> receiver: this token is the link from now on."""

    run_id: str
    sender: str
    incarnation: int
    dial: int
    ack_endpoint: str
    edge: int
    generation: int
    codec: str
    ended: bool


class Data(Frame):
    """Sender -> receiver: units `first .. first + n - 1` of the link."""

    first: int
    n: Annotated[int, msgspec.Meta(ge=1)]
    runs: list[Run]
    sizes: list[int]  # of the body and of each out-of-band buffer, bytes


class Heartbeat(Frame):
    """Sender -> receiver, once a second: how far the link has gone; answered with STATE.

    It says who asks, so that a receiver that does not know the token can answer RESET.
    watermarks: origin, low, origin, low, ...; what is below its origin's low is settled (R7).
    """

    next: int
    version_seen: int
    ended: bool
    edge: int
    sender: str
    incarnation: int
    ack_endpoint: str
    watermarks: list[int] = []


class Bye(Frame):
    """Sender -> receiver: everything is acknowledged and nothing more will come."""


class Welcome(Frame):
    """Receiver -> sender: the answer to HELLO."""

    receiver: str
    incarnation: int
    limit_items: int
    limit_bytes: int
    crashes: list[Crash]


class Refuse(Frame):
    """Receiver -> sender: not this link; `current` is the incarnation known to be newer."""

    code: str
    current: int
    retry_after_s: float


class State(Frame):
    """Receiver -> sender: an absolute snapshot of the link, harmless to lose, repeat, reorder."""

    version: int
    next: int
    limit_items: int
    limit_bytes: int
    window: int
    acked: list[int]  # start, end, start, end, ...
    nacks: list[Nack]
    executing_s: float


class Reset(Frame):
    """Receiver -> sender: dial again."""

    reason: str


FRAME_TYPES: dict[int, type[Frame]] = {
    1: Hello,
    2: Data,
    3: Heartbeat,
    4: Bye,
    16: Welcome,
    17: Refuse,
    18: State,
    19: Reset,
}
_NUMBER = {kind: number for number, kind in FRAME_TYPES.items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Frame]] = {
    number: msgspec.msgpack.Decoder(kind) for number, kind in FRAME_TYPES.items()
}


def encode(frame: Frame, parts_behind: int = 0) -> bytes:
    """The first ZeroMQ part of `frame`."""
    fields = _ENCODER.encode(frame)
    return _PREFIX.pack(PROTOCOL, _NUMBER[type(frame)], parts_behind, len(fields)) + fields


def encode_parts(frame: Frame, payload: Sequence[Part] = ()) -> list[Part]:
    """The ZeroMQ parts of a frame with its payload."""
    if len(payload) == 1 and len(payload[0]) <= MAX_INLINE_BYTES:
        fields = _ENCODER.encode(frame)  # as `encode` does; a call less for somebody who waits
        prefix = _PREFIX.pack(PROTOCOL, _NUMBER[type(frame)], 0, len(fields))
        return [b"".join((prefix, fields, payload[0]))]
    return [encode(frame, len(payload)), *payload]


def parts_behind(first: bytes) -> int:
    """How many ZeroMQ parts follow a first one; 0 if it is no frame of ours."""
    return first[_AT_PARTS] if len(first) >= _PREFIX.size else 0


def decode_parts(parts: Sequence[bytes]) -> tuple[Frame, list[Part]]:
    """The inverse of `encode_parts`; raises ProtocolError.

    The payload shares the memory of `parts` and is not looked at, only measured.
    """
    header = parts[0]
    frame, end = _decode(header)
    if end == len(header):
        payload: list[Part] = list(parts[1:])
    elif len(parts) == 1:
        payload = [memoryview(header)[end:]]
    else:
        payload = [memoryview(header)[end:], *parts[1:]]
    sizes = frame.sizes if type(frame) is Data else []
    alone = len(payload) == len(sizes) == 1  # nearly always, and then without a list
    if len(payload[0]) != sizes[0] if alone else [len(part) for part in payload] != sizes:
        raise ProtocolError(
            f"{type(frame).__name__} names a payload of {sizes} bytes and came with "
            f"{[len(part) for part in payload]}"
        )
    return frame, payload


def decode(header: bytes) -> Frame:
    """The frame at the beginning of `header`, whatever payload follows; raises ProtocolError."""
    return _decode(header)[0]


def _decode(header: bytes) -> tuple[Frame, int]:
    """The frame at the beginning of `header`, and where its fields end."""
    if len(header) < _PREFIX.size:
        raise ProtocolError(f"a header has at least {_PREFIX.size} bytes; got {len(header)}")
    protocol, number, _, size = _PREFIX.unpack_from(header)
    end = _PREFIX.size + size
    if protocol != PROTOCOL:
        raise ProtocolError(f"protocol {PROTOCOL} is spoken here; got {protocol}")
    kind = FRAME_TYPES.get(number)
    if kind is None:
        raise ProtocolError(f"unknown frame type {number}")
    if end > len(header):
        raise ProtocolError(f"a header of {end} bytes was cut to {len(header)}")
    try:
        frame = _DECODERS[number].decode(memoryview(header)[_PREFIX.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a malformed {kind.__name__} frame: {error}") from error
    if type(frame) is Data:
        _check_data(frame)
    elif type(frame) is Welcome:
        _check_crashes(frame.crashes)
    elif type(frame) is Heartbeat and len(frame.watermarks) % 2:
        raise ProtocolError("a watermark is an origin and its low mark")
    return frame, end


def _check_data(data: Data) -> None:
    """Refuse counts that do not add up, before anyone reserves memory for them."""
    units = 0
    for run in data.runs:
        if run.numbers is not None or run.counts is not None:
            _check_columns(run)
        units += run.n
    if units != data.n:
        raise ProtocolError(f"DATA names {data.n} units and its runs hold {units}")
    if len(data.runs) > 1 and len({run.flags & SUSPECT for run in data.runs}) > 1:
        raise ProtocolError("a message of suspects holds nothing else")
    if not 1 <= len(data.sizes) <= MAX_BUFFERS + 1 or min(data.sizes) < 0:
        raise ProtocolError(f"DATA names {len(data.sizes)} parts; 1 to {MAX_BUFFERS + 1} may be")


def _check_columns(run: Run) -> None:
    numbers, counts = run.numbers, run.counts
    if numbers is not None:
        if len(numbers) != run.n or numbers[0] != run.start:
            raise ProtocolError(f"a run of {run.n} units with a column that is not its own")
        if numbers != sorted(numbers) or len(set(numbers)) != run.n:
            raise ProtocolError("the numbers of a run rise; these do not")
    if counts is not None and (len(counts) != run.n or min(counts) < 1):
        raise ProtocolError(f"a run of {run.n} units with counts of items that are not its own")


def _check_crashes(crashes: list[Crash]) -> None:
    """Whoever is told of a death looks at every unit in it, so there is a limit."""
    for crash in crashes:
        for run in crash.runs:
            _check_columns(run)
    if sum(run.n for crash in crashes for run in crash.runs) > MAX_CRASH_UNITS:
        raise ProtocolError(f"crash reports name more than {MAX_CRASH_UNITS} units")

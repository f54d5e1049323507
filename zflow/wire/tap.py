"""A message as a tapped replica mirrors it: what it sends on an edge, for whoever looks.

Layout, one ZeroMQ part each:

    0   topic     3 bytes b"ZFT", 1 byte version (1), 8 bytes edge (big endian)
    1   header    MessagePack array [slot, incarnation, items, seen, mirrored]
    2.. payload   as in DATA: the body, then each buffer; none if only the counts are told

The topic comes first because subscriptions compare the beginning of the first part.
"""

from collections.abc import Sequence

import msgspec

from zflow.errors import ProtocolError

TOPIC = b"ZFT\x01"


class Mirrored(msgspec.Struct, frozen=True, array_like=True):
    """What is said beside the payload.

    items: in this message; 0 if only counts are told. seen: items that the replica has sent on the
    edge since it began to mirror, these included; mirrored: those of them that it has mirrored.
    """

    slot: str
    incarnation: int
    items: int
    seen: int
    mirrored: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Mirrored)


def topic(edge: int) -> bytes:
    """What every message of an edge begins with."""
    return TOPIC + edge.to_bytes(8, "big")


def encode(edge: int, header: Mirrored) -> list[bytes | memoryview]:
    """The parts before the payload."""
    return [topic(edge), _ENCODER.encode(header)]


def decode(parts: Sequence[bytes]) -> tuple[Mirrored, list[bytes | memoryview]]:
    """Header and payload; raises ProtocolError."""
    if len(parts) < 2 or not parts[0].startswith(TOPIC):
        began = parts[0][:4] if parts else b""
        raise ProtocolError(f"a mirrored message begins with {TOPIC!r}; got {began!r}")
    try:
        return _DECODER.decode(parts[1]), list(parts[2:])
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a malformed mirrored message: {error}") from error

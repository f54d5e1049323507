"""The bytes of a mirrored message."""

import pytest

from zflow.errors import ProtocolError
from zflow.wire import tap
from zflow.wire.tap import Mirrored

HEADER = Mirrored("parse/0", 3, 2, 300, 20)


def test_the_bytes_are_these():
    assert tap.encode(0x0102030405060708, HEADER) == [
        b"ZFT\x01\x01\x02\x03\x04\x05\x06\x07\x08",
        b"\x95\xa7parse/0\x03\x02\xcd\x01\x2c\x14",
    ]


def test_what_is_encoded_is_decoded_with_its_payload():
    parts = [*map(bytes, tap.encode(7, HEADER)), b"body", b"buffer"]
    assert tap.decode(parts) == (HEADER, [b"body", b"buffer"])
    assert tap.decode(parts[:2]) == (HEADER, [])


@pytest.mark.parametrize(
    "parts",
    [[], [tap.topic(7)], [b"ZFT\x02" + bytes(8), b"\x95"], [tap.topic(7), b"\x91\xa1a"]],
)
def test_anything_else_is_refused(parts):
    with pytest.raises(ProtocolError, match="mirrored message"):
        tap.decode(parts)

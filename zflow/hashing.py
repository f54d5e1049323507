"""Hashes that are the same on every machine, Python and run.

Never uses `hash()`, which is salted per process.
"""

import hashlib
import operator
import struct
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum, Flag
from numbers import Integral
from typing import Any
from uuid import UUID

MASK64 = (1 << 64) - 1

_OFFSET = 1 << 63  # makes a signed 64-bit number one whose bytes sort like the number
_PACK_UNSIGNED = struct.Struct(">Q").pack
_INTEGER_PART = (9).to_bytes(4, "big") + b"i"  # of a tuple: the length and tag of a whole number
_PACK_DOUBLE = struct.Struct(">d").pack
_TOPOLOGY_MODULE = "zflow_topology"  # in full with a digest of the source behind it


def splitmix64(value: int) -> int:
    """One step of SplitMix64, a bijection on 64 bits.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def mix64(path: int, *fields: int) -> int:
    """Fold `fields` into `path` one after the other, so that their order and number count.

    Packing fields into one word first (by XOR or shifts) would make different tuples equal.
    """
    for field in fields:
        path = splitmix64((path + field) & MASK64)
    return path


def text_hash64(*parts: str) -> int:
    """64 bits of the parts as a tuple of texts; used for the names of edges and origins."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return int.from_bytes(digest.digest(), "big")


def stable_hash(key: Any) -> int:
    """64 bits of a key: the same for equal keys, on every machine, in every process and Python.

    raises: what `key_bytes` raises.
    """
    return int.from_bytes(hashlib.blake2b(key_bytes(key), digest_size=8).digest(), "big")


def key_bytes(key: Any) -> bytes:
    """A key as bytes: equal keys give equal bytes (1 == 1.0 == True), different ones different.

    Keys are None, bool, int, float, str, bytes, Enum, UUID, date, datetime and tuples of these.
    Bytes of whole numbers below 2^63 sort like the numbers, those of texts like the texts.

    **shape** a tag, then the content: `0` none, `i` 64-bit number + 2^63, `j` a larger one, `f` a
    double, `s` UTF-8, `b` bytes, `u` UUID, `d` days, `n` naive and `a` aware datetime in
    microseconds, `z` an ambiguous hour, `e` enum, `t` tuple (length u32 and bytes of each part).
    All numbers big-endian; never changed, since stored keys and partitions depend on them.

    raises: TypeError for another type, ValueError for NaN, which is not equal to itself.
    """
    kind = type(key)
    if kind is str:
        try:
            raw: bytes = key.encode()  # as `_utf8` does; most keys are texts
        except UnicodeEncodeError:
            raw = _utf8(key)
        return b"s" + raw
    if kind is int and -_OFFSET <= key < _OFFSET:
        return b"i" + _PACK_UNSIGNED(key + _OFFSET)
    if kind is tuple:
        return _tuple(key)
    return _other(key)


def _other(key: Any) -> bytes:
    if key is None:
        return b"0"
    if isinstance(key, Enum) and isinstance(key, date):
        return key_bytes(key.value)
    for kinds, encode in _ENCODERS:
        if isinstance(key, kinds):
            return encode(key)
    if type(key) in _EXACTLY:
        return _EXACTLY[type(key)](key)
    raise TypeError(
        "a key is None, bool, int, float, str, bytes, Enum, UUID, date, datetime or a tuple of "
        f"these; got {type(key).__module__}.{type(key).__qualname__}"
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in names of files
        return text.encode(errors="surrogatepass")


def _integer(number: int) -> bytes:
    if -_OFFSET <= number < _OFFSET:
        return b"i" + _PACK_UNSIGNED(number + _OFFSET)
    return b"j" + number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _float(number: float) -> bytes:
    number = float(number)
    if number.is_integer():
        return _integer(int(number))
    if number != number:
        raise ValueError("NaN is not equal to itself, so it cannot be a key")
    return b"f" + _PACK_DOUBLE(number)


def _tuple(parts: tuple[Any, ...]) -> bytes:
    out = [b"t"]
    for part in parts:
        if type(part) is int and -_OFFSET <= part < _OFFSET:  # most parts are: worth a third
            out.append(_INTEGER_PART + _PACK_UNSIGNED(part + _OFFSET))
            continue
        raw = key_bytes(part)
        out.append(len(raw).to_bytes(4, "big") + raw)
    return b"".join(out)


def _datetime(moment: datetime) -> bytes:
    """Aware ones are equal if they are the same moment, whatever their zones."""
    first, second = (moment.replace(fold=fold).utcoffset() for fold in (0, 1))
    local_us = ((moment.toordinal() * 24 + moment.hour) * 60 + moment.minute) * 60_000_000
    local_us += moment.second * 1_000_000 + moment.microsecond
    if first is None:
        return b"n" + _PACK_UNSIGNED(local_us)
    if first != second:
        # Python never calls an ambiguous hour equal to a moment of another zone (PEP 495).
        return b"z" + _PACK_UNSIGNED(local_us) + str(moment.tzinfo).encode()
    away_us = (first.days * 86_400 + first.seconds) * 1_000_000 + first.microseconds
    return b"a" + _PACK_UNSIGNED(local_us - away_us + _OFFSET)


def _enum(member: Enum) -> bytes:
    """By the names of class and member; the digest in a topology's module name is left out."""
    kind = type(member)
    module = kind.__module__
    if module.startswith(_TOPOLOGY_MODULE):
        module = _TOPOLOGY_MODULE
    # A combination of flags has no name of its own in every Python.
    name = member.value if isinstance(member, Flag) else member.name
    return b"e" + _tuple((module, kind.__qualname__, name))


# Subclasses of these (IntEnum, StrEnum, named tuples) are equal to the plain value, so they have
# its bytes.
_ENCODERS: tuple[tuple[type, Callable[[Any], bytes]], ...] = (
    (str, lambda key: b"s" + _utf8(str.__str__(key))),
    (Integral, lambda key: _integer(operator.index(key))),  # bool, and numpy's integers
    (float, _float),
    (bytes, lambda key: b"b" + bytes(key)),
    (tuple, _tuple),
    (UUID, lambda key: b"u" + key.bytes),
    (Enum, _enum),
)
# Subclasses of these may hold more than the plain value does: pandas' Timestamp, nanoseconds.
_EXACTLY: dict[type, Callable[[Any], bytes]] = {
    date: lambda key: b"d" + _PACK_UNSIGNED(key.toordinal()),
    datetime: _datetime,
}

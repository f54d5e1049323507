"""Items <-> bytes: pickle protocol 5, large buffers apart; or msgpack, plain data only. The only
importer of pickle.

Decides how a list of items travels. Never opens a payload on its own: the caller has checked
token and identity first. Pickle executes what it reads, so it is for links whose peer is this
run's own (a private run directory, or CURVE with an allow-list). Msgpack executes nothing.
"""

import io
import pickle
from collections.abc import Callable
from datetime import datetime
from typing import Any

import cloudpickle
import msgspec

from zflow.hashing import key_bytes
from zflow.wire.data import MAX_BUFFERS
from zflow.wire.payload import DecodeError, EncodeError

MAX_MSGPACK_BYTES = 16 * 1024 * 1024  # in memory, plain data may be 60 times as large
MAX_MSGPACK_DEPTH = 64  # of an item
MIN_BUFFER_BYTES = 16 * 1024  # below it a frame of its own costs more than the copy

Part = bytes | memoryview


class Parts:
    """One encoded list: the body, then the out-of-band buffers, none of them writable."""

    __slots__ = ("parts", "size_bytes", "sizes")

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        if len(parts) == 1:
            self.size_bytes = len(parts[0])
            self.sizes = [self.size_bytes]
        else:
            self.sizes = [len(part) for part in parts]
            self.size_bytes = sum(self.sizes)


class PickleCodec:
    """Stateless; safe from every thread."""

    name = "pickle5"

    def encode(self, items: list[Any]) -> Parts:
        """Raises EncodeError, with the pickler's own error as its cause."""
        parts: list[Part] = [b""]

        def take(buffer: pickle.PickleBuffer) -> bool:
            raw = _raw(buffer)
            if raw is None or raw.nbytes < MIN_BUFFER_BYTES or len(parts) > MAX_BUFFERS:
                return True  # stays in the body
            # What the user's code may still write to must not change what is re-sent.
            parts.append(raw if raw.readonly else bytes(raw))
            return False

        try:
            parts[0] = pickle.dumps(items, protocol=5, buffer_callback=take)
        except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
            raise EncodeError(f"cannot be pickled: {error}") from error
        return Parts(parts)

    def decode(self, payload: Parts) -> list[Any]:
        """Raises DecodeError. Arrays arrive read-only: they share the received buffers."""
        body, *buffers = payload.parts
        try:
            items = pickle.loads(body, buffers=buffers)
        except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
            raise DecodeError(f"cannot be unpickled: {error}") from error
        if type(items) is not list:
            raise DecodeError(f"a message holds a list of items; got {type(items).__name__}")
        return items


class MsgpackCodec:
    """Plain data: None, bool, int of 64 bits, float, str, bytes, datetime, list, tuple, dict.

    What changes on the way: a tuple arrives as a list, a bytearray or memoryview as bytes, a
    datetime in UTC. Everything else is refused, a subclass or a naive datetime too, so that
    nothing arrives as what it was not. Keys of a dict are None, bool, int, float, str or bytes.
    An item is at most 64 deep and a list of them 16 MiB. Stateless; safe from every thread.
    """

    name = "msgpack"

    def encode(self, items: list[Any]) -> Parts:
        """Raises EncodeError that names what cannot travel."""
        _check_plain(items, EncodeError)
        try:
            body = _MSGPACK_ENCODER.encode(items)
        except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError, BufferError) as error:
            raise EncodeError(f"cannot travel as msgpack: {error}") from error
        if len(body) > MAX_MSGPACK_BYTES:
            message = f"{len(body)} bytes of msgpack; {MAX_MSGPACK_BYTES} are the limit"
            raise EncodeError(message)
        return Parts([body])

    def decode(self, payload: Parts) -> list[Any]:
        """Raises DecodeError, and executes nothing, whatever the bytes are."""
        body = payload.parts[0]
        if len(payload.parts) != 1 or len(body) > MAX_MSGPACK_BYTES:
            message = f"{len(payload.parts)} parts, {len(body)} bytes; one of at most"
            raise DecodeError(f"{message} {MAX_MSGPACK_BYTES} is msgpack of ours")
        try:
            items = _MSGPACK_DECODER.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise DecodeError(f"is no plain msgpack: {error}") from error
        if type(items) is not list:
            raise DecodeError(f"a message holds a list of items; got {type(items).__name__}")
        _check_plain(items, DecodeError)
        return items


def _no_extension(code: int, _: memoryview) -> Any:
    raise ValueError(f"extension {code} is not plain data")


_MSGPACK_ENCODER = msgspec.msgpack.Encoder()
_MSGPACK_DECODER = msgspec.msgpack.Decoder(ext_hook=_no_extension)
_KEYS = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = _KEYS | {bytearray, memoryview}
_NESTED = (list, tuple, dict)


def _check_plain(items: list[Any], error: type[EncodeError | DecodeError]) -> None:
    """Every part of every item is plain data, and none lies too deep: level by level, since what
    goes down by itself ends with the stack. An object that holds itself is too deep too."""
    level: list[Any] = [items]
    for _ in range(MAX_MSGPACK_DEPTH + 1):
        below: list[Any] = []
        for nest in level:
            if type(nest) is dict:
                for key in nest:
                    if type(key) not in _KEYS:
                        raise error(f"a key of a dict is plain; got {type(key).__name__}")
                nest = nest.values()
            for item in nest:
                kind = type(item)
                if kind in _PLAIN:
                    continue
                if kind in _NESTED:
                    below.append(item)
                elif kind is not datetime:
                    raise error(
                        f"msgpack carries plain data; got {kind.__module__}.{kind.__name__}"
                    )
                elif item.tzinfo is None:
                    raise error("a datetime needs a time zone (tzinfo) to mean the same elsewhere")
        if not below:
            return
        if len(below) > MAX_MSGPACK_BYTES:  # one list in two places counts twice, and so on
            raise error(f"lists and dicts are a byte each, and {MAX_MSGPACK_BYTES} are the limit")
        level = below
    raise error(f"an item is deeper than {MAX_MSGPACK_DEPTH} levels")


def _raw(buffer: pickle.PickleBuffer) -> memoryview | None:
    try:
        return buffer.raw()
    except BufferError:  # not contiguous: pickle refuses it, with a sentence of its own
        return None


class _Search(pickle.Pickler):
    """Looks for buffers that their owner can still write to; what it pickles is thrown away."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=5, buffer_callback=self._look)
        self.found = False

    def _look(self, buffer: pickle.PickleBuffer) -> bool:
        self.found = self.found or not memoryview(buffer).readonly
        return False  # not copied

    def persistent_id(self, item: Any) -> None:
        """Asked about every part; a bytearray is pickled without asking the callback."""
        self.found = self.found or isinstance(item, bytearray)


def holds_writable_buffer(item: Any) -> bool:
    """True if the item exports a buffer that its owner can still write to; probed once per type."""
    search = _Search()
    try:
        search.dump(item)
    except Exception:  # noqa: BLE001 - encode() reports it, with the item that is at fault
        return False
    return search.found or _is_writable(item)


def _is_writable(item: Any) -> bool:
    """Some have a buffer and are pickled by value: array.array, a strided numpy array."""
    try:
        return not memoryview(item).readonly
    except (TypeError, ValueError, BufferError):  # it has no buffer, or one of no plain type
        return False


def snapshot(item: Any) -> Any:
    """A copy whose buffers nobody can write to; the item itself if it cannot travel.

    `encode` takes such buffers as they are, so each is copied once in all.
    """
    buffers: list[bytes] = []

    def copy(buffer: pickle.PickleBuffer) -> bool:
        raw = _raw(buffer)
        if raw is None:
            return True
        buffers.append(bytes(raw))
        return False

    try:
        body = pickle.dumps(item, protocol=5, buffer_callback=copy)
        return pickle.loads(body, buffers=buffers)
    except Exception:  # noqa: BLE001 - encode() reports it, with the item that is at fault
        return item


def checksum_bytes(item: Any) -> bytes | None:
    """Bytes that are equal for equal items made again by the same code; None if there are none."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, protocol=5)
    pickler.fast = True  # no memo: sharing inside the item does not show
    try:
        pickler.dump(item)
    except Exception:  # noqa: BLE001 - recursive or not picklable: no checksum, nothing to compare
        return None
    return out.getvalue()


def dump_item(item: Any) -> bytes | None:
    """One item for the dead-letter store; None if it cannot be pickled."""
    try:
        return pickle.dumps(item, protocol=5)
    except Exception:  # noqa: BLE001 - the store then keeps its repr alone
        return None


def load_item(raw: bytes) -> Any:
    """The inverse of `dump_item`; raises DecodeError."""
    try:
        return pickle.loads(raw)
    except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
        raise DecodeError(f"cannot be unpickled: {error}") from error


def pack(item: Any) -> bytes:
    """One item as bytes, buffers included; raises EncodeError, with the cause."""
    try:
        return pickle.dumps(item, 5)
    except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
        raise EncodeError(f"cannot be pickled: {type(error).__name__}: {error}") from error


class _Canonical(pickle.Pickler):
    """What it writes is compared, never read: sets are sorted, and 1 == 1.0 == True is one."""

    def persistent_id(self, part: Any) -> Any:
        """Asked about every part."""
        if isinstance(part, set | frozenset):
            # Their order depends on the salt of hash(), another in each process.
            return ("set", sorted(_canonical(member) for member in part))
        if isinstance(part, bool | int | float):
            return ("number", key_bytes(part))
        return None


def _canonical(item: Any) -> bytes:
    out = io.BytesIO()
    pickler = _Canonical(out, protocol=5)
    pickler.fast = True  # no memo: sharing inside the item does not show
    pickler.dump(item)
    return out.getvalue()


def canonical_bytes(key: Any) -> bytes:
    """Bytes that are equal for keys that are equal part by part, in every process.

    raises: EncodeError. What a class says in its own `__eq__` is not known here.
    """
    try:
        return _canonical(key)
    except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
        raise EncodeError(f"cannot be pickled: {type(error).__name__}: {error}") from error


def why_not_shippable(target: Callable[..., Any]) -> str | None:
    """Why cloudpickle cannot carry a function to another process; None if it can."""
    try:
        cloudpickle.dumps(target)
    except Exception as error:  # noqa: BLE001 - a pickler runs the items own code
        return f"{type(error).__name__}: {error}"
    return None


CODECS: dict[str, type[PickleCodec] | type[MsgpackCodec]] = {
    PickleCodec.name: PickleCodec,
    MsgpackCodec.name: MsgpackCodec,
}

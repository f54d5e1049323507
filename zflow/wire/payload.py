"""What a codec makes of a list of items, and how it says no.

Decides nothing. The pure core passes payloads on without ever looking inside.
"""

from typing import Any, Protocol


class EncodeError(Exception):
    """These items cannot travel; with one item, that item's producer is at fault."""


class DecodeError(Exception):
    """These bytes are no list of items here; the message's items are at fault, not the link."""


class Payload(Protocol):
    """One encoded list of items."""

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""

    @property
    def sizes(self) -> list[int]:
        """Of the body and of each out-of-band buffer, bytes."""


class Codec(Protocol):
    """Items <-> payload. Called by the core with whole messages, never with one item of many."""

    def encode(self, items: list[Any]) -> Payload:
        """Raises EncodeError if any item cannot travel."""

    def decode(self, payload: Any) -> list[Any]:
        """Raises DecodeError."""

"""Credit on one link, in items and in bytes: how far the sender may go, and how far it is let.

Decides only. Never touches a socket, a clock or a lock. All numbers are absolute, counted since
HELLO, so that a lost, late or repeated STATE frame is harmless (R3, R4).
Invariants: a unit leaves only while sent < limit in both measures; a limit never falls.
Source: QUIC MAX_STREAM_DATA (RFC 9000, section 4.1); ZeroMQ guide, chapter 7.
"""

import math


class SenderCredit:
    """The sender's side of one link's credit."""

    __slots__ = ("limit_bytes", "limit_items", "sent_bytes", "sent_items", "window_items")

    def __init__(self) -> None:
        self.limit_items = 0
        self.limit_bytes = 0
        self.sent_items = 0
        self.sent_bytes = 0
        self.window_items = 1

    def raise_to(self, limit_items: int, limit_bytes: int) -> None:
        """The receiver's newest limits, in any order of arrival."""
        self.limit_items = max(self.limit_items, limit_items)
        self.limit_bytes = max(self.limit_bytes, limit_bytes)

    def room_items(self) -> int:
        """Units that may go now."""
        if self.sent_bytes >= self.limit_bytes:
            return 0
        return self.limit_items - self.sent_items

    def room_bytes(self) -> int:
        """Bytes that may go now; one unit may overshoot."""
        return max(0, self.limit_bytes - self.sent_bytes)

    def fits(self, items: int, size_bytes: int) -> bool:
        """True if a message may go: wholly inside the limits, or one unit that overshoots."""
        if items > self.room_items():
            return False
        return items == 1 or self.sent_bytes + size_bytes <= self.limit_bytes

    def take(self, items: int, size_bytes: int) -> None:
        """A message has gone."""
        self.sent_items += items
        self.sent_bytes += size_bytes


class ReceiverCredit:
    """The receiver's side: credit returns when a unit leaves the inbox, not when it is done."""

    __slots__ = ("_worth_stating", "freed_bytes", "freed_items", "limit_bytes", "limit_items")

    def __init__(self, window_items: int, window_bytes: int) -> None:
        self.freed_items = 0
        self.freed_bytes = 0
        self.limit_items = window_items
        self.limit_bytes = window_bytes
        self._worth_stating = -(-window_items // 4)

    def free(self, items: int, size_bytes: int) -> bool:
        """Units have left the inbox; True if a quarter of the window has since the last word."""
        self.freed_items += items
        self.freed_bytes += size_bytes
        return self.freed_items >= self._worth_stating

    def widen(self, window_items: int, window_bytes: int) -> None:
        """Set the limits for the window of now; a smaller window lets the old limit be used up."""
        self.limit_items = max(self.limit_items, self.freed_items + window_items)
        self.limit_bytes = max(self.limit_bytes, self.freed_bytes + window_bytes)

    def stated(self, window_items: int) -> None:
        """A STATE frame with these limits, and this window, is on its way."""
        self._worth_stating = self.freed_items + -(-window_items // 4)


class Window:
    """How many units one replica wants in its inbox: the work it does in a short time (R4).

    The time must cover a round trip of credit, or the replica starves; every unit beyond that
    waits behind others and may sit at the wrong replica.
    """

    HORIZON_S = 0.02
    MIN_ITEMS = 2
    FIRST_ITEMS = 8  # until the first slice has been measured
    _WEIGHT = 0.25

    def __init__(self, *, max_items: int, floor_items: int = MIN_ITEMS) -> None:
        """floor_items: what is called with so many at once must be able to have them here."""
        self._max_items = max_items
        self._least = self.MIN_ITEMS  # over all links
        self.floor_items = max(self.MIN_ITEMS, floor_items)
        self.service_s = 0.0  # of user code per unit, smoothed; 0 before the first measurement

    def at_least(self, items: int) -> None:
        """The replica works at so many units at once: it wants as many more to be waiting, since
        those may end together and what is waited for comes a round trip of credit later."""
        self._least = max(self.MIN_ITEMS, items)

    def measured(self, items: int, seconds: float) -> None:
        """A slice of `items` took `seconds`."""
        sample = seconds / items
        if self.service_s == 0.0:
            self.service_s = sample
        else:
            # A slice of many units says more than a slice of one.
            weight = min(1.0, self._WEIGHT * max(1.0, math.log2(items)))
            self.service_s += weight * (sample - self.service_s)

    def items(self, links: int) -> int:
        """The window of one of `links` links."""
        links = max(links, 1)
        least = max(self.floor_items, -(-self._least // links))
        wanted = self.FIRST_ITEMS
        if self.service_s > 0.0:
            wanted = math.ceil(self.HORIZON_S / max(self.service_s, 1e-9) / links)
        return max(self.floor_items, min(self._max_items, max(least, wanted)))

"""How much of what goes over an edge is mirrored: a bound of items and of bytes per second.

Decides only; told the time.
"""

ITEMS_PER_S = 10_000.0
BYTES_PER_S = 8.0 * 1024 * 1024
MAX_MIRRORED_BYTES = 64 * 1024 * 1024  # of one message: so much is kept for each who looks
TELL_EVERY_S = 1.0  # at least so often somebody hears what is left out


class Bucket:
    """Lets `rate_per_s` pass on average, and as much as one second gives at once.

    What takes it below zero still passes, so that a single thing of any size can.
    """

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._left = rate_per_s
        self._filled_s = now_s

    def has(self, now_s: float) -> bool:
        """Something may pass."""
        self._left += (now_s - self._filled_s) * self._rate_per_s
        self._left = min(self._left, self._rate_per_s)
        self._filled_s = now_s
        return self._left > 0

    def take(self, amount: float) -> None:
        """It has passed."""
        self._left -= amount


class Sample:
    """Of one edge at one replica. seen, mirrored: items."""

    def __init__(self, now_s: float) -> None:
        self.seen = 0
        self.mirrored = 0
        self._items = Bucket(ITEMS_PER_S, now_s)
        self._bytes = Bucket(BYTES_PER_S, now_s)
        self._told_s = now_s

    def takes(self, items: int, size_bytes: int, now_s: float) -> bool:
        """True if this message is to be mirrored; it is counted in any case."""
        self.seen += items
        room = self._items.has(now_s) and self._bytes.has(now_s)
        if not room or size_bytes > MAX_MIRRORED_BYTES:
            return False
        self._items.take(items)
        self._bytes.take(size_bytes)
        self.mirrored += items
        self._told_s = now_s
        return True

    def is_to_tell(self, now_s: float) -> bool:
        """True if nothing was said for so long that the counts alone are worth a message."""
        if now_s - self._told_s < TELL_EVERY_S:
            return False
        self._told_s = now_s
        return True

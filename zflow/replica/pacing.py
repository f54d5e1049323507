"""How fast a replica may take items, and when it may not at all: token buckets and a breaker.

Decides only: the time comes in, a number of items goes out. Never looks at an item or a clock.
"""

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from zflow.limits import Breaker

T = TypeVar("T")

BURST_S = 0.02  # what may go at once after a pause: the time that a look at the sockets takes
ANY_NUMBER = 1 << 30
_ALMOST = 1e-6  # of a token: what is due now must not wait for a rounding error


class Pace:
    """A token bucket for one replica's share of a rate. It begins with one token.

    least: as many tokens as it must be able to hold, so that a batch of that size can go.
    Source: the token bucket of RFC 2697, with one rate and one burst.
    """

    __slots__ = ("_burst", "_least", "_rate_per_s", "_since_s", "_tokens")

    def __init__(self, rate_per_s: float, now_s: float, *, least: int = 1) -> None:
        self._least = least
        self._since_s = now_s
        self._tokens = 1.0
        self._set(rate_per_s)

    def _set(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        burst = rate_per_s * BURST_S
        # One more, so that whoever looks now and then loses no part of an item; not where items
        # are so rare that each counts.
        self._burst = max(float(self._least), burst + 1.0 if burst >= 1.0 else 1.0)

    @property
    def interval_s(self) -> float:
        """Between two items."""
        return 1.0 / self._rate_per_s

    def change(self, rate_per_s: float, now_s: float) -> None:
        """The stage has more or fewer replicas: from now on it is that fast."""
        if rate_per_s != self._rate_per_s:
            self._refill(now_s)
            self._set(rate_per_s)

    def allowed(self, now_s: float) -> int:
        """How many items may go now."""
        self._refill(now_s)
        return max(0, int(self._tokens + _ALMOST))

    def take(self, items: int) -> None:
        """So many have gone; a negative number: so many of those have not after all."""
        self._tokens -= items

    def due_s(self, items: int = 1) -> float:
        """When that many may go, at most what it can hold; at the time of the last question."""
        missing = min(float(items), self._burst) - self._tokens
        return self._since_s + (missing / self._rate_per_s if missing > _ALMOST else 0.0)

    def is_full(self, now_s: float) -> bool:
        """True if it is as good as new: there is nothing to remember."""
        self._refill(now_s)
        return self._tokens >= self._burst

    def _refill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._since_s)
        self._since_s = max(self._since_s, now_s)
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate_per_s)


class PerKey(Generic[T]):
    """A pace for each key, and who waits for it: in order within a key, keys past one another.

    At most `room` wait; then `is_full`, and nothing more is to be put here. Keys that have not
    come for a while are forgotten.
    """

    _REMEMBERED = 4096  # before it looks which keys it may forget

    def __init__(self, rate_per_s: float, *, room: int) -> None:
        self._rate_per_s = rate_per_s
        self._room = room
        self._paces: dict[Hashable, Pace] = {}
        self._waiting: dict[Hashable, deque[T]] = {}
        self._due: list[tuple[float, int, Hashable]] = []  # heap; a key that waits is in it once
        self._forget_at = self._REMEMBERED
        self._pushed = 0
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """True if nobody more may wait."""
        return self.waiting >= self._room

    def change(self, rate_per_s: float, now_s: float) -> None:
        """From now on each key is that fast."""
        if rate_per_s == self._rate_per_s:
            return
        self._rate_per_s = rate_per_s
        for pace in self._paces.values():
            pace.change(rate_per_s, now_s)
        waiting = [key for _, _, key in self._due]
        self._due.clear()
        for key in waiting:
            self._push(key)

    def admit(self, key: Hashable, now_s: float) -> bool:
        """True if an item of this key may go now, and is counted; raises TypeError for no key."""
        if key in self._waiting:
            return False
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= self._forget_at:
                self._forget(now_s)
            pace = self._paces[key] = Pace(self._rate_per_s, now_s)
        if not pace.allowed(now_s):
            return False
        pace.take(1)
        return True

    def _forget(self, now_s: float) -> None:
        kept = {
            key: pace
            for key, pace in self._paces.items()
            if key in self._waiting or not pace.is_full(now_s)
        }
        self._paces = kept
        self._forget_at = max(self._REMEMBERED, 2 * len(kept))

    def wait(self, key: Hashable, one: T) -> None:
        """This one was not admitted, and waits for its turn."""
        if key not in self._waiting:
            self._waiting[key] = deque()
            self._push(key)
        self._waiting[key].append(one)
        self.waiting += 1

    def _push(self, key: Hashable) -> None:
        self._pushed += 1  # keys of different kinds cannot be compared
        heapq.heappush(self._due, (self._paces[key].due_s(), self._pushed, key))

    def pop(self, now_s: float) -> T | None:
        """The next one whose turn has come, counted; None if there is none."""
        if not self._due or self._due[0][0] > now_s:
            return None
        _, _, key = heapq.heappop(self._due)
        pace, queue = self._paces[key], self._waiting[key]
        if not pace.allowed(now_s):  # it has become slower meanwhile
            self._push(key)
            return None
        one = queue.popleft()
        self.waiting -= 1
        pace.take(1)
        if queue:
            self._push(key)
        else:
            del self._waiting[key]
        return one

    def drain(self) -> list[T]:
        """Everybody who waits; nobody does any more."""
        waiting = [one for queue in self._waiting.values() for one in queue]
        self._waiting.clear()
        self._due.clear()
        self.waiting = 0
        return waiting

    def due_s(self) -> float:
        """When `pop` has something; infinite if nobody waits."""
        return self._due[0][0] if self._due else float("inf")


class Stand(Enum):
    """How a circuit is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Why, since when."""

    failures: int
    error_class: str
    until_s: float


class Circuit:
    """The breaker of one replica. retries: of the stage, after which an item is given up.

    | is        | on a failure                        | on a success | may take      |
    |-----------|-------------------------------------|--------------|---------------|
    | CLOSED    | opens at the last one of `failures` | counts anew  | any number    |
    | OPEN      | stays open                          | closes       | nothing       |
    | HALF_OPEN | opens again                         | closes       | one at a time |

    An error that is none of `on` says nothing about the dependency and changes nothing. So that no
    item is given up because others are few, the second failure in a row opens it as well, if it was
    its item's last attempt.
    Source: M. Nygard, Release It!, "Circuit Breaker".
    """

    def __init__(self, breaker: Breaker, *, retries: int) -> None:
        self._breaker = breaker
        self._retries = retries
        self._failures = 0  # in a row
        self._opened: Opened | None = None

    def stand(self, now_s: float) -> Stand:
        """How it is now."""
        if self._opened is None:
            return Stand.CLOSED
        return Stand.OPEN if now_s < self._opened.until_s else Stand.HALF_OPEN

    def allowed(self, now_s: float) -> int:
        """How many items may go now."""
        stand = self.stand(now_s)
        if stand is Stand.CLOSED:
            return ANY_NUMBER
        return 1 if stand is Stand.HALF_OPEN else 0

    def succeeded(self) -> bool:
        """A call has returned; True if that has closed it."""
        was_open = self._opened is not None
        self._failures = 0
        self._opened = None
        return was_open

    def failed(self, error: BaseException, attempt: int, now_s: float) -> bool:
        """A call has raised; True if the item has to wait, since the circuit is open now."""
        if not isinstance(error, self._breaker.on):
            return False
        self._failures += 1
        last = attempt >= self._retries and self._failures > 1
        if self._opened is None and self._failures < self._breaker.failures and not last:
            return False
        self._opened = Opened(
            failures=self._failures,
            error_class=type(error).__name__,
            until_s=now_s + self._breaker.reset_s,
        )
        return True

    def due_s(self) -> float:
        """When something may go again; infinite if it may go now as far as this is concerned."""
        return self._opened.until_s if self._opened is not None else float("inf")

    def alarm(self, now_s: float) -> str:
        """A sentence for people while it is not closed."""
        opened = self._opened
        if opened is None:
            return ""
        what = f"after {opened.failures} {opened.error_class}"
        left_s = opened.until_s - now_s
        if left_s > 0.0:
            return f"breaker open {what}; next try in {max(1, round(left_s))} s"
        return f"breaker half open {what}; the next item is tried"

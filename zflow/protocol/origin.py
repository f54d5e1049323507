"""The origin of a source: what has been yielded, what is settled, and where to begin again.

Decides only. The low mark is the end of the unbroken settled stretch: everything below it is
settled with everything made from it, so a restart begins there (H17). It never falls, and is
persisted lazily: an older mark only means more replay.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from zflow.intervals import IntervalSet
from zflow.protocol.actions import Action, Bury
from zflow.wire.run import OSEQ, Run

SPAN = 1_000_000  # units between the low mark and the next; bounds replay and bookkeeping


class Origin:
    """One source partition. It owns the tasks of what the source yields."""

    def __init__(
        self,
        origin: int,
        stage: str,
        *,
        low: int,
        act: Callable[[Action], None],
        new_ticket: Callable[[], int],
    ) -> None:
        self.origin = origin
        self.next = low
        self.low = low
        self.dead_lettered = 0
        self.burying: dict[int, int] = {}
        self.mark: tuple[int, Any] | None = None  # the newest settled (end, mark) of `yielded`
        self._stage = stage
        self._settled = IntervalSet()
        self._act = act
        self._new_ticket = new_ticket
        self._marks: deque[tuple[int, Any]] = deque()

    def yielded(self, n: int, born_ns: int, mark: Any) -> Run:
        """The run of `n` new items. `mark` says where their end is; opaque here."""
        run = Run(self.origin, 0, OSEQ, 0, self.next, n, born_ns)
        self.next += n
        self._marks.append((self.next, mark))
        return run

    def full(self) -> bool:
        """True when the oldest open unit holds back a whole span."""
        return self.next - self.low >= SPAN

    def settle(self, first: int, n: int) -> None:
        """Units [first, first + n) are settled."""
        self._settled.add(first, first + n)
        low = self._settled.contiguous_end(self.low)
        if low > self.low:
            self.low = low
            self._settled.drop_below(low)
            while self._marks and self._marks[0][0] <= low:
                self.mark = self._marks.popleft()

    def fail(
        self,
        first: int,
        code: str,
        error_class: str,
        error: str,
        *,
        partial: bool = False,
        items: Sequence[Any] = (),
    ) -> None:
        """A source has nobody to give an item back to: what cannot travel is buried here."""
        del partial  # it is buried in any case, and cannot be sent again
        ticket = self._new_ticket()
        self.burying[ticket] = first
        run = Run(self.origin, 0, OSEQ, 0, first, 1)
        why = (1, code, error_class, error, False)
        self._act(Bury(ticket, self._stage, "", run, list(items), *why))

    def buried(self, ticket: int) -> None:
        """The dead-letter store has committed the item."""
        self.dead_lettered += 1
        self.settle(self.burying.pop(ticket), 1)

    def empty(self) -> bool:
        """Everything that was yielded is settled."""
        return self.low == self.next

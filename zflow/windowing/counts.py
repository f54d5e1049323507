"""Windows of a number of items of a key, in the order in which they came.

Decides when a window is full. There is no event time here, so that nothing is ever late.

    (SMALL, key)          how many items the key has had
    (ITEM, key, i)        (time, item), i counted from 0
"""

from collections.abc import Callable, Iterator
from typing import Any

from zflow.hashing import key_bytes
from zflow.stages import StageOptions
from zflow.windowing.agenda import ITEM, SMALL, seconds, small_rows
from zflow.windowing.calls import Calls
from zflow.windowing.specs import Counts, Window


class CountStage(Calls):
    """Window number n of a key has its items n * hop up to n * hop + count."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: StageOptions,
        time: Callable[[Any], Any] | None,
        spec: Counts,
    ) -> None:
        super().__init__(function, options)
        self._time = time
        self._spec = spec

    def process(self, item: Any) -> Iterator[Any]:
        """Keep the item, and fire the window that it fills."""
        key, spec = self.context.key, self._spec
        n = self.state.get((SMALL, key), 0)
        time_s = 0.0 if self._time is None else seconds(self._time, item)
        self.state[ITEM, key, n] = (time_s, item)
        self.state[SMALL, key] = n + 1
        start = n + 1 - spec.count
        if start >= 0 and start % spec.hop == 0:
            yield from self._fire(key, start, n + 1)
            self.ended()

    def finish(self) -> Iterator[Any]:
        """Fire what is not full, in order of (end, key)."""
        open_windows = []
        for (_, key), n in small_rows(self.state):
            first = max(0, n - self._spec.count + 1)
            first += -first % self._spec.hop
            open_windows += [
                (n, key_bytes(key), start, key) for start in range(first, n, self._spec.hop)
            ]
        for n, _, start, key in sorted(open_windows, key=lambda window: window[:3]):
            yield from self._fire(key, start, n)

    def _fire(self, key: Any, start: int, end: int) -> Iterator[Any]:
        found = [self.state[ITEM, key, i] for i in range(start, end)]
        for i in range(start, min(start + self._spec.hop, end)):
            del self.state[ITEM, key, i]
        found.sort(key=lambda pair: pair[0])
        yield from self.fire(key, Window(start, end), [item for _, item in found])

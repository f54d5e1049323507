"""The counters that a stage makes for itself: `self.context.counter("orders").add()`.

Decides their names, and how many there may be: what is beyond the cap is not counted, and one
warning says so.
"""

import json
import logging
import re
import threading

from zflow.metrics import MAX_USER_NAMES, MAX_USER_SERIES, USER_KEY
from zflow.state.blackbox import MAX_SPARE_NAME_BYTES, BlackBox, Cells

_LOG = logging.getLogger("zflow.replica")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_RESERVED = frozenset({"topology", "stage", "replica", "edge", "le", "quantile", "job", "instance"})


class UserCounter:
    """Counts up; from any thread of the stage."""

    __slots__ = ("_at", "_cells")

    _adding = threading.Lock()  # to read a cell and to write it are two things

    def __init__(self, cells: Cells, at: int) -> None:
        self._cells = cells
        self._at = at

    def add(self, n: int = 1) -> None:
        """`n` more; raises ValueError if it is less than 0."""
        if n < 0:
            raise ValueError(f"a counter only rises; got {n}")
        with self._adding:
            self._cells[self._at] += n


class UserCounters:
    """All of one replica, in spare cells of its black box."""

    def __init__(self, black_box: BlackBox) -> None:
        self._black_box = black_box
        self._known: dict[tuple[str, tuple[tuple[str, str], ...]], UserCounter] = {}
        self._names: set[str] = set()
        self._making = threading.Lock()  # the threads of a stage may ask for the same
        self._warned = False

    def counter(self, name: str, labels: dict[str, object]) -> UserCounter:
        """The counter of that name with those labels; raises ValueError for what cannot be one."""
        name = name.removesuffix("_total")  # it is put there when it is exported
        key = (name, tuple(sorted((label, str(value)) for label, value in labels.items())))
        with self._making:
            return self._of(name, key)

    def _of(self, name: str, key: tuple[str, tuple[tuple[str, str], ...]]) -> UserCounter:
        known = self._known.get(key)
        if known is None:
            known = self._make(*key)
            if known is None:
                return self._beyond(name)
            self._known[key] = known
        return known

    def _make(self, name: str, labels: tuple[tuple[str, str], ...]) -> UserCounter | None:
        """None if there are too many."""
        for one in (name, *(label for label, _ in labels)):
            if not _NAME.fullmatch(one):
                raise ValueError(f"{one!r} is no name: letters, digits and _, a letter first")
        taken = sorted({label for label, _ in labels} & _RESERVED)
        if taken:
            raise ValueError(f"the label {taken[0]!r} of the counter {name!r} is zflow's own")
        text = USER_KEY + json.dumps(
            [name, dict(labels)], separators=(",", ":"), ensure_ascii=False
        )
        if len(text.encode(errors="replace")) > MAX_SPARE_NAME_BYTES:
            raise ValueError(
                f"the counter {name!r} and its labels take more than {MAX_SPARE_NAME_BYTES} bytes"
            )
        full = len(self._known) >= MAX_USER_SERIES
        if full or (name not in self._names and len(self._names) >= MAX_USER_NAMES):
            return None
        at = self._black_box.call(text)
        if at is None:
            return None
        self._names.add(name)
        return UserCounter(self._black_box.spare, at)

    def _beyond(self, name: str) -> UserCounter:
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "counter %r is not kept: a stage may have %d names, and %d with their labels",
                name,
                MAX_USER_NAMES,
                MAX_USER_SERIES,
            )
        return UserCounter([0], 0)

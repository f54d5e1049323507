"""A sink on trial: its place, and what must be stored there now.

Decides whether what is stored is what must be. Never knows how a sink stores it: it is told how to
make one, and how to read everything back.
"""

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zflow.connectors.contract import IdempotentSink, PlainSink, TransactionalSink
from zflow.testing.sink_faults import BrokenContract

SHOWN = 3  # items of each kind that a failure prints

TEXTS = (
    *("plain", "", " ", "'quoted' \"twice\"", "back\\slash", "line\nbreak\r\n", "tab\tand \0 nul"),
    *(
        "čeština, 日本語, ελληνικά",
        "🙂👩\u200d👩\u200d👧",
        "e\u0301 is not é",
        "\u2028\u2029\x85",
        "\ufeffbom",
    ),
)

Read = Callable[[], Iterable[Any]]
Row = tuple[bytes, bytes | None]  # of progress
S = TypeVar("S", bound=PlainSink | IdempotentSink | TransactionalSink)


@dataclass(frozen=True, slots=True)
class Batch:
    """Items with their ids, never used before."""

    items: list[Any]
    ids: list[str]


def numbered(n: int) -> dict[str, Any]:
    """The items of a trial, unless others are asked for: a number and a text that is not easy."""
    return {"number": n, "text": TEXTS[n % len(TEXTS)]}


class Trial(ABC, Generic[S]):
    """A place that is empty at first, and what it must hold: `items` by id, and `progress`."""

    def __init__(
        self, make: Callable[[], S], read: Read, item: Callable[[int], Any] = numbered
    ) -> None:
        self.make = make
        self.items: dict[str, Any] = {}
        self.progress: dict[bytes, bytes] = {}
        self._read = read
        self._item = item
        self._numbers = itertools.count()

    def batch(self, count: int) -> Batch:
        """The next new items; a forked process makes the same ones as its parent will."""
        numbers = list(itertools.islice(self._numbers, count))
        ids = [f"{n % 7:016x}-{n}-{n * n:016x}-0" for n in numbers]
        return Batch([self._item(n) for n in numbers], ids)

    @contextmanager
    def opened(self) -> Iterator[S]:
        """A new sink on the place, as a new process has it."""
        sink = self.make()
        sink.open()
        try:
            yield sink
        finally:
            sink.close()

    @abstractmethod
    def write(self, sink: S, batch: Batch) -> None:
        """Call the method of the interface; changes nothing of what is expected."""

    @abstractmethod
    def expect(self) -> None:
        """What is stored is what must be, or raises BrokenContract."""

    def now_holds(self, batch: Batch, progress: Sequence[Row] = ()) -> None:
        """From now on this has to be stored, too."""
        self.items.update(zip(batch.ids, batch.items, strict=True))
        for key, value in progress:
            self.progress.pop(key, None)
            if value is not None:
                self.progress[key] = value

    def expect_items(self, *, at_least: bool = False) -> None:
        """Everything that must be stored is, and nothing else; at_least: or it is there again."""
        stored = Counter(map(_comparable, self._read()))
        wanted = Counter(map(_comparable, self.items.values()))
        extra = stored - wanted
        if at_least:
            extra = Counter(item for item in extra if item not in wanted)
        if missing := wanted - stored:
            raise BrokenContract(f"{missing.total()} items are missing: {_shown(missing)}")
        if extra:
            raise BrokenContract(f"{extra.total()} items should not be there: {_shown(extra)}")


class TransactionalTrial(Trial[TransactionalSink]):
    """Items and progress are there together, each once."""

    def write(self, sink: TransactionalSink, batch: Batch) -> None:
        """Commit without progress."""
        sink.commit(batch.items, batch.ids, [])

    def commit(self, sink: TransactionalSink, batch: Batch, progress: Sequence[Row]) -> None:
        """Commit, and expect it to be there from now on."""
        sink.commit(batch.items, batch.ids, list(progress))
        self.now_holds(batch, progress)

    def found_progress(self) -> dict[bytes, bytes]:
        """What a new process finds."""
        with self.opened() as sink:
            rows = sink.load_progress()
        if len(rows) != len(dict(rows)):
            raise BrokenContract(f"load_progress gave a key twice: {sorted(rows)[:SHOWN]}")
        return dict(rows)

    def expect(self) -> None:
        """A new process finds exactly these items and this progress."""
        found = self.found_progress()
        if wrong := dict(found.items() ^ self.progress.items()):
            keys = sorted(wrong)[:SHOWN]
            raise BrokenContract(
                f"{len(wrong)} rows of progress are wrong: {[(k, found.get(k)) for k in keys]}"
                f" must be {[(k, self.progress.get(k)) for k in keys]}"
            )
        self.expect_items()


class IdempotentTrial(Trial[IdempotentSink]):
    """Each id is there once, with the item that came last."""

    def write(self, sink: IdempotentSink, batch: Batch) -> None:
        """Upsert them."""
        sink.upsert(batch.items, batch.ids)

    def expect(self) -> None:
        """Exactly these items."""
        self.expect_items()


class PlainTrial(Trial[PlainSink]):
    """Each item is there, once or more often."""

    def write(self, sink: PlainSink, batch: Batch) -> None:
        """Write them."""
        sink.write(batch.items)

    def expect(self) -> None:
        """At least these items, and no others."""
        self.expect_items(at_least=True)


def _comparable(item: Any) -> str:
    return repr(sorted(item.items()) if isinstance(item, dict) else item)


def _shown(items: Counter[str]) -> str:
    shown = ", ".join(itertools.islice(items, SHOWN))
    return shown if len(items) <= SHOWN else f"{shown}, ..."

"""From what user code gave to what goes out on which edge.

Decides routing (`output=`, `when=`, `key=`, nothing for None) and what must be copied at once,
before user code runs again. On the usual path it looks at the set of types of a slice, never at
single items.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import GeneratorType
from typing import Any, cast

from zflow.errors import StageError
from zflow.hashing import stable_hash
from zflow.protocol.outputs import Output
from zflow.stages import Emit
from zflow.wire.codec import holds_writable_buffer, snapshot
from zflow.wire.run import LANES

MAX_SHOWN_CHARS = 60  # of a key

_NONE = type(None)
_PLAIN_KEYS: frozenset[type] = frozenset({str, int, bytes, float, bool, _NONE})
_IMMUTABLE: frozenset[type] = frozenset({bytes, str, int, float, bool, complex, _NONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One outgoing edge as the emitter sees it."""

    edge: int
    output: str | None
    when: Callable[[Any], object] | None
    keyed: "Keying | None" = None
    priority: int | Callable[[Any], int] | None = None


class Keying:
    """To which partition an item belongs: the hash of its key, the same everywhere.

    key: None where all belong to partition 0. Keeps count of the keys that come most often, which
    are what makes one replica busy while others wait.
    """

    _REMEMBERED = 65_536
    _COUNTED = 4096  # keys at once; the rarer ones make room for new ones

    def __init__(self, key: Callable[[Any], Any] | None, partitions: int) -> None:
        self._key = key
        self._partitions = partitions
        self._known: dict[type, dict[Any, int]] = {}
        self._counts: Counter[Any] = Counter()
        self.items = 0

    def partition(self, item: Any) -> int:
        """Raises what the user's `key=` raises, and what `stable_hash` does for what is no key."""
        return self.partitions([item])[0]

    def partitions(self, items: list[Any]) -> list[int]:
        """Of each item; raises as `partition` does, for whichever item, and counts none then."""
        if self._key is None:
            return [0] * len(items)
        keys = list(map(self._key, items))
        if len(keys) < len(items):  # `map` takes it for its own end
            raise RuntimeError("key= raised StopIteration: give next() a default")
        found = self._partitions_of(keys)
        self.items += len(keys)
        self._counts.update(keys)
        if len(self._counts) > self._COUNTED:
            self._make_room()
        return found

    def _partitions_of(self, keys: list[Any]) -> list[int]:
        kinds = set(map(type, keys))
        if len(kinds) != 1 or not kinds <= _PLAIN_KEYS:
            return list(map(self._partition_of, keys))
        found = list(map(self._known_of(kinds.pop()).get, keys))
        if None in found:
            for place, key in enumerate(keys):
                if found[place] is None:
                    found[place] = self._partition_of(key)
        return cast("list[int]", found)

    def _known_of(self, kind: type) -> dict[Any, int]:
        """By type: Decimal(1) is equal to 1, and no key, whatever was seen before it."""
        return self._known.setdefault(kind, {})

    def _partition_of(self, key: Any) -> int:
        kind = type(key)
        if kind is tuple and not _PLAIN_KEYS.issuperset(map(type, key)):
            return stable_hash(key) % self._partitions
        known = self._known_of(kind)
        try:
            found = known.get(key)
        except TypeError:  # not hashable; what it should have been, `stable_hash` tells better
            return stable_hash(key) % self._partitions
        if found is None:
            if len(known) >= self._REMEMBERED:
                known.clear()
            found = known[key] = stable_hash(key) % self._partitions
        return found

    def _make_room(self) -> None:
        # Numbers are sorted far faster than pairs; who came as rarely as the middle one goes too.
        middle = sorted(self._counts.values())[len(self._counts) - self._COUNTED // 2]
        self._counts = Counter({key: n for key, n in self._counts.items() if n > middle})

    def _ranked(self) -> list[tuple[Any, int]]:
        return sorted(self._counts.items(), key=itemgetter(1), reverse=True)

    def most_common(self, n: int) -> list[tuple[str, int, int]]:
        """The keys that came most often, as text, with how often at least, and their partition."""
        ranked = self._ranked()[:n]
        return [(_shown(key), count, self._partition_of(key)) for key, count in ranked]


class WhenError(Exception):
    """The user's `when=`, `key=` or `priority=` raised for the output at `position`.

    The cause is its error.
    """

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Emitter:
    """The outgoing side of one stage. One thread at a time owns it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)
        self._plain = all(
            route.output is None
            and route.when is None
            and route.keyed is None
            and route.priority is None
            for route in routes
        )
        self._uncopied: set[type] = set(_IMMUTABLE)
        self._copied: set[type] = set()
        self.nothing = 0  # how many of those that were routed last were None

    def hot_keys(self, n: int) -> dict[int, tuple[int, list[tuple[str, int, int]]]]:
        """Per keyed edge: how many items were keyed, and the keys that came most often."""
        keyed = [(route.edge, route.keyed) for route in self._routes if route.keyed is not None]
        return {edge: (one.items, one.most_common(n)) for edge, one in keyed if one.items}

    @property
    def careful(self) -> bool:
        """True once some type of item had a buffer that its maker can still write to."""
        return bool(self._copied)

    def surprised(self, items: Iterable[Any]) -> bool:
        """True if items that were made without care turn out to need it.

        They may have been overwritten already: throw them away and have them made again, with
        `gather`. Only for sources, which can make theirs again, and once per type.
        """
        new = set(map(type, items)) - self._uncopied
        if not new:
            return False
        for item in items:
            if type(item) in new:
                self._kept(item)
        return self.careful

    def gather(self, made: Iterable[Any], append: Callable[[Any], None]) -> None:
        """Append each item as soon as user code has made it; raises what that raises.

        An item whose maker could still write to it is copied before user code runs again: it may
        use the same buffer for the next one.
        """
        uncopied = self._uncopied
        for item in made:
            append(item if type(item) in uncopied else self._kept(item))

    def _kept(self, item: Any) -> Any:
        wrapped = type(item) is Emit
        inner = item.item if wrapped else item
        kind = type(inner)
        if kind not in self._copied and kind not in self._uncopied:
            # One item tells for its type, since to look into each would cost more than to send it.
            (self._copied if holds_writable_buffer(inner) else self._uncopied).add(kind)
        if kind in self._uncopied:
            return item
        copy = snapshot(inner)
        return Emit(item.name, copy) if wrapped else copy

    def route(self, items: list[Any]) -> list[Output]:
        """What goes to each edge; raises WhenError, or StageError for what cannot be an item."""
        types = set(map(type, items))
        if GeneratorType in types:
            raise StageError(
                "the function returned a generator object; write `yield from` in a generator "
                "function, or return the list"
            )
        empty = _NONE in types
        self.nothing = sum(item is None for item in items) if empty else 0
        whole = not empty and Emit not in types
        if whole and self._plain:
            return [Output(route.edge, None, items) for route in self._routes]
        return [output for route in self._routes for output in self._one(route, items, whole)]

    def _one(self, route: Route, items: list[Any], whole: bool) -> list[Output]:
        """whole: there is no None and no Emit among the items."""
        if whole and route.output is None and route.when is None:
            return _outputs(route, None, items)
        positions: list[int] = []
        chosen: list[Any] = []
        for position, item in enumerate(items):
            if item is None:
                continue
            name = None
            if type(item) is Emit:
                name, item = item.name, item.item
            if name != route.output:
                continue
            if route.when is not None and not _ask(route.when, item, position):
                continue
            positions.append(position)
            chosen.append(item)
        return _outputs(route, positions if len(positions) < len(items) else None, chosen)


def _outputs(route: Route, positions: list[int] | None, items: list[Any]) -> list[Output]:
    """One, or one for each lane."""
    partitions = None
    if route.keyed is not None:
        partitions = _partitions(route.keyed, positions or range(len(items)), items)
    if not callable(route.priority):
        return [Output(route.edge, positions, items, partitions, route.priority)]
    numbers = positions if positions is not None else range(len(items))
    lanes: defaultdict[int, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        lanes[_lane_of(route.priority, item, numbers[place])].append(place)
    if len(lanes) == 1:
        return [Output(route.edge, positions, items, None, lane) for lane in lanes]
    return [
        Output(route.edge, [numbers[at] for at in own], [items[at] for at in own], None, lane)
        for lane, own in lanes.items()
    ]


def _lane_of(priority: Callable[[Any], int], item: Any, position: int) -> int:
    try:
        lane = priority(item)
        if isinstance(lane, bool) or not isinstance(lane, int) or not 0 <= lane < LANES:
            raise ValueError(f"priority= gives a whole number from 0 to {LANES - 1}; got {lane!r}")
    except Exception as error:
        raise WhenError(position) from error
    return lane


def _shown(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."


def _partitions(keyed: Keying, positions: Sequence[int], items: list[Any]) -> list[int]:
    try:
        return keyed.partitions(items)
    except Exception:  # noqa: BLE001 - of all together; one by one says whose it is
        return _one_by_one(keyed, positions, items)


def _one_by_one(keyed: Keying, positions: Sequence[int], items: list[Any]) -> list[int]:
    found: list[int] = []
    try:
        for item in items:
            found.append(keyed.partition(item))
    except Exception as error:
        raise WhenError(positions[len(found)]) from error
    return found


def _ask(when: Callable[[Any], object], item: Any, position: int) -> bool:
    try:
        return bool(when(item))
    except Exception as error:
        raise WhenError(position) from error

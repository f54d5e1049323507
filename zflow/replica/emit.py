"""From what user code gave to what goes out on which edge.

Decides routing (`output=`, `when=`, nothing for None) and what must be copied at once. On the
usual path it looks at the set of types of a slice, never at single items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from zflow.errors import StageError
from zflow.protocol.core import Output
from zflow.stages import Emit
from zflow.wire.codec import holds_writable_buffer, snapshot

_NONE = type(None)
_IMMUTABLE: frozenset[type] = frozenset({bytes, str, int, float, bool, complex, _NONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One outgoing edge as the emitter sees it."""

    edge: int
    output: str | None
    when: Callable[[Any], object] | None


class WhenError(Exception):
    """The user's `when=` raised for the output at `position`; the cause is the user's error."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Emitter:
    """The outgoing side of one stage. One thread at a time owns it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)
        self._plain = all(r.output is None and r.when is None for r in routes)
        self._copied: dict[type, bool] = dict.fromkeys(_IMMUTABLE, False)

    def must_copy(self, items: Sequence[Any]) -> bool:
        """True if items of these types must be kept apart from their maker as soon as made."""
        return self._any_copied(set(map(type, items)), items)

    def _any_copied(self, types: set[type], items: Sequence[Any]) -> bool:
        copied = False
        for kind in types:
            known = self._copied.get(kind)
            if known is None:
                known = self._learn(kind, items)
            copied = copied or known
        return copied

    def _learn(self, kind: type, items: Sequence[Any]) -> bool:
        """Probe one item of a type never seen; a reused buffer could change what is kept."""
        item = next(item for item in items if type(item) is kind)
        inner = item.item if isinstance(item, Emit) else item
        found = type(inner) not in _IMMUTABLE and holds_writable_buffer(inner)
        if kind is not Emit:
            self._copied[kind] = found
        return found

    def kept(self, items: list[Any]) -> list[Any]:
        """The items, with those replaced by copies whose maker could still change them."""
        if not self.must_copy(items):
            return items
        return [_copy(item) for item in items]

    def route(self, items: list[Any]) -> list[Output]:
        """What goes to each edge; raises WhenError, or StageError for what cannot be an item."""
        types = set(map(type, items))
        if GeneratorType in types:
            raise StageError(
                "the function returned a generator object; write `yield from` in a generator "
                "function, or return the list"
            )
        if self._plain and _NONE not in types and Emit not in types:
            return [Output(route.edge, None, items) for route in self._routes]
        return [self._one(route, items) for route in self._routes]

    def _one(self, route: Route, items: list[Any]) -> Output:
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
        whole = len(positions) == len(items)
        return Output(route.edge, None if whole else positions, chosen)


def _ask(when: Callable[[Any], object], item: Any, position: int) -> bool:
    try:
        return bool(when(item))
    except Exception as error:
        raise WhenError(position) from error


def _copy(item: Any) -> Any:
    if type(item) is Emit:
        return Emit(item.name, snapshot(item.item))
    return snapshot(item)

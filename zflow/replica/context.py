"""What a class stage can ask about the item in its hands: `self.context`.

Decides nothing. Looked up when asked, so that a stage which never asks pays nothing.
"""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from zflow.protocol.inbox import Portion
from zflow.replica.usercounters import UserCounter, UserCounters
from zflow.wire.run import Run


class Context:
    """Set on the instance before `open()`; valid in the thread that has the item only."""

    def __init__(
        self,
        stage: str,
        replica: int,
        parameters: Mapping[str, Any],
        edges: Mapping[int, str],
        keys: Mapping[str, Callable[[Any], object] | None] = MappingProxyType({}),
    ) -> None:
        self.stage = stage
        self.replica = replica
        self.parameters = dict(parameters)
        self.logger = logging.getLogger(f"zflow.user.{stage}")
        self.edges = tuple(keys)  # labels of those into this stage, in the order of `connect`
        self.late = 0  # items that came too late for their window; the replica's books read it
        # The replica's own: the item in hand and its position in the portion. `item` is set in a
        # durable stage only, which sets both without a call for each item.
        self.item: Any = None
        self.position = 0
        self._edges = dict(edges)
        self._keys = dict(keys)
        self.counters: UserCounters | None = None
        self.instance: Any = None  # the replica's own: what the class stage is
        self._portion: Portion | None = None

    def label(self, edge: int) -> str:
        """The replica's own: how people name an edge."""
        return self._edges[edge]

    def counter(self, name: str, **labels: object) -> UserCounter:
        """A counter of the stage's own, exported as `zflow_user_NAME_total`; from `open()` on.

        Call it once and keep what it gives. Labels must take few values: see `metrics` for the cap.
        Raises ValueError for what is no name, RuntimeError before `open()`.
        """
        if self.counters is None:
            raise RuntimeError("context.counter exists from open() on")
        return self.counters.counter(name, labels)

    def at(self, portion: Portion | None, position: int) -> None:
        """The replica's own: which item is in hand."""
        self._portion = portion
        self.position = position

    def _in_hand(self) -> tuple[Portion | None, int]:
        return self._portion, self.position

    def _here(self) -> tuple[Run, int]:
        portion, position = self._in_hand()
        if portion is None:
            raise RuntimeError("context.attempt and context.item_id exist only while an item runs")
        for run in portion.runs:
            if position < run.n:
                return run, position
            position -= run.n
        raise RuntimeError("no item at this position")

    @property
    def attempt(self) -> int:
        """0 for the first call with this item, then 1, 2, ..."""
        return self._here()[0].attempt

    @property
    def item_id(self) -> str:
        """The same for the same item whatever is retried, restarted or replayed."""
        run, position = self._here()
        origin, oseq, path, index = run.unit(position)
        return f"{origin:016x}-{oseq}-{path:016x}-{index}"

    @property
    def edge(self) -> str:
        """The label of the edge the item came on."""
        portion, _ = self._in_hand()
        if portion is None:
            raise RuntimeError("context.edge exists only while an item runs")
        return self._edges[portion.link.key[0]]

    @property
    def key(self) -> Any:
        """The key of the item in a durable stage, None where its edge has no `key=`.

        Raises what `key=` raises, which it did not do when it was asked by the sender.
        """
        key = self._keys.get(self.edge)
        return None if key is None else key(self.item)


class SharedContext(Context):
    """Of a stage that has several items in hand: each task and each thread sees its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Its own: in a run in one process there are several replicas.
        self._item: ContextVar[tuple[Portion | None, int]] = ContextVar(
            "zflow_item", default=(None, 0)
        )

    def at(self, portion: Portion | None, position: int) -> None:
        """The replica's own: which item the present task or thread has."""
        self._item.set((portion, position))

    def _in_hand(self) -> tuple[Portion | None, int]:
        return self._item.get()

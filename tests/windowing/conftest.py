"""Runs windows and joins without a process, over the state that a replica would give them.

Items are (key, time, number). A trial can fail, be killed and be opened again between any two.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from zflow.replica.userside import build
from zflow.stages import Emit, declaration_of
from zflow.state.mapping import State

EDGES = ("left->stage", "right->stage")


class Rows:
    """A partition's file: what is committed, a few rows a page."""

    page_rows = 3

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def commit(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, row in rows:
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def page(self, after: bytes | None) -> list[tuple[bytes, bytes]]:
        keys = sorted(key for key in self.rows if after is None or key > after)
        return [(key, self.rows[key]) for key in keys[: self.page_rows]]

    def count(self, keys: Iterable[bytes] = ()) -> tuple[int, int]:
        return len(self.rows), sum(key in self.rows for key in keys)


class Broken(Exception):
    """What the user's function raises when a trial tells it to."""


class Trial:
    """One partition of a decorated function. outputs: those that are committed, and late items."""

    def __init__(self, function: Callable[..., Any], **parameters: Any) -> None:
        self.decl = declaration_of(function)
        self.parameters = parameters
        self.rows = Rows()
        self.outputs: list[Any] = []
        self.late: list[Any] = []
        self.calls_until_failure = -1
        self._uncommitted: list[tuple[Any, int]] = []
        self._made: list[Any] = []
        self.open()

    def open(self) -> None:
        """A new process has the partition."""
        self.context = SimpleNamespace(key=None, edge=EDGES[0], edges=EDGES, late=0)
        code = build(self.decl, self.parameters, self.context)
        self.stage = code.instance
        self.state = self.stage.state = State(self.rows)
        user = self.stage._function

        def counted(*arguments: Any) -> Any:
            self.calls_until_failure -= 1
            if self.calls_until_failure == -1:
                raise Broken("as it was told to")
            return user(*arguments)

        if not self.stage._is_generator:
            self.stage._function = counted

    def feed(self, item: tuple[Any, float, int], side: int = 0) -> None:
        """One item, applied; raises what the function raises, when nothing is applied."""
        self._apply(lambda: self._process(item, side))
        self._uncommitted.append((item, side))

    def _process(self, item: tuple[Any, float, int], side: int) -> list[Any]:
        self.context.key = item[0]
        self.context.edge = EDGES[side]
        return list(self.stage.process(item))

    def _apply(self, call: Callable[[], list[Any]]) -> None:
        try:
            made = call()
        except BaseException:
            self.state.undo()
            raise
        self.state.seal()
        self._made += made

    def finish(self) -> None:
        """The sources have ended."""
        self._apply(lambda: list(self.stage.finish() if hasattr(self.stage, "finish") else ()))
        self.commit()

    def commit(self) -> None:
        """What was applied is durable, and its outputs leave."""
        self.rows.commit(self.state.take())
        self.state.committed()
        for output in self._made:
            if isinstance(output, Emit):
                assert output.name == "late"
                self.late.append(output.item)
            else:
                self.outputs.append(output)
        self._made, self._uncommitted = [], []

    def kill(self) -> None:
        """The process dies; its successor gets again what was not committed."""
        again, self._uncommitted, self._made = self._uncommitted, [], []
        self.open()
        for item, side in again:
            self.feed(item, side)

    def fail_once(self, item: tuple[Any, float, int], side: int = 0, *, after: int = 0) -> None:
        """The function raises at its call number `after`, if there is one; then it does not."""
        self.calls_until_failure = after
        try:
            self._process(item, side)
        except Broken:
            pass
        finally:
            self.calls_until_failure = -1
            self.state.undo()

    def left_over(self) -> list[Any]:
        """The keys of what is still in the state."""
        return list(self.state)


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """`trial(function)` is a partition of a decorated function."""
    return Trial

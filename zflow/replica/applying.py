"""Runs user code over the units of one partition, so that each is in the state wholly or not.

Decides what is undone when a unit fails, and which items are called again for that. What becomes
of the one that failed is decided in `durable`.
"""

import itertools
from collections.abc import Callable
from types import GeneratorType
from typing import Any

from zflow.errors import StageError
from zflow.protocol.inbox import Portion, ReceiverLink
from zflow.replica.worker import Bench
from zflow.state.mapping import State
from zflow.wire.codec import pack
from zflow.wire.run import Run, item_span


class Work:
    """A run of units for one partition, from the first one that is not through.

    attempt: of its first unit. dead: which of the items were given up. due_s: when it may be
    tried again.
    """

    __slots__ = ("attempt", "dead", "due_s", "first", "items", "link", "portion", "position", "run")

    def __init__(self, portion: Portion, position: int, run: Run, items: list[Any]) -> None:
        self.portion = portion
        self.position = position  # of its first unit in the portion
        self.link: ReceiverLink = portion.link
        self.first = portion.first + position
        self.run = run
        self.items = items
        self.attempt = 0
        self.dead: set[int] = set()
        self.due_s = 0.0

    def rest(self, done: int) -> "Work":
        """What is left when `done` units are through."""
        if done == 0:
            return self
        run, n = self.run, self.run.n
        begin, end = item_span([run], done, n)
        return Work(self.portion, self.position + done, run.cut(done, n), self.items[begin:end])


class Applier:
    """One per durable replica. call: takes an item; `instance.state` is what it works on."""

    def __init__(
        self, bench: Bench, instance: Any, call: Callable[[Any], Any], *, yields: bool
    ) -> None:
        self._bench = bench
        self._instance = instance
        self._call = call
        self._yields = yields
        self._alone: bool = instance.sealed_alone
        self._at = 0  # the item in hand, of those of the work
        self._failure: tuple[int, BaseException] | None = None

    def take_failure(self) -> tuple[int, BaseException]:
        """Which item of the unit where `apply` stopped failed, and how."""
        assert self._failure is not None, "something has failed"
        failure, self._failure = self._failure, None
        return failure

    def apply(self, state: State, work: Work, begin: int, end: int, outputs: list[bytes]) -> int:
        """The units [begin, end), their changes sealed, what they give appended to `outputs`;
        where it stopped."""
        self._instance.state = state
        if work.run.counts is None and not work.dead and not self._alone:  # nearly always
            return self._together(state, work, begin, end, outputs)
        return self._singly(state, work, begin, end, outputs)

    def _together(
        self, state: State, work: Work, begin: int, end: int, outputs: list[bytes]
    ) -> int:
        """Units of one item each, sealed together as far as the state allows; where it stopped.

        If one fails, those before it that were not sealed are undone with it, and applied again
        one by one: they must be in the state without it.
        """
        context, call = self._bench.context, self._call
        first = work.position
        context.at(work.portion, first + begin)
        sealed, kept, late = begin, 0, context.late
        items = itertools.islice(work.items, begin, end)
        try:
            for context.position, context.item in enumerate(items, first + begin):
                result = call(context.item)
                if result is not None:
                    outputs += self._packed(result)
                if state.exposed:
                    state.seal()
                    sealed = context.position - first + 1
                    kept, late = len(outputs), context.late
            state.seal()
            return end
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            state.undo()
            failure = error
        failed = context.position - first
        if sealed < failed:
            context.late = late
            del outputs[kept:]
            reached = self._singly(state, work, sealed, failed, outputs)
            if reached < failed:
                return reached
        self._failure = (0, failure)
        return failed

    def _singly(self, state: State, work: Work, begin: int, end: int, outputs: list[bytes]) -> int:
        """The same unit by unit, whatever they hold; where it stopped."""
        run = work.run
        at = item_span([run], 0, begin)[1]
        for position in range(begin, end):
            self._bench.context.at(work.portion, work.position + position)
            count = 1 if run.counts is None else run.counts[position]
            self._at = at
            try:
                made = self._call_each(work, at, count)
                state.seal()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
                state.undo()
                self._failure = (self._at - at, error)
                return position
            outputs += made
            at += count
        return end

    def _call_each(self, work: Work, at: int, count: int) -> list[bytes]:
        """User code for the items of one unit, less those that were given up; what they gave."""
        made: list[bytes] = []
        for self._at in range(at, at + count):
            if count > 1 and work.run.n == 1:
                self._bench.black_box.at(self._at - at)
            if self._at not in work.dead:
                item = self._bench.context.item = work.items[self._at]
                result = self._call(item)
                if result is not None:
                    made += self._packed(result)
        return made

    def _packed(self, result: Any) -> list[bytes]:
        """What one call gave, before its changes are kept: it may fail here."""
        if self._yields:
            return list(map(pack, [output for output in result if output is not None]))
        if isinstance(result, GeneratorType):
            raise StageError("the method returned a generator object; write `yield from`")
        return [pack(result)]

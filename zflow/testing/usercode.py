"""The user's code in a run in one process: what it is called through, and what takes its place.

Decides what a source gives that a test feeds, what a sink is recorded to have taken, and that a
call takes virtual time. The code itself is the very function or class of the topology in the test.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from types import GeneratorType
from typing import Any

from zflow.config import convert, convert_problem
from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem, suggest
from zflow.replica.assembly import User, make_user
from zflow.replica.context import Context
from zflow.replica.place import Place
from zflow.replica.userside import UserCode
from zflow.shapes import entry_name
from zflow.testing.kills import Fates, Killed
from zflow.testing.virtual import VirtualClock
from zflow.windowing.stage import WindowStage

ITEM_NS = 1_000  # of virtual time, for each item that user code is called with


class Blocked(BaseException):
    """Raised out of a source whose next item is not there yet, where a process would wait."""


class Supply:
    """The items of a source that a test feeds, the same again for every incarnation.

    closed: nothing more is put; until then the source waits at the end of what there is.
    """

    def __init__(self, items: Iterable[Any], *, closed: bool) -> None:
        self.closed = closed
        self._rest = deque([iter(items)])
        self._known: list[Any] = []

    def put(self, items: Iterable[Any]) -> None:
        """More of them."""
        self._rest.append(iter(items))

    def share(self, partition: int, partitions: int) -> Iterator[Any]:
        """The items that are one replica's."""
        return _Share(self, partition, partitions)

    def item(self, number: int) -> Any:
        """raises: StopIteration behind the last one, Blocked while it is not there."""
        while number >= len(self._known):
            if not self._rest:
                raise StopIteration if self.closed else Blocked
            try:
                self._known.append(next(self._rest[0]))
            except StopIteration:
                self._rest.popleft()
        return self._known[number]


class _Share(Iterator[Any]):
    # Not a generator: it goes on after it has raised Blocked.

    def __init__(self, supply: Supply, partition: int, partitions: int) -> None:
        self._supply = supply
        self._next = partition
        self._step = partitions

    def __next__(self) -> Any:
        item = self._supply.item(self._next)
        self._next += self._step
        return item


class _Pulled(Iterator[Any]):
    """Each item of a source takes its time, and may be the last of its process."""

    def __init__(self, items: Iterator[Any], begins: Callable[[], bool]) -> None:
        self._items = items
        self._begins = begins

    def __next__(self) -> Any:
        item = next(self._items)
        if self._begins():
            raise Killed
        return item


class _Table:
    """In the place of a transactional sink whose own code is not to run: its store, in memory."""

    def __init__(self) -> None:
        self._progress: dict[bytes, bytes] = {}

    def load_progress(self) -> list[tuple[bytes, bytes]]:
        """What was committed before."""
        return list(self._progress.items())

    def commit(self, _items: list[Any], _ids: list[str], progress: list[Any]) -> None:
        """Rows to replace, and to delete."""
        for key, value in progress:
            if value is None:
                self._progress.pop(key, None)
            else:
                self._progress[key] = value


def _take_anything(*_: Any) -> None:
    """In the place of a sink whose own code is not to run."""


class UserSide:
    """Of one run. taken: by sink, what user code has returned for."""

    def __init__(
        self,
        declared: Declared,
        parameters: Mapping[str, Mapping[str, Any]],
        supplies: Mapping[str, Supply],
        recorded: Collection[str],
        fates: Fates,
    ) -> None:
        self.declared = declared
        self.taken: dict[str, list[Any]] = {
            stage.name: [] for stage in declared.stages if stage.kind == "sink"
        }
        self._parameters = parameters
        self._supplies = supplies
        self._tables = {name: _Table() for name in recorded}
        self._fates = fates
        self._loop: asyncio.AbstractEventLoop | None = None

    def close(self) -> None:
        """The run is over."""
        if self._loop is not None:
            self._loop.close()

    def awaited(self, made: Any) -> Any:
        """What user code has given, waited for at once: one item after the other, in real time.

        What runs several at once has nothing to show in virtual time but its order, and any order
        is allowed.
        """
        if isinstance(made, Future):
            return made.result()
        if isinstance(made, AsyncGenerator):
            return self._yields(made)
        if not inspect.iscoroutine(made):
            return made
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(made)

    def _yields(self, made: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                yield self.awaited(_next_of(made))
        except StopAsyncIteration:
            return

    def of(self, place: Place, clock: VirtualClock) -> User:
        """One replica's; whatever the user's code raises."""
        name = place.slot.stage
        decl = self.declared.stage(name)
        supply = self._supplies.get(name)
        if supply is not None:
            fed = replace(
                decl,
                options=replace(decl.options, journaled=False),
                is_class=False,
                takes_resume=False,
                takes_partition=True,
            )
            user = replace(self._without_code(place, supply.share, None), decl=fed)
        elif name in self._tables:
            table = self._tables[name]
            commits = decl.is_class and entry_name(decl.target, "sink") == "commit"
            user = self._without_code(place, table.commit if commits else _take_anything, table)
        else:
            user = make_user(place, self.declared, dict(self._parameters.get(name, {})))
        made = user.decl
        if made is not None and made.concurrency:
            alone = replace(made, options=replace(made.options, concurrency=0), is_async=False)
            user = replace(user, decl=alone)
        code = user.code
        assert code is not None, "every stage of a topology has code"
        if isinstance(code.instance, WindowStage):
            code.instance.clock = clock  # or it would wait for the real one
        wrap = self._pulling if decl.kind == "source" else self._calling
        call = wrap(code.call, place, clock)
        return replace(user, code=UserCode(call=call, instance=code.instance))

    def _without_code(self, place: Place, call: Callable[..., Any], instance: Any) -> User:
        name = place.slot.stage
        labels = {edge.edge: edge.label for edge in place.config.edges}
        context = Context(name, place.slot.index, {}, labels)
        context.instance = instance
        return User(
            declared=self.declared,
            decl=self.declared.stage(name),
            code=UserCode(call=call, instance=instance),
            parameters={},
            context=context,
            version="",
        )

    def _pulling(
        self, call: Callable[..., Any], place: Place, clock: VirtualClock
    ) -> Callable[..., Iterator[Any]]:
        slot, fates = str(place.slot), self._fates

        def begins() -> bool:
            clock.spend(ITEM_NS)
            return fates.begins(slot, 1)

        return lambda *a, **k: _Pulled(iter(call(*a, **k)), begins)

    def _calling(
        self, call: Callable[..., Any], place: Place, clock: VirtualClock
    ) -> Callable[..., Any]:
        slot, fates = str(place.slot), self._fates
        decl = self.declared.stage(place.slot.stage)
        many = (decl.kind == "sink" and decl.is_class) or decl.options.batch > 0
        taken = self.taken.get(decl.name)

        def called(item: Any, *more: Any) -> Any:
            items = list(item) if many else [item]
            clock.spend(ITEM_NS * len(items))
            dies = fates.begins(slot, len(items))
            result = self.awaited(call(item, *more))
            if taken is not None:
                taken.extend(items)
            if dies and isinstance(result, GeneratorType):
                return _to_the_end(result)
            if dies:
                raise Killed
            return result

        return called


async def _next_of(made: AsyncGenerator[Any, None]) -> Any:
    return await anext(made)


def _to_the_end(made: Iterator[Any]) -> Iterator[Any]:
    yield from made
    raise Killed


def parameters_of(
    declared: Declared, given: Mapping[str, Any], unused: Collection[str]
) -> dict[str, dict[str, Any]]:
    """By stage and name, of {"STAGE.NAME": value}; a text is read as `-p` reads it.

    unused: stages whose code does not run. raises: ConfigError with all that is wrong.
    """
    stages = {stage.name: stage for stage in declared.stages}
    found: dict[str, dict[str, Any]] = {name: {} for name in stages}
    problems = []
    for key, value in given.items():
        stage, _, name = key.rpartition(".")
        known = stages[stage].parameters if stage in stages else {}
        if isinstance(value, str) or name not in known:
            wrong = convert_problem(declared, stage, name, str(value))
            if wrong is not None:
                problems.append(_problem(f"parameters[{key!r}]", *wrong))
                continue
            value = convert(value, known[name])
        found[stage][name] = value
    for name, stage_decl in stages.items():
        for parameter, kind in stage_decl.parameters.items():
            if kind.required and parameter not in found[name] and name not in unused:
                fix = f"give parameters={{'{name}.{parameter}': ...}}"
                problems.append(_problem(name, f"the parameter '{parameter}' has no value", fix))
    if problems:
        raise ConfigError(problems)
    return found


def check_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """raises: ConfigError for names of an argument that are none of the topology's."""
    wrong = [name for name in given if name not in known]
    if wrong:
        raise ConfigError([_problem(what, f"there is no '{n}'", suggest(n, known)) for n in wrong])


def _problem(where: str, message: str, fix: str) -> Problem:
    return Problem(where=where, file="", line=0, message=message, fix=fix)

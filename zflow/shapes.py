"""What kind of thing a user's function or class is: its entry, its arguments, its faults.

Decides only by looking: never calls, wraps or changes what it looks at.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from zflow.durable import DurableStage

Kind = Literal["source", "stage", "sink"]
Fault = tuple[str, str]  # message and fix of a problem that has no place yet

EMPTY = inspect.Parameter.empty
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
NOT_AN_ITEM = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SHARE = frozenset({"partition", "partitions"})  # which share of its items a source replica yields
RESERVED = SHARE | {"resume"}
ITEM = ("item",)  # what a function of a stage or sink is called with
SINK_METHODS = ("write", "upsert", "commit")


class Parameter(NamedTuple):
    """An argument that `-p STAGE.NAME=VALUE` sets; what it lacks is None and EMPTY."""

    annotation: Any
    default: Any
    required: bool


def entry_name(target: object, kind: Kind) -> str:
    """The method that takes an item; of a sink, the one of its ways to write that it has."""
    if kind == "sink":
        return next((method for method in SINK_METHODS if hasattr(target, method)), "write")
    return "__iter__" if kind == "source" else "process"


def is_durable(target: Any) -> bool:
    """True for a class with state on disk."""
    return inspect.isclass(target) and issubclass(target, DurableStage)


def entry_of(target: Any, kind: Kind) -> Callable[..., Any] | None:
    """The user's function: of a class the method that takes an item, unbound."""
    if inspect.isclass(target):
        return getattr(target, entry_name(target, kind), None)
    if inspect.isroutine(target) or isinstance(target, functools.partial):
        return target
    return getattr(target, "__call__", None)  # noqa: B004 - the method itself is wanted


def is_async(function: Any) -> bool:
    """True for `async def`, whether it returns or yields."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def does_yield(function: Any) -> bool:
    """True for generator functions, async ones included."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def concurrency_faults(
    target: Any, kind: Kind, *, asked: bool, is_durable: bool
) -> Iterator[Fault]:
    """What is wrong with several items at once. asked: with `concurrency=`."""
    entry = entry_of(target, kind)
    if kind == "source":
        if asked:
            yield "a source has no concurrency=", "remove it; replicas= runs it several times"
        return
    awaits = is_async(entry)
    batches = kind == "sink" and inspect.isclass(target)
    if is_durable and (asked or awaits):
        what = "async def" if awaits else "concurrency="
        fix = "await in a stage before it, and replicas= shares its partitions out"
        yield f"{what} on a stage with state: its items are applied one after the other", fix
    elif batches and (asked or awaits):
        what = f"async {entry_name(target, kind)}()" if awaits else "concurrency="
        fix = "write it plainly, or let the sink be an async function of one item"
        yield f"{what} on a sink class: its batches are written one after the other", fix
    elif asked and not awaits and does_yield(entry):
        fix = "write it as `async def`, or give replicas= instead"
        yield "concurrency= on a generator function that is not async", fix
    for method in ("open", "close", "finish", "on_timer") if inspect.isclass(target) else ():
        one = getattr(target, method, None)
        if is_async(one) and (is_durable or batches or not awaits):
            yield f"{method}() is async, and nothing here awaits it", "write it without async"


def arguments_of(function: Any) -> list[inspect.Parameter] | None:
    """The arguments of a function; None where Python does not know them (some built-ins)."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None


def method_arguments(cls: type, method: str) -> list[inspect.Parameter]:
    """The arguments of a method after `self`; none where there is no such method."""
    return (arguments_of(getattr(cls, method, None)) or [])[1:]


def configurable(target: Any, kind: Kind, takes: Sequence[str] = ITEM) -> list[inspect.Parameter]:
    """The arguments that are set once, by keyword, and are not what it takes of each call."""
    if inspect.isclass(target):
        arguments = method_arguments(target, "__init__")
    else:
        arguments = (arguments_of(target) or [])[0 if kind == "source" else len(takes) :]
    return [argument for argument in arguments if argument.kind in BY_KEYWORD]


def reserved_in(target: Any, kind: Kind, takes: Sequence[str] = ITEM) -> set[str]:
    """Which reserved arguments it takes."""
    names = {argument.name for argument in configurable(target, kind, takes)}
    if inspect.isclass(target) and kind == "source":
        names |= {argument.name for argument in method_arguments(target, "open")}
    return names & RESERVED


def parameters_of(target: Any, kind: Kind, takes: Sequence[str] = ITEM) -> dict[str, Parameter]:
    """What `-p` may set, by name."""
    owner = target.__init__ if inspect.isclass(target) else target
    hints = annotations_of(owner)
    return {
        one.name: Parameter(hints.get(one.name), one.default, one.default is EMPTY)
        for one in configurable(target, kind, takes)
        if one.name not in RESERVED
    }


def annotations_of(function: Any) -> dict[str, Any]:
    """The annotations of a function as objects; those that cannot be evaluated are left out."""
    hints: dict[str, Any] = {}
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    for name, annotation in getattr(function, "__annotations__", {}).items():
        # One by one: a name that exists for the type checker only must not hide the others.
        alone: Any = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints[name] = typing.get_type_hints(alone, globalns=scope)[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return hints


def shape_faults(target: Any, kind: Kind, takes: Sequence[str] = ITEM) -> Iterator[Fault]:
    """All that is wrong with the shape of a target. takes: what a function is called with."""
    if inspect.isclass(target):
        yield from _class_faults(target, kind)
    entry = entry_of(target, kind)
    if entry is None:
        return
    if kind == "source" and is_async(entry):
        yield "an async source is not available in this version yet", "write it without async"
        return
    yields = does_yield(entry)
    if kind == "source" and not inspect.isclass(target) and not yields:
        yield "a source function must yield", "yield each item, or write a class with __iter__"
    if kind == "sink" and yields:
        yield "a sink that yields: nothing takes its items", "return nothing, or use @stage"
    yield from _argument_faults(target, kind, takes)


def _class_faults(target: type, kind: Kind) -> Iterator[Fault]:
    if kind == "sink":
        yield from _sink_faults(target)
        return
    entry = entry_name(target, kind)
    if not hasattr(target, entry):
        yield f"a {kind} class needs {entry}", f"write the method {entry}"
    if is_durable(target):
        if kind == "source":
            yield "a source has no state on disk", "keep its place: write position()"
        return
    for method in ("finish", "on_timer") if kind == "stage" else ():
        if hasattr(target, method):
            fix = f"derive it from DurableStage, or remove {method}()"
            yield f"{method}() would never be called: only durable stages have it", fix


def _sink_faults(target: type) -> Iterator[Fault]:
    found = [method for method in SINK_METHODS if hasattr(target, method)]
    if len(found) != 1:
        several = f"; this one has {', '.join(found)}" if found else ""
        yield f"a sink class has exactly one way to write{several}", "write one: write(items)"
    elif found == ["commit"] and not hasattr(target, "load_progress"):
        fix = "write load_progress(): the rows that commit() has stored"
        yield "a sink with commit() needs load_progress()", fix
    if is_durable(target):
        yield "a sink has no state on disk of zflow's", "keep it in the sink's own store"


def _argument_faults(target: Any, kind: Kind, takes: Sequence[str]) -> Iterator[Fault]:
    reserved = reserved_in(target, kind, takes)
    if kind == "source":
        if len(reserved & SHARE) == 1:
            yield "takes only one of 'partition' and 'partitions'", "take both"
        return
    for name in sorted(reserved):
        yield f"the argument '{name}' is reserved for sources", "give it another name"
    is_class = inspect.isclass(target)
    entry = entry_name(target, kind) if is_class else ""
    arguments = method_arguments(target, entry) if is_class else arguments_of(target)
    if arguments is None:
        return
    if len(takes) > 1:
        if not _takes(arguments, len(takes)):
            wanted = f"({', '.join(takes)})"
            yield f"cannot be called with {wanted}", f"its first arguments must be {wanted}"
    elif not arguments or arguments[0].kind in NOT_AN_ITEM:
        yield "takes no item", "its first argument must be the item"
    given = {"upsert": 2, "commit": 3}.get(entry, 1)
    for argument in arguments[given:] if is_class else []:
        if argument.default is EMPTY and argument.kind not in VARIADIC:
            yield f"{entry}() needs '{argument.name}'", "take it in __init__ instead"


def _takes(arguments: list[inspect.Parameter], n: int) -> bool:
    """True if a function can be called with `n` values by their places."""
    for argument in arguments[:n]:
        if argument.kind is inspect.Parameter.VAR_POSITIONAL:
            return True
        if argument.kind in NOT_AN_ITEM:
            return False
    return len(arguments) >= n

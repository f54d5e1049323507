"""From a declared stage to something that can be called: the border to the user's code.

Decides how functions, classes and parameters become one callable. Never catches what they raise.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zflow.replica.context import Context
from zflow.shapes import entry_name
from zflow.stages import StageDecl


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCode:
    """call: takes an item (a sink class: a list of items). instance: of a class stage, or None."""

    call: Callable[..., Any]
    instance: Any


def build(decl: StageDecl, parameters: dict[str, Any], context: Context) -> UserCode:
    """Make the instance of a class stage, or bind the parameters of a function."""
    if decl.is_class:
        instance = decl.target(**parameters)
    else:
        call = functools.partial(decl.target, **parameters) if parameters else decl.target
        if decl.runtime is None:
            return UserCode(call=call, instance=None)
        instance = decl.runtime.make(call, decl.options)
    instance.context = context
    context.instance = instance
    call = getattr(instance, entry_name(instance, decl.kind))
    return UserCode(call=call, instance=instance)


def source_begin(
    decl: StageDecl, code: UserCode, *, partition: int, partitions: int
) -> Callable[[Any], Iterator[Any]]:
    """What makes a fresh iterator; its argument reaches a source that takes `resume`."""
    share: dict[str, Any] = {}
    if decl.takes_partition:
        share = {"partition": partition, "partitions": partitions}

    def begin(resume: Any) -> Iterator[Any]:
        if code.instance is None:
            where = {"resume": resume} if decl.takes_resume else {}
            return iter(code.call(**share, **where))
        opener = getattr(code.instance, "open", None)
        if opener is not None:
            if decl.takes_resume:
                opener(resume)
            else:
                opener()
        return iter(code.call())

    return begin


def open_stage(instance: Any) -> Any:
    """`open()` of a class stage or sink, if it has one; what it gives, for an async one."""
    opener = getattr(instance, "open", None)
    return None if opener is None else opener()


def close_stage(instance: Any) -> Any:
    """`close()` of a class, if it has one; what it gives, for an async one."""
    closer = getattr(instance, "close", None)
    return None if closer is None else closer()

"""Calls the function under a decorator of windows. Decides how it may give its results."""

import inspect
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from zflow.durable import DurableStage
from zflow.errors import StageError


class Calls(DurableStage):
    """A durable stage around a plain function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_generator = inspect.isgeneratorfunction(function)

    def call(self, *arguments: Any) -> Iterator[Any]:
        """The user's function, whether it returns or yields."""
        result = self._function(*arguments)
        if self._is_generator:
            yield from result
        elif isinstance(result, GeneratorType):
            raise StageError("the function returned a generator object; write `yield from`")
        elif result is not None:
            yield result

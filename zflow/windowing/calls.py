"""Calls the function under a decorator of windows, and gives up the windows that it fails on.

Decides what becomes of a window whose function raises. The worker would blame the item that made it
fire, and after it the next one, and so on: so a failed call is tried again through the item, like
any other, but at the last attempt the window becomes a dead letter, and the item is none.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from zflow.durable import DurableStage
from zflow.errors import StageError
from zflow.stages import StageOptions
from zflow.windowing.specs import Window

MAX_TRACEBACK_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Failed:
    """An output that is no item: the worker makes it a dead letter, in its place in the order."""

    item: dict[str, Any]
    error_class: str
    error: str


class Calls(DurableStage):
    """A durable stage around a plain function."""

    sealed_alone = True  # `_raised` counts the calls for one item, and ends when an item is through

    def __init__(self, function: Callable[..., Any], options: StageOptions) -> None:
        self._function = function
        self._options = options
        self._is_generator = inspect.isgeneratorfunction(function)
        self._raised: dict[int, int] = {}  # how often for the item in hand, by partition

    def call(self, *arguments: Any) -> Iterator[Any]:
        """The user's function, whether it returns or yields."""
        result = self._function(*arguments)
        if self._is_generator:
            yield from result
        elif isinstance(result, GeneratorType):
            raise StageError("the function returned a generator object; write `yield from`")
        elif result is not None:
            yield result

    def fire(self, key: Any, window: Window, items: list[Any]) -> list[Any]:
        """What the function gives for a window; raises what it raises, until it is given up."""
        try:
            return list(self.call(key, window, items))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            if self._tries_again(error):
                raise
            if self._options.on_error == "drop":
                return []
            text = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARS:]
            lost = {"key": key, "window": window, "items": items}
            return [Failed(lost, type(error).__name__, text)]

    def _tries_again(self, error: BaseException) -> bool:
        """True while the worker will try the item again, so that it may know of the error."""
        options, partition = self._options, id(self.state)
        if options.on_error == "fail":
            return True
        raised = self._raised.get(partition, 0)
        self._raised[partition] = raised + 1
        return isinstance(error, options.retry_on) and raised < options.retries

    def _partition_left(self) -> None:
        self._raised.pop(id(self.state), None)

    def ended(self) -> None:
        """The item in hand is through."""
        self._raised.pop(id(self.state), None)

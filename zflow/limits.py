"""How much a stage takes at once, how fast, how old and when not at all: what users declare of it.

Decides which of these options fit which stage. `replica.batches` and `replica.pacing` keep them.
"""

import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

OnDeadline = Literal["drop", "dead_letter"]
Fault = tuple[str, str]  # message and fix
Rule = tuple[Callable[[Any], bool], str]

ON_DEADLINE = typing.get_args(OnDeadline)
BATCH_TIMEOUT_S = 0.05


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a stage stops calling a dependency that is down, for `@stage(breaker=Breaker(...))`.

    After `failures` calls in a row that raised one of `on`, the stage takes nothing for `reset_s`
    seconds. Then one item is tried: if that works the stage goes on, else it waits again. Each
    replica has a breaker of its own. Raises ValueError for what cannot be.

    >>> Breaker(failures=3, on=(OSError,))
    Breaker(failures=3, reset_s=30.0, on=(<class 'OSError'>,))
    """

    failures: int = 5
    reset_s: float = 30.0
    on: tuple[type[Exception], ...] = (ConnectionError,)

    def __post_init__(self) -> None:
        on = self.on if isinstance(self.on, tuple) else (self.on,)
        object.__setattr__(self, "on", on)
        if not _is_whole(self.failures):
            raise ValueError(f"failures is a whole number, at least 1; got {self.failures!r}")
        if not _is_positive(self.reset_s):
            raise ValueError(f"reset_s is seconds, more than 0; got {self.reset_s!r}")
        if not on or not all(isinstance(one, type) and issubclass(one, Exception) for one in on):
            raise ValueError(f"on is an exception class or a tuple of them; got {self.on!r}")


class LimitKeywords(TypedDict, total=False):
    """The options of `@stage` and `@sink` that say how much, how fast and how old."""

    batch: int
    batch_timeout_s: float
    deadline_s: float
    on_deadline: OnDeadline
    rate_limit_per_s: float
    rate_key: Callable[[Any], Any]
    breaker: Breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The same, complete and valid.

    batch: items of one call, 0 for one at a time without a list. batch_timeout_s: how long an item
    waits for others. deadline_s: how old an item may be when the stage takes it, from its birth at
    the source, or at the last stage with state on its way. rate_limit_per_s: calls of all replicas
    together, or with `rate_key` of those for each key. None: no limit.
    """

    batch: int = 0
    batch_timeout_s: float = BATCH_TIMEOUT_S
    deadline_s: float | None = None
    on_deadline: OnDeadline = "drop"
    rate_limit_per_s: float | None = None
    rate_key: Callable[[Any], Any] | None = None
    breaker: Breaker | None = None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf


LIMIT_RULES: dict[str, Rule] = {
    "batch": (_is_whole, "a whole number, at least 1"),
    "batch_timeout_s": (_is_positive, "seconds, more than 0"),
    "deadline_s": (_is_positive, "seconds, more than 0"),
    "on_deadline": (lambda value: value in ON_DEADLINE, f"one of {', '.join(ON_DEADLINE)}"),
    "rate_limit_per_s": (_is_positive, "items per second, more than 0"),
    "rate_key": (callable, "a function of the item"),
    "breaker": (lambda value: isinstance(value, Breaker), "Breaker(failures=..., reset_s=...)"),
}
NEEDS = {
    "batch_timeout_s": "batch",
    "on_deadline": "deadline_s",
    "rate_key": "rate_limit_per_s",
}


def limit_faults(
    given: Mapping[str, object],
    limits: Limits,
    *,
    takes_one: str,
    is_durable: bool,
) -> Iterator[Fault]:
    """Options of a stage that do not fit it, or not one another.

    given: as they were written, and valid. takes_one: why the stage cannot be called with a list,
    empty if it can.
    """
    for option, needed in NEEDS.items():
        if option in given and not getattr(limits, needed):
            yield f"{option}= without {needed}=", f"give {needed}=, or remove {option}="
    if limits.batch and takes_one:
        yield f"batch={limits.batch}, but {takes_one}", "remove batch="
    elif limits.batch and limits.rate_key is not None:
        message = "batch= and rate_key=: a batch holds items of many keys"
        yield message, "remove rate_key=, or batch="
    for option in ("deadline_s", "rate_limit_per_s", "breaker"):
        if is_durable and option in given:
            fix = f"give {option}= to a stage before it"
            yield f"{option}= is for stages without state on disk", fix


def why_one(
    *, is_durable: bool, is_generator: bool, is_class_sink: bool, is_concurrent: bool
) -> str:
    """Why a stage cannot be called with a list of items, as a sentence goes on; empty if it can."""
    if is_durable:
        return "a stage with state takes its items one by one"
    if is_generator:
        return "a generator takes one item at a time"
    if is_class_sink:
        return "a sink class gets lists of items anyway"
    if is_concurrent:
        return "several items at once are several calls, each of one item"
    return ""

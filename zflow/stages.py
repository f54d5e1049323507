"""What users write: `@source`, `@stage`, `@sink` and `emit`, and what they declare.

Decides which options and shapes a stage may have and keeps what is wrong as problems, so that
`zflow check` can show all of them at once. Never wraps, copies or calls a user's function: a
decorator hands back the very object it got, which stays callable and testable without zflow.
"""

import inspect
import math
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from zflow.durable import DurableStage
from zflow.errors import ConfigError, Problem, suggest
from zflow.limits import LIMIT_RULES, LimitKeywords, Limits, limit_faults, why_one
from zflow.shapes import (
    ITEM,
    SHARE,
    Fault,
    Kind,
    Parameter,
    concurrency_faults,
    does_yield,
    entry_of,
    is_async,
    is_durable,
    parameters_of,
    reserved_in,
    shape_faults,
)

F = TypeVar("F", bound=Callable[..., Any])
OnError = Literal["dead_letter", "fail", "drop"]
Durability = Literal["power", "process"]
RetryOn = type[Exception] | tuple[type[Exception], ...]
Site = tuple[str, int]  # file and line of a declaration

DECLARATION = "__zflow__"
ASYNC_CONCURRENCY = 100  # of `async def`, unless it says otherwise
MAX_CONCURRENCY = 10_000  # what the black box can name
ON_ERROR = typing.get_args(OnError)
DURABILITIES = typing.get_args(Durability)
NAME = re.compile(r"[^\W\d][\w-]*")  # letters of any language: names become labels and file names
NAME_WANTED = "a name of letters, digits, '_' and '-' that begins with a letter"


@dataclass(slots=True)
class Emit:
    """An item for the edges that were connected with `output=name`. Make it with `emit`."""

    name: str
    item: Any


def emit(name: str, item: Any) -> Emit:
    """Wrap an item, to be returned or yielded, for the edges with `output=name`.

    >>> emit("invalid", "x y")
    Emit(name='invalid', item='x y')
    """
    if not isinstance(name, str):
        raise TypeError(f"emit(name, item): the name of an output is a str; got {name!r}")
    return Emit(name, item)


class CommonKeywords(TypedDict, total=False):
    """The options of every kind of stage."""

    name: str
    replicas: int
    retries: int
    backoff_s: float


class SourceKeywords(CommonKeywords, total=False):
    """The options of `@source`. It has no timeout: a source may wait for its next item forever."""

    journaled: bool


class StageKeywords(CommonKeywords, LimitKeywords, total=False):
    """The options of `@stage` and `@sink`."""

    retry_on: RetryOn
    timeout_s: float
    max_crashes: int
    on_error: OnError
    deterministic: bool
    durability: Durability
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions(Limits):
    """The options of one stage, complete and valid.

    retries: calls after the first one. backoff_s: wait before the first retry, seconds.
    timeout_s: seconds for one item; infinite for a source. max_crashes: deaths of the process
    that one item may cause before it counts as poison. deterministic: called again with the same
    item, it gives the same. durability: what a commit of a durable stage survives, a power cut or
    only the death of its process. journaled: what a source yields is on disk before its code goes
    on, since it could not give it again. concurrency: items in hand at once in each replica, as
    tasks of one event loop (`async def`) or in threads; 0 where it was not asked for.
    """

    replicas: int = 1
    retries: int = 3
    backoff_s: float = 0.1
    retry_on: tuple[type[Exception], ...] = (Exception,)
    timeout_s: float = 300.0
    max_crashes: int = 3
    on_error: OnError = "dead_letter"
    deterministic: bool = True
    durability: Durability = "power"
    journaled: bool = False
    concurrency: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a function runs in that is not called with single items, such as a window.

    make: the durable stage around the function with its parameters. takes: what the function is
    called with. inputs: how many edges lead into it, 0 for any number. faults: of its options.
    """

    make: Callable[[Callable[..., Any], StageOptions], DurableStage]
    takes: tuple[str, ...]
    what: str
    inputs: int = 0
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDecl:
    """One declared stage, frozen; the decorators keep it as attribute `__zflow__` of the target."""

    name: str
    kind: Kind
    target: Callable[..., Any]
    options: StageOptions
    file: str
    line: int
    problems: tuple[Problem, ...]
    is_class: bool
    is_generator: bool  # the function, or the method that takes the item, yields
    is_async: bool  # the same is `async def`
    is_durable: bool
    takes_resume: bool
    takes_partition: bool
    runtime: Runtime | None = None
    _memo: list[dict[str, Parameter]] = field(default_factory=list, repr=False, compare=False)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What `-p` may set, by name. Read once, late: annotations may name what comes later."""
        if not self._memo:
            self._memo.append(parameters_of(self.target, self.kind, _takes(self.runtime)))
        return self._memo[0]

    @property
    def concurrency(self) -> int:
        """Items in hand at once in each replica; 0: one after the other, in the data thread."""
        return self.options.concurrency or (ASYNC_CONCURRENCY if self.is_async else 0)

    @property
    def entry(self) -> Callable[..., Any] | None:
        """The user's function: of a class the method that takes an item, unbound."""
        return entry_of(self.target, self.kind)


@overload
def source(target: F, /, **options: Unpack[SourceKeywords]) -> F: ...
@overload
def source(**options: Unpack[SourceKeywords]) -> Callable[[F], F]: ...
def source(target: F | None = None, /, **options: Unpack[SourceKeywords]) -> Any:
    """Declare a generator function, or a class with `__iter__`, as a source of items."""
    return decorate(target, "source", options)


@overload
def stage(target: F, /, **options: Unpack[StageKeywords]) -> F: ...
@overload
def stage(**options: Unpack[StageKeywords]) -> Callable[[F], F]: ...
def stage(target: F | None = None, /, **options: Unpack[StageKeywords]) -> Any:
    """Declare a function of one item, or a class with `process(item)`, as a stage."""
    return decorate(target, "stage", options)


@overload
def sink(target: F, /, **options: Unpack[StageKeywords]) -> F: ...
@overload
def sink(**options: Unpack[StageKeywords]) -> Callable[[F], F]: ...
def sink(target: F | None = None, /, **options: Unpack[StageKeywords]) -> Any:
    """Declare a function of one item, or a class with `write(items)`, as a sink."""
    return decorate(target, "sink", options)


def call_site(depth: int) -> Site:
    """File and line of the code `depth` calls above the caller of this function."""
    frame = sys._getframe(depth + 1)
    return frame.f_code.co_filename, frame.f_lineno


def declaration_of(target: object) -> StageDecl | None:
    """The declaration that this very object carries.

    A subclass inherits the attribute and `functools.wraps` copies it; neither was declared.
    """
    decl = getattr(target, DECLARATION, None)
    return decl if isinstance(decl, StageDecl) and decl.target is target else None


def declare(
    target: Any,
    kind: Kind,
    given: Mapping[str, object],
    *,
    site: Site,
    base: StageOptions | None = None,
    runtime: Runtime | None = None,
) -> StageDecl:
    """The declaration of a target; all that is wrong with it is in its problems.

    base: the options to start from, where a declared function is declared once more. runtime:
    what the function runs in, if it is not called with each item.
    """
    valid, faults = _read_options(kind, given)
    name = str(valid.pop("name", getattr(target, "__name__", repr(target))))
    defaults = SOURCE_DEFAULTS if kind == "source" else StageOptions()
    options = replace(base or defaults, **valid)
    if not callable(target):
        faults.append((f"{target!r} is neither a function nor a class", "declare a function"))
    else:
        faults.extend(shape_faults(target, kind, _takes(runtime)))
    if "name" not in given and not NAME.fullmatch(name):
        faults.append((f"'{name}' cannot name a stage", f"give {NAME_WANTED}: name=..."))
    if runtime is not None:
        faults.extend(runtime.faults)
    durable = runtime is not None or is_durable(target)
    if "durability" in given and not durable:
        fix = "derive the stage from DurableStage, or remove durability="
        faults.append(("durability= is for stages with state on disk", fix))
    faults += concurrency_faults(
        target, kind, asked=given.get("concurrency") is not None, is_durable=durable
    )
    takes = reserved_in(target, kind, _takes(runtime))
    if kind == "source":
        faults.extend(_source_faults(target, options, takes))
    else:
        faults.extend(_limits_that_do_not_fit(target, kind, options, valid, is_durable=durable))
    file, line = site
    return StageDecl(
        name=name,
        kind=kind,
        target=target,
        options=options,
        file=file,
        line=line,
        problems=tuple(problem_at(name, site, *fault) for fault in faults),
        is_class=inspect.isclass(target),
        is_generator=does_yield(entry_of(target, kind)),
        is_async=is_async(entry_of(target, kind)),
        is_durable=durable,
        takes_resume="resume" in takes,
        takes_partition=takes >= SHARE,
        runtime=runtime,
    )


def _limits_that_do_not_fit(
    target: Any, kind: Kind, options: StageOptions, given: dict[str, Any], *, is_durable: bool
) -> Iterator[Fault]:
    entry = entry_of(target, kind)
    one = why_one(
        is_durable=is_durable,
        is_generator=inspect.isgeneratorfunction(entry),
        is_class_sink=kind == "sink" and inspect.isclass(target),
        is_concurrent=is_async(entry) or options.concurrency > 0,
    )
    return limit_faults(given, options, takes_one=one, is_durable=is_durable)


def _source_faults(target: Any, options: StageOptions, takes: set[str]) -> Iterator[Fault]:
    """Options of a source that do not fit what it takes."""
    if options.journaled and (hasattr(target, "position") or "resume" in takes):
        message = "journaled=True, but it can be told where to begin again"
        yield message, "remove journaled=, or what takes the place: resume, position()"
    if options.replicas > 1 and not takes >= SHARE:
        message = f"replicas={options.replicas}, but each would yield the same items"
        yield message, "take 'partition' and 'partitions' and yield only that share"


def _takes(runtime: Runtime | None) -> tuple[str, ...]:
    return ITEM if runtime is None else runtime.takes


def decorate(target: F | None, kind: Kind, options: Any, runtime: Runtime | None = None) -> Any:
    """What every decorator does; the user called the function that called this."""
    site = call_site(2)

    def attach(function: F) -> F:
        decl = declare(function, kind, options, site=site, runtime=runtime)
        instead = f"use flow.{kind}(f, name=...)"
        if (first := declaration_of(function)) is not None:
            message = f"declared twice: already a {first.kind} at {first.file}:{first.line}"
            twice = problem_at(decl.name, site, message, instead)
            decl = replace(decl, problems=(*decl.problems, twice))
        try:
            setattr(function, DECLARATION, decl)
        except (AttributeError, TypeError):
            # Built-in functions have no attributes; nothing can be reported later through them.
            message = f"a {type(function).__name__} cannot carry a declaration"
            refused = problem_at(decl.name, site, message, instead)
            raise ConfigError((*decl.problems, refused)) from None
        return function

    return attach if target is None else attach(target)


def problem_at(where: str, site: Site, message: str, fix: str) -> Problem:
    """A problem of what was declared there."""
    return Problem(where=where, file=site[0], line=site[1], message=message, fix=fix)


def is_number(value: object) -> bool:
    """True for a real number; bool and NaN are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def is_whole(value: object, least: int) -> bool:
    """True for an int that is at least that; bool is none."""
    return isinstance(value, int) and is_number(value) and value >= least


def _is_retry_on(value: object) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return all(inspect.isclass(one) and issubclass(one, Exception) for one in classes)


OPTION_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)), NAME_WANTED),
    "replicas": (lambda value: is_whole(value, 1), "a whole number, at least 1"),
    "retries": (lambda value: is_whole(value, 0), "a whole number, at least 0"),
    "backoff_s": (lambda value: is_number(value) and 0 <= value < math.inf, "seconds, at least 0"),
    "retry_on": (_is_retry_on, "an exception class or a tuple of them"),
    "timeout_s": (lambda value: is_number(value) and value > 0, "seconds, more than 0"),
    "max_crashes": (lambda value: is_whole(value, 1), "a whole number, at least 1"),
    "on_error": (lambda value: value in ON_ERROR, f"one of {', '.join(ON_ERROR)}"),
    "deterministic": (lambda value: isinstance(value, bool), "True or False"),
    "durability": (lambda value: value in DURABILITIES, f"one of {', '.join(DURABILITIES)}"),
    "concurrency": (
        lambda value: is_whole(value, 1) and value <= MAX_CONCURRENCY,
        f"a whole number from 1 to {MAX_CONCURRENCY}",
    ),
    "journaled": (lambda value: isinstance(value, bool), "True or False"),
    **LIMIT_RULES,
}
SOURCE_OPTIONS = ("name", "replicas", "retries", "backoff_s", "journaled")
STAGE_OPTIONS = tuple(option for option in OPTION_RULES if option != "journaled")
SOURCE_DEFAULTS = StageOptions(timeout_s=math.inf, on_error="fail")


def _read_options(kind: Kind, given: Mapping[str, object]) -> tuple[dict[str, Any], list[Fault]]:
    valid, faults = dict[str, Any](), list[Fault]()
    known = SOURCE_OPTIONS if kind == "source" else STAGE_OPTIONS
    for option, value in given.items():
        if option == "concurrency" and kind == "source":
            continue  # told by `concurrency_faults`, better
        if option not in known:
            if option in LIMIT_RULES:
                faults.append((f"{option}= is for stages and sinks", f"remove {option}="))
            else:
                faults.append((f"unknown option '{option}'", suggest(option, known)))
            continue
        is_valid, wanted = OPTION_RULES[option]
        if is_valid(value):
            valid[option] = value
        else:
            faults.append((f"{option}={value!r} is not valid", f"give {wanted}"))
    if inspect.isclass(one := valid.get("retry_on")):
        valid["retry_on"] = (one,)
    return valid, faults

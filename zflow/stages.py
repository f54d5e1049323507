"""What users write: `@source`, `@stage`, `@sink` and `emit`, and what they declare.

Decides which options and shapes a stage may have and keeps what is wrong as problems, so that
`zflow check` can show all of them at once. Never wraps, copies or calls a user's function: a
decorator hands back the very object it got, which stays callable and testable without zflow.
"""

import functools
import inspect
import math
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack, overload

from zflow.errors import ConfigError, Problem, suggest

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["source", "stage", "sink"]
OnError = Literal["dead_letter", "fail", "drop"]
RetryOn = type[Exception] | tuple[type[Exception], ...]
Site = tuple[str, int]  # file and line of a declaration
Fault = tuple[str, str]  # message and fix of a problem that has no place yet

EMPTY = inspect.Parameter.empty
DECLARATION = "__zflow__"
ON_ERROR = typing.get_args(OnError)
NAME = re.compile(r"[^\W\d][\w-]*")  # letters of any language: names become labels and file names
NAME_WANTED = "a name of letters, digits, '_' and '-' that begins with a letter"
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
NOT_AN_ITEM = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SHARE = frozenset({"partition", "partitions"})  # which share of its items a source replica yields
RESERVED = SHARE | {"resume"}
ENTRY: dict[Kind, str] = {"source": "__iter__", "stage": "process", "sink": "write"}
SINK_METHODS = ("write", "upsert", "commit")


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


class SourceKeywords(TypedDict, total=False):
    """The options of `@source`. It has no timeout: a source may wait for its next item forever."""

    name: str
    replicas: int
    retries: int
    backoff_s: float


class StageKeywords(SourceKeywords, total=False):
    """The options of `@stage` and `@sink`."""

    retry_on: RetryOn
    timeout_s: float
    max_crashes: int
    on_error: OnError


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """The options of one stage, complete and valid.

    retries: calls after the first one. backoff_s: wait before the first retry, seconds.
    timeout_s: seconds for one item; infinite for a source. max_crashes: deaths of the process
    that one item may cause before it counts as poison.
    """

    replicas: int = 1
    retries: int = 3
    backoff_s: float = 0.1
    retry_on: tuple[type[Exception], ...] = (Exception,)
    timeout_s: float = 300.0
    max_crashes: int = 3
    on_error: OnError = "dead_letter"


class Parameter(NamedTuple):
    """An argument that `-p STAGE.NAME=VALUE` sets; what it lacks is None and EMPTY."""

    annotation: Any
    default: Any
    required: bool


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
    takes_resume: bool
    takes_partition: bool
    _memo: list[dict[str, Parameter]] = field(default_factory=list, repr=False, compare=False)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What `-p` may set, by name. Read once, late: annotations may name what comes later."""
        if not self._memo:
            self._memo.append(_parameters_of(self.target, self.kind))
        return self._memo[0]

    @property
    def entry(self) -> Callable[..., Any] | None:
        """The user's function: of a class `__iter__`, `process` or `write`, unbound."""
        return _entry_of(self.target, self.kind)


@overload
def source(target: F, /, **options: Unpack[SourceKeywords]) -> F: ...
@overload
def source(**options: Unpack[SourceKeywords]) -> Callable[[F], F]: ...
def source(target: F | None = None, /, **options: Unpack[SourceKeywords]) -> Any:
    """Declare a generator function, or a class with `__iter__`, as a source of items."""
    return _decorate(target, "source", options)


@overload
def stage(target: F, /, **options: Unpack[StageKeywords]) -> F: ...
@overload
def stage(**options: Unpack[StageKeywords]) -> Callable[[F], F]: ...
def stage(target: F | None = None, /, **options: Unpack[StageKeywords]) -> Any:
    """Declare a function of one item, or a class with `process(item)`, as a stage."""
    return _decorate(target, "stage", options)


@overload
def sink(target: F, /, **options: Unpack[StageKeywords]) -> F: ...
@overload
def sink(**options: Unpack[StageKeywords]) -> Callable[[F], F]: ...
def sink(target: F | None = None, /, **options: Unpack[StageKeywords]) -> Any:
    """Declare a function of one item, or a class with `write(items)`, as a sink."""
    return _decorate(target, "sink", options)


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
) -> StageDecl:
    """The declaration of a target; all that is wrong with it is in its problems.

    base: the options to start from, where a declared function is declared once more.
    """
    valid, faults = _read_options(kind, given)
    name = str(valid.pop("name", getattr(target, "__name__", repr(target))))
    defaults = SOURCE_DEFAULTS if kind == "source" else StageOptions()
    options = replace(base or defaults, **valid)
    if not callable(target):
        faults.append((f"{target!r} is neither a function nor a class", "declare a function"))
    else:
        faults.extend(_shape_faults(target, kind))
    if "name" not in given and not NAME.fullmatch(name):
        faults.append((f"'{name}' cannot name a stage", f"give {NAME_WANTED}: name=..."))
    takes = _reserved_in(target, kind)
    if kind == "source" and options.replicas > 1 and not takes >= SHARE:
        message = f"replicas={options.replicas}, but each would yield the same items"
        faults.append((message, "take 'partition' and 'partitions' and yield only that share"))
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
        is_generator=inspect.isgeneratorfunction(_entry_of(target, kind)),
        takes_resume="resume" in takes,
        takes_partition=takes >= SHARE,
    )


def _decorate(target: F | None, kind: Kind, options: Any) -> Any:
    site = call_site(2)  # the user called `source`, `stage` or `sink`, which called this

    def attach(function: F) -> F:
        decl = declare(function, kind, options, site=site)
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= least


def _is_retry_on(value: object) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return all(inspect.isclass(one) and issubclass(one, Exception) for one in classes)


OPTION_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)), NAME_WANTED),
    "replicas": (lambda value: _is_whole(value, 1), "a whole number, at least 1"),
    "retries": (lambda value: _is_whole(value, 0), "a whole number, at least 0"),
    "backoff_s": (lambda value: _is_number(value) and 0 <= value < math.inf, "seconds, at least 0"),
    "retry_on": (_is_retry_on, "an exception class or a tuple of them"),
    "timeout_s": (lambda value: _is_number(value) and value > 0, "seconds, more than 0"),
    "max_crashes": (lambda value: _is_whole(value, 1), "a whole number, at least 1"),
    "on_error": (lambda value: value in ON_ERROR, f"one of {', '.join(ON_ERROR)}"),
}
SOURCE_OPTIONS = ("name", "replicas", "retries", "backoff_s")
SOURCE_DEFAULTS = StageOptions(timeout_s=math.inf, on_error="fail")


def _read_options(kind: Kind, given: Mapping[str, object]) -> tuple[dict[str, Any], list[Fault]]:
    valid, faults = dict[str, Any](), list[Fault]()
    known = SOURCE_OPTIONS if kind == "source" else tuple(OPTION_RULES)
    for option, value in given.items():
        if option not in known:
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


def _entry_of(target: Any, kind: Kind) -> Callable[..., Any] | None:
    if inspect.isclass(target):
        return getattr(target, ENTRY[kind], None)
    if inspect.isroutine(target) or isinstance(target, functools.partial):
        return target
    return getattr(target, "__call__", None)  # noqa: B004 - the method itself is wanted


def arguments_of(function: Any) -> list[inspect.Parameter] | None:
    """The arguments of a function; None where Python does not know them (some built-ins)."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None


def _method_arguments(cls: type, method: str) -> list[inspect.Parameter]:
    """The arguments of a method after `self`; none where there is no such method."""
    return (arguments_of(getattr(cls, method, None)) or [])[1:]


def _configurable(target: Any, kind: Kind) -> list[inspect.Parameter]:
    """The arguments that are set once, by keyword, and are not the item."""
    if inspect.isclass(target):
        arguments = _method_arguments(target, "__init__")
    else:
        arguments = (arguments_of(target) or [])[0 if kind == "source" else 1 :]
    return [argument for argument in arguments if argument.kind in BY_KEYWORD]


def _reserved_in(target: Any, kind: Kind) -> set[str]:
    names = {argument.name for argument in _configurable(target, kind)}
    if inspect.isclass(target) and kind == "source":
        names |= {argument.name for argument in _method_arguments(target, "open")}
    return names & RESERVED


def _parameters_of(target: Any, kind: Kind) -> dict[str, Parameter]:
    owner = target.__init__ if inspect.isclass(target) else target
    hints = annotations_of(owner)
    return {
        one.name: Parameter(hints.get(one.name), one.default, one.default is EMPTY)
        for one in _configurable(target, kind)
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


def _shape_faults(target: Any, kind: Kind) -> Iterator[Fault]:
    if inspect.isclass(target):
        yield from _class_faults(target, kind)
    entry = _entry_of(target, kind)
    if entry is None:
        return
    if inspect.iscoroutinefunction(entry) or inspect.isasyncgenfunction(entry):
        yield f"an async {kind} is not available in this version yet", "write it without async"
        return
    yields = inspect.isgeneratorfunction(entry)
    if kind == "source" and not inspect.isclass(target) and not yields:
        yield "a source function must yield", "yield each item, or write a class with __iter__"
    if kind == "sink" and yields:
        yield "a sink that yields: nothing takes its items", "return nothing, or use @stage"
    yield from _argument_faults(target, kind)


def _class_faults(target: type, kind: Kind) -> Iterator[Fault]:
    if kind != "sink":
        if not hasattr(target, ENTRY[kind]):
            yield f"a {kind} class needs {ENTRY[kind]}", f"write the method {ENTRY[kind]}"
        if kind == "stage" and hasattr(target, "finish"):
            yield "durable stages with finish() are not available in this version yet", "remove it"
        return
    found = [method for method in SINK_METHODS if hasattr(target, method)]
    if len(found) != 1:
        several = f"; this one has {', '.join(found)}" if found else ""
        yield f"a sink class has exactly one way to write{several}", "write one: write(items)"
    elif found != ["write"]:
        yield f"{found[0]}() is not available in this version yet", "use write(items)"


def _argument_faults(target: Any, kind: Kind) -> Iterator[Fault]:
    reserved = _reserved_in(target, kind)
    if kind == "source":
        if len(reserved & SHARE) == 1:
            yield "takes only one of 'partition' and 'partitions'", "take both"
        return
    for name in sorted(reserved):
        yield f"the argument '{name}' is reserved for sources", "give it another name"
    is_class = inspect.isclass(target)
    arguments = _method_arguments(target, ENTRY[kind]) if is_class else arguments_of(target)
    if arguments is None:
        return
    if not arguments or arguments[0].kind in NOT_AN_ITEM:
        yield "takes no item", "its first argument must be the item"
    for argument in arguments[1:] if is_class else []:
        if argument.default is EMPTY and argument.kind not in VARIADIC:
            yield f"{ENTRY[kind]}() needs '{argument.name}'", "take it in __init__ instead"

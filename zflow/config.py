"""Settings of one run: `-p STAGE.NAME=VALUE` typed by annotations, and `-r STAGE=N`.

Decides what a text on the command line means. Never reads the environment or a file, and never
stops at the first mistake: one ConfigError holds all of them.
"""

import types
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

from zflow.errors import ConfigError, Problem, suggest
from zflow.shapes import EMPTY, Parameter
from zflow.stages import StageDecl, problem_at

TRUE = frozenset({"true", "1", "yes"})
FALSE = frozenset({"false", "0", "no"})


class Declared(Protocol):
    """What the settings need of a declared topology, which lives on this very floor."""

    @property
    def stages(self) -> tuple[StageDecl, ...]:
        """Every stage."""


class _Refused(Exception):
    """A text does not fit; its message says what is wanted."""


def parse_parameters(declared: Declared, texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The value of each given parameter, by stage and name; a later text wins over an earlier one.

    raises: ConfigError with all that is wrong, required parameters that are missing included.
    """
    problems: list[Problem] = []
    values: dict[str, dict[str, Any]] = {}
    mentioned: set[tuple[str, str]] = set()
    for text in texts:
        key, equals, value = text.partition("=")
        stage_name, dot, name = key.partition(".")
        if not equals or not dot:
            fix = "write -p STAGE.NAME=VALUE"
            problems.append(_on_command_line(f"-p {text}", "is not a parameter", fix))
            continue
        mentioned.add((stage_name, name))
        found = _find_parameter(declared, text, stage_name, name)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        try:
            values.setdefault(stage_name, {})[name] = convert(value, found)
        except _Refused as refused:
            decl = _by_name(declared)[stage_name]
            message = f"{name}={value!r} from the command line is not {refused}"
            problems.append(_at(decl, message, f"correct -p {stage_name}.{name}=VALUE"))
    problems.extend(_missing(declared, mentioned))
    if problems:
        raise ConfigError(problems)
    return values


def parse_replicas(declared: Declared, texts: Iterable[str]) -> dict[str, int]:
    """The number of replicas of each given stage. raises: ConfigError with all that is wrong."""
    problems: list[Problem] = []
    replicas: dict[str, int] = {}
    for text in texts:
        name, equals, count = text.partition("=")
        decl = _by_name(declared).get(name)
        if not equals or not (count.isascii() and count.isdigit()) or int(count) < 1:
            fix = "write -r STAGE=N with N at least 1"
            problems.append(_on_command_line(f"-r {text}", "is not a number of replicas", fix))
        elif decl is None:
            problems.append(_unknown_stage(declared, f"-r {text}", name))
        elif decl.kind == "source" and int(count) > 1 and not decl.takes_partition:
            message = f"cannot have {count} replicas: each would yield the same items"
            fix = "take 'partition' and 'partitions' and yield only that share"
            problems.append(_at(decl, message, fix))
        else:
            replicas[name] = int(count)
    if problems:
        raise ConfigError(problems)
    return replicas


def convert(text: str, parameter: Parameter) -> Any:
    """The value that a text means for a parameter."""
    annotation = parameter.annotation
    if annotation in (None, Any, object):
        default = parameter.default
        annotation = str if default is EMPTY or default is None else type(default)
        # The type of a default is a guess: what cannot be written as a text stays the text.
        known = annotation in SCALARS or annotation is list or issubclass(annotation, Enum)
        annotation = annotation if known or issubclass(annotation, Path) else str
    return _as(annotation, text)


def convert_problem(declared: Declared, stage: str, name: str, text: str) -> tuple[str, str] | None:
    """Why a text is no value of a parameter, and how to mend it; None if it is one."""
    decl = _by_name(declared).get(stage)
    if decl is None:
        return f"there is no stage '{stage}'", suggest(stage, _by_name(declared))
    if name not in decl.parameters:
        return f"{stage} has no parameter '{name}'", suggest(name, decl.parameters)
    try:
        convert(text, decl.parameters[name])
    except _Refused as refused:
        return f"{text!r} is not {refused}", "correct the value"
    return None


def _by_name(declared: Declared) -> dict[str, StageDecl]:
    return {stage.name: stage for stage in declared.stages}


def _find_parameter(
    declared: Declared, text: str, stage_name: str, name: str
) -> Parameter | Problem:
    decl = _by_name(declared).get(stage_name)
    if decl is None:
        return _unknown_stage(declared, f"-p {text}", stage_name)
    if name not in decl.parameters:
        return _at(decl, f"has no parameter '{name}'", suggest(name, decl.parameters))
    return decl.parameters[name]


def _missing(declared: Declared, mentioned: set[tuple[str, str]]) -> Iterable[Problem]:
    for decl in declared.stages:
        for name, parameter in decl.parameters.items():
            if parameter.required and (decl.name, name) not in mentioned:
                fix = f"give it: -p {decl.name}.{name}=VALUE"
                yield _at(decl, f"the parameter '{name}' has no value", fix)


def _unknown_stage(declared: Declared, where: str, name: str) -> Problem:
    fix = suggest(name, _by_name(declared))
    return _on_command_line(where, f"there is no stage '{name}'", fix)


def _on_command_line(where: str, message: str, fix: str) -> Problem:
    return Problem(where=where, file="", line=0, message=message, fix=fix)


def _at(decl: StageDecl, message: str, fix: str) -> Problem:
    return problem_at(decl.name, (decl.file, decl.line), message, fix)


def _as(annotation: Any, text: str) -> Any:
    """A text as a value of an annotation. raises: _Refused."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SCALARS:
        return SCALARS[annotation](text)
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(arguments, text)
    if origin is Literal:
        return _as_choice({str(choice): choice for choice in arguments}, text)
    if annotation is list or origin is list:
        item = arguments[0] if arguments else str
        return [_as(item, part.strip()) for part in text.split(",")] if text else []
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _as_choice(dict(annotation.__members__), text)
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return annotation(text)
    name = getattr(annotation, "__name__", str(annotation))
    raise _Refused(f"possible: a {name} cannot be written on a command line")


def _as_one_of(annotations: tuple[Any, ...], text: str) -> Any:
    if types.NoneType in annotations and str not in annotations and text.lower() == "none":
        return None
    wanted = []
    # Every text is a str, so that one comes last.
    for annotation in sorted(annotations, key=lambda one: one is str):
        try:
            if annotation is not types.NoneType:
                return _as(annotation, text)
        except _Refused as refused:
            wanted.append(str(refused))
    raise _Refused(" or ".join(wanted))


def _as_choice(choices: dict[str, Any], text: str) -> Any:
    if text not in choices:
        raise _Refused(f"one of {', '.join(choices)}")
    return choices[text]


def _as_bool(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise _Refused("one of true, false, yes, no, 1, 0")
    return text.lower() in TRUE


def _as_number(number: Callable[[str], Any], wanted: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return number(text)
        except ValueError:
            raise _Refused(wanted) from None

    return parse


SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    bool: _as_bool,
    int: _as_number(int, "a whole number"),
    float: _as_number(float, "a number"),
}

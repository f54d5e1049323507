"""`zflow config`: every value that a run of a topology would have, and where it comes from.

Decides how origins are named. Starts nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from zflow.cli.main import LazyGroup
from zflow.cli.output import aligned, show_json
from zflow.cli.run import check_parameters
from zflow.cli.settings import (
    PARAMETERS,
    REPLICAS,
    VERBS,
    SettingsFile,
    checked_options,
    find_settings,
    settable,
    stage_texts,
)
from zflow.config import parse_parameters
from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem, suggest
from zflow.loader import load
from zflow.stages import StageDecl, StageOptions

HEADINGS = ("section", "name", "value", "origin")
DEFAULT = "default"
FLAG = "flag"
# The options of a stage that its decorator takes; replicas have a section of their own.
OF_SOURCES = frozenset({"retries", "backoff_s", "journaled"})
NOT_OF_STAGES = frozenset({"replicas", "journaled"})


@dataclass(frozen=True, slots=True)
class Value:
    """One value. section: a verb, `parameters`, `replicas`, or a stage."""

    section: str
    name: str
    value: Any
    origin: str


@click.command()
@click.argument("target")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="STAGE.NAME=VALUE",
    help="As for zflow run.",
    allow_from_autoenv=False,
)
@click.option(
    "-r",
    "--replicas",
    multiple=True,
    metavar="STAGE=N",
    help="As for zflow run.",
    allow_from_autoenv=False,
)
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
def config(
    target: str, parameters: tuple[str, ...], replicas: tuple[str, ...], as_json: bool
) -> None:
    """Show every value that a run would have, and where it comes from.

    A flag wins over the environment (ZFLOW_RUN_TIMEOUT_S and the like), that over zflow.toml or
    [tool.zflow] in pyproject.toml of this folder or the nearest one above, the file over the
    topology's code, and the code over zflow's defaults. What nobody reads is an error.

    \b
    In zflow.toml ([tool.zflow.run] and so on in pyproject.toml):
      [run]
      timeout = 600
      [parameters]
      files.folder = "docs"
      [replicas]
      parse = 4

    \b
    Example:
      zflow config topologies/codebase.py
      ZFLOW_RUN_LOG_LEVEL=INFO zflow config topologies/codebase.py -r parse=2 --json
    """
    declared = load(target).topology.declared()
    file = find_settings(Path.cwd())
    values: list[Value] = []
    problems: list[Problem] = []
    for some in (_options(file), _of_stages(declared, file, parameters, replicas)):
        try:
            values += some
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if as_json:
        rows = [
            {"section": v.section, "name": v.name, "value": _plain(v.value), "origin": v.origin}
            for v in values
        ]
        path = str(file.path) if file is not None else None
        show_json({"topology": declared.name, "file": path, "values": rows})
        return
    lines = [(v.section, v.name, _shown(v.value), v.origin) for v in values]
    for line in aligned([HEADINGS, *lines], right=()):
        click.echo(line)


# -- options of the verbs ------------------------------------------------------------------------


def _options(file: SettingsFile | None) -> Iterator[Value]:
    """Raises ConfigError with all that nobody reads or understands."""
    problems: list[Problem] = []
    for verb in VERBS:
        ctx = _context(verb)
        problems += _unread(verb, ctx)
        try:
            yield from _of_verb(verb, ctx, file)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _context(verb: str) -> click.Context:
    """As if the verb were called, so that click finds its part of the environment."""
    root = click.get_current_context().find_root()
    assert isinstance(root.command, LazyGroup), "all verbs are commands of zflow itself"
    command = root.command.get_command(root, verb)
    assert command is not None, "the verb is in the table"
    return click.Context(command, info_name=verb, parent=root)


def _of_verb(verb: str, ctx: click.Context, file: SettingsFile | None) -> Iterator[Value]:
    from_file = checked_options(file, ctx) if file is not None else {}
    for flag, option in settable(ctx.command).items():
        raw = option.value_from_envvar(ctx)
        if raw is not None:
            name = _variable(ctx, option)
            yield Value(verb, flag, _cast(option, ctx, raw, name), f"environment {name}")
        elif option.name in from_file and file is not None:
            value, entry = from_file[option.name]
            yield Value(verb, flag, value, file.origin(entry))
        else:
            yield Value(verb, flag, option.to_info_dict()["default"], DEFAULT)


def _variable(ctx: click.Context, option: click.Option) -> str:
    return f"{ctx.auto_envvar_prefix}_{str(option.name).upper()}"


def _cast(option: click.Option, ctx: click.Context, raw: Any, name: str) -> Any:
    try:
        return option.type_cast_value(ctx, raw)
    except click.BadParameter as error:
        raise ConfigError([_of_environment(name, error.message, "correct the value")]) from error


def _unread(verb: str, ctx: click.Context) -> Iterator[Problem]:
    """Variables that look as if they were for the verb."""
    options = [one for one in ctx.command.params if isinstance(one, click.Option)]
    known = {_variable(ctx, option) for option in options}
    arguments = {f"{ctx.auto_envvar_prefix}_{str(one.name).upper()}" for one in ctx.command.params}
    for name in sorted(os.environ):
        if name.startswith(f"{ctx.auto_envvar_prefix}_") and name not in known | arguments:
            yield _of_environment(
                name, f"zflow {verb} reads no such variable", suggest(name, known)
            )


def _of_environment(name: str, message: str, fix: str) -> Problem:
    return Problem(where=name, file="", line=0, message=message, fix=fix)


# -- stages --------------------------------------------------------------------------------------


def _of_stages(
    declared: Declared,
    file: SettingsFile | None,
    parameters: tuple[str, ...],
    replicas: tuple[str, ...],
) -> Iterator[Value]:
    """Raises ConfigError with all that is wrong."""
    from_file = stage_texts(file, declared)
    run = _context("run")
    texts: list[list[str]] = []
    origins: list[dict[str, str]] = []
    for section, entries, flags in (
        (PARAMETERS, from_file[0], parameters),
        (REPLICAS, from_file[1], replicas),
    ):
        option = next(one for one in run.command.params if one.name == section)
        assert isinstance(option, click.Option), "-p and -r are options"
        inherited = option.value_from_envvar(run) or ()
        texts.append([*entries, *inherited, *flags])
        known = {_key(text): file.origin(entry) for text, entry in entries.items() if file}
        known |= {_key(text): f"environment {_variable(run, option)}" for text in inherited}
        origins.append(known | {_key(text): FLAG for text in flags})
    counts = check_parameters(declared, tuple(texts[0]), tuple(texts[1]))
    yield from _parameters(declared, texts[0], origins[0])
    for stage in declared.stages:
        value = counts.get(stage.name, stage.options.replicas)
        where = origins[1].get(stage.name) or _declared(stage, "replicas")
        yield Value(REPLICAS, stage.name, value, where)
    for stage in declared.stages:
        yield from _stage_options(stage)


def _key(text: str) -> str:
    return text.partition("=")[0]


def _parameters(declared: Declared, texts: list[str], origins: dict[str, str]) -> Iterator[Value]:
    given = parse_parameters(declared, texts)
    for stage in declared.stages:
        for name, parameter in stage.parameters.items():
            value = given.get(stage.name, {}).get(name, parameter.default)
            key = f"{stage.name}.{name}"
            yield Value(PARAMETERS, key, value, origins.get(key) or _code(stage))


def _stage_options(stage: StageDecl) -> Iterator[Value]:
    every = {option.name for option in fields(StageOptions)}
    shown = OF_SOURCES if stage.kind == "source" else every - NOT_OF_STAGES
    for name in (option.name for option in fields(StageOptions) if option.name in shown):
        yield Value(stage.name, name, getattr(stage.options, name), _declared(stage, name))


def _declared(stage: StageDecl, name: str) -> str:
    """The code if it differs from what zflow has; what it says of a default shows nowhere."""
    same = getattr(stage.options, name) == getattr(StageOptions(), name)
    return DEFAULT if same else _code(stage)


def _code(stage: StageDecl) -> str:
    return f"{Path(stage.file).name}:{stage.line}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return getattr(value, "__name__", None) or str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else _shown(value)

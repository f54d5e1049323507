"""Settings from a file: `zflow.toml`, or `[tool.zflow]` in `pyproject.toml`.

Decides what may stand in it and what each text means; a key that nobody reads is an error, with its
line. A flag wins over the environment (ZFLOW_VERB_OPTION), that over the file, the file over the
topology's code, and the code over the default of zflow.

    [run]                    # in pyproject.toml: [tool.zflow.run]
    timeout = 600            # the long flag of zflow run, without its dashes; so for coordinator
    [parameters]             # and stage
    files.folder = "docs"    # what -p files.folder=docs says
    [replicas]
    parse = 4                # what -r parse=4 says
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from zflow.config import convert_problem, parse_replicas
from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem, suggest

VERBS = ("run", "coordinator", "stage")
PARAMETERS, REPLICAS = "parameters", "replicas"
SECTIONS = (*VERBS, PARAMETERS, REPLICAS)
OWN_FILE, PROJECT_FILE = "zflow.toml", "pyproject.toml"

Key = tuple[str, ...]

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_NAME = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_PART = re.compile(_NAME)
_ASSIGNMENT = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of the file. key: below the table of zflow."""

    key: Key
    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What the file says, in its order."""

    path: Path
    entries: tuple[Entry, ...]

    def section(self, name: str) -> Iterator[Entry]:
        """The values below one table."""
        return (one for one in self.entries if one.key[0] == name and len(one.key) > 1)

    def problem(self, entry: Entry, message: str, fix: str) -> Problem:
        """Something that is wrong with one of them."""
        where = ".".join(entry.key)
        return Problem(where=where, file=str(self.path), line=entry.line, message=message, fix=fix)

    def origin(self, entry: Entry) -> str:
        """Where a value comes from, for people."""
        return f"{self.path.name}:{entry.line}"


def find_settings(folder: Path) -> SettingsFile | None:
    """The settings of a folder: its own file, or that of the nearest folder above that has one.

    raises: ConfigError if it cannot be read, or holds what nobody reads.
    """
    for place in (folder, *folder.parents):
        found = [file for file in (_read(place / OWN_FILE), _read(place / PROJECT_FILE)) if file]
        if len(found) > 1:
            message = f"has settings of zflow, and so has {OWN_FILE} beside it"
            raise ConfigError([_of_file(found[1].path, message, "keep one of them")])
        if found:
            _check_sections(found[0])
            return found[0]
    return None


def _read(path: Path) -> SettingsFile | None:
    own = path.name == OWN_FILE
    try:
        text = path.read_text(encoding="utf-8")
        if not own and "zflow" not in text:  # whatever may be wrong with it: it is not for us
            return None
        tables = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        if not own:
            return None
        raise ConfigError([_of_file(path, f"cannot be read: {error}", "")]) from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else 1
        raise ConfigError([_of_file(path, f"is no TOML: {error}", "correct it", line)]) from error
    above: Key = () if own else ("tool", "zflow")
    for name in above:
        if not isinstance(tables, dict) or name not in tables:
            return None
        tables = tables[name]
    lines = _lines(text)
    entries = (
        Entry(key, value, _line_of(lines, (*above, *key))) for key, value in _flat(tables, ())
    )
    return SettingsFile(path, tuple(entries))


def _flat(tables: Any, above: Key) -> Iterator[tuple[Key, Any]]:
    if not isinstance(tables, dict) or (above and not tables):
        yield above or ("",), tables
        return
    for name, value in tables.items():
        yield from _flat(value, (*above, name))


def _lines(text: str) -> dict[Key, int]:
    """Where each key is written. tomllib does not say."""
    found: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            found.setdefault((*table, *_parts(assignment[1])), number)
    return found


def _parts(text: str) -> Key:
    return tuple(part.strip("\"'") for part in _PART.findall(text))


def _line_of(lines: dict[Key, int], key: Key) -> int:
    """Of the key, or of the table that it is written in, inline."""
    return next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), 1)


def _check_sections(file: SettingsFile) -> None:
    problems = []
    for entry in file.entries:
        if entry.key[0] not in SECTIONS:
            fix = suggest(entry.key[0], SECTIONS)
            problems.append(file.problem(entry, "is no setting of zflow", fix))
        elif len(entry.key) < 2 and entry.value != {}:
            problems.append(file.problem(entry, "is no table", f"write [{entry.key[0]}]"))
    if problems:
        raise ConfigError(problems)


def _of_file(path: Path, message: str, fix: str, line: int = 1) -> Problem:
    return Problem(where=path.name, file=str(path), line=line, message=message, fix=fix)


# -- options of a verb ---------------------------------------------------------------------------


def flag_of(option: click.Option) -> str:
    """How an option is called in the file: its long flag without the dashes."""
    return max(option.opts, key=len).lstrip("-")


def settable(command: click.Command) -> dict[str, click.Option]:
    """The options of a verb that a file may set; -p and -r have tables of their own."""
    options = (one for one in command.params if isinstance(one, click.Option))
    return {flag_of(one): one for one in options if not one.multiple}


class Configured(click.Command):
    """A verb whose options the file may set, where neither a flag nor the environment does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises ConfigError with all that is wrong in the verb's table."""
        file = (
            None if set(args) & set(self.get_help_option_names(ctx)) else find_settings(Path.cwd())
        )
        if file is not None:
            options = checked_options(file, ctx)
            ctx.default_map = {name: value for name, (value, _) in options.items()}
        return super().parse_args(ctx, args)


def checked_options(file: SettingsFile, ctx: click.Context) -> dict[str, tuple[Any, Entry]]:
    """The values of a verb's table, by the names of click. raises: ConfigError."""
    verb = str(ctx.command.name)
    options = settable(ctx.command)
    found: dict[str, tuple[Any, Entry]] = {}
    problems = []
    for entry in file.section(verb):
        flag = ".".join(entry.key[1:])
        option = options.get(flag)
        if option is None:
            fix = suggest(flag, options)
            if flag in (PARAMETERS, REPLICAS, "parameter"):
                fix = f"write [{PARAMETERS if flag != REPLICAS else REPLICAS}]"
            problems.append(file.problem(entry, f"zflow {verb} has no such option", fix))
            continue
        try:
            found[str(option.name)] = option.type_cast_value(ctx, entry.value), entry
        except click.BadParameter as error:
            problems.append(file.problem(entry, error.message, f"see zflow {verb} --help"))
    if problems:
        raise ConfigError(problems)
    return found


# -- parameters and replicas of stages -----------------------------------------------------------


def as_text(value: Any) -> str:
    """A value of TOML as it would be written behind -p."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(as_text, value))
    return str(value)


def stage_texts(
    file: SettingsFile | None, declared: Declared
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Parameters as STAGE.NAME=VALUE, and replicas as STAGE=N, with where each was written.

    raises: ConfigError with all that does not fit the topology.
    """
    parameters: dict[str, Entry] = {}
    replicas: dict[str, Entry] = {}
    problems: list[Problem] = []
    for entry in file.section(PARAMETERS) if file is not None else ():
        name = ".".join(entry.key[1:])
        text = f"{name}={as_text(entry.value)}"
        parameters[text] = entry
        stage, _, parameter = name.rpartition(".")
        wrong = convert_problem(declared, stage, parameter, as_text(entry.value))
        if wrong is not None:
            assert file is not None, "there are entries"
            problems.append(file.problem(entry, *wrong))
    for entry in file.section(REPLICAS) if file is not None else ():
        text = f"{'.'.join(entry.key[1:])}={as_text(entry.value)}"
        replicas[text] = entry
        try:
            parse_replicas(declared, [text])
        except ConfigError as error:
            assert file is not None, "there are entries"
            problems += [file.problem(entry, one.message, one.fix) for one in error.problems]
    if problems:
        raise ConfigError(problems)
    return parameters, replicas


def layered(
    declared: Declared, parameters: tuple[str, ...], replicas: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What -p and -r say, behind what the environment and the file say: later ones win.

    raises: ConfigError for the file.
    """
    ctx = click.get_current_context()
    from_file = stage_texts(find_settings(Path.cwd()), declared)
    return (
        (*from_file[0], *environment_texts(ctx, PARAMETERS), *parameters),
        (*from_file[1], *environment_texts(ctx, REPLICAS), *replicas),
    )


def environment_texts(ctx: click.Context, name: str) -> Iterable[str]:
    """What the environment says though flags are given, for which click forgets it."""
    option = next((one for one in ctx.command.params if one.name == name), None)
    if option is None or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        return ()
    return option.value_from_envvar(ctx) or ()

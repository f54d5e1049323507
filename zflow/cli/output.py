"""How every verb speaks: problems to stderr for people, JSON to stdout for programs.

Decides which exit code belongs to which error. Never decides what is wrong.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from zflow.errors import (
    ConfigError,
    ExitCode,
    Problem,
    ProtocolError,
    Unavailable,
    ZflowError,
)

EXIT_CODES: dict[type[ZflowError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    Unavailable: ExitCode.UNREACHABLE,
    ProtocolError: ExitCode.INCOMPATIBLE,
}


def exit_code_of(error: ZflowError) -> ExitCode:
    """The exit code of the command that an error ended."""
    codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(codes, ExitCode.FAILED)


def show_error(error: ZflowError) -> None:
    """An error on stderr; of a ConfigError every problem, one per line."""
    if isinstance(error, ConfigError):
        show_problems(error.problems)
    else:
        click.echo(f"zflow: {error}", err=True)


def show_problems(problems: Iterable[Problem], heading: str = "") -> None:
    """Problems on stderr, one per line, files below the working folder by their short names."""
    for problem in problems:
        click.echo(f"{heading}{_near(problem)}", err=True)


def show_json(data: Any) -> None:
    """One object on stdout."""
    click.echo(json.dumps(data, ensure_ascii=False))


def problem_data(problem: Problem) -> dict[str, Any]:
    """A problem as plain data."""
    return asdict(problem)


def _near(problem: Problem) -> Problem:
    path, here = Path(problem.file), Path.cwd()
    if not problem.file or not path.is_relative_to(here):
        return problem
    return replace(problem, file=str(path.relative_to(here)))

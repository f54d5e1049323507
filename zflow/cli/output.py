"""How every verb speaks: problems to stderr for people, JSON to stdout for programs.

Decides which exit code belongs to which error. Never decides what is wrong.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from zflow.errors import (
    ConfigError,
    ExitCode,
    Incompatible,
    Problem,
    ProtocolError,
    Unavailable,
    ZflowError,
)

EXIT_CODES: dict[type[ZflowError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    Incompatible: ExitCode.INCOMPATIBLE,  # before Unavailable, which it is too
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


def aligned(rows: Iterable[Sequence[str]], right: Collection[int]) -> Iterator[str]:
    """Rows as lines with their columns below one another. right: the columns of numbers."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def shortened(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h` or `5 d`, rounded down."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(seconds, 0) // 1:.0f} s"


def span(seconds: float | None) -> str:
    """`250 us`, `3.2 ms`, `1.50 s`; `-` if there is none."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size(size_bytes: float) -> str:
    """`512 B`, `1.5 KiB`, `20.0 MiB`, ..."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def problem_data(problem: Problem) -> dict[str, Any]:
    """A problem as plain data."""
    return asdict(problem)


def _near(problem: Problem) -> Problem:
    path, here = Path(problem.file), Path.cwd()
    if not problem.file or not path.is_relative_to(here):
        return problem
    return replace(problem, file=str(path.relative_to(here)))

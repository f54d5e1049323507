"""`zflow new`: a project that runs at once.

Decides where it may be written and what it is called; never writes over anything.
"""

import re
import shlex
from pathlib import Path
from string import Template

import click

from zflow.cli.new_files import FILES
from zflow.cli.stored import refused
from zflow.errors import Unavailable

FALLBACK = "pipeline"  # for a folder whose name has nothing that a project's name may have


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Make a project that runs at once: topology, test, settings, README.

    DIR must be empty, or not there.

    \b
    Example:
      zflow new wordcount
      cd wordcount && zflow run topologies/words.py
    """
    _check(folder)
    name = project_name(folder.absolute().name)
    try:
        for path, text in FILES.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("x", encoding="utf-8") as file:
                file.write(Template(text).substitute(name=name))
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}") from error
    for path in FILES:
        click.echo(folder / path)
    click.echo(f"try: cd {shlex.quote(str(folder))} && zflow run topologies/words.py", err=True)


def project_name(folder: str) -> str:
    """What a project and a topology may be called, as near to the folder's name as can be."""
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-0123456789") or FALLBACK


def _check(folder: Path) -> None:
    """Raises ConfigError if there is something already."""
    if folder.is_dir():
        there = next(folder.iterdir(), None)
        if there is not None:
            message = f"is not empty: {there.name} is there"
            raise refused(str(folder), message, "name a folder that is empty or not there")
    elif folder.exists():
        raise refused(str(folder), "is a file", "name a folder that is empty or not there")

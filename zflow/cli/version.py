"""`zflow version`: what a report of a bug has to name. Never loads what it names."""

import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from zflow.cli.output import show_json

DEPENDENCIES = ("pyzmq", "msgspec", "cloudpickle", "click")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
def version(as_json: bool) -> None:
    """Print the versions that matter in a report.

    \b
    Example:
      zflow version --json
    """
    # A module of the package runs, so the package itself is loaded.
    own = str(sys.modules["zflow"].__version__)
    versions = {"zflow": own, "python": platform.python_version()}
    versions |= {name: _installed(name) for name in DEPENDENCIES}
    if as_json:
        show_json(versions)
        return
    for name, number in versions.items():
        click.echo(f"{name} {number}")


def _installed(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"

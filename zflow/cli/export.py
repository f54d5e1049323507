"""`zflow export`: a topology in the files of other tools.

Decides where files go, and that a file which zflow did not make is never replaced. What stands in
them is decided in `zflow.export`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zflow.cli.output import show_json
from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem
from zflow.export.grafana import DEFAULT_PROMETHEUS, grafana_files
from zflow.export.prometheus import DEFAULT_ADDRESS, prometheus_files
from zflow.export.rules import DEFAULT_SLO_S
from zflow.export.yamltext import MADE_BY
from zflow.loader import load

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--address",
        metavar="HOST:PORT",
        default=DEFAULT_ADDRESS,
        show_default=True,
        help="Where zflow run --http serves /metrics, as Prometheus reaches it.",
    ),
    click.option(
        "--slo",
        "slo_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        default=DEFAULT_SLO_S,
        show_default=True,
        help="Alert when 1 item in 100 takes longer from source to sink, in seconds.",
    ),
    click.option("--json", "as_json", is_flag=True, help="What was written, as one object."),
)


def common_options(command: Command) -> Command:
    """Give a command the options of both exports."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def folder_option(name: str) -> Callable[[Command], Command]:
    """The option -o, with the folder that is taken without it."""
    return click.option(
        "-o",
        "--output",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(name),
        show_default=True,
        metavar="DIR",
        help="The folder to write to; it is made.",
    )


@click.group()
def export() -> None:
    """Write a topology down for Prometheus or Grafana.

    \b
    Example:
      zflow export prometheus topologies/orders.py -o prometheus
      zflow export grafana topologies/orders.py -o grafana
    """


@export.command(short_help="Scrape configuration, rules, alerts, and tests of them.")
@click.argument("target")
@folder_option("prometheus")
@common_options
def prometheus(target: str, folder: Path, address: str, slo_s: float, as_json: bool) -> None:
    """Write a scrape configuration, recording rules and alerts, and promtool's tests of them.

    prometheus.yml scrapes one address, prometheus-http-sd.yml asks the coordinator which.

    \b
    Example:
      zflow export prometheus topologies/orders.py --slo 0.5
      prometheus --config.file=prometheus/prometheus.yml
      promtool test rules prometheus/orders.tests.yml
    """
    files = prometheus_files(_declared(target), address=address, slo_s=slo_s)
    hint = f"next: prometheus --config.file={folder / 'prometheus.yml'}"
    _write(folder, files, hint, as_json=as_json)


@export.command(short_help="A dashboard, and all that it takes to see it.")
@click.argument("target")
@folder_option("grafana")
@click.option(
    "--prometheus",
    metavar="URL",
    default=DEFAULT_PROMETHEUS,
    show_default=True,
    help="Where Grafana finds Prometheus.",
)
@common_options
def grafana(
    target: str, folder: Path, prometheus: str, address: str, slo_s: float, as_json: bool
) -> None:
    """Write a dashboard of the topology, and all that Grafana and Prometheus need to show it.

    README.md in the folder says in a few lines how to start both.

    \b
    Example:
      zflow export grafana topologies/orders.py -o grafana
      zflow export grafana topologies/orders.py --prometheus http://metrics:9090
    """
    files = grafana_files(_declared(target), address=address, prometheus=prometheus, slo_s=slo_s)
    _write(folder, files, f"next: see {folder / 'README.md'}", as_json=as_json)


def _declared(target: str) -> Declared:
    """The graph behind a target. raises: ConfigError with all that is wrong with it."""
    topology = load(target).topology
    if problems := topology.problems():
        raise ConfigError(problems)
    return topology.declared()


def _write(folder: Path, files: dict[str, str], hint: str, *, as_json: bool) -> None:
    """All files or none. raises: ConfigError where one would replace what zflow did not make."""
    if foreign := [name for name in files if _is_foreign(folder / name)]:
        fix = "name another folder with -o, or move it away"
        message = "is there and was not made by zflow export"
        raise ConfigError(
            Problem(where=str(folder / name), file="", line=0, message=message, fix=fix)
            for name in foreign
        )
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if as_json:
        show_json({"folder": str(folder), "files": list(files)})
        return
    for name in files:
        click.echo(folder / name)
    click.echo(hint, err=True)


def _is_foreign(path: Path) -> bool:
    return path.exists() and MADE_BY not in path.read_text(errors="replace")

"""Which runs on disk a verb means: `--topology NAME --run RUN|last`, or `--state DIR`.

Decides what is meant where something was left out. Never opens what a run holds.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zflow.errors import ConfigError, Problem, Unavailable, suggest
from zflow.paths import runs_folder, topologies_folder
from zflow.state.runs import StoredRun, all_runs, find_run, read_run

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option("--topology", metavar="NAME", help="Whose run  [default: the only one here]"),
    click.option("--run", metavar="RUN|last", default="last", show_default=True, help="Which run."),
    click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help="The run in this folder, for one that was started with --state.",
    ),
)


def run_options(command: Command) -> Command:
    """Give a command the three options that name one run."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def runs_here(topology: str | None) -> list[StoredRun]:
    """The runs below the working folder, topology by topology, oldest first.

    topology: only this one's; raises ConfigError if it has none.
    """
    names = topology_names() if topology is None else [_known(topology)]
    return [run for name in names for run in all_runs(runs_folder(Path.cwd(), name))]


def topology_names() -> list[str]:
    """The topologies that have runs below the working folder."""
    folder = topologies_folder(Path.cwd())
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in found if all_runs(folder / name)]


def chosen_run(topology: str | None, run: str, state: Path | None) -> StoredRun:
    """The one run that the options mean; raises ConfigError if there is none, or several."""
    if state is not None:
        try:
            return read_run(state.absolute())
        except Unavailable as error:
            fix = "name the folder that was given to zflow run --state"
            raise refused(f"--state {state}", str(error), fix) from error
    name = _known(topology) if topology is not None else _only_topology()
    return find_run(runs_folder(Path.cwd(), name), run)


def typed(*words: str) -> str:
    """A command to type next, about the run that the present command is about."""
    given = click.get_current_context().params
    run = {"--topology": given.get("topology"), "--state": given.get("state")}
    if given.get("run") != "last":
        run["--run"] = given.get("run")
    options = [part for name, value in run.items() if value for part in (name, str(value))]
    return shlex.join(["zflow", *words, *options])


def _only_topology() -> str:
    names = topology_names()
    if not names:
        raise refused(
            ".zflow",
            f"there are no runs in {Path.cwd()}",
            "go to the folder where the topology was started, or give --state DIR",
        )
    if len(names) > 1:
        fix = f"say which: --topology {'|'.join(names)}"
        raise refused(".zflow", f"there are runs of {len(names)} topologies here", fix)
    return names[0]


def _known(topology: str) -> str:
    names = topology_names()
    if topology not in names:
        message = f"there is no run of it in {Path.cwd()}"
        raise refused(f"--topology {topology}", message, suggest(topology, names))
    return topology


def refused(where: str, message: str, fix: str) -> ConfigError:
    """One thing that is wrong on the command line."""
    return ConfigError([Problem(where=where, file="", line=0, message=message, fix=fix)])

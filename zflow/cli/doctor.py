"""`zflow doctor`: what on this machine would hurt a run, and what hurts those that are running.

Decides wording. What is a finding is decided in `zflow.local`; nothing is changed.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from zflow.cli.asking import look, meant_of, running_runs
from zflow.cli.output import aligned, show_json, size
from zflow.cli.settings import find_settings, stage_texts
from zflow.cli.stored import runs_here
from zflow.clock import Clock
from zflow.config import parse_replicas
from zflow.errors import ExitCode, Unavailable
from zflow.loader import load
from zflow.local.leftovers import (
    about_folders,
    about_picture,
    about_records,
    about_silent,
    run_folders,
)
from zflow.local.machine import Finding, Machine, Need, findings, measured, need_of
from zflow.paths import runs_folder, topologies_folder
from zflow.topology import Topology

ANSWER_WITHIN_S = 2.0  # there may be several


@click.command()
@click.argument("target", required=False)
@click.option(
    "-r", "--replicas", multiple=True, metavar="STAGE=N", help="As it will be run, with TARGET."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the state will be kept  [default: .zflow/TOPOLOGY/RUN]",
)
@click.option("--json", "as_json", is_flag=True, help="One object on stdout.")
@click.pass_context
def doctor(
    ctx: click.Context,
    target: str | None,
    replicas: tuple[str, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Say what on this machine would hurt a run, and how to mend it.

    Looks at versions, limits (with TARGET: against what it needs), the run and state folders, the
    clock, what dead processes have left, and at the runs of this folder that are running. Changes
    nothing. Exit code 0 if nothing is wrong, 1 otherwise.

    \b
    Example:
      zflow doctor
      zflow doctor topologies/wordcount.py -r words=64 --json
    """
    found: list[Finding] = []
    need, name = None, "TOPOLOGY"
    if target is not None:
        need, name = _need(target, replicas, found)
    # A run of that name; all are as long.
    folder = runs_folder(Path.cwd(), name) / "20260131-235959-1a2b"
    machine = measured((state or folder).absolute(), os.environ)
    found += findings(machine, need)
    found += _about_runs()
    if as_json:
        data = {"ok": not found, "facts": _facts(machine, need)}
        show_json({**data, "findings": [asdict(one) for one in found]})
    else:
        _show(machine, need, found)
    ctx.exit(ExitCode.FAILED if found else ExitCode.OK)


def _need(target: str, replicas: tuple[str, ...], found: list[Finding]) -> tuple[Need | None, str]:
    """What the topology asks for, and its name; what is wrong with it is one finding."""
    topology: Topology = load(target).topology
    declared = topology.declared()
    from_file = stage_texts(find_settings(Path.cwd()), declared)[1]
    counts = parse_replicas(declared, [*from_file, *replicas])
    problems = topology.problems()
    if problems:
        found.append(
            Finding(
                check="topology",
                what=f"{len(problems)} things are wrong with {target}, first: {problems[0]}",
                why="it cannot be run",
                command=f"zflow check {target}",
            )
        )
        return None, declared.name
    return need_of(declared, counts), declared.name


def _about_runs() -> list[Finding]:
    found = list(about_folders(run_folders(os.environ), Clock().wall_s()))
    runs = runs_here(None) if topologies_folder(Path.cwd()).is_dir() else []
    found += about_records(runs, os.environ)
    for run in running_runs() if runs else []:
        try:
            found += about_picture(look(meant_of(run), within_s=ANSWER_WITHIN_S))
        except Unavailable:
            found.append(about_silent(run))
    return found


def _facts(machine: Machine, need: Need | None) -> dict[str, Any]:
    data = asdict(machine)
    del data["mounts"]
    del data["run_directory_problem"]
    data |= {name: str(data[name]) for name in ("state_folder", "run_directory")}
    if need is not None:
        data["need"] = {**asdict(need), "open_files": need.open_files}
    return data


def _show(machine: Machine, need: Need | None, found: list[Finding]) -> None:
    for line in aligned(_rows(machine, need), right=()):
        click.echo(line)
    for number, one in enumerate(found, 1):
        click.echo(f"\n{number}. {one.check}: {one.what}")
        click.echo(f"   why: {one.why}")
        click.echo(f"   try: {one.command}")
    count = len(found)
    click.echo(f"\n{count} finding{'s' * (count != 1)}" if found else "\nnothing is wrong")


def _rows(machine: Machine, need: Need | None) -> list[tuple[str, str]]:
    curve = "with" if machine.zmq.curve else "without"
    files = "any number" if machine.open_files is None else f"{machine.open_files:,}"
    if need is not None:
        files += f", {need.topology} needs up to {need.open_files:,}"
    return [
        ("Python", machine.python),
        ("pyzmq", f"{machine.zmq.pyzmq}, libzmq {machine.zmq.libzmq} {curve} CURVE"),
        ("SQLite", machine.sqlite),
        ("open files", files),
        ("run directories", f"{machine.run_directory}, {size(machine.run_free_bytes)} free"),
        ("state", f"{machine.state_folder}, {size(machine.state_free_bytes)} free"),
        ("clock source", machine.clock_source or "unknown"),
    ]

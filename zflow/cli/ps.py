"""`zflow ps`: the runs below the working folder that are running now.

Decides wording; a run whose coordinator does not answer is listed all the same.
"""

from typing import Any

import click

from zflow.cli.asking import look, meant_of, running_runs
from zflow.cli.output import aligned, duration, show_json
from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.state.runs import StoredRun, process_of
from zflow.wire.picture import Picture

HEADINGS = ("topology", "run", "phase", "since", "stages", "replicas", "pid")
ANSWER_WITHIN_S = 2.0  # there may be several
NO_ANSWER = "no answer"


@click.command()
@click.option("--topology", metavar="NAME", help="Only the runs of this topology.")
@click.option("--json", "as_json", is_flag=True, help="One object per line on stdout.")
def ps(topology: str | None, as_json: bool) -> None:
    """List the runs of this folder that are running.

    replicas: those that run, of those there should be; pid: of zflow run itself.

    \b
    Example:
      zflow ps
      zflow ps --json
    """
    rows = [_as_data(run) for run in running_runs(topology)]
    if as_json:
        for row in rows:
            show_json(row)
    elif rows:
        now_s = Clock().wall_s()
        lines = [HEADINGS, *(_row(row, now_s) for row in rows)]
        for line in aligned(lines, right={3, 4, 5, 6}):
            click.echo(line)
    else:
        click.echo("nothing is running here; all runs: zflow runs ls", err=True)


def _as_data(run: StoredRun) -> dict[str, Any]:
    data: dict[str, Any] = {
        "topology": run.record.topology,
        "run_id": run.record.run_id,
        "phase": NO_ANSWER,
        "started_at_s": run.record.started_at_s,
        "pid": process_of(run.state),
        "state_directory": str(run.state.root),
    }
    try:
        picture = look(meant_of(run), within_s=ANSWER_WITHIN_S)
    except Unavailable:
        return data
    return {**data, **_seen(picture)}


def _seen(picture: Picture) -> dict[str, Any]:
    replicas = [one.replica for stage in picture.stages for one in stage.slots]
    return {
        "phase": "paused" if picture.paused else picture.phase,
        "started_at_s": picture.at_s - picture.elapsed_s,  # a resumed run began again
        "stages": len(picture.stages),
        "replicas": sum(stage.desired for stage in picture.stages),
        "running": sum(one is not None and one.state == "running" for one in replicas),
    }


def _row(data: dict[str, Any], now_s: float) -> tuple[str, ...]:
    answers = "stages" in data
    return (
        data["topology"],
        data["run_id"],
        data["phase"],
        duration(now_s - data["started_at_s"]),
        str(data["stages"]) if answers else "-",
        f"{data['running']}/{data['replicas']}" if answers else "-",
        str(data["pid"] or "-"),
    )

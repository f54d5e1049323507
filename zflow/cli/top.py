"""`zflow top`: a running run on the screen, drawn again every second.

Decides layout, and which keys leave.
"""

import select
import sys
import termios
import tty
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zflow.cli.asking import Meant, look, meant_run
from zflow.cli.security import asking_options
from zflow.cli.stored import run_options
from zflow.cli.tables import STAGE_HEADINGS, STAGE_NUMBERS, latency_line, rate, stage_row, title
from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.planning.processors import processors_here
from zflow.planning.rates import EdgeRates, StageRates
from zflow.planning.watch import View, Watch

EVERY_S = 1.0
LEAVE = "q"
STYLES = {"busy": "yellow", "blocked": "red", "starved": "blue", "overhead": "magenta"}
PLAIN_WIDTH = 120  # in characters, of a frame that goes to a file or a pipe
BAR = 20  # characters of a full queue


@click.command()
@run_options
@asking_options
@click.option("--once", is_flag=True, help="One frame after a second, for scripts.")
def top(topology: str | None, run: str, state: Path | None, once: bool) -> None:
    """Watch a running run, drawn again every second.

    The verdict of zflow explain, the stages, the edges and how full they are. q or Ctrl-C leaves;
    the run goes on.

    \b
    Example:
      zflow top
      zflow top --once
    """
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal; for one frame as text: zflow top --once")
    meant = meant_run(topology, run, state)
    watch = Watch(processors_here())
    if once:
        watch.take(look(meant))
        Clock().sleep(EVERY_S)
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        console.print(drawn(watch.take(look(meant))))
        return
    try:
        _live(meant, watch)
    except KeyboardInterrupt:  # the way out, not a failure
        return


def _live(run: Meant, watch: Watch) -> None:
    with _Keys() as keys, Live(auto_refresh=False, screen=True) as live:
        while True:
            try:
                view = watch.take(look(run))
            except Unavailable:
                if run.is_running():
                    raise
                break
            live.update(drawn(view), refresh=True)
            if keys.pressed(EVERY_S) == LEAVE:
                return
    click.echo(f"run {run.name} has ended; see zflow runs ls", err=True)


class _Keys:
    """The keyboard, key by key."""

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    @staticmethod
    def pressed(within_s: float) -> str:
        """The next key, or "" if none comes in time."""
        ready, _, _ = select.select([sys.stdin], [], [], within_s)
        return sys.stdin.read(1) if ready else ""


def drawn(view: View) -> Group:
    """One frame: the verdict, the stages, the edges."""
    lines: list[Text | Table] = [Text(title(view.picture), style="bold")]
    lines.append(Text(view.verdict.sentence))
    lines += [Text(note) for note in view.verdict.notes]
    if view.verdict.command:
        lines.append(Text(f"try: {view.verdict.command}", style="dim"))
    lines += [_stages(view), _edges(view), Text(latency_line(view.rates), style="dim")]
    return Group(*lines)


def _stages(view: View) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, heading in enumerate(STAGE_HEADINGS):
        table.add_column(heading, justify="right" if number in STAGE_NUMBERS else "left")
    for stage in view.rates.stages:
        table.add_row(*(Text(cell) for cell in stage_row(stage)[:-1]), _state(stage))
    return table


def _state(stage: StageRates) -> Text:
    word = stage_row(stage)[-1]
    return Text(word, style=STYLES.get(word, ""))


def _edges(view: View) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("edge", "items/s", "on the way"):
        table.add_column(heading, justify="right" if heading == "items/s" else "left")
    for edge in view.rates.edges:
        table.add_row(Text(edge.label), rate(edge.rate_per_s), _bar(edge))
    return table


def _bar(edge: EdgeRates) -> Text:
    """How much of what its links may hold is on the way."""
    marks = round(edge.full_ratio * BAR)
    return Text(f"{'#' * marks}{'.' * (BAR - marks)} {edge.queue_items:,}")

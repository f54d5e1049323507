"""How a run looks while it runs: a table on a terminal, plain lines elsewhere.

Decides wording and layout. Everything for people goes to stderr; what replicas print to stdout
goes to stdout, or to stderr where stdout belongs to a program.
"""

import sys
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from zflow.cli.ledger import ledger_lines
from zflow.ids import Slot
from zflow.local.lead import Progress
from zflow.local.plan import Plan
from zflow.local.result import RunResult
from zflow.supervisor.member import Death

PLAIN_EVERY_S = 5.0
PHASE_SENTENCES = {
    "drain": "draining: sources have stopped, what is on the way is being settled (again: stop)",
    "finish": "everything is settled",
}


class PlainScreen:
    """For files, pipes and CI: a line when something happens, and one every few seconds."""

    def __init__(self, plan: Plan, *, quiet_stdout: bool) -> None:
        self._plan = plan
        self._quiet_stdout = quiet_stdout
        self._said_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put away."""

    def say(self, text: str) -> None:
        """One line for people."""
        click.echo(text, err=True)

    def on_phase(self, phase: str) -> None:
        """Only what a person waits for."""
        sentence = PHASE_SENTENCES.get(phase)
        if sentence is not None:
            self.say(f"zflow: {sentence}")

    def on_waiting(self, what: str) -> None:
        """Which replicas are missing."""
        if what:
            self.say(f"zflow: waiting for {what}")

    def on_progress(self, stages: list[Progress], elapsed_s: float) -> None:
        """A short line now and then."""
        if elapsed_s - self._said_s >= PLAIN_EVERY_S:
            self._said_s = elapsed_s
            counts = ", ".join(f"{stage.stage} {stage.items:,}" for stage in stages)
            self.say(f"zflow: {elapsed_s:.0f} s: {counts}")

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """The user's own print as it is; what went to stderr with its replica in front."""
        if stream == "out":
            click.echo(line, err=self._quiet_stdout)
        else:
            self.say(line if line.startswith(str(slot)) else f"{slot}: {line}")

    def on_death(self, death: Death) -> None:
        """Who died of what."""
        self.say(f"zflow: {death.slot} died: {death.cause}")

    def show_result(self, result: RunResult) -> None:
        """The ledger."""
        for line in ledger_lines(self._plan, result):
            self.say(line)


class LiveScreen(PlainScreen):
    """For a terminal: a table that moves, with the replicas' lines above it."""

    def __init__(self, plan: Plan, *, quiet_stdout: bool) -> None:
        super().__init__(plan, quiet_stdout=quiet_stdout)
        self._console = Console(stderr=True)
        self._live = Live(
            console=self._console, refresh_per_second=4, transient=True, redirect_stdout=False
        )
        self._before: dict[str, int] = {}
        self._before_s = 0.0
        self._phase = "bind"

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Above the table, which is drawn again below."""
        self._console.print(text, markup=False, highlight=False)

    def on_phase(self, phase: str) -> None:
        """Shown in the table's title too."""
        self._phase = phase
        super().on_phase(phase)

    def on_progress(self, stages: list[Progress], elapsed_s: float) -> None:
        """Draw the table anew."""
        seconds = max(elapsed_s - self._before_s, 1e-9)
        table = Table(title=f"{self._plan.config.topology}: {self._phase}, {elapsed_s:.0f} s")
        for heading in ("stage", "items", "items/s", "queue", "retrying", "state"):
            table.add_column(heading, justify="left" if heading in ("stage", "state") else "right")
        for stage in stages:
            rate = max(0.0, (stage.items - self._before.get(stage.stage, 0)) / seconds)
            table.add_row(
                stage.stage,
                f"{stage.items:,}",
                f"{rate:,.0f}",
                f"{stage.queued:,}",
                f"{stage.retrying:,}",
                _state_of(stage),
            )
            self._before[stage.stage] = stage.items
        self._before_s = elapsed_s
        self._live.update(table)

    def on_line(self, slot: Slot, stream: str, line: str) -> None:
        """A print to stdout goes there; the table steps aside for it on a shared terminal."""
        if stream == "out" and not self._quiet_stdout and not sys.stdout.isatty():
            click.echo(line)
        else:
            self.say(line if stream == "out" else f"{slot}: {line}")


def _state_of(stage: Progress) -> str:
    words = f"{stage.running}/{stage.replicas} running"
    if stage.restarts:
        words += f", {stage.restarts} restarts"
    if stage.errors:
        words += f", {stage.errors} errors"
    return words


def make_screen(plan: Plan, *, quiet_stdout: bool) -> PlainScreen:
    """What suits the terminal, or the lack of one."""
    kind = LiveScreen if sys.stderr.isatty() else PlainScreen
    return kind(plan, quiet_stdout=quiet_stdout)

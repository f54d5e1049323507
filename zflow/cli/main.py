"""The command `zflow`: which verbs there are, and how an error becomes an exit code.

Never imports a verb before it is called, so that `zflow --help` is quick and loads no zmq.
"""

from importlib import import_module
from typing import Any, NamedTuple

import click

from zflow.cli.output import exit_code_of, show_error
from zflow.errors import ExitCode, ZflowError


class Verb(NamedTuple):
    """Where a verb lives, `module:attribute`, and its line in `zflow --help`."""

    place: str
    summary: str


# One row per verb; the summary is kept here so that help need not import the verb.
VERBS: dict[str, Verb] = {
    "apply": Verb(
        "zflow.cli.apply:apply", "Let a running run go on with another version of its topology."
    ),
    "check": Verb("zflow.cli.check:check", "Say all that is wrong with a topology, at once."),
    "coordinator": Verb(
        "zflow.cli.apart:coordinator",
        "Coordinate a run whose stages are started by hand, or by another machine.",
    ),
    "dead": Verb(
        "zflow.cli.dead:dead",
        "Look at the items that a run has given up; mend, send and remove them.",
    ),
    "diff": Verb(
        "zflow.cli.apply:diff",
        "Say what zflow apply would do: which stages it would replace, and why.",
    ),
    "down": Verb("zflow.cli.orders:down", "End a running run: drained, or now."),
    "drain": Verb(
        "zflow.cli.orders:drain",
        "Let the sources of a running run stop and everything settle, then end it.",
    ),
    "events": Verb("zflow.cli.events:events", "Show what happens in a running run."),
    "explain": Verb("zflow.cli.explain:explain", "Say why a running run is as fast as it is."),
    "export": Verb("zflow.cli.export:export", "Write a topology down for Prometheus or Grafana."),
    "graph": Verb("zflow.cli.graph:graph", "Draw the declared graph of a topology."),
    "keys": Verb("zflow.cli.keys:keys", "Make, show and renew the keys of a run over tcp."),
    "logs": Verb("zflow.cli.logs:logs", "Show what the replicas of a run print."),
    "metrics": Verb("zflow.cli.metrics:metrics", "List the metrics of a run, and what they mean."),
    "move": Verb("zflow.cli.move:move", "Give partitions of a running stage to other replicas."),
    "pause": Verb(
        "zflow.cli.orders:pause",
        "Let the sources of a running run yield nothing until zflow resume.",
    ),
    "ps": Verb("zflow.cli.ps:ps", "List the runs of this folder that are running."),
    "restart": Verb(
        "zflow.cli.orders:restart",
        "Replace the processes of stages or single replicas while the run goes on.",
    ),
    "resume": Verb("zflow.cli.orders:resume", "Let the sources of a paused run go on."),
    "run": Verb("zflow.cli.run:run", "Run a topology on this machine, in the foreground."),
    "runs": Verb("zflow.cli.runs:runs", "List the runs of this folder, and remove old ones."),
    "scale": Verb(
        "zflow.cli.orders:scale", "Give stages of a running run more replicas, or fewer."
    ),
    "stage": Verb(
        "zflow.cli.apart:stage", "Run replicas of one stage, for a coordinator somewhere else."
    ),
    "state": Verb("zflow.cli.state:state", "Look at what durable stages have stored, and copy it."),
    "status": Verb("zflow.cli.status:status", "Show what the stages of a running run do now."),
    "tap": Verb("zflow.cli.tap:tap", "Look at the items of a live edge without consuming any."),
    "top": Verb("zflow.cli.top:top", "Watch a running run, drawn again every second."),
    "version": Verb("zflow.cli.version:version", "Print the versions that matter in a report."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what it raises on purpose becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except ZflowError as error:
            show_error(error)
            ctx.exit(exit_code_of(error))
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)


@click.group(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": "ZFLOW", "help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Run pipelines of plain Python functions, each stage in its own processes.

    TARGET is path/file.py[:attr] or module:attr, where attr is a Topology or a function that
    returns one; without attr it is the only Topology of the file.

    \b
    Example:
      zflow check topologies/wordcount.py
    """

"""Options that several verbs share, with one wording each."""

from pathlib import Path

import click

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

parameter_option = click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="STAGE.NAME=VALUE",
    help="A parameter of a stage, typed by its annotation.",
)
replicas_option = click.option(
    "-r", "--replicas", multiple=True, metavar="STAGE=N", help="How many processes a stage has."
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where positions, partitions and dead letters are kept  [default: .zflow/TOPOLOGY/RUN]",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Stop after that many seconds, with exit code 4.",
)
log_level_option = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="WARNING",
    show_default=True,
)

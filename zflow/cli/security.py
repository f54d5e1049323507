"""`--keys` and `--insecure-loopback`, and `--coordinator` of the verbs that ask a running run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zflow.net.security import Security

Command = TypeVar("Command", bound=Callable[..., Any])
GIVEN = "zflow.coordinator"  # in the context of a command: --coordinator, --keys and so on

keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The key folder of the run (zflow keys new DIR): tcp means CURVE, both ends are known.",
)
insecure_option = click.option(
    "--insecure-loopback",
    is_flag=True,
    help="Plain tcp on 127.0.0.1: items are plain data (msgpack), and no code is sent.",
)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    ctx.meta.setdefault(GIVEN, {})[parameter.name] = value
    return value


ASKING = (
    click.option(
        "--coordinator",
        metavar="URL",
        help="Ask this one, wherever its run is kept.",
        expose_value=False,
        callback=_remember,
    ),
    click.option(
        "--keys",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="A folder with operator.key or reader.key and public.json, for --coordinator.",
        expose_value=False,
        callback=_remember,
    ),
    click.option(
        "--insecure-loopback",
        is_flag=True,
        help="For a --coordinator that was started so.",
        expose_value=False,
        callback=_remember,
    ),
)


def asking_options(command: Command) -> Command:
    """Let a verb that asks a running run do so over the network."""
    for option in reversed(ASKING):
        command = option(command)
    return command


def coordinator_given() -> tuple[str, Security]:
    """Whom the present command asks, "" for the run in a folder here; raises ConfigError."""
    given = click.get_current_context().meta.get(GIVEN, {})
    url = given.get("coordinator") or ""
    security = Security(given.get("keys"), insecure_loopback=bool(given.get("insecure_loopback")))
    if url:
        security.check_connect(url)
    return url, security

"""`--http`: what serves the metrics and the page of a run, for the verbs that coordinate one."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from zflow.clock import Clock
from zflow.coordinator.web.address import OFF
from zflow.coordinator.web.server import WebServer, open_server
from zflow.errors import Unavailable

http_option = click.option(
    "--http",
    metavar="ADDR",
    help="Where metrics and the state of the run are served: HOST:PORT, a port on this machine, or "
    "off. Who can reach the address can read them.  [default: 127.0.0.1:9464, or the next free "
    "port]",
)


@contextmanager
def open_web(address: str | None) -> Iterator[WebServer | None]:
    """What serves metrics at that address, or at the default one if there is room for it.

    raises: ConfigError for an address that is wrong or taken.
    """
    web = None
    if address != OFF:
        try:
            web = open_server(address, Clock())
        except Unavailable as error:  # nobody asked for it
            click.echo(f"zflow: without metrics: {error}", err=True)
    try:
        yield web
    finally:
        if web is not None:
            web.stop()

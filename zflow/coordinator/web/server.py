"""The thread that serves HTTP beside the coordinator's loop.

Decides when it starts: not before the run has begun, and with the first request, since loading a
web server takes as long as starting a replica. Never installs a signal handler, and never blocks
the loop.
"""

import asyncio
import logging
import os
import select
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from zflow.clock import Clock
from zflow.coordinator.web.address import (
    DEFAULT_HOST,
    Address,
    bind,
    bind_default,
    parse_address,
)
from zflow.wire.picture import Picture

if TYPE_CHECKING:
    import uvicorn

    from zflow.coordinator.web.app import Board

_LOG = logging.getLogger("zflow.http")
STOP_S = 2.0  # for requests under way at the end
MAX_CONNECTIONS = 256
BEGUN = ("run", "drain", "finish")


class WebServer:
    """One run's HTTP. `show` and `stop` from the coordinator's thread.

    host: as people gave it, which may be a name that it has to answer to.
    """

    def __init__(self, bound: socket.socket, clock: Clock, host: str) -> None:
        self._socket = bound
        self._clock = clock
        self.address = Address(host, bound.getsockname()[1])
        self._newest: Picture | None = None
        self._board: Board | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)

    def start(self) -> None:
        """Serve from the first request on, in a thread of its own; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="zflow-http", daemon=True)
            self._thread.start()

    def show(self, picture: Picture) -> None:
        """The newest picture; the server starts with the first one of a run that has begun."""
        self._newest = picture
        if self._board is not None:
            self._board.show(picture)
        elif picture.phase in BEGUN:
            self.start()

    def stop(self) -> None:
        """End streams and serve no more. Blocks for at most STOP_S."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._server is not None:
            self._server.should_exit = True
        if self._board is not None and self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._board.close)
        if self._thread is not None:
            self._thread.join(STOP_S)
        if self._thread is None or not self._thread.is_alive():
            self._socket.close()
            os.close(self._wake)

    def _serve(self) -> None:
        select.select([self._socket.fileno(), self._wake], [], [])
        if self._stopping:
            return
        try:
            self._run()
        except Exception:  # noqa: BLE001 - the run goes on without its page
            _LOG.exception("the HTTP server has ended")

    def _run(self) -> None:
        # Not at the top: they take a quarter of a second to load, and nothing waits for them.
        import uvicorn

        from zflow.coordinator.web.app import Board, make_app

        _forward_log()
        board = Board(self._clock)
        self._board = board
        while self._newest is not None and board.picture is not self._newest:
            board.show(self._newest)  # the other thread may have shown one meanwhile
        config = uvicorn.Config(
            make_app(board, self.address.host, str(self.address)),
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        asyncio.run(self._serve_until_stopped(self._server))

    async def _serve_until_stopped(self, server: "uvicorn.Server") -> None:
        self._loop = asyncio.get_running_loop()
        if not self._stopping:
            await server.serve(sockets=[self._socket])


class _Forward(logging.Handler):
    """What uvicorn says becomes a line of ours: what is news to it is detail to us."""

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.DEBUG if record.levelno <= logging.INFO else record.levelno
        _LOG.log(level, "%s", record.getMessage(), exc_info=record.exc_info)


def _forward_log() -> None:
    logger = logging.getLogger("uvicorn")
    logger.handlers[:] = [_Forward()]
    logger.propagate = False


def open_server(address: str | None, clock: Clock) -> WebServer:
    """A server on HOST:PORT, or where there is room if it is None. Raises ConfigError."""
    if address is None:
        return WebServer(bind_default(), clock, DEFAULT_HOST)
    wanted = parse_address(address)
    return WebServer(bind(wanted), clock, wanted.host)

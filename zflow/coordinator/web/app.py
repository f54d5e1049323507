"""The routes of the coordinator's HTTP. Everything is made from the newest picture.

Decides paths, status codes and types. Reads only; never touches the run.
"""

import asyncio
import gzip
import mimetypes
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from zflow.clock import Clock
from zflow.coordinator.exporter import CONTENT_TYPE, Exposition
from zflow.coordinator.web.guard import Guard
from zflow.coordinator.web.live import Live
from zflow.planning.processors import processors_here
from zflow.wire.picture import Picture

STATIC = Path(__file__).parent / "static"
# What the machine's own tables say differs from machine to machine.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
READY_PHASES = ("run", "drain")
STALE_S = 30.0  # without a new picture the coordinator's loop is stuck
EVENTS_EVERY_S = 1.0
MAX_LISTENERS = 32
GZIP_LEVEL = 1  # metrics repeat themselves: more costs time and gains little


class Board:
    """The newest picture, between the coordinator's thread and the server's."""

    def __init__(self, clock: Clock) -> None:
        self.picture: Picture | None = None
        self._closing = asyncio.Event()
        self._clock = clock
        self._shown_s = clock.now_s()

    def show(self, picture: Picture) -> None:
        """From the coordinator's thread; returns at once."""
        self._shown_s = self._clock.now_s()
        self.picture = picture

    def age_s(self) -> float:
        """How long ago something was shown."""
        return self._clock.now_s() - self._shown_s

    def close(self) -> None:
        """Streams end; from the server's thread."""
        self._closing.set()

    def is_closing(self) -> bool:
        """True once streams have to end."""
        return self._closing.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until streams have to end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def make_app(board: Board, host: str, address: str, static: Path = STATIC) -> ASGIApp:
    """host: what the server is bound to, address: the same with its port, for `/sd`."""
    site = _Site(board, address, static)
    routes = [
        Route("/metrics", site.metrics),
        Route("/healthz", site.healthz),
        Route("/readyz", site.readyz),
        Route("/sd", site.discovery),
        Route("/api/topology", site.topology),
        Route("/api/state", site.state),
        Route("/api/events", site.events),
        Route("/api/live", site.live),
        Route("/{path:path}", site.file),
    ]
    return Guard(Starlette(routes=routes), host)


class _Site:
    """The endpoints. Owned by the server's thread."""

    def __init__(self, board: Board, address: str, static: Path) -> None:
        self._board = board
        self._address = address
        self._static = static.resolve()
        self._exposition = Exposition()
        self._encoded: tuple[Picture | None, bytes] = (None, b"null")
        self._listeners = 0
        self._live = Live(processors_here())
        self._beating: asyncio.Task[None] | None = None

    async def metrics(self, request: Request) -> Response:
        """In the text format."""
        raw = self._exposition.text(self._board.picture)
        headers = {"Vary": "Accept-Encoding"}
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            raw = gzip.compress(raw, GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return Response(raw, media_type=CONTENT_TYPE, headers=headers)

    async def healthz(self, request: Request) -> Response:
        """200 while the coordinator's loop turns."""
        age_s = self._board.age_s()
        if age_s > STALE_S:
            return PlainTextResponse(f"nothing new for {age_s:.0f} s\n", 503)
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while items flow."""
        picture = self._board.picture
        phase = picture.phase if picture is not None else "bind"
        return PlainTextResponse(f"{phase}\n", 200 if phase in READY_PHASES else 503)

    async def discovery(self, request: Request) -> Response:
        """A target of Prometheus' http_sd: this server, under the name by which it was reached.

        The topology is a meta label only: a label of that name would make Prometheus rename ours.
        """
        asked = request.headers["host"]
        target = asked if ":" in asked.rpartition("]")[2] else self._address
        labels = {}
        if self._board.picture is not None:
            labels = {
                "__meta_zflow_topology": self._board.picture.topology,
                "__meta_zflow_run": self._board.picture.run_id,
            }
        return _json([{"targets": [target], "labels": labels}])

    async def topology(self, request: Request) -> Response:
        """What is running, without numbers."""
        picture = self._board.picture
        if picture is None:
            return _no_picture()
        fields = ("name", "kind", "desired", "partitions", "durability", "timeout_s")
        about = ("topology", "run_id", "generation", "digest", "phase", "paused")
        return _json(
            {
                **{name: getattr(picture, name) for name in about},
                "stages": [{n: getattr(stage, n) for n in fields} for stage in picture.stages],
                "edges": picture.edges,
            }
        )

    async def state(self, request: Request) -> Response:
        """The picture."""
        if self._board.picture is None:
            return _no_picture()
        return Response(self._picture(), media_type="application/json")

    def _picture(self) -> bytes:
        picture = self._board.picture
        if picture is not self._encoded[0]:
            self._encoded = (picture, msgspec.json.encode(picture))
        return self._encoded[1]

    async def events(self, request: Request) -> Response:
        """Server-sent events: `event`, with its number as the id, and `picture` once a second."""
        return self._listened(request, b"picture", self._picture)

    async def live(self, request: Request) -> Response:
        """The same for the page: `view` instead of `picture`, and `history` once before it."""
        if self._beating is None:  # from now on to the end: a page that comes back has its charts
            self._beating = asyncio.create_task(self._beat())
        return self._listened(request, b"view", self._live.message, self._live.history)

    def _listened(
        self,
        request: Request,
        name: bytes,
        message: Callable[[], bytes],
        history: Callable[[], bytes] | None = None,
    ) -> Response:
        if self._listeners >= MAX_LISTENERS:
            return PlainTextResponse(f"{MAX_LISTENERS} listen already\n", 503)
        known = request.headers.get("last-event-id", "")
        after = int(known) if known.isascii() and known.isdigit() else 0
        stream = self._stream(after, name, message, history) if request.method == "GET" else ()
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _beat(self) -> None:
        while not self._board.is_closing():
            if self._board.picture is not None:
                self._live.take(self._board.picture)
            await self._board.pause(EVENTS_EVERY_S)

    async def _stream(
        self,
        after: int,
        name: bytes,
        message: Callable[[], bytes],
        history: Callable[[], bytes] | None,
    ) -> AsyncIterator[bytes]:
        self._listeners += 1
        try:
            if history is not None:
                yield b"event: history\ndata: %s\n\n" % history()
            while not self._board.is_closing():
                picture = self._board.picture
                for event in picture.events if picture is not None else ():
                    if event.number > after:
                        after = event.number
                        data = msgspec.json.encode(event)
                        yield b"id: %d\nevent: event\ndata: %s\n\n" % (after, data)
                if picture is not None:
                    yield b"event: %s\ndata: %s\n\n" % (name, message())
                await self._board.pause(EVENTS_EVERY_S)
        finally:
            self._listeners -= 1

    async def file(self, request: Request) -> Response:
        """A file of the page, at its name or below `static/`."""
        name = request.path_params["path"].removeprefix("static/") or "index.html"
        path = (self._static / name).resolve()
        if not path.is_relative_to(self._static) or not path.is_file():
            return PlainTextResponse("there is nothing here; see /metrics and /api/state\n", 404)
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(name)[0]
        return Response(path.read_bytes(), media_type=kind or "application/octet-stream")


def _takes_gzip(accepted: str) -> bool:
    """RFC 9110, section 12.5.3; `gzip;q=0` is a refusal."""
    for one in accepted.lower().replace(" ", "").split(","):
        coding, _, quality = one.partition(";q=")
        if coding == "gzip":
            return quality.strip("0.") != "" if quality else True
    return False


def _json(data: object) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")


def _no_picture() -> Response:
    return PlainTextResponse("the run has not begun\n", 503)

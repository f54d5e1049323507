"""What every request passes first: which hosts and methods are answered, which headers go back.

Decides that this server only reads. What writes (`--http-write`) belongs in routes of its own, and
here behind a token; nothing else may be let through for it.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zflow.coordinator.web.address import answers_to

METHODS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Around the whole app. host: what the server is bound to."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on; in both cases with HEADERS."""
        if scope["type"] != "http":
            return  # nothing else is served

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        asked = Headers(scope=scope).getlist("host")
        if len(asked) != 1 or not answers_to(asked[0], self._host):
            return PlainTextResponse("this host is not known here\n", 421)
        if scope["method"] not in METHODS:
            allow = {"Allow": ", ".join(METHODS)}
            return PlainTextResponse("this server only reads\n", 405, headers=allow)
        return None

"""Asks an app without a socket, and makes pictures to show it."""

import asyncio
from dataclasses import dataclass

import pytest

from zflow.wire.picture import Event, Picture, Replica, SlotCensus, StagePicture


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(app, path, *, method="GET", host="127.0.0.1:9464", parts=None, **headers):
    """The answer; of a stream the first `parts` pieces."""
    sent = []
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    if host is not None:
        names["host"] = host
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), text.encode()) for name, text in names.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 9464),
    }

    async def run():
        enough = asyncio.Event()

        async def receive():
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if parts is not None and len(sent) > parts:
                enough.set()

        await asyncio.wait_for(app(scope, receive, send), 30)

    asyncio.run(run())
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode(): text.decode() for name, text in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )


def make_picture(phase="run", *, processed=5, events=2):
    living = Replica(
        incarnation=1,
        pid=4711,
        host="here",
        state="running",
        started_at_s=0.0,
        cpu_s=1.5,
        memory_bytes=1000,
        open_fds=3,
        counters={"ok": processed},
    )
    slot = SlotCensus(slot="read/0", replica=living, retired={}, restarts={})
    stage = StagePicture(
        name="read",
        kind="source",
        desired=1,
        partitions=0,
        durability="power",
        timeout_s=300.0,
        slots=[slot],
        gone={},
    )
    happened = [
        Event(number=k + 1, at_s=0.0, kind="start", stage="read", slot="read/0", text=f"event {k}")
        for k in range(events)
    ]
    return Picture(
        topology="flow",
        run_id="run-1",
        generation=1,
        digest="d",
        phase=phase,
        paused=False,
        at_s=1.0,
        elapsed_s=1.0,
        stages=[stage],
        edges=[],
        events=happened,
    )


@pytest.fixture
def static(tmp_path):
    folder = tmp_path / "static"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("not for you")
    (folder / "index.html").write_text("<h1>page</h1>")
    (folder / "app.js").write_text("run()")
    return folder

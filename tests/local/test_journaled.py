"""A source that cannot be replayed: what it has acknowledged to its client is never lost."""

import os
import signal
import socket
from contextlib import suppress

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

SERVER = """
    import socket

    @source(journaled=True)
    def lines(path: str = "door"):
        with socket.socket(socket.AF_UNIX) as server:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            server.bind(path)
            server.listen()
            while True:
                client, _ = server.accept()
                with client, client.makefile("rwb") as stream:
                    for line in stream:
                        text = line.decode().strip()
                        if text == "end":
                            return
                        yield text
                        stream.write(b"ok\\n")  # durable from here on
                        stream.flush()

    @sink
    def keep(text):
        with open("kept", "a") as file:
            file.write(text + "\\n")

    flow = Topology("server")
    flow.connect(lines, keep)
"""


def say(path, text: str) -> bool:
    """Hand over one line; True if it was acknowledged."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(text.encode() + b"\n")
        return client.recv(10) == b"ok\n"
    return False


def test_what_was_acknowledged_arrives_whatever_is_killed(shop, wait_until):
    shop.write("import os\n" + SERVER.replace("\n    ", "\n"))
    door = shop.folder / "door"
    running = shop.start("run", "flow.py")
    wait_until(lambda: say(door, "first"), within_s=30)
    acknowledged = ["first"]
    for round_ in range(4):
        for k in range(20):
            if say(door, f"{round_}-{k}"):
                acknowledged.append(f"{round_}-{k}")
        for pid in [*running.replicas("lines"), *(running.replicas("keep") if round_ % 2 else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda r=round_: say(door, f"back-{r}"), within_s=30)
        acknowledged.append(f"back-{round_}")
    for pid in [running.process.pid, *running.replicas()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.end()
    running = shop.start("run", "flow.py", "--resume", "last")
    wait_until(lambda: say(door, "last"), within_s=30)
    say(door, "end")
    done = running.end()
    assert done.code == 0, done.err
    kept = shop.read("kept")
    assert set(kept) >= {*acknowledged, "last"}
    assert len(acknowledged) > 80


def test_a_source_that_can_be_told_where_to_begin_is_not_journaled(shop):
    shop.write("""
        @source(journaled=True)
        def read(resume):
            yield from range(resume, 3)

        @sink
        def show(x):
            print(x)

        flow = Topology("twice")
        flow.connect(read, show)
    """)
    done = shop.zflow("check", "flow.py")
    assert done.code == 2
    assert "read: journaled=True, but it can be told where to begin again; remove journaled=" in (
        done.out + done.err
    )

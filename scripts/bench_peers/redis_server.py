"""A Redis server of one's own: on loopback, on a free port, with a folder of its own.

Its append-only file is synced before every answer (appendfsync always): like zflow's commits, what
it has confirmed survives a power cut. With everysec it would lose up to a second.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_START_S = 10.0
LONGEST_STOP_S = 10.0


def free_port() -> int:
    """Redis cannot choose one itself; whoever takes this one meanwhile makes its start fail."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def running(folder: Path, *, appendfsync: str) -> Iterator[int]:
    """The port of a server that is ready; it ends with the block."""
    port = free_port()
    given = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": appendfsync,
    }
    arguments = [part for key, value in given.items() for part in (f"--{key}", value)]
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen(["redis-server", *arguments], stdout=log, stderr=log)
    try:
        wait_until_ready(server, port, folder)
        yield port
    finally:
        stop(server)


def wait_until_ready(server: subprocess.Popen, port: int, folder: Path) -> None:
    deadline_s = time.monotonic() + LONGEST_START_S
    while time.monotonic() < deadline_s and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as one:
            one.sendall(b"PING\r\n")
            if one.recv(7) == b"+PONG\r\n":
                return
        time.sleep(0.05)
    raise SystemExit(f"redis-server did not start:\n{(folder / 'redis.log').read_text()}")


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(LONGEST_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

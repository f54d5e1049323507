"""Processes of one run, as far as their sockets go: each with its own context and keys."""

import time

import pytest

from zflow.net.keys import new_folder
from zflow.net.sockets import Sockets

WITHIN_S = 20.0  # for what takes milliseconds on a machine that is not busy
PEOPLE = ("coordinator", "operator", "reader")


@pytest.fixture
def folder(tmp_path):
    """A key folder of its own."""
    return new_folder(tmp_path / "keys")


@pytest.fixture
def party(folder):
    """`party("sink/0", clients=["parse/0"])` are the sockets of that process; closed at the end."""
    made = []

    def join(name, *, clients=(), curve=None, clock=None):
        sockets = Sockets(curve=curve or folder.curve(name, list(clients)), clock=clock)
        made.append(sockets)
        return sockets

    yield join
    for sockets in made:
        sockets.close_all()


@pytest.fixture
def until():
    """What `ask()` gives once it is something; `meanwhile` are sockets to look after."""

    def wait(ask, *meanwhile):
        deadline = time.monotonic() + WITHIN_S
        while not (got := ask()):
            for sockets in meanwhile:
                sockets.handshake_failures()
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.005)
        return got

    return wait

"""Fixtures of every test: nothing may outlive the test that made it.

A test that leaves a thread, a process, or a descriptor of a socket behind fails by itself, instead
of making a later one fail at random.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

GRACE_S = 2.0  # libzmq closes descriptors in its own threads, a joined process is reaped later
POLL_S = 0.005

# Children inherit it, so that a process is ours even when its parent died before it did.
MARK = f"ZFLOW_LEAK_MARK={os.getpid()}"

# What a socket of any library holds: libzmq keeps an eventfd per socket and one epoll per thread.
WATCHED_DESCRIPTORS = ("socket:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]")

WaitUntil = Callable[[Callable[[], object], float], None]


def pytest_configure() -> None:
    os.environ.update([MARK.split("=")])
    # What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    before = _alive()
    yield
    deadline = time.monotonic() + GRACE_S
    while leaked := _alive() - before:
        if time.monotonic() > deadline:
            pytest.fail("the test leaked " + ", ".join(_described(leaked)))
        gc.collect()
        time.sleep(POLL_S)


@pytest.fixture
def wait_until() -> WaitUntil:
    """`wait_until(predicate, within_s)` returns once it holds, fails the test if it never does."""
    return _wait_until


def _wait_until(predicate: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not predicate():
        if time.monotonic() > deadline:
            # One more look: on a busy machine the pause may have been the whole budget.
            assert predicate(), f"{predicate} did not hold within {within_s} s"
            return
        time.sleep(POLL_S)


def _alive() -> Counter[str]:
    threads = [f"thread {thread.name!r}" for thread in threading.enumerate()]
    processes = [f"process {pid}" for pid in _processes()]
    return Counter([*threads, *processes, *_descriptors()])


def _processes() -> set[int]:
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    family = children | _marked_processes()
    # The standard library starts this one when first needed and keeps it until the end.
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    return family - {tracker._resource_tracker._pid} if tracker else family


def _marked_processes() -> set[int]:
    marked = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if MARK.encode() in (process / "environ").read_bytes().split(b"\0"):
                marked.add(int(process.name))
    return marked


def _descriptors() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the one that lists the directory
            target = os.readlink(descriptor)
            if target.startswith(WATCHED_DESCRIPTORS):
                found.append(f"descriptor {target}")
    return found


def _described(leaked: Counter[str]) -> Iterator[str]:
    """What leaked, for a person; a leaked process is killed, so that it burdens no later test."""
    for name in leaked.elements():
        kind, _, pid = name.partition(" ")
        if kind != "process":
            yield name
            continue
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            yield f"{name} ({process.status()}: {' '.join(process.cmdline())})"
            process.kill()
    yield from _open_zmq_sockets()


def _open_zmq_sockets() -> list[str]:
    """The open sockets by name, to say more than a descriptor does; slow, so only on failure."""
    if "zmq" not in sys.modules:
        return []
    zmq = sys.modules["zmq"]
    everything = gc.get_objects()
    return [repr(found) for found in everything if type(found) is zmq.Socket and not found.closed]

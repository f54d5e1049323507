"""The topologies that `scripts/chaos` runs: what the user writes.

Sources are gated: they yield an item only when its number lies below the one in the gate's file,
so that a run cannot end before its last fault. Sinks write what they got into files of their own
process and sync them before they return, which is before anything is acknowledged.
"""

import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from zflow import Topology, sink, source, stage

GATE_POLL_S = 0.005
CHILD_SLEEP_S = 3600
GIL_HOLDER = ctypes.PyDLL(None)  # unlike CDLL, its calls keep the GIL


def append(folder: str, values: list[int]) -> None:
    """Sync whole records to this process's own file; a death leaves half a record at most."""
    path = Path(folder) / f"{os.getpid()}.rec"
    with path.open("ab", buffering=0) as file:
        file.write(array("q", values).tobytes())
        os.fdatasync(file.fileno())


@source
def numbers(n: int, gate: str, partition: int = 0, partitions: int = 1) -> Iterator[int]:
    """partition, partition + partitions, ... below n, each when the gate lets it through."""
    opened = 0
    for number in range(partition, n, partitions):
        while number >= opened:
            opened = int(Path(gate).read_text() or 0)
            if number >= opened:
                time.sleep(GATE_POLL_S)
        yield number


@stage
def left(number: int) -> int:
    return 2 * number


@stage
def right(number: int) -> int:
    return 2 * number + 1


@stage
def merge(number: int) -> int:
    return number + 1


@sink
class Collect:
    """Keeps every number."""

    def __init__(self, folder: str):
        self.folder = folder

    def write(self, items: list[int]) -> None:
        append(self.folder, items)


diamond = Topology("diamond")
diamond.connect(numbers, left, merge, Collect)
diamond.connect(numbers, right, merge, priority=lambda number: number % 8)  # one way overtakes


@stage
def careful(number: int, work_s: float = 0.0002) -> int:
    """Takes a while."""
    time.sleep(work_s)
    return number


chain = Topology("chain")
chain.connect(numbers, careful, Collect)


@source
def ticks(every_s: float = 0.002) -> Iterator[int]:
    """0, 1, 2, ... for ever."""
    for number in itertools.count():
        time.sleep(every_s)
        yield number


ticking = Topology("ticking")
ticking.connect(ticks, careful, Collect)


# --- a receiver that stops taking, with its inbox full ------------------------------------------


PADDING = bytes(2000)  # so that a window does not fit into the buffers of a socket


@stage(replicas=2)
def widen(number: int) -> tuple[int, bytes]:
    return number, PADDING


@stage
def stuffed(item: tuple[int, bytes], block: str) -> int:
    """Fast, until the file `block` names this process: then it holds its item for good."""
    number, _ = item
    if number % 64 == 0 and Path(block).read_text() == str(os.getpid()):
        time.sleep(CHILD_SLEEP_S)
    return number


full_inbox = Topology("full_inbox")
full_inbox.connect(numbers, widen, stuffed, Collect)


# --- items that fail or kill --------------------------------------------------------------------


def spin() -> None:
    while True:
        pass


POISON = {
    "raise": lambda size_bytes: int("this is no number"),
    "exit": lambda size_bytes: os._exit(3),
    "segfault": lambda size_bytes: ctypes.string_at(0),
    "loop": lambda size_bytes: spin(),
    "large": lambda size_bytes: bytes(size_bytes),
    "unpicklable": lambda size_bytes: threading.Lock(),
}
POISON_FIRST, POISON_STEP = 1009, 997  # spread over the items, one kind after the other
POISONED = {POISON_FIRST + k * POISON_STEP: kind for k, kind in enumerate(POISON)}
NOT_SENDABLE = ("large", "unpicklable")


@stage(replicas=2, timeout_s=2, retries=1, backoff_s=0.01)
def swallow(number: int) -> object:
    kind = POISONED.get(number)
    return number if kind is None or kind in NOT_SENDABLE else POISON[kind](0)


@stage(replicas=2, retries=1, backoff_s=0.01)
def spew(number: int, size_bytes: int) -> object:
    kind = POISONED.get(number)
    return POISON[kind](size_bytes) if kind in NOT_SENDABLE else number


poison = Topology("poison")
poison.connect(numbers, swallow, spew, Collect)


# --- functions that take long -------------------------------------------------------------------


@stage(replicas=4)
def sleeper(number: int, folder: str, sleep_s: float) -> int:
    """Says that it was called, then sleeps."""
    append(folder, [number])
    time.sleep(sleep_s)
    return number


@stage(replicas=2)
def gil_holder(number: int, folder: str, hold_s: int) -> int:
    """Says that it was called, then sleeps in C without letting any other thread run."""
    append(folder, [number])
    GIL_HOLDER.sleep(hold_s)
    return number


slow = Topology("slow")
slow.connect(numbers, sleeper, Collect)
frozen = Topology("frozen")
frozen.connect(numbers, gil_holder, Collect)


# --- user code that forks -----------------------------------------------------------------------


def leave_child_behind(*, own_session: bool) -> None:
    """A forked child that outlives the item, and the replica if it has a session of its own."""
    if os.fork() == 0:
        if own_session:
            os.setsid()
        signal.alarm(CHILD_SLEEP_S)  # if all else fails
        while True:
            time.sleep(CHILD_SLEEP_S)


def double(number: int, answer: "multiprocessing.connection.Connection") -> None:
    answer.send(2 * number)


def ask_child(number: int) -> int:
    """A result from a process that multiprocessing forks."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    child = fork.Process(target=double, args=(number, there))
    child.start()
    answer = here.recv()
    child.join()
    return answer


@stage
class Forking:
    """Every tenth item goes through a child; the first item of a process leaves two behind."""

    def open(self) -> None:
        self.first = True

    def process(self, number: int) -> int:
        if self.first:
            self.first = False
            leave_child_behind(own_session=False)
            leave_child_behind(own_session=True)
        return ask_child(number) if number % 10 == 0 else 2 * number


forking = Topology("forking")
forking.connect(numbers, Forking, Collect)

"""The workloads that `scripts/bench` runs: what the user writes, the same for every system.

An item is 100 bytes: its number, the monotonic time it was made (0 where nobody asks), padding.
Sources write the time of their first item to a file, sinks their findings when all have come.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from zflow import Topology, sink, source, stage

NUMBER_DIGITS, TIME_DIGITS, ITEM_BYTES = 12, 20, 100
PADDING = b"x" * (ITEM_BYTES - NUMBER_DIGITS - TIME_DIGITS)
NO_TIME = b"0" * TIME_DIGITS
WARM_UP_ITEMS = 200  # of the paced workload, not counted
SLEEP_SEED = 4
AWAIT_S, AWAITS_AT_ONCE = 0.05, 200  # of w5


def stamp_now(path: str) -> None:
    """The moment before the first item leaves, for the process that reads the results."""
    Path(path).write_text(str(time.monotonic_ns()))


@source
def numbers(n: int, stamp: str) -> Iterator[bytes]:
    """Workload w1: as fast as they are taken."""
    stamp_now(stamp)
    for number in range(n):
        yield b"%012d%s%s" % (number, NO_TIME, PADDING)


@source
def paced(n: int, stamp: str, rate_per_s: float = 1000.0) -> Iterator[bytes]:
    """Workload w3: at fixed moments, so that a late item does not delay the ones behind it."""
    stamp_now(stamp)
    start_s = time.monotonic()
    for number in range(n):
        time.sleep(max(0.0, start_s + number / rate_per_s - time.monotonic()))
        yield b"%012d%020d%s" % (number, time.monotonic_ns(), PADDING)


@source
def naps(n: int, stamp: str) -> Iterator[float]:
    """Workload skew: nine of ten items take 0.2 ms, one takes 8 ms."""
    stamp_now(stamp)
    dice = random.Random(SLEEP_SEED)
    yield from (0.008 if dice.random() < 0.1 else 0.0002 for _ in range(n))


@stage
def upper(item: bytes) -> bytes:
    """The whole work of w1 and w3."""
    return item.upper()


@stage(concurrency=AWAITS_AT_ONCE)
async def wait(item: bytes) -> bytes:
    """The whole work of w5: an answer that takes its time."""
    await asyncio.sleep(AWAIT_S)
    return item


@stage(replicas=8)
def nap(duration_s: float) -> float:
    """Sleeps, and says how long it really was."""
    start_s = time.monotonic()
    time.sleep(duration_s)
    return time.monotonic() - start_s


class Counted:
    """What every sink does: takes n items one by one, then writes its findings once.

    result: path of the JSON file.
    """

    def __init__(self, n: int, result: str) -> None:
        self.n = n
        self.result = result
        self.taken = 0

    def write(self, items: list) -> None:
        for item in items:
            self.take(item)

    def count(self) -> None:
        self.taken += 1
        if self.taken == self.n:
            findings = {"last_ns": time.monotonic_ns(), "items": self.taken, **self.findings()}
            Path(self.result).write_text(json.dumps(findings))


@sink
class Check(Counted):
    """Sink of w1: every number once, in order."""

    def __init__(self, n: int, result: str) -> None:
        super().__init__(n, result)
        self.total = 0
        self.newest = -1
        self.inversions = 0

    def take(self, item: bytes) -> None:
        number = int(item[:NUMBER_DIGITS])
        self.inversions += number != self.newest + 1
        self.newest = number
        self.total += number
        self.count()

    def findings(self) -> dict:
        return {"total": self.total, "inversions": self.inversions}


@sink
class Arrivals(Counted):
    """Sink of w5: when the items came, in order of arrival."""

    def __init__(self, n: int, result: str) -> None:
        super().__init__(n, result)
        self.arrived_ns: list[int] = []

    def take(self, item: bytes) -> None:
        self.arrived_ns.append(time.monotonic_ns())
        self.count()

    def findings(self) -> dict:
        return {"arrived_ns": self.arrived_ns}


@sink
class Latency(Counted):
    """Sink of w3: nanoseconds from the source to here, one by one."""

    def __init__(self, n: int, result: str) -> None:
        super().__init__(n, result)
        self.latencies_ns: list[int] = []

    def take(self, item: bytes) -> None:
        made_ns = int(item[NUMBER_DIGITS : NUMBER_DIGITS + TIME_DIGITS])
        self.latencies_ns.append(time.monotonic_ns() - made_ns)
        self.count()

    def findings(self) -> dict:
        return {"latencies_ns": self.latencies_ns[WARM_UP_ITEMS:]}


@sink
class Sum(Counted):
    """Sink of skew: how much was slept altogether."""

    def __init__(self, n: int, result: str) -> None:
        super().__init__(n, result)
        self.slept_s = 0.0

    def take(self, item: float) -> None:
        self.slept_s += item
        self.count()

    def findings(self) -> dict:
        return {"slept_s": self.slept_s}


w1 = Topology("w1")
w1.connect(numbers, upper, Check)

w3 = Topology("w3")
w3.connect(paced, upper, Latency)

w5 = Topology("w5")
w5.connect(numbers, wait, Arrivals)

skew = Topology("skew")
skew.connect(naps, nap, Sum)

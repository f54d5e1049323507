"""Workload state as a user of zflow writes it: words, counted exactly once, their totals.

`state` keeps what every commit stored through a power cut, `state_process` through kill -9 only.
"""

import time
from pathlib import Path

import bench_words

from zflow import DurableStage, Topology, sink, source, stage


@source
def words(path: str, n: int, stamp: str):
    every = bench_words.load(path, n)
    Path(stamp).write_text(str(time.monotonic_ns()))
    yield from every


class Counting(DurableStage):
    """Its totals go out when all words are counted and that is on disk."""

    def process(self, word: str) -> None:
        self.state[word] = self.state.get(word, 0) + 1

    def finish(self):
        yield from self.state.items()


@stage(replicas=2)
class Count(Counting):
    pass


@stage(replicas=2, durability="process")
class CountProcess(Counting):
    pass


@sink
class Totals:
    """Takes the totals; the last one is there when they add up to n."""

    def __init__(self, n: int, stamp: str, result: str) -> None:
        self.n = n
        self.stamp = stamp
        self.result = result
        self.found: dict[str, tuple[str, int]] = {}  # by id: what comes twice counts once
        self.total = 0

    def upsert(self, items: list[tuple[str, int]], ids: list[str]) -> None:
        for item_id, item in zip(ids, items, strict=True):
            if item_id not in self.found:
                self.found[item_id] = item
                self.total += item[1]
        if self.total == self.n:
            last_ns = time.monotonic_ns()
            first_ns = int(Path(self.stamp).read_text())
            bench_words.write_result(self.result, first_ns, last_ns, dict(self.found.values()))


def counted_by(name: str, count: type) -> Topology:
    flow = Topology(name, delivery="exactly_once")
    flow.connect(words, count, key=str)
    flow.connect(count, Totals)
    return flow


state = counted_by("state", Count)
state_process = counted_by("state_process", CountProcess)

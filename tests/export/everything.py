"""A run that goes on until it is stopped and in which everything happens that is counted.

Items are dropped and dead-lettered, a process dies once, a durable stage commits, and a stage
counts for itself. The parameter `marker` is a file: it is there once the process has died.
"""

import os
import time
from pathlib import Path

from zflow import DurableStage, Topology, sink, source, stage

PAUSE_S = 0.002  # a few hundred items a second, so that two cores have time for Prometheus


@source
def numbers():
    number = 0
    while True:
        yield number
        number += 1
        time.sleep(PAUSE_S)


@stage(replicas=2, retries=1, backoff_s=0.01)
class Work:
    def __init__(self, marker: str):
        self.marker = Path(marker)

    def process(self, number: int):
        self.context.counter("numbers").add()
        if number == 300 and not self.marker.exists():
            self.marker.touch()
            os._exit(3)
        if number % 100 == 7:
            raise ValueError(f"{number} is one of those")
        return number if number % 5 else None


@stage(retries=0, on_error="drop")
def loose(number: int):
    if number % 20 == 1:
        raise LookupError(f"{number} is dropped")
    return number


@stage(durability="process")
class Count(DurableStage):
    def process(self, number: int):
        last_digit = number % 10
        self.state[last_digit] = self.state.get(last_digit, 0) + 1
        return last_digit, self.state[last_digit]


@sink
def keep(pair): ...


@sink
def look(number: int): ...


flow = Topology("everything")
flow.connect(numbers, Work, loose)
flow.connect(loose, Count, key=lambda number: number % 10)
flow.connect(Count, keep)
flow.connect(Work, look, when=lambda number: number % 2 == 0)

"""Workload state in Bytewax, with its recovery store (SQLite: WAL, synced with every commit).

    python bytewax_state.py WORDS N FOLDER RESULT [--epoch-s S] [--workers N] [--operator NAME]

What was chosen, and why:
- An epoch ends after 20 ms, or with the batch during which these are over, and is committed then;
  a batch of the source is 1,000 words. So a commit holds at least as much as one of the plain
  process. Each epoch costs over four syncs (910 in 200,000 words), so its rate is that of the disk,
  and on a slow one words per epoch: it rises with the batch and with --epoch-s, as does what has
  to be done again after a crash. `bytewax_1s` shows an epoch of one second.
- `stateful_batch` that gives its total at the end: over twice as fast as `stateful_map`, which
  gives a count for every word.
- One worker: two (threads of one process) were slower.
The time ends with the last total at the sink, which does not wait for the commit of its epoch.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench_words  # noqa: E402 - found by the line above
import bytewax.operators as op  # noqa: E402
from bytewax.dataflow import Dataflow  # noqa: E402
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition  # noqa: E402
from bytewax.outputs import DynamicSink, StatelessSinkPartition  # noqa: E402
from bytewax.recovery import RecoveryConfig, init_db_dir  # noqa: E402
from bytewax.testing import cluster_main  # noqa: E402

BATCH_WORDS = 1000


class Seen:
    """What the one source and the sinks of this process saw."""

    def __init__(self) -> None:
        self.first_ns = 0
        self.last_ns = 0
        self.counts: dict[str, int] = {}


class WordsPartition(StatefulSourcePartition):
    def __init__(self, words: list[str], position: int, seen: Seen) -> None:
        self.words = words
        self.position = position
        self.seen = seen

    def next_batch(self) -> list[str]:
        if self.position == 0:
            self.seen.first_ns = time.monotonic_ns()
        batch = self.words[self.position : self.position + BATCH_WORDS]
        if not batch:
            raise StopIteration
        self.position += len(batch)
        return batch

    def snapshot(self) -> int:
        return self.position


class Words(FixedPartitionedSource):
    def __init__(self, words: list[str], seen: Seen) -> None:
        self.words = words
        self.seen = seen

    def list_parts(self) -> list[str]:
        return ["words"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> WordsPartition:
        return WordsPartition(self.words, resume_state or 0, self.seen)


class Count(op.StatefulBatchLogic):
    """The count of one word."""

    def __init__(self, resume_state: int | None) -> None:
        self.n = resume_state or 0

    def on_batch(self, values: list[str]) -> tuple[Iterable[int], bool]:
        self.n += len(values)
        return (), self.RETAIN

    def on_eof(self) -> tuple[Iterable[int], bool]:
        return (self.n,), self.RETAIN

    def snapshot(self) -> int:
        return self.n


class TotalsPartition(StatelessSinkPartition):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def write_batch(self, items: list[tuple[str, int]]) -> None:
        self.seen.counts.update(items)
        self.seen.last_ns = time.monotonic_ns()


class Totals(DynamicSink):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TotalsPartition:
        return TotalsPartition(self.seen)


def one_more(count: int | None, word: str) -> tuple[int, int]:
    more = (count or 0) + 1
    return more, more


def flow_of(words: list[str], operator: str, seen: Seen) -> Dataflow:
    flow = Dataflow("state")
    keyed = op.key_on("key", op.input("words", flow, Words(words, seen)), lambda word: word)
    if operator == "stateful_batch":
        counted = op.stateful_batch("count", keyed, Count)
    else:
        counted = op.stateful_map("count", keyed, one_more)
    op.output("totals", counted, Totals(seen))
    return flow


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("words")
    parser.add_argument("n", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result")
    parser.add_argument("--epoch-s", default=0.02, type=float)
    parser.add_argument("--workers", default=1, type=int)
    parser.add_argument(
        "--operator", default="stateful_batch", choices=["stateful_batch", "stateful_map"]
    )
    return parser.parse_args()


def main() -> None:
    chosen = options()
    words = bench_words.load(chosen.words, chosen.n)
    store = chosen.folder / "recovery"
    store.mkdir()
    init_db_dir(store, chosen.workers)
    seen = Seen()
    cluster_main(
        flow_of(words, chosen.operator, seen),
        addresses=[],
        proc_id=0,
        epoch_interval=timedelta(seconds=chosen.epoch_s),
        recovery_config=RecoveryConfig(str(store)),
        worker_count_per_proc=chosen.workers,
    )
    bench_words.write_result(chosen.result, seen.first_ns, seen.last_ns, seen.counts)
    json.dump({"bytewax": version("bytewax")}, sys.stdout)


if __name__ == "__main__":
    main()

"""Sinks that commit or upsert: what they are handed after crashes, failures and full disks."""

from typing import Any

import pytest

from zflow.errors import Superseded, Unavailable
from zflow.replica.sinks import CommitSinkWorker, Progress, UpsertSinkWorker
from zflow.wire.run import INDEX, OSEQ, Run


class Store:
    """What a transactional sink writes to; it outlives the instances."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.ids: list[str] = []
        self.rows: dict[bytes, bytes] = {}
        self.error: Exception | None = None
        self.poison: Any = None
        self.loads = 0

    def load_progress(self):
        self.loads += 1
        return list(self.rows.items())

    def commit(self, items, ids, progress):
        if self.error is not None:
            raise self.error
        if self.poison in items:
            raise ValueError(f"cannot store {self.poison}")
        self.items += items
        self.ids += ids
        for key, value in progress:
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = value


def worker_of(bench, kind, call, instance):
    bench.context.instance = instance
    return kind(bench.bench, call, retry_on=(Exception,), positioned=True, is_sink=True)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def sink(make_bench, store):
    """A worker over the store; called again, it is the next incarnation."""

    def make():
        bench = make_bench()
        return bench, worker_of(bench, CommitSinkWorker, store.commit, store)

    return make


def work(bench, worker):
    while worker.slice():
        bench.turn()
    bench.turn()


def test_items_ids_and_progress_are_stored_in_one_call_and_then_acknowledged(sink, store):
    bench, worker = sink()
    bench.feed(["a"])
    work(bench, worker)
    assert store.items == ["a"]
    assert store.ids == ["0000000000000007-0-0000000000000008-0"]
    assert len(store.rows) == 1
    assert bench.acked() == [0]


def test_what_was_stored_is_not_handed_out_again_by_the_next_incarnation(sink, store):
    bench, worker = sink()
    bench.feed(["a", "b"])
    work(bench, worker)
    bench, worker = sink()
    bench.feed(["a", "b", "c"])
    work(bench, worker)
    assert store.items == ["a", "b", "c"]
    assert bench.acked() == [0, 1, 2]
    assert bench.counters.duplicates == 2


def test_a_unit_that_comes_twice_in_one_message_is_stored_once(sink, store):
    # The stage before had it from two replicas, one of which was killed before it was acknowledged.
    bench, worker = sink()
    twice = [Run(7, 8, OSEQ, 0, 0, 2), Run(7, 8, OSEQ, 0, 1, 2)]
    bench.feed(["a", "b", "b", "c"], runs=twice)
    work(bench, worker)
    assert store.items == ["a", "b", "c"]
    assert bench.acked() == [0, 1, 2, 3]
    assert bench.counters.duplicates == 1


def test_rows_below_a_watermark_are_deleted_and_what_they_told_stays_known(sink, store):
    bench, worker = sink()
    for oseq in range(5):
        bench.feed([oseq], run=Run(7, 8, OSEQ, 0, oseq, 1))
        work(bench, worker)
    bench.core.inbox.watermarks[7] = 4
    bench.feed([5], run=Run(7, 8, OSEQ, 0, 5, 1))
    work(bench, worker)
    assert len(store.rows) == 3  # the watermark, and the two rows above it
    bench, worker = sink()
    for oseq in range(6):
        bench.feed(["again"], run=Run(7, 8, OSEQ, 0, oseq, 1))
    work(bench, worker)
    assert store.items == [0, 1, 2, 3, 4, 5]


def test_a_bad_item_is_given_back_and_its_neighbours_are_stored(sink, store):
    bench, worker = sink()
    bench.feed(["first"])
    work(bench, worker)
    bench.core.inbox.window.measured(1, 1e-6)
    store.poison = "bad"
    bench.feed(["a", "bad", "b"])
    work(bench, worker)
    assert store.items == ["first", "a", "b"]
    assert bench.nacks() == [(2, "error", "ValueError")]
    assert bench.acked() == [0, 1, 3]


def test_a_store_that_cannot_be_written_is_tried_again_and_nothing_is_acknowledged(sink, store):
    bench, worker = sink()
    store.error = Unavailable("no space left on device")
    bench.feed(["a"])
    work(bench, worker)
    assert bench.acked() == []
    assert bench.nacks() == []
    assert not worker.settled()
    assert worker.due_s() < bench.clock.now_s() + 1.0
    store.error = None
    worker._due_s = 0.0
    work(bench, worker)
    assert store.items == ["a"]
    assert bench.acked() == [0]
    assert worker.settled()


def test_after_a_failure_what_the_store_says_counts(sink, store):
    bench, worker = sink()

    def half(items, ids, progress):
        store.rows.update({key: value for key, value in progress if value is not None})
        store.items += items
        raise Unavailable("the answer was lost")  # it had been stored all the same

    worker._call = half
    bench.feed(["a"])
    work(bench, worker)
    worker._call = store.commit
    worker._due_s = 0.0
    work(bench, worker)
    assert store.items == ["a"]
    assert bench.acked() == [0]
    assert store.loads == 2


def test_a_sink_that_was_taken_over_ends_its_process(sink, store):
    bench, worker = sink()
    store.error = Superseded("another process has opened the sink")
    bench.feed(["a"])
    with pytest.raises(Superseded):
        work(bench, worker)
    assert bench.acked() == []


def test_upsert_gets_the_same_id_for_the_same_item_however_it_is_cut(make_bench):
    written: dict[str, Any] = {}
    bench = make_bench()
    worker = worker_of(
        bench,
        UpsertSinkWorker,
        lambda items, ids: written.update(zip(ids, items, strict=True)),
        None,
    )
    bench.feed(["a", "b"], run=Run(7, 8, INDEX, 3, 0, 2))
    work(bench, worker)
    bench.feed(["b"], run=Run(7, 8, INDEX, 3, 1, 1))
    work(bench, worker)
    assert sorted(written.values()) == ["a", "b"]
    assert bench.acked() == [0, 1, 2]


def test_progress_is_the_same_whatever_order_its_rows_come_in():
    first = Progress([])
    runs = [Run(7, 8, OSEQ, 0, 0, 3), Run(7, 8, OSEQ, 0, 5, 1), Run(9, 8, INDEX, 4, 0, 2)]
    stored = list(map(first.applied, runs))
    for order in (stored, stored[::-1]):
        again = Progress(order)
        assert again.dedupe.fresh(Run(7, 8, OSEQ, 0, 0, 7)) == [(3, 5), (6, 7)]
        assert again.dedupe.fresh(Run(9, 8, INDEX, 4, 0, 3)) == [(2, 3)]

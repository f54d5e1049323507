"""Stages that are called with lists: when a batch is complete, and what becomes of its items."""

import logging

import pytest

from zflow.clock import Clock
from zflow.limits import Breaker, Limits
from zflow.replica.batches import BatchWorker
from zflow.replica.gates import Gates
from zflow.replica.timebook import BLOCKED, STARVED
from zflow.stages import emit
from zflow.wire import data
from zflow.wire.run import OSEQ, SUSPECT, Run

EDGE = 9
TIMEOUT_S = 1000.0  # a batch that waits for it fails its test


class SetClock(Clock):
    """Stands until it is moved; `spent_s` is what each call of user code takes."""

    def __init__(self, now_s):
        self.at_s = now_s

    def now_s(self):
        return self.at_s

    def now_ns(self):
        return int(self.at_s * 1e9) + 1000  # never before what was rounded up


def batched(bench, call, *, gates=None, batch=4, batch_timeout_s=TIMEOUT_S, **options):
    settings = {"retry_on": (Exception,), "positioned": False, "is_sink": False, **options}
    limits = Limits(batch=batch, batch_timeout_s=batch_timeout_s)
    return BatchWorker(bench.bench, call, limits, gates=gates, **settings)


def gates(bench, *, slots=1, retries=3, **limits):
    return Gates(
        Limits(**limits),
        bench.core,
        bench.bench.clock,
        retries=retries,
        slots=lambda: slots,
        logger=logging.getLogger("zflow.user.test"),
    )


def work(bench, worker):
    while worker.slice():
        bench.turn()


def end_inputs(bench):
    """Upstream says that nothing more is queued there."""
    link = bench.core.inbox.links[5, "read/0"]
    beat = data.Heartbeat(900, link.next, link.version, True, 5, "read/0", 1, "ack", [])
    bench.core.on_frame(beat, None, bench.clock.now_s())


def sent(bench, edge=EDGE):
    bench.turn()
    return bench.links.sent.get(edge, [])


class Called:
    """A function of a list that remembers its lists."""

    def __init__(self, bad=()):
        self.lists = []
        self.bad = bad

    def __call__(self, items):
        self.lists.append(list(items))
        for item in items:
            if item in self.bad:
                raise KeyError(item)
        return [item * 10 for item in items]


@pytest.fixture
def bench(make_bench, route):
    return make_bench(route(EDGE))


@pytest.fixture
def called():
    return Called()


# --- when a batch is complete --------------------------------------------------------------------


def test_a_full_batch_is_one_call_and_the_rest_waits_in_the_inbox(bench, called):
    bench.feed(list(range(8)))
    worker = batched(bench, called, batch=3)
    work(bench, worker)
    assert called.lists == [[0, 1, 2], [3, 4, 5]]
    assert sent(bench) == [0, 10, 20, 30, 40, 50]
    (link,) = bench.core.inbox.links.values()
    assert (link.held, bench.core.running) == (2, 0)
    assert worker.waits_as() == STARVED
    assert bench.counters.processed == bench.counters.received == 6


def test_a_batch_spans_messages(bench, called):
    for items in ([1, 2], [3], [4, 5, 6], [7, 8]):
        bench.feed(items)
    work(bench, batched(bench, called))
    assert called.lists == [[1, 2, 3, 4], [5, 6, 7, 8]]
    bench.links.settle()
    bench.turn()
    assert bench.acked() == list(range(8))


def test_what_waits_is_a_batch_once_its_first_item_has_waited_long_enough(make_bench, route):
    bench = make_bench(route(EDGE))
    called, clock = Called(), SetClock(bench.clock.now_s())
    object.__setattr__(bench.bench, "clock", clock)
    bench.feed([1])
    arrived_s = bench.core.inbox.parcels[0].arrived_s
    worker = batched(bench, called, batch_timeout_s=0.05)
    clock.at_s = arrived_s + 0.03
    bench.feed([2])
    assert not worker.slice()
    assert (called.lists, worker.waits_as()) == ([], STARVED)
    assert worker.due_s() == pytest.approx(arrived_s + 0.05)
    clock.at_s = worker.due_s()
    work(bench, worker)
    assert called.lists == [[1, 2]]
    assert (worker.due_s(), worker.waits_as()) == (float("inf"), None)


def test_nothing_waits_for_the_timeout_once_no_more_can_come(bench, called):
    worker = batched(bench, called)
    bench.feed([1, 2, 3])
    work(bench, worker)
    assert called.lists == []
    end_inputs(bench)
    work(bench, worker)
    assert called.lists == [[1, 2, 3]]
    assert bench.core.inbox.ended()


def test_nothing_is_taken_while_the_outboxes_are_full(bench, called, monkeypatch):
    monkeypatch.setattr(bench.core, "full", lambda: True)
    bench.feed([1, 2, 3, 4])
    worker = batched(bench, called, gates=gates(bench, rate_limit_per_s=0.001, batch=4))
    work(bench, worker)
    assert (called.lists, worker.due_s(), worker.waits_as()) == ([], float("inf"), None)


def test_credit_is_enough_for_a_batch_however_slow_the_work(bench, called):
    batched(bench, called, batch=500)
    bench.core.inbox.window.measured(1, 60.0)
    bench.feed([1])
    assert bench.core.inbox.window.items(1) == 500


def test_a_batch_of_one_is_a_list_of_one(bench, called):
    bench.feed([1, 2])
    work(bench, batched(bench, called, batch=1))
    assert called.lists == [[1], [2]]


def test_a_suspect_runs_alone_and_at_once(bench, called):
    bench.feed([1, 2])
    bench.feed([3, 4], run=Run(7, 8, OSEQ, 0, 2, 2, flags=SUSPECT))
    bench.feed([5, 6, 7, 8])
    worker = batched(bench, called)
    work(bench, worker)
    assert called.lists == [[1, 2], [3], [4], [5, 6, 7, 8]]


def test_the_black_box_names_the_whole_batch_and_nothing_that_waits(bench):
    seen = []

    def call(items):
        seen.append(sorted(unit[1] for run in bench.executing() for unit in run.units()))
        return items

    for items in ([1, 2], [3, 4, 5]):
        bench.feed(items)
    work(bench, batched(bench, call))
    assert seen == [[0, 1, 2, 3]]
    assert bench.executing() == []


# --- what becomes of its items -------------------------------------------------------------------


def test_none_is_nothing_for_that_item_and_each_keeps_its_name(bench):
    bench.feed([1, 2])
    bench.feed([3, 4])
    work(bench, batched(bench, lambda items: [x if x % 2 else None for x in items]))
    assert sent(bench) == [1, 3]
    units = [unit for run in bench.links.runs[EDGE] for unit in run.units()]
    assert [oseq for _, oseq, _, _ in units] == [0, 2]
    assert bench.counters.filtered == 2


def test_results_go_to_the_edges_of_their_names(make_bench, route):
    bench = make_bench(route(1), route(2, output="odd"))
    bench.feed([1, 2, 3, 4])
    work(bench, batched(bench, lambda items: [emit("odd", x) if x % 2 else x for x in items]))
    assert (sent(bench, 1), sent(bench, 2)) == ([2, 4], [1, 3])


def test_a_batch_that_fails_is_called_item_by_item_and_only_the_guilty_fails(bench):
    called = Called(bad={3})
    bench.feed([1, 2])
    bench.feed([3, 4])
    work(bench, batched(bench, called))
    assert called.lists == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert sent(bench) == [10, 20, 40]
    assert bench.nacks() == [(2, "error", "KeyError")]
    assert bench.counters.errors == 1
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 3]
    assert bench.core.running == 0


def test_an_item_that_fails_alone_is_called_once(bench):
    called = Called(bad={1})
    bench.feed([1])
    end_inputs(bench)
    work(bench, batched(bench, called))
    assert called.lists == [[1]]
    assert bench.nacks() == [(0, "error", "KeyError")]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([1], "got 1\n"),
        ([1, 2, 3], "got 3\n"),
        (None, "got a NoneType\n"),
        ("ab", "got a str\n"),
        ((x for x in "ab"), "got a generator\n"),
    ],
)
def test_results_that_are_no_list_of_that_length_fail_and_say_so(bench, made, said):
    bench.feed([1, 2])
    end_inputs(bench)
    work(bench, batched(bench, lambda items: made if len(items) == 2 else []))
    assert bench.nacks() == [(0, "final", "StageError"), (1, "final", "StageError")]
    assert all("batch= wants 1 results, one for each item" in text for text in bench.errors())
    assert sent(bench) == []
    bench.feed([1, 2])
    end_inputs(bench)
    work(bench, batched(bench, lambda items: made))
    assert said in bench.errors()[-1] or len(made) == 1


def test_a_tuple_is_as_good_as_a_list(bench):
    bench.feed([1, 2, 3, 4])
    work(bench, batched(bench, tuple))
    assert sent(bench) == [1, 2, 3, 4]


def test_a_function_may_change_the_list_it_gets(bench):
    def call(items):
        taken = [items.pop() for _ in range(len(items))]
        if 3 in taken and len(taken) > 1:
            raise ValueError
        return taken

    bench.feed([1, 2, 3, 4])
    work(bench, batched(bench, call))
    assert sent(bench) == [1, 2, 3, 4]


def test_a_sink_is_called_with_lists_too_and_what_it_gives_does_not_matter(make_bench):
    bench, lists = make_bench(), []
    bench.feed([1, 2])
    bench.feed([3, 4])
    work(bench, batched(bench, lists.append, is_sink=True))
    assert lists == [[1, 2, 3, 4]]
    assert bench.acked() == [0, 1, 2, 3]
    found = bench.counted()
    assert sum(n for name, n in found.items() if name.startswith("latency:read->work:")) == 4


def test_a_when_that_raises_is_the_failure_of_one_item_of_the_batch(make_bench, route):
    bench = make_bench(route(EDGE, when=lambda x: 6 / x))
    bench.feed([1, 0, 3, 4])
    work(bench, batched(bench, lambda items: items))
    assert sent(bench) == [1, 3, 4]
    assert bench.nacks() == [(1, "error", "ZeroDivisionError")]


def test_results_that_share_a_buffer_are_copied_before_the_next_call(bench):
    used = bytearray(1)

    def call(items):
        used[0] = items[-1]
        return [bytes(used), *([used] * (len(items) - 1))]

    bench.feed([1, 2, 3, 4])
    bench.feed([5, 6, 7, 8])
    work(bench, batched(bench, call))
    assert [x[0] for x in sent(bench)] == [4, 4, 4, 4, 8, 8, 8, 8]


def test_a_class_knows_the_item_of_a_single_call_only(bench):
    said = []

    def call(items):
        try:
            said.append(bench.context.item_id)
        except RuntimeError:
            said.append(None)
        if len(items) > 1:
            raise ValueError
        return items

    bench.feed([1, 2])
    end_inputs(bench)
    work(bench, batched(bench, call, positioned=True))
    assert said == [None, f"{7:016x}-0-{8:016x}-0", f"{7:016x}-1-{8:016x}-0"]


# --- with a rate, a deadline, a breaker ----------------------------------------------------------


@pytest.fixture
def timed(make_bench, route):
    """A bench whose clock stands until it is moved."""
    bench = make_bench(route(EDGE))
    clock = SetClock(bench.clock.now_s())
    object.__setattr__(bench.bench, "clock", clock)
    return bench, clock


def test_a_batch_waits_until_the_rate_lets_it_go_as_a_whole(timed, called):
    bench, clock = timed
    bench.feed(list(range(8)))
    worker = batched(bench, called, gates=gates(bench, rate_limit_per_s=2.0, slots=2, batch=4))
    began_s = clock.at_s
    work(bench, worker)
    assert (called.lists, worker.waits_as()) == ([], BLOCKED)
    assert worker.due_s() == pytest.approx(began_s + 3.0)  # it begins with one
    clock.at_s = worker.due_s()
    work(bench, worker)
    assert called.lists == [[0, 1, 2, 3]]
    assert worker.due_s() == pytest.approx(began_s + 7.0)
    assert bench.core.inbox.window.service_s >= 1.0


def test_the_single_calls_after_a_batch_that_failed_count_too(timed):
    bench, clock = timed
    called = Called(bad={1})
    bench.feed(list(range(8)))
    worker = batched(bench, called, gates=gates(bench, rate_limit_per_s=1.0, batch=4))
    clock.at_s += 3.0
    work(bench, worker)
    assert called.lists == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert worker.due_s() == pytest.approx(clock.at_s + 8.0)


def test_items_that_are_too_old_leave_their_batch_to_others(timed, called):
    bench, clock = timed
    now_ns = clock.now_ns()
    old, new = now_ns - 10_000_000_000, now_ns - 1_000_000_000
    runs = [Run(7, 8, OSEQ, 0, k, 1, born_ns=born) for k, born in enumerate([new, old, new, old])]
    bench.feed([0, 1, 2, 3], runs=runs)
    bench.feed([4, 5], run=Run(7, 8, OSEQ, 0, 4, 2, born_ns=new))
    work(bench, batched(bench, called, gates=gates(bench, deadline_s=5.0)))
    assert [x for items in called.lists for x in items] == [0, 2, 4, 5]
    assert called.lists == [[0, 2, 4, 5]]
    assert bench.nacks() == [(1, "expired", "DeadlineExceeded"), (3, "expired", "DeadlineExceeded")]


def test_a_batch_whose_dependency_is_down_waits_as_a_whole(timed):
    bench, clock = timed
    down, lists = [True], []

    def call(items):
        lists.append(list(items))
        if down:
            raise ConnectionError
        return items

    breaker = Breaker(failures=2, reset_s=10.0)
    held = gates(bench, breaker=breaker, batch=4)
    worker = batched(bench, call, gates=held)
    bench.feed([1, 2])
    bench.feed([3, 4])
    work(bench, worker)
    assert lists == [[1, 2, 3, 4], [1], [2]]
    assert bench.nacks() == [(0, "error", "ConnectionError")]  # the one that did not open it
    assert (bench.core.running, worker.waits_as()) == (3, BLOCKED)
    clock.at_s += 10.0
    work(bench, worker)
    assert lists[3:] == [[3]]
    down.clear()
    clock.at_s += 10.0
    work(bench, worker)
    assert sorted(x for items in lists[4:] for x in items) == [2, 3, 4]
    assert (bench.core.running, worker.alarm()) == (0, "")
    assert sorted(sent(bench)) == [2, 3, 4]

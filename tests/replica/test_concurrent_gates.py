"""Several items at once behind a rate, a deadline and a breaker."""

import asyncio
import logging
import threading

import pytest

from zflow.limits import Breaker, Limits
from zflow.net.poll import Waiter
from zflow.replica.asynchronous import AsyncWorker
from zflow.replica.concurrent import ThreadWorker
from zflow.replica.gates import Gates
from zflow.replica.timebook import BLOCKED, STARVED
from zflow.wire.run import OSEQ, SUSPECT, Run

EDGE = 9
LONGEST_S = 20.0


class Trial:
    """A worker with gates, and a dependency that is down as long as a test says."""

    def __init__(self, bench, kind, *, concurrency=10, retries=3, **limits):
        self.bench, self.down = bench, False
        self.called: list = []
        self.in_hand = self.most_in_hand = 0
        self.lock = threading.Lock()
        self.gates = Gates(
            Limits(**limits),
            bench.core,
            bench.clock,
            retries=retries,
            slots=lambda: 1,
            logger=logging.getLogger("zflow.user.test"),
        )
        options = {"timeout_s": 60.0} if kind is AsyncWorker else {}
        self.worker = kind(
            bench.bench,
            self.call_async if kind is AsyncWorker else self.call,
            concurrency=concurrency,
            retry_on=(Exception,),
            positioned=False,
            is_sink=False,
            gates=self.gates,
            **options,
        )
        self.waiter = Waiter([])
        self.bed = self.worker.attach(self.waiter)
        bench.core.inbox.window.at_least(10_000)

    def call(self, item):
        with self.lock:
            self.called.append((self.bench.clock.now_s(), item))
            self.in_hand += 1
            self.most_in_hand = max(self.most_in_hand, self.in_hand)
        try:
            if self.down:
                raise ConnectionError("down")
            return item
        finally:
            with self.lock:
                self.in_hand -= 1

    async def call_async(self, item):
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        self.called.append((self.bench.clock.now_s(), item))
        down = self.down
        await asyncio.sleep(0.002)
        self.in_hand -= 1
        if down:
            raise ConnectionError("down")
        return item

    def until(self, predicate):
        deadline_s = self.bench.clock.now_s() + LONGEST_S
        while not predicate():
            assert self.bench.clock.now_s() < deadline_s, "it never came true"
            self.bench.turn()
            if not self.worker.slice():
                due_s = self.worker.due_s() - self.bench.clock.now_s()
                self.bed.wait(max(0.0, min(0.05, due_s)))
            self.bench.turn()

    def work(self):
        core = self.bench.core
        self.until(lambda: not core.inbox.parcels and not core.running)

    def items(self):
        return [item for _, item in self.called]


@pytest.fixture(params=[AsyncWorker, ThreadWorker])
def begin(request, make_bench, route):
    """`begin(rate_limit_per_s=...)`: a trial with tasks, and one with threads."""
    made = []

    def make(**limits):
        made.append(Trial(make_bench(route(EDGE)), request.param, **limits))
        return made[-1]

    yield make
    for trial in made:
        trial.worker.close()
        for thread in threading.enumerate():  # they wake the waiter with their last item
            if thread.name.startswith("zflow-item"):
                thread.join(LONGEST_S)
        trial.waiter.close()


def test_a_rate_holds_however_many_may_be_in_hand(begin):
    trial = begin(rate_limit_per_s=100.0)
    trial.bench.feed(list(range(30)))
    trial.work()
    times = [at_s for at_s, _ in trial.called]
    assert trial.items() == list(range(30))
    assert times[-1] - times[0] >= 0.25, "30 at 100/s, but for a burst of 2"


def test_what_waits_for_its_rate_is_blocked_and_not_starved(begin):
    trial = begin(rate_limit_per_s=0.5)
    trial.bench.feed([1, 2, 3])
    trial.until(lambda: len(trial.called) == 1 and trial.worker.settled())
    trial.worker.slice()
    assert trial.worker.idles_as() == BLOCKED
    assert trial.bench.clock.now_s() < trial.worker.due_s() < trial.bench.clock.now_s() + 2.1
    assert begin().worker.idles_as() == STARVED


def test_keys_have_a_rate_each(begin):
    trial = begin(rate_limit_per_s=50.0, rate_key=lambda item: item % 3)
    trial.bench.feed([*[0] * 20, *[1, 2] * 5])
    trial.work()
    last = {key: max(at_s for at_s, item in trial.called if item == key) for key in (0, 1, 2)}
    assert last[0] > max(last[1], last[2]), "the others went past"
    assert sorted(trial.items()) == sorted([*[0] * 20, *[1, 2] * 5])


def test_a_breaker_stops_new_items_and_burns_no_attempt(begin):
    trial = begin(breaker=Breaker(failures=3, reset_s=0.2, on=(ConnectionError,)), concurrency=4)
    trial.down = True
    trial.bench.feed(list(range(12)))
    trial.until(lambda: trial.worker.settled() and trial.gates.alarm(trial.bench.clock.now_s()))
    before = len(trial.called)
    assert before <= 3 + 3, "those that were in hand when it opened, and no other"
    trial.down = False
    trial.work()
    failed = trial.bench.nacks()
    assert len(failed) == 2, "the failures before it opened are retried by whoever sent them"
    assert set(trial.items()) == set(range(12))
    assert not trial.gates.alarm(trial.bench.clock.now_s())


def test_half_open_one_item_alone_tells(begin):
    trial = begin(breaker=Breaker(failures=1, reset_s=0.05, on=(ConnectionError,)), concurrency=8)
    trial.down = True
    trial.bench.feed(list(range(20)))
    trial.until(lambda: trial.worker.settled() and trial.called)
    opened = len(trial.called)
    trial.most_in_hand = 0
    trial.until(lambda: len(trial.called) >= opened + 3)
    assert trial.most_in_hand == 1, "while it is down they are tried one by one"
    trial.down = False
    trial.work()
    assert set(trial.items()) == set(range(20))


def test_a_suspect_that_waited_for_its_rate_is_in_hand_alone(begin):
    trial = begin(rate_limit_per_s=200.0, concurrency=6)
    trial.bench.feed([1, 2, 3, 4])
    trial.bench.feed([90], runs=[Run(1, 2, OSEQ, 0, 90, 1, flags=SUSPECT)])
    trial.bench.feed([5, 6])
    seen = []
    whole = trial.worker._begin

    def watching(call):
        seen.append((call.item, len(trial.worker._calls)))
        whole(call)

    trial.worker._begin = watching
    trial.work()
    assert [in_hand for item, in_hand in seen if item == 90] == [1]
    assert sorted(item for item, _ in seen) == [1, 2, 3, 4, 5, 6, 90]


def test_what_is_too_old_is_not_begun(begin):
    trial = begin(deadline_s=5.0)
    now_ns = trial.bench.clock.now_ns()
    old = Run(1, 2, OSEQ, 0, 0, 3, born_ns=now_ns - 6_000_000_000)
    young = Run(1, 2, OSEQ, 0, 3, 2, born_ns=now_ns)
    trial.bench.feed(["a", "b", "c", "d", "e"], runs=[old, young])
    trial.work()
    assert trial.items() == ["d", "e"]

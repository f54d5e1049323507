"""Stages with a rate, a deadline or a breaker: what they take, when, and what waits meanwhile."""

import logging

import pytest

from zflow.clock import Clock
from zflow.limits import Breaker, Limits
from zflow.replica.gates import FAILED_ROOM, WAITING_ROOM, Gates, make_gates
from zflow.replica.sinks import BatchSinkWorker
from zflow.replica.timebook import BLOCKED
from zflow.replica.worker import StageWorker
from zflow.replica.yields import YieldWorker
from zflow.wire.run import OSEQ, Run

EDGE = 9
SECOND_NS = 1_000_000_000


class SetClock(Clock):
    """Stands until it is moved."""

    def __init__(self, now_s):
        self.at_s = now_s

    def now_s(self):
        return self.at_s

    def now_ns(self):
        return int(self.at_s * 1e9) + 1000  # never before what was rounded up


class Trial:
    """A worker with gates whose clock stands; `down` is whether its dependency is."""

    def __init__(self, bench, *, kind=StageWorker, call=None, slots=(1,), retries=3, **limits):
        self.bench = bench
        self.clock = SetClock(bench.clock.now_s())
        object.__setattr__(bench.bench, "clock", self.clock)
        self.down = False
        self.called = []
        self.slots = list(slots)
        self.gates = Gates(
            Limits(**limits),
            bench.core,
            self.clock,
            retries=retries,
            slots=lambda: self.slots[-1],
            logger=logging.getLogger("zflow.user.test"),
        )
        options = {
            "retry_on": (Exception,),
            "positioned": False,
            "is_sink": not bench.core.outboxes,
        }
        self.worker = kind(bench.bench, call or self.call, gates=self.gates, **options)
        bench.core.inbox.window.measured(1, 1e-6)  # so fast that a slice takes all it may

    def call(self, item):
        self.called.append(item)
        if self.down:
            raise ConnectionError("down")
        return item

    def work(self):
        while self.worker.slice():
            self.bench.turn()

    def after(self, seconds):
        """What is called in the slices of so much later."""
        self.clock.at_s += seconds
        before = len(self.called)
        self.work()
        return self.called[before:]


@pytest.fixture
def bench(make_bench, route):
    return make_bench(route(EDGE))


def test_without_gates_nothing_is_ever_blocked(bench):
    worker = StageWorker(bench.bench, str, retry_on=(Exception,), positioned=False, is_sink=False)
    assert (worker.due_s(), worker.waits_as(), worker.alarm()) == (float("inf"), None, "")


# --- rates ---------------------------------------------------------------------------------------


def test_a_replica_takes_its_share_of_the_rate_and_the_rest_waits_in_the_inbox(bench):
    trial = Trial(bench, rate_limit_per_s=20.0, slots=[2])
    bench.feed(list(range(8)))
    assert trial.after(0.0) == [0]
    assert trial.worker.waits_as() == BLOCKED
    assert trial.worker.due_s() == pytest.approx(trial.clock.at_s + 0.1)
    assert bench.core.running == 0
    assert [trial.after(0.1) for _ in range(3)] == [[1], [2], [3]]
    trial.slots.append(1)  # the other slot is gone
    trial.after(0.0)
    assert [trial.after(0.05) for _ in range(3)] == [[4], [5], [6]]
    assert trial.after(10.0) == [7]
    assert (trial.worker.waits_as(), trial.worker.due_s()) == (None, float("inf"))


def test_credit_goes_by_the_rate_so_that_items_wait_where_others_can_have_them(bench):
    trial = Trial(bench, rate_limit_per_s=10.0)
    bench.feed([1])
    for _ in range(20):
        trial.after(0.1)
        bench.feed([1])
    assert bench.core.inbox.window.items(1) == bench.core.inbox.window.MIN_ITEMS


def test_a_rate_for_each_key_lets_other_keys_past(bench):
    trial = Trial(bench, rate_limit_per_s=1.0, rate_key=lambda item: item[0])
    bench.feed(["a1", "a2", "b1", "a3", "b2", "c1"])
    assert trial.after(0.0) == ["a1", "b1", "c1"]
    assert (bench.core.running, trial.worker.waits_as()) == (3, BLOCKED)
    assert trial.worker.due_s() == pytest.approx(trial.clock.at_s + 1.0)
    assert sorted(trial.after(1.0)) == ["a2", "b2"]
    assert trial.after(1.0) == ["a3"]
    assert (bench.core.running, trial.worker.due_s()) == (0, float("inf"))
    bench.turn()
    assert sorted(bench.links.sent[EDGE]) == ["a1", "a2", "a3", "b1", "b2", "c1"]
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 2, 3, 4, 5]


def test_so_many_wait_for_their_keys_and_no_more(bench):
    trial = Trial(bench, rate_limit_per_s=1.0, rate_key=lambda item: 0)
    for _ in range(4):
        bench.feed(list(range(400)))
        trial.after(0.0)
    assert bench.core.running == WAITING_ROOM
    (link,) = bench.core.inbox.links.values()
    assert link.held == 4 * 400 - WAITING_ROOM - 1
    assert trial.worker.waits_as() == BLOCKED
    assert len(trial.after(1.0)) == 1
    assert bench.core.running == WAITING_ROOM


@pytest.mark.parametrize(
    ("rate_key", "error"),
    [(lambda item: [item], "TypeError"), (lambda item: 1 // item, "ZeroDivisionError")],
)
def test_a_rate_key_that_fails_is_the_failure_of_its_item(bench, rate_key, error):
    trial = Trial(bench, rate_limit_per_s=1000.0, rate_key=rate_key)
    bench.feed([0])
    assert trial.after(0.0) == []
    assert bench.nacks() == [(0, "error", error)]
    assert bench.core.running == 0


# --- deadlines -----------------------------------------------------------------------------------


def aged(trial, *ages_s):
    now_ns = trial.clock.now_ns()
    runs = [
        Run(7, 8, OSEQ, 0, k, 1, born_ns=now_ns - round(age_s * SECOND_NS))
        for k, age_s in enumerate(ages_s)
    ]
    trial.bench.feed(list(range(len(ages_s))), runs=runs)


@pytest.mark.parametrize(("policy", "code"), [("drop", "expired"), ("dead_letter", "deadline")])
def test_what_is_too_old_when_it_is_taken_is_not_executed(bench, policy, code):
    trial = Trial(bench, deadline_s=5.0, on_deadline=policy)
    aged(trial, 1, 9, 9, 1, 9)
    assert trial.after(0.0) == [0, 3]
    names = [(first, said, error) for first, said, error in bench.nacks()]
    assert names == [(k, code, "DeadlineExceeded") for k in (1, 2, 4)]
    assert bench.errors()[0] == "9.000 s old when it was taken, deadline_s=5"
    assert bench.core.running == 0


def test_what_nobody_knows_the_birth_of_is_executed(bench):
    trial = Trial(bench, deadline_s=5.0)
    bench.feed([1, 2])
    assert trial.after(0.0) == [1, 2]


def test_what_is_too_old_costs_nothing_of_the_rate(bench):
    trial = Trial(bench, deadline_s=5.0, rate_limit_per_s=1.0)
    aged(trial, 9, 9, 9, 1, 1)
    assert trial.after(0.0) == [3]
    assert trial.after(1.0) == [4]


def test_what_grows_too_old_while_it_waits_for_its_key_is_not_executed(bench):
    trial = Trial(bench, deadline_s=5.0, rate_limit_per_s=0.1, rate_key=lambda item: 0)
    aged(trial, 1, 1)
    assert trial.after(0.0) == [0]
    assert trial.after(10.0) == []
    assert bench.nacks() == [(1, "expired", "DeadlineExceeded")]


@pytest.mark.parametrize(
    ("into", "known"),
    [
        ("ipc:///run/zf/1.0.in", True),
        ("tcp://127.0.0.1:20001", True),
        ("tcp://10.0.0.7:20001", False),
        ("tcp://worker.example:20001", False),
    ],
)
def test_how_old_an_item_is_is_known_on_one_machine_only(bench, caplog, into, known):
    options = {"retries": 3, "slots": lambda: 1, "logger": logging.getLogger("zflow.user.test")}
    made = make_gates(Limits(deadline_s=1.0), bench.core, bench.clock, into=into, **options)
    assert (made is not None) is known
    assert ("deadline_s= is not kept" in caplog.text) is not known


def test_without_limits_there_are_no_gates(bench):
    options = {"retries": 3, "slots": lambda: 1, "logger": logging.getLogger("zflow.user.test")}
    limits = Limits(batch=8)
    assert make_gates(limits, bench.core, bench.clock, into="ipc:///in", **options) is None


# --- breakers ------------------------------------------------------------------------------------

BREAKER = Breaker(failures=3, reset_s=10.0)


def test_while_it_is_open_nothing_is_called_and_no_attempt_is_burnt(bench, caplog):
    trial = Trial(bench, breaker=BREAKER)
    trial.down = True
    bench.feed(list(range(7)))
    assert trial.after(0.0) == [0, 1, 2]
    assert [unit for unit, _, _ in bench.nacks()] == [0, 1]
    assert (bench.core.running, trial.worker.waits_as()) == (5, BLOCKED)
    assert trial.worker.alarm() == "breaker open after 3 ConnectionError; next try in 10 s"
    assert "breaker open after 3 ConnectionError" in caplog.text
    assert bench.counters.errors == 3
    assert trial.after(9.9) == []
    assert trial.worker.due_s() == pytest.approx(trial.clock.at_s + 0.1)
    trial.clock.at_s = trial.worker.due_s()
    trial.down = False
    trial.work()
    assert sorted(trial.called[3:]) == [2, 3, 4, 5, 6]
    assert (trial.worker.alarm(), bench.core.running) == ("", 0)
    assert len(bench.nacks()) == 2


def test_one_item_is_tried_at_a_time_and_each_has_its_turn(bench):
    trial = Trial(bench, breaker=BREAKER)
    trial.down = True
    bench.feed(list(range(5)))
    trial.after(0.0)
    assert [trial.after(10.0) for _ in range(3)] == [[3], [4], [2]]
    bench.feed([5])  # a new one tells more than those that have failed
    assert [trial.after(10.0) for _ in range(2)] == [[5], [3]]
    assert [unit for unit, _, _ in bench.nacks()] == [0, 1]


def test_no_more_than_a_few_are_tried_and_wait(bench):
    trial = Trial(bench, breaker=Breaker(failures=1, reset_s=1.0))
    trial.down = True
    for k in range(3 * FAILED_ROOM):
        bench.feed([k])
        trial.after(1.0)
    assert bench.core.running == FAILED_ROOM
    assert bench.nacks() == []


def test_an_item_that_fails_for_its_own_reasons_is_given_back_in_the_end(bench):
    def call(item):
        trial.called.append(item)
        if item == "poison" or trial.down:
            raise ConnectionError

    trial = Trial(bench, call=call, breaker=BREAKER)
    trial.down = True
    bench.feed([1, 2, "poison", 3])
    trial.after(0.0)
    trial.down = False
    trial.after(10.0)
    assert (3, "error", "ConnectionError") not in bench.nacks()
    assert [unit for unit, _, _ in bench.nacks()] == [0, 1, 2]
    assert (bench.core.running, trial.worker.alarm()) == (0, "")


def test_other_errors_are_the_items_own(bench):
    def call(item):
        raise ValueError

    trial = Trial(bench, call=call, breaker=BREAKER)
    bench.feed(list(range(6)))
    trial.after(0.0)
    assert len(bench.nacks()) == 6
    assert trial.worker.alarm() == ""


def test_what_was_not_called_costs_nothing_of_the_rate(bench):
    trial = Trial(bench, breaker=Breaker(failures=1, reset_s=1.0), rate_limit_per_s=1000.0)
    trial.clock.at_s += 1.0
    trial.down = True
    bench.feed(list(range(8)))
    assert trial.after(0.0) == [0]
    assert trial.gates._pace.allowed(trial.clock.at_s) == 20
    trial.down = False
    assert sorted(trial.after(1.0)) == list(range(8))


def test_a_generator_waits_behind_a_breaker_too(bench):
    def call(item):
        trial.called.append(item)
        if trial.down:
            raise ConnectionError
        yield item
        yield item

    trial = Trial(bench, kind=YieldWorker, call=call, breaker=BREAKER)
    trial.down = True
    bench.feed(list(range(5)))
    trial.after(0.0)
    assert trial.called == [0, 1, 2]
    assert bench.core.running == 3
    trial.down = False
    assert sorted(trial.after(10.0)) == [2, 3, 4]
    bench.turn()
    assert sorted(bench.links.sent[EDGE]) == [2, 2, 3, 3, 4, 4]
    assert bench.core.running == 0


def test_a_sink_class_waits_behind_a_breaker_too(make_bench):
    written = []

    def write(items):
        if trial.down:
            raise ConnectionError
        written.extend(items)

    trial = Trial(make_bench(), kind=BatchSinkWorker, call=write, breaker=BREAKER)
    trial.down = True
    trial.bench.feed(list(range(8)))
    trial.after(0.0)
    assert [unit for unit, _, _ in trial.bench.nacks()] == [0, 1]
    trial.down = False
    trial.after(10.0)
    assert sorted(written) == [2, 3, 4, 5, 6, 7]
    assert trial.bench.core.running == 0


def test_a_process_that_makes_room_leaves_what_waits_to_its_senders(bench):
    trial = Trial(bench, breaker=BREAKER, rate_limit_per_s=1.0, rate_key=lambda item: item // 4)
    trial.down = True
    bench.feed(list(range(8)))
    for _ in range(3):
        trial.after(1.0)
    assert bench.core.running > 0
    bench.core.pause_intake(True)
    trial.worker.forget()
    assert bench.core.running == 0
    assert bench.core.at_rest()
    assert trial.after(60.0) == []
    assert bench.acked() == []


def test_everything_together(bench):
    trial = Trial(
        bench,
        breaker=Breaker(failures=2, reset_s=2.0),
        rate_limit_per_s=1.0,
        rate_key=lambda item: item % 2,
        deadline_s=20.0,
    )
    trial.down = True
    aged(trial, 1, 1, 1, 19.5, 30)
    assert trial.after(0.0) == [0, 1]  # the second opens it
    assert trial.after(1.0) == []
    trial.down = False
    trial.after(1.0)
    trial.after(1.0)
    assert sorted(trial.called) == [0, 1, 1, 2]
    assert sorted(bench.nacks()) == [
        (0, "error", "ConnectionError"),
        (3, "expired", "DeadlineExceeded"),
        (4, "expired", "DeadlineExceeded"),
    ]
    assert bench.core.running == 0

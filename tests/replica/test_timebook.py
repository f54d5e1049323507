"""What the data thread did adds up to the time since it began, and nothing ever falls."""

import random

import pytest

from zflow.replica.timebook import BLOCKED, BUSY, PULLING, STARVED, TimeBook


class FakeClock:
    """Moves when it is told to. cpu_ns: of the one thread."""

    def __init__(self):
        self.ns = 1_000
        self.cpu_ns = 50

    def now_ns(self):
        return self.ns

    def thread_ns(self):
        return self.cpu_ns

    def cpu_of_this_thread(self):
        return self.thread_ns

    def passes(self, ns, cpu_ns=0):
        self.ns += ns
        self.cpu_ns += cpu_ns


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def book(clock):
    made = TimeBook(clock)
    made.begin()
    return made


def test_before_it_begins_nothing_is_counted(clock):
    book = TimeBook(clock)
    book.enter(BUSY)
    clock.passes(100)
    book.leave()
    assert book.row() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("state", "row"),
    [(BUSY, [70, 0, 0, 30]), (STARVED, [0, 70, 0, 30]), (BLOCKED, [0, 0, 70, 30])],
)
def test_each_state_has_its_time_and_the_rest_is_overhead(book, clock, state, row):
    clock.passes(10)
    book.enter(state)
    clock.passes(70)
    book.leave()
    clock.passes(20)
    assert book.row() == row


def test_what_goes_on_is_counted_while_it_goes_on(book, clock):
    book.enter(BUSY)
    clock.passes(500)
    assert book.row() == [500, 0, 0, 0]
    clock.passes(5)
    book.leave()
    assert book.row() == [505, 0, 0, 0]


def test_a_source_that_waits_in_its_generator_is_starved_but_for_its_cpu_time(book, clock):
    book.enter(PULLING)
    clock.passes(100, cpu_ns=10)
    assert book.row() == [10, 90, 0, 0]
    clock.passes(100, cpu_ns=10)
    book.leave(waited=True)
    assert book.row() == [20, 180, 0, 0]


def test_a_source_that_was_only_preempted_was_busy(book, clock):
    book.enter(PULLING)
    clock.passes(100, cpu_ns=10)
    book.leave(waited=False)
    assert book.row() == [100, 0, 0, 0]


@pytest.mark.parametrize("seed", range(30))
def test_the_states_add_up_and_never_fall_whenever_they_are_read(book, clock, seed):
    chance = random.Random(seed)
    before, began_ns = [0, 0, 0, 0], clock.ns
    for _ in range(200):
        state = chance.choice([None, BUSY, STARVED, BLOCKED, PULLING])
        if state is not None:
            book.enter(state)
        for _ in range(chance.randrange(3)):
            ns = chance.randrange(1000)
            clock.passes(ns, cpu_ns=chance.randrange(ns + 1))
            row = list(book.row())
            assert all(now >= then for now, then in zip(row, before, strict=True)), seed
            assert sum(row) == clock.ns - began_ns, seed
            before = row
        if state is not None:
            book.leave(waited=True)

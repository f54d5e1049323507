import sys

import pytest

from zflow.clock import Clock, Deadline


class SetClock(Clock):
    """A clock that shows what it is set to."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s


def test_monotonic_readings_never_go_back():
    clock = Clock()
    readings = [clock.now_s() for _ in range(100)]
    assert readings == sorted(readings)


def test_seconds_and_nanoseconds_are_the_same_clock():
    clock = Clock()
    before_s, between_s, after_s = clock.now_s(), clock.now_ns() / 1e9, clock.now_s()
    assert before_s - 1e-6 <= between_s <= after_s + 1e-6


def test_wall_time_is_after_the_year_2020():
    assert Clock().wall_s() > 1_577_836_800


def test_sleeping_no_time_at_all_returns():
    clock = Clock()
    before_s = clock.now_s()
    clock.sleep(0)
    assert clock.now_s() >= before_s


def test_a_deadline_is_one_budget_for_several_waits():
    clock = SetClock()
    deadline = Deadline(clock, 10.0)
    for waited_s in (0.0, 4.0, 9.0):
        clock.time_s = 100.0 + waited_s
        assert deadline.left_s() == pytest.approx(10.0 - waited_s)
        assert not deadline.passed()


@pytest.mark.parametrize("late_s", [0.0, 0.5, 1000.0])
def test_a_deadline_that_has_passed_leaves_0_and_never_less(late_s):
    clock = SetClock()
    deadline = Deadline(clock, 10.0)
    clock.time_s = 110.0 + late_s
    assert deadline.left_s() == 0.0
    assert deadline.passed()


def test_a_budget_of_nothing_has_passed_at_once():
    assert Deadline(SetClock(), 0.0).passed()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count it")
def test_a_thread_that_waits_is_told_from_one_that_works():
    clock = Clock()
    before = clock.thread_waits()
    clock.sleep(0.001)
    assert clock.thread_waits() > before


def test_the_cpu_time_of_a_thread_does_not_grow_while_it_waits():
    clock = Clock()
    before_ns = clock.thread_ns()
    clock.sleep(0.02)
    assert clock.thread_ns() - before_ns < 10_000_000

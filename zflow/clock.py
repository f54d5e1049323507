"""The one clock: monotonic seconds for every duration, wall time only for people.

Everything outside this module receives a `Clock` or a `now_s`; nothing else imports `time`.
Monotonic readings are never compared across machines.
"""

import resource
import threading
import time
from collections.abc import Callable

_RUSAGE_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)


class Clock:
    """Readings of the machine's clocks. Stateless; safe from every thread."""

    # Asked several times for every item: the functions themselves, without a call around them.
    now_s = staticmethod(time.monotonic)
    """Monotonic seconds; only differences mean anything."""

    now_ns = staticmethod(time.monotonic_ns)
    """Monotonic nanoseconds, the form that travels in frames on one machine."""

    def wall_s(self) -> float:
        """Seconds since the epoch, for rows and lines that people read."""
        return time.time()

    def thread_ns(self) -> int:
        """Nanoseconds of CPU that the calling thread has used."""
        return time.thread_time_ns()

    def cpu_of_this_thread(self) -> Callable[[], int]:
        """What tells the same of the thread that calls this now, from any thread."""
        if threading.current_thread() is not threading.main_thread():
            return time.thread_time_ns
        clock_id = time.pthread_getcpuclockid(threading.get_ident())
        return lambda: time.clock_gettime_ns(clock_id)

    def process_ns(self) -> int:
        """Nanoseconds of CPU that this process has used, all its threads together."""
        return time.process_time_ns()

    def thread_waits(self) -> int:
        """How often the calling thread has given up its CPU to wait for something.

        Tells a call that blocked from one that was merely preempted. Linux only; elsewhere every
        answer differs from the one before, as if each call had blocked.
        """
        if _RUSAGE_THREAD is None:
            return time.monotonic_ns()
        return resource.getrusage(_RUSAGE_THREAD).ru_nvcsw

    def stamp(self) -> str:
        """The local date and time as `20260131-235959`, for names that sort by age."""
        return time.strftime("%Y%m%d-%H%M%S")

    def sleep(self, seconds: float) -> None:
        """Blocks for that long; only supervisors and scripts may, and in a replica's data
        thread nothing but a source, which may block where it is asked for an item."""
        time.sleep(seconds)


class Deadline:
    """One budget of time across several waits."""

    def __init__(self, clock: Clock, budget_s: float) -> None:
        self._clock = clock
        self._ends_s = clock.now_s() + budget_s

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._ends_s - self._clock.now_s())

    def passed(self) -> bool:
        """True once the budget is used up."""
        return self._clock.now_s() >= self._ends_s

"""An event loop and ZeroMQ sockets in one wait: what ends it, and who is told."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import zmq

from zflow.clock import Clock
from zflow.net.loop import LoopWaiter
from zflow.net.poll import Waiter

LONG_S = 20.0
CLOCK = Clock()


class Bed:
    """A loop around one PULL socket, and what it tells."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self.pull, self.push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self.pull.bind("inproc://here")
        self.push.connect("inproc://here")
        self.told: list[str] = []
        self.inner = Waiter([self.pull])
        self.waiter = LoopWaiter(
            self.inner,
            threading.Lock(),
            CLOCK,
            awake=lambda: self.told.append("awake"),
            asleep=lambda: self.told.append("asleep"),
        )
        self.loop = self.waiter.loop

    def close(self) -> None:
        self.waiter.close()
        self.inner.close()
        self.pull.close(0)
        self.push.close(0)


@pytest.fixture
def bed() -> Iterator[Bed]:
    with zmq.Context() as context:
        made = Bed(context)
        yield made
        made.close()


def soon(call) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_what_has_come_before_ends_the_wait_at_once_every_time(bed):
    bed.push.send(b"1")
    bed.push.send(b"2")
    for expected in (b"1", b"2"):  # the second is told by no edge any more
        assert bed.waiter.wait(LONG_S) == [(bed.pull, zmq.POLLIN)]
        assert bed.pull.recv(zmq.NOBLOCK) == expected
    assert bed.waiter.wait(0.0) == []


def test_what_comes_meanwhile_ends_the_wait(bed):
    thread = soon(lambda: bed.push.send(b"1"))
    assert bed.waiter.wait(LONG_S) == [(bed.pull, zmq.POLLIN)]
    thread.join()


def test_a_wake_up_ends_the_wait_or_the_next_one(bed):
    began_s = CLOCK.now_s()
    bed.waiter.wake()
    assert bed.waiter.wait(LONG_S) == []
    thread = soon(bed.waiter.wake)
    assert bed.waiter.wait(LONG_S) == []
    thread.join()
    assert CLOCK.now_s() - began_s < LONG_S


def test_the_time_ends_the_wait_and_timers_of_the_loop_run_meanwhile(bed):
    ran = []
    bed.loop.call_later(0.005, ran.append, 1)
    began_s = CLOCK.now_s()
    assert bed.waiter.wait(0.05) == []
    assert CLOCK.now_s() - began_s >= 0.05
    assert ran == [1]


def test_callbacks_that_are_ready_run_though_a_message_waits(bed):
    ran = []
    bed.push.send(b"1")
    bed.loop.call_soon(ran.append, 1)
    assert bed.waiter.wait(LONG_S)
    assert ran == [1]


def test_a_callback_may_end_the_wait(bed):
    bed.loop.call_later(0.005, bed.waiter.stop)
    began_s = CLOCK.now_s()
    assert bed.waiter.wait(LONG_S) == []
    assert CLOCK.now_s() - began_s < LONG_S


def test_awake_and_asleep_take_turns_and_the_end_is_asleep(bed):
    for delay_s in (0.0, 0.002, 0.004, 0.02):
        bed.loop.call_later(delay_s, lambda: bed.told.append("ran"))
    bed.waiter.wait(0.05)
    states = [one for one in bed.told if one != "ran"]
    assert states == ["awake", "asleep"] * (len(states) // 2)
    assert len(states) >= 2
    running = False
    for one in bed.told:
        assert one != "ran" or running, bed.told
        running = one != "asleep"


def test_what_the_other_thread_has_left_unread_is_found_after_a_long_callback(bed):
    """It reads one of two messages meanwhile, so that no edge tells of the second."""
    read = []

    def block():
        bed.push.send(b"1")
        bed.push.send(b"2")
        bed.pull.poll(1000)
        read.append(bed.pull.recv())
        began_s = CLOCK.now_s()
        while CLOCK.now_s() < began_s + 0.005:
            pass

    bed.loop.call_later(0.005, block)
    ready = bed.waiter.wait(LONG_S)
    if not ready:  # it gave the thread back first
        ready = bed.waiter.wait(LONG_S)
    assert ready == [(bed.pull, zmq.POLLIN)]
    assert bed.pull.recv(zmq.NOBLOCK) == b"2"


def test_a_coroutine_is_completed_whatever_arrives(bed):
    async def slow():
        await asyncio.sleep(0.01)
        return 7

    bed.push.send(b"1")
    bed.waiter.wake()
    assert bed.waiter.complete(slow()) == 7
    assert bed.told == []
    assert bed.waiter.wait(LONG_S) == [(bed.pull, zmq.POLLIN)]

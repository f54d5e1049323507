"""Several items at once: tasks of a loop and threads, and what they hand to the core."""

import asyncio
import random
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from zflow.net.poll import Waiter
from zflow.replica import yields
from zflow.replica.asynchronous import AsyncWorker, AsyncYieldWorker
from zflow.replica.concurrent import ThreadWorker, stretches_of
from zflow.replica.context import SharedContext
from zflow.replica.timebook import BUSY, STARVED
from zflow.replica.usercounters import UserCounters
from zflow.stages import emit
from zflow.state.blackbox import read_black_box
from zflow.wire.run import OSEQ, SUSPECT, Run

EDGE = 9
LONGEST_S = 20.0


class Driver:
    """What the data thread does, with one worker."""

    def __init__(self, bench, kind, call, *, window_items=10_000, **options):
        self.bench = bench
        self.closed = False
        self.waiter = Waiter([])
        settings = {
            "concurrency": 10,
            "retry_on": (Exception,),
            "positioned": False,
            "is_sink": False,
            **({} if kind is ThreadWorker else {"timeout_s": 60.0}),
        }
        self.worker = kind(bench.bench, call, **{**settings, **options})
        self.bed = self.worker.attach(self.waiter)
        if window_items:  # a test may feed as much at once
            bench.core.inbox.window.at_least(window_items)

    def step(self, timeout_s=0.05):
        self.bench.turn()
        more = self.worker.slice()
        self.bench.turn()
        if not more:
            self.bed.wait(timeout_s)

    def until(self, predicate):
        """Steps until it holds."""
        deadline_s = self.bench.clock.now_s() + LONGEST_S
        while not predicate():
            assert self.bench.clock.now_s() < deadline_s, "it never came true"
            self.step()

    def work(self):
        """Steps until nothing waits and nothing is in hand."""
        core = self.bench.core
        self.until(lambda: not core.inbox.parcels and not core.running)
        assert self.worker.settled()

    def close(self):
        if not self.closed:
            self.closed = True
            self.worker.close()
            for thread in threading.enumerate():  # they wake the waiter with their last item
                if thread.name.startswith("zflow-item"):
                    thread.join(LONGEST_S)
            self.waiter.close()


@pytest.fixture
def bench(make_bench, route):
    return make_bench(route(EDGE))


@pytest.fixture
def drive():
    """`drive(bench, kind, call, ...)`: a worker that is closed at the end."""
    made = []

    def make(*arguments, **options):
        made.append(Driver(*arguments, **options))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def sent(bench, edge=EDGE):
    bench.turn()
    return bench.links.sent.get(edge, [])


def reading(bench):
    found = read_black_box(bench._box)
    assert found is not None
    return found


def named(bench):
    """The oseq of every unit in the black box."""
    return sorted(unit[1] for run in bench.executing() for unit in run.units())


# --- stretches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "stretches"),
    [
        ([], []),
        ([3], [(3, 4)]),
        ([0, 1, 2], [(0, 3)]),
        ([0, 2, 3, 7], [(0, 1), (2, 4), (7, 8)]),
    ],
)
def test_neighbours_are_one_stretch(positions, stretches):
    assert list(stretches_of(positions)) == stretches


# --- the order in which things end ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_results_in_any_order_have_the_names_and_settle_the_units_of_their_inputs(
    bench, drive, seed
):
    chance = random.Random(seed)
    gates: dict[int, asyncio.Event] = {}

    async def call(x):
        gates[x] = asyncio.Event()
        await gates[x].wait()
        if x % 7 == 3:
            raise ValueError(x)
        return None if x % 5 == 4 else x * 10

    driver = drive(bench, AsyncWorker, call, concurrency=chance.randint(1, 12))
    items = list(range(30))
    at = 0
    while at < len(items):
        n = chance.randint(1, 9)
        bench.feed(items[at : at + n])
        at += n
    while bench.core.running or bench.core.inbox.parcels:
        driver.step(0.001)
        waiting = [x for x, gate in gates.items() if not gate.is_set()]
        for x in chance.sample(waiting, min(len(waiting), chance.randint(1, 4))):
            gates[x].set()
    bench.turn()
    failed = [x for x in items if x % 7 == 3]
    kept = [x for x in items if x % 7 != 3 and x % 5 != 4]
    assert sorted(unit for unit, _, _ in bench.nacks()) == failed, f"seed {seed}"
    found = {unit[1]: got for unit, (_, got) in bench.units().items()}
    assert found == {x: [x * 10] for x in kept}, f"seed {seed}"
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [x for x in items if x not in failed], f"seed {seed}"
    assert bench.counters.processed == len(items) - len(failed)
    assert bench.counters.filtered == len([x for x in items if x not in failed and x % 5 == 4])
    assert bench.executing() == []


def test_no_more_than_the_concurrency_are_in_hand_and_what_waits_stays_in_the_inbox(bench, drive):
    now = most = 0

    async def call(x):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        return x

    driver = drive(bench, AsyncWorker, call, concurrency=4)
    bench.feed(list(range(50)))
    driver.step()
    assert bench.core.running == 4
    assert len(bench.core.inbox.parcels) == 1
    driver.work()
    assert most == 4
    assert sorted(sent(bench)) == list(range(50))


def test_two_thousand_wait_at_once(bench, drive):
    together = 0
    all_there = asyncio.Event()

    async def call(x):
        nonlocal together
        together += 1
        if together == 2000:
            all_there.set()
        await all_there.wait()
        return x

    driver = drive(bench, AsyncWorker, call, concurrency=2000)
    for begin in range(0, 2000, 100):
        bench.feed(list(range(begin, begin + 100)))
    driver.work()
    assert sorted(sent(bench)) == list(range(2000))


def test_the_window_holds_as_many_as_may_end_together(bench, drive):
    async def call(x): ...

    drive(bench, AsyncWorker, call, concurrency=200, window_items=None)
    window = bench.core.inbox.window
    assert window.items(1) == 200
    window.measured(1, 10.0)  # however slow one is
    assert window.items(1) == 200
    assert window.items(4) == 50


def test_the_service_time_is_that_of_the_replica_and_not_of_one_item(bench, drive):
    async def call(x):
        await asyncio.sleep(0.05)

    driver = drive(bench, AsyncWorker, call, concurrency=50)
    bench.feed(list(range(50)))
    driver.work()
    assert 0.001 <= bench.core.inbox.window.service_s < 0.04


# --- failures -------------------------------------------------------------------------------------


def test_a_failure_goes_back_with_its_traceback_and_the_others_go_on(bench, drive):
    async def call(x):
        await asyncio.sleep(0)
        if x == 2:
            raise KeyError("two")
        return x

    bench.feed([1, 2, 3])
    drive(bench, AsyncWorker, call).work()
    assert sorted(sent(bench)) == [1, 3]
    assert bench.nacks() == [(1, "error", "KeyError")]
    (error,) = bench.errors()
    assert error.startswith("Traceback (most recent call last):\n")
    assert error.endswith("KeyError: 'two'\n")
    assert "/zflow/replica/" not in error


def test_an_item_that_takes_too_long_is_cancelled_and_fails_with_timeout_error(bench, drive):
    cleaned = []

    async def call(x):
        try:
            await asyncio.sleep(0 if x else 3600)
        finally:
            cleaned.append(x)
        return x

    bench.feed([0, 1])
    drive(bench, AsyncWorker, call, timeout_s=0.05).work()
    assert sent(bench) == [1]
    assert sorted(cleaned) == [0, 1]
    assert bench.nacks() == [(0, "error", "TimeoutError")]
    (error,) = bench.errors()
    assert error.endswith("TimeoutError: the item took longer than timeout_s=0.05\n")
    assert "await asyncio.sleep(0 if x else 3600)" in error


def test_a_timeout_is_tried_again_only_if_retry_on_names_it(bench, drive):
    async def call(x):
        await asyncio.sleep(3600)

    bench.feed([0])
    drive(bench, AsyncWorker, call, timeout_s=0.02, retry_on=(OSError,)).work()
    # TimeoutError is an OSError; ValueError is not one of its bases.
    assert bench.nacks() == [(0, "error", "TimeoutError")]
    bench.feed([0])
    drive(bench, AsyncWorker, call, timeout_s=0.02, retry_on=(ValueError,)).work()
    assert bench.nacks()[1] == (1, "final", "TimeoutError")


def test_the_users_own_timeout_and_cancellation_are_failures_like_others(bench, drive):
    async def call(x):
        if x == 0:
            async with asyncio.timeout(0):
                await asyncio.sleep(3600)
        if x == 1:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return x

    bench.feed([0, 1, 2])
    drive(bench, AsyncWorker, call).work()
    assert sent(bench) == [2]
    assert sorted(bench.nacks()) == [(0, "error", "TimeoutError"), (1, "final", "CancelledError")]


@pytest.mark.parametrize("kind", [AsyncWorker, ThreadWorker])
def test_sys_exit_fails_its_item_and_not_the_process(bench, drive, kind):
    async def waits(x):
        exit(3)

    bench.feed([1])
    drive(bench, kind, waits if kind is AsyncWorker else lambda x: exit(3)).work()
    assert bench.nacks() == [(0, "final", "SystemExit")]


def test_a_when_that_raises_is_the_failure_of_its_input(make_bench, route, drive):
    bench = make_bench(route(EDGE, when=lambda x: 6 / x))

    async def call(x):
        return x

    bench.feed([1, 0, 3])
    drive(bench, AsyncWorker, call).work()
    assert sorted(sent(bench)) == [1, 3]
    assert bench.nacks() == [(1, "error", "ZeroDivisionError")]


def test_named_outputs_and_keys_work_as_anywhere(make_bench, route, drive):
    bench = make_bench(route(1), route(2, output="odd"), route(EDGE, key=lambda x: x))

    async def call(x):
        return emit("odd", x) if x % 2 else x

    bench.feed([1, 2, 3, 4])
    drive(bench, AsyncWorker, call).work()
    assert [sorted(sent(bench, edge)) for edge in (1, 2, EDGE)] == [[2, 4], [1, 3], [2, 4]]


def test_a_buffer_that_is_used_again_arrives_as_it_was(bench, drive):
    used = bytearray(1)

    async def call(x):
        used[0] = x
        return used

    bench.feed([1, 2, 3])
    drive(bench, AsyncWorker, call).work()
    assert sorted(sent(bench)) == [bytearray([x]) for x in (1, 2, 3)]


def test_an_async_sink_settles_its_input_and_counts_its_latency(make_bench, drive):
    bench = make_bench()
    taken = []

    async def call(x):
        await asyncio.sleep(0)
        taken.append(x)

    bench.feed([1, 2])
    drive(bench, AsyncWorker, call, is_sink=True).work()
    assert sorted(taken) == [1, 2]
    assert bench.acked() == [0, 1]
    found = bench.counted()
    assert sum(n for name, n in found.items() if name.startswith("latency:read->work:")) == 2
    assert sum(n for name, n in found.items() if name.startswith("processing:")) == 2


# --- the black box --------------------------------------------------------------------------------


def test_the_black_box_names_exactly_what_is_in_hand(bench, drive):
    gates = {}

    async def call(x):
        gates[x] = asyncio.Event()
        await gates[x].wait()

    driver = drive(bench, AsyncWorker, call)
    bench.feed([0, 1, 2])
    bench.feed([3, 4])
    driver.until(lambda: len(gates) == 5)
    assert named(bench) == [0, 1, 2, 3, 4]
    assert not reading(bench).alone
    gates[1].set()
    gates[3].set()
    driver.until(lambda: bench.core.running == 3)
    assert named(bench) == [0, 2, 4]
    for gate in gates.values():
        gate.set()
    driver.work()
    assert bench.executing() == []


def suspect(first, n=1):
    return Run(7, 8, OSEQ, 0, first, n, flags=SUSPECT)


@pytest.mark.parametrize("kind", [AsyncWorker, ThreadWorker])
def test_a_suspect_is_in_hand_alone(bench, drive, kind):
    now, seen, gate = set(), [], threading.Event()

    def begin(x):
        now.add(x)
        seen.append((set(now), reading(bench).alone, named(bench)))

    def block(x):
        begin(x)
        gate.wait(LONGEST_S)
        now.discard(x)

    async def waits(x):
        begin(x)
        while not gate.is_set():
            await asyncio.sleep(0.001)
        now.discard(x)

    driver = drive(bench, kind, waits if kind is AsyncWorker else block)
    bench.feed([0, 1])
    bench.feed([2, 3], run=suspect(2, 2))
    bench.feed([4])
    driver.until(lambda: len(seen) == 2)
    driver.step()
    assert bench.core.running == 2, "a suspect begins when nothing is in hand"
    assert not driver.worker.has_room()
    gate.set()
    driver.work()
    assert sorted(len(together) for together, _, _ in seen[:2]) in ([1, 2], [2, 2])
    assert seen[2] == ({2}, True, [2])
    assert seen[3] == ({3}, True, [3])
    assert seen[4] == ({4}, False, [4])


def test_only_a_loop_that_does_not_turn_counts_as_stuck(bench, drive):
    seen, gate = [], asyncio.Event()

    async def call(x):
        seen.append(reading(bench).started_ns)
        await gate.wait()
        seen.append(reading(bench).started_ns)

    began_ns = bench.clock.now_ns()
    driver = drive(bench, AsyncWorker, call)
    bench.feed([0])
    driver.until(lambda: len(seen) == 1)
    assert reading(bench).started_ns == 0, "it waits"
    assert bench.executing() != []
    gate.set()
    driver.work()
    assert began_ns <= seen[0] < seen[1]


def test_a_task_that_outlives_its_cancellation_counts_as_stuck_since_then(bench, drive):
    release = asyncio.Event()

    async def call(x):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    driver = drive(bench, AsyncWorker, call, timeout_s=0.02)
    bench.feed([0])
    driver.until(lambda: reading(bench).started_ns)
    since_ns = reading(bench).started_ns
    for _ in range(3):
        driver.step(0.01)
    assert reading(bench).started_ns == since_ns
    release.set()
    driver.work()
    assert reading(bench).started_ns == 0


def test_threads_count_as_stuck_since_the_oldest_began(bench, drive):
    gates = [threading.Event(), threading.Event()]

    driver = drive(bench, ThreadWorker, lambda x: gates[x].wait(LONGEST_S) and None)
    bench.feed([0])
    driver.step()
    first_ns = reading(bench).started_ns
    assert first_ns > 0
    bench.feed([1])
    driver.step()
    assert reading(bench).started_ns == first_ns
    gates[0].set()
    driver.until(lambda: bench.core.running == 1)
    assert reading(bench).started_ns > first_ns
    gates[1].set()
    driver.work()


# --- backpressure ---------------------------------------------------------------------------------


def test_nothing_is_taken_while_the_outbox_is_full(bench, drive):
    async def call(x):
        return x

    driver = drive(bench, AsyncWorker, call, concurrency=1000)
    outbox = bench.core.outboxes[EDGE]
    outbox.settings = replace(outbox.settings, window_items=300)
    while not bench.core.full():
        bench.feed([0] * 100)
        driver.until(lambda: not bench.core.inbox.parcels and not bench.core.running)
    assert outbox.retained()[0] == 300
    bench.feed([1])
    driver.step(0.001)
    assert bench.core.running == 0
    assert len(bench.core.inbox.parcels) == 1
    bench.links.settle()
    driver.work()


# --- contexts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AsyncWorker, ThreadWorker])
def test_every_item_has_a_context_of_its_own(bench, drive, kind):
    context = SharedContext("work", 0, {}, {5: "read->work"})
    object.__setattr__(bench.bench, "context", context)
    met = threading.Barrier(3)

    def plain(x):
        met.wait(LONGEST_S)
        return x, context.item_id, context.attempt, context.edge

    async def waits(x):
        before = context.item_id
        await asyncio.sleep(0.001 * (3 - x))
        assert context.item_id == before
        return x, context.item_id, context.attempt, context.edge

    bench.feed([0, 1, 2], run=Run(7, 8, OSEQ, 0, 40, 3, attempt=2))
    drive(bench, kind, waits if kind is AsyncWorker else plain, positioned=True).work()
    assert sorted(sent(bench)) == [
        (x, f"{7:016x}-{40 + x}-{8:016x}-0", 2, "read->work") for x in range(3)
    ]
    with pytest.raises(RuntimeError, match="exist only while an item runs"):
        context.item_id  # noqa: B018


# --- async generators -----------------------------------------------------------------------------


def test_what_an_async_generator_yields_leaves_at_its_end(bench, drive):
    async def call(n):
        for k in range(n):
            await asyncio.sleep(0)
            yield n, k

    bench.feed([3, 0, 2])
    drive(bench, AsyncYieldWorker, call).work()
    assert sorted(sent(bench)) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    found = bench.units()
    assert len(found) == 5
    assert bench.counters.processed == 3
    assert bench.counters.filtered == 1
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 2]


def test_names_of_yields_do_not_depend_on_the_order_in_which_inputs_end(make_bench, route, drive):
    found = []
    for backwards in (False, True):
        bench = make_bench(route(EDGE, key=lambda item: item[1]), route(8))

        async def call(n, backwards=backwards):
            for k in range(n):
                yield n, k
                await asyncio.sleep(0.002 * (n if backwards else 10 - n))

        bench.feed([4, 3, 2])
        drive(bench, AsyncYieldWorker, call).work()
        sent(bench)
        found.append((bench.units(EDGE), bench.units(8)))
    assert found[0] == found[1]


def test_a_generator_that_yields_very_many_leaves_in_parts_and_waits_for_room(
    make_bench, route, drive, monkeypatch
):
    bench = make_bench(route(EDGE))
    full = [True]
    monkeypatch.setattr("zflow.replica.asynchronous.STREAM_ITEMS", 4)
    monkeypatch.setattr(bench.core, "full", lambda: full[0] and bench.core.running > 0)
    yielded = []

    async def call(n):
        for k in range(n):
            yielded.append(k)
            yield k

    driver = drive(bench, AsyncYieldWorker, call, timeout_s=0.05)
    bench.feed([10])
    driver.until(lambda: len(sent(bench)) == 4)
    began_s = bench.clock.now_s()
    while bench.clock.now_s() < began_s + 0.1:  # longer than it may take: waiting costs no time
        driver.step(0.01)
    assert yielded == [0, 1, 2, 3]
    assert bench.nacks() == []
    full[0] = False
    driver.work()
    assert sent(bench) == list(range(10))
    assert sorted(unit[3] for unit in bench.units()) == sorted({u[3] for u in bench.units()})
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0]
    assert yields.STREAM_ITEMS == 1024


def test_a_generator_that_fails_late_is_told_when_what_has_left_is_settled(
    bench, drive, monkeypatch
):
    monkeypatch.setattr("zflow.replica.asynchronous.STREAM_ITEMS", 2)

    async def call(n):
        for k in range(3):
            yield k
        raise ValueError("three")

    bench.feed([0])
    drive(bench, AsyncYieldWorker, call).work()
    assert sent(bench) == [0, 1]
    assert bench.nacks() == []
    bench.links.settle()
    bench.turn()
    assert bench.nacks() == [(0, "error", "ValueError")]


def test_a_generator_that_fails_early_gives_nothing(make_bench, route, drive):
    bench = make_bench(route(EDGE, when=lambda x: 6 / x))
    closed = []

    async def call(n):
        try:
            yield 1
            if n == 1:
                raise ValueError("one")
            if n == 2:
                yield 0
        finally:
            closed.append(n)

    bench.feed([0, 1, 2, 3])
    drive(bench, AsyncYieldWorker, call).work()
    assert sent(bench) == [1, 1]
    assert sorted(bench.nacks()) == [(1, "error", "ValueError"), (2, "error", "ZeroDivisionError")]
    assert sorted(closed) == [0, 1, 2, 3]


# --- threads and futures --------------------------------------------------------------------------


def test_plain_functions_run_at_once_in_threads(bench, drive):
    met = threading.Barrier(5)

    def call(x):
        met.wait(LONGEST_S)  # five of them are here, or it breaks
        return x * 10, threading.current_thread() is threading.main_thread()

    bench.feed([1, 2, 3, 4, 5])
    drive(bench, ThreadWorker, call, concurrency=5).work()
    assert sorted(sent(bench)) == [(x * 10, False) for x in range(1, 6)]


def test_a_thread_that_fails_fails_its_item(bench, drive):
    def call(x):
        if x == 2:
            raise KeyError("two")
        return x

    bench.feed([1, 2, 3])
    drive(bench, ThreadWorker, call).work()
    assert sorted(sent(bench)) == [1, 3]
    assert bench.nacks() == [(1, "error", "KeyError")]


def test_a_future_counts_as_in_hand_until_it_is_done(bench, drive):
    futures = {}

    def call(x):
        futures[x] = Future()
        return futures[x]

    driver = drive(bench, ThreadWorker, call, concurrency=3)
    bench.feed([0, 1, 2, 3])
    driver.until(lambda: len(futures) == 3)
    driver.step()
    assert bench.core.running == 3
    assert len(futures) == 3
    futures[1].set_exception(OSError("gone"))
    futures[2].cancel()
    futures[0].set_result("zero")
    driver.until(lambda: len(futures) == 4)
    futures[3].set_result("three")
    driver.work()
    assert sorted(sent(bench)) == ["three", "zero"]
    assert sorted(bench.nacks()) == [(1, "error", "OSError"), (2, "error", "CancelledError")]


# --- the end --------------------------------------------------------------------------------------


def test_what_is_in_hand_at_the_end_is_cancelled(bench, drive):
    ended = []

    async def call(x):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(x)

    driver = drive(bench, AsyncWorker, call)
    bench.feed([0, 1])
    driver.step()
    driver.step(0.001)
    assert not driver.worker.settled()
    driver.close()
    assert sorted(ended) == [0, 1]
    assert bench.nacks() == []
    assert bench.acked() == []


def test_an_async_open_is_awaited_on_the_loop_of_the_items(bench, drive):
    loops = []

    async def opener():
        await asyncio.sleep(0.001)
        loops.append(asyncio.get_running_loop())

    async def call(x):
        loops.append(asyncio.get_running_loop())

    driver = drive(bench, AsyncWorker, call)
    driver.waiter.wake()  # what wakes the thread does not end it
    driver.worker.complete(opener())
    bench.feed([1])
    driver.work()
    assert loops[0] is loops[1]


# --- the books ------------------------------------------------------------------------------------


def test_time_is_busy_with_no_room_left_and_starved_with_room(bench, drive):
    gates = [asyncio.Event(), asyncio.Event()]

    async def call(x):
        await gates[x].wait()

    driver = drive(bench, AsyncWorker, call, concurrency=2)
    time = bench.counters.time
    time.begin()

    def spent(state):
        """How much of the time that a step waits is called so."""
        before = time.row()[:]
        time.enter(driver.worker.idles_as())
        driver.step(0.03)
        time.leave()
        after = time.row()[:]
        return after[state] - before[state]

    bench.feed([0])
    driver.step(0.001)
    assert spent(STARVED) >= 25_000_000
    bench.feed([1])
    driver.step(0.001)
    assert not driver.worker.has_room()
    assert spent(BUSY) >= 25_000_000
    for gate in gates:
        gate.set()
    driver.work()
    assert driver.worker.has_room()


def test_threads_add_to_one_counter_and_lose_nothing(bench, drive):
    counters = UserCounters(bench.black_box)

    def call(x):
        for _ in range(200):
            counters.counter("seen", {}).add()

    driver = drive(bench, ThreadWorker, call, concurrency=10)
    bench.feed(list(range(20)))
    driver.work()
    assert bench.counted()['user:["seen",{}]'] == 4000

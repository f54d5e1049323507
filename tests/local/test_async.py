"""Stages with several items at once, in real processes: what they give, whatever dies."""

import os
import signal
from collections import Counter
from contextlib import suppress

import pytest

pytestmark = pytest.mark.slow

START_S = 20.0

FLOW = """
    import asyncio, os, threading, time
    from concurrent.futures import ThreadPoolExecutor

    def note(name, item):
        with open(name, "a") as file:
            file.write(f"{item}\\n")

    @source
    def read(n: int = 2000):
        yield from range(n)
"""


def run(shop, stages: str, *arguments, code=0):
    """A run of `read` through what these lines declare and connect."""
    return shop.run(FLOW + stages, *arguments, code=code)


def test_results_are_complete_after_kills_of_the_async_stage(shop, wait_until):
    shop.write(
        FLOW
        + """
    @stage(concurrency=50)
    async def wait(x):
        await asyncio.sleep(0.01 + x % 7 / 1000)
        if x % 500 == 3 and not os.path.exists(f"seen{x}"):
            open(f"seen{x}", "w").close()
            raise ValueError(x)
        return x

    @stage
    async def several(x):
        for k in range(3):
            await asyncio.sleep(0)
            yield x, k

    @sink
    class Keep:
        def upsert(self, items, ids):
            with open("kept", "a") as file:
                for item, name in zip(items, ids):
                    file.write(f"{name} {item[0]} {item[1]}\\n")

    flow = Topology("killed")
    flow.connect(read, wait, several, Keep)
    """
    )
    running = shop.start("run", "flow.py", "--json", "-p", "read.n=3000")
    for kept in (1, 4000):
        wait_until(lambda kept=kept: len(shop.read("kept")) >= kept, START_S)
        for stage in ("wait", "several"):
            for pid in running.replicas(stage):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    done = running.end()
    assert done.code == 0, done.err
    by_name = {}
    for line in shop.read("kept"):
        name, *item = line.split()
        assert by_name.setdefault(name, item) == item, "one name is one item, whoever was killed"
    assert Counter(map(tuple, by_name.values())) == Counter(
        (str(x), str(k)) for x in range(3000) for k in range(3)
    )
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    assert all(row["open"] == 0 for row in ledger.values())


def test_awaits_at_once_are_as_many_as_asked_for(shop):
    run(
        shop,
        """
    class Meeting:
        here = 0
        all_here = None

    @stage(concurrency=2000, timeout_s=30)
    class Meet:
        async def open(self):
            self.here, self.all_here = 0, asyncio.Event()

        async def process(self, x):
            self.here += 1
            if self.here == 2000:  # of 2000: with fewer at once, all of them time out
                self.all_here.set()
            await self.all_here.wait()
            return x, self.context.item_id

        async def close(self):
            await asyncio.sleep(0)
            note("closed", "yes")

    @sink
    async def keep(item):
        await asyncio.sleep(0)
        note("kept", item)

    flow = Topology("meeting")
    flow.connect(read, Meet, keep)
    """,
    )
    kept = shop.read("kept")
    assert len(kept) == len(set(kept)) == 2000
    assert len({line.split("'")[1] for line in kept}) == 2000
    assert shop.read("closed") == ["yes"]


def test_a_paced_stage_is_nearly_as_fast_as_its_concurrency_allows(shop):
    run(
        shop,
        """
    @stage(concurrency=200)
    async def wait(x):
        await asyncio.sleep(0.05)
        return x

    @sink
    class Arrive:
        def open(self):
            self.at_s = []

        def write(self, items):
            self.at_s += [time.monotonic()] * len(items)

        def close(self):
            low, high = len(self.at_s) // 10, len(self.at_s) * 9 // 10
            note("rate", (high - low) / (self.at_s[high] - self.at_s[low]))

    flow = Topology("paced")
    flow.connect(read, wait, Arrive)
    """,
        "-p",
        "read.n=6000",
    )
    (rate_per_s,) = shop.read("rate")
    # 4,000 is ideal, and 95 % of it what a quiet machine gives; one at a time would give 20.
    assert float(rate_per_s) > 1000


def test_an_item_that_takes_too_long_is_cancelled_and_its_process_lives(shop):
    done = run(
        shop,
        """
    @stage(timeout_s=0.3, retries=1, backoff_s=0.01)
    async def wait(x):
        note("calls", x)
        await asyncio.sleep(3600 if x == 7 else 0.8 if x == 8 and not shorter() else 0)
        note("pids", os.getpid())
        return x

    def shorter():
        done = os.path.exists("once")
        open("once", "w").close()
        return done

    @sink
    def keep(x):
        note("kept", x)

    flow = Topology("late")
    flow.connect(read, wait, keep)
    """,
        "--json",
        "-p",
        "read.n=20",
    )
    assert sorted(map(int, shop.read("kept"))) == [x for x in range(20) if x != 7]
    assert shop.read("calls").count("7") == 2
    assert shop.read("calls").count("8") == 2
    assert len(set(shop.read("pids"))) == 1, "nobody was killed"
    shown = shop.zflow("dead", "show", "read-0:1")
    assert "TimeoutError: the item took longer than timeout_s=0.3" in shown.out
    assert done.data["items"] == 20


def test_a_loop_that_is_blocked_is_killed_and_only_the_guilty_is_given_up(shop):
    run(
        shop,
        """
    @stage(timeout_s=1, max_crashes=1)
    async def wait(x):
        if x == 7:
            time.sleep(3600)
        await asyncio.sleep(0.01)
        return x

    @sink
    def keep(x):
        note("kept", x)

    flow = Topology("blocked")
    flow.connect(read, wait, keep)
    """,
        "-p",
        "read.n=20",
    )
    assert sorted(set(map(int, shop.read("kept")))) == [x for x in range(20) if x != 7]
    assert "stuck: it ran for" in shop.zflow("dead", "show", "read-0:1").out


def test_threads_and_futures_work_at_once_and_a_stuck_thread_ends_its_process(shop):
    run(
        shop,
        """
    @stage(concurrency=8, timeout_s=1, max_crashes=1)
    class Meet:
        def open(self):
            self.met = threading.Barrier(8)

        def process(self, x):
            if x < 8:
                self.met.wait(20)  # eight of them at once, or it breaks
            elif x == 40:
                time.sleep(3600)
            return x, self.context.item_id

    pool = None

    @stage(concurrency=16)
    def later(item):
        global pool
        pool = pool or ThreadPoolExecutor(4)
        return pool.submit(lambda: item)

    @sink(concurrency=4)
    def keep(item):
        note("kept", item)

    flow = Topology("threads")
    flow.connect(read, Meet, later, keep)
    """,
        "-p",
        "read.n=50",
    )
    kept = {int(line.split(",")[0][1:]) for line in shop.read("kept")}
    assert kept == set(range(50)) - {40}
    assert len({line.split("'")[1] for line in shop.read("kept")}) == 49


def test_a_process_that_makes_room_finishes_what_it_has_in_hand(shop, wait_until):
    shop.write(
        FLOW
        + """
    @stage(concurrency=20)
    async def wait(x):
        note("begun", x)
        await asyncio.sleep(0.05)
        return x

    @sink
    def keep(x):
        note("kept", x)

    flow = Topology("rolling")
    flow.connect(read, wait, keep)
    """
    )
    running = shop.start("run", "flow.py", "-p", "read.n=800")
    wait_until(lambda: len(shop.read("kept")) > 100, START_S)
    said = shop.zflow("restart", "wait", "--rolling")
    assert said.out == "restarted: wait/0\n", said.err
    done = running.end()
    assert done.code == 0, done.err
    assert "died" not in done.err
    assert sorted(map(int, shop.read("begun"))) == list(range(800)), "none of them ran twice"
    assert sorted(map(int, shop.read("kept"))) == list(range(800))

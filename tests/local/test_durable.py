"""Durable stages as a user meets them: state that survives, results that are exact."""

import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing, suppress

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

COUNT = """
    import time
    from zflow import DurableStage
    from zflow.connectors.sqlite import SqliteTable

    @source
    def numbers(n: int = 20_000, pause_s: float = 0.0):
        for k in range(n):
            if pause_s and k % 100 == 0:
                time.sleep(pause_s)
            yield k

    @stage
    def digits(k):
        yield from str(k)

    @stage(replicas=2)
    class Count(DurableStage):
        def process(self, digit):
            self.state[digit] = self.state.get(digit, 0) + 1
            if self.state[digit] % 1000 == 0:
                yield digit, self.state[digit], "now"

        def finish(self):
            for digit, n in self.state.items():
                yield digit, n, "total"

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("digit", "n", "kind"))

    flow = Topology("count", delivery="exactly_once")
    flow.connect(numbers, digits)
    flow.connect(digits, Count, key=str)
    flow.connect(Count, Keep)
"""


def expected(n: int = 20_000) -> Counter:
    counts = Counter(digit for k in range(n) for digit in str(k))
    rows = Counter((digit, count, "total") for digit, count in counts.items())
    for digit, count in counts.items():
        rows.update((digit, now, "now") for now in range(1000, count + 1, 1000))
    return rows


def kept(shop) -> Counter:
    """What the sink holds; a row that was stored twice counts twice."""
    db = sqlite3.connect(shop.folder / "kept.db")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone():
            return Counter()  # its table is made with its first rows
        return Counter(db.execute("SELECT digit, n, kind FROM kept"))
    finally:
        db.close()


def committed(shop) -> bool:
    """Some partition has committed something."""
    folder = shop.folder / ".zflow" / "count"
    return any(path.stat().st_size > 0 for path in folder.glob("*/partitions/Count/*.sqlite-wal"))


def kill(pids) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_results_are_exact_without_any_fault(shop):
    shop.run(COUNT)
    assert kept(shop) == expected()


def test_results_are_exact_after_kills_of_every_stage(shop, wait_until):
    shop.write(COUNT)
    running = shop.start("run", "flow.py", "-p", "numbers.pause_s=0.01")
    wait_until(lambda: committed(shop), within_s=30)
    for stage in ("Count", "digits", "Keep", "numbers", "Count"):
        victims = running.replicas(stage)
        kill(victims)
        wait_until(
            lambda victims=victims, stage=stage: set(running.replicas(stage)) - set(victims),
            within_s=30,
        )
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_results_are_exact_after_everything_was_killed_at_once_and_resumed(shop, wait_until):
    shop.write(COUNT)
    for attempt in range(3):
        more = ["--resume", "last"] if attempt else ["-p", "numbers.pause_s=0.01"]
        running = shop.start("run", "flow.py", *more)
        wait_until(lambda: committed(shop), within_s=30)
        kill([running.process.pid, *running.replicas()])
        running.end()
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_a_drain_keeps_the_state_and_never_finishes_and_a_resume_goes_on(shop, wait_until):
    shop.write(COUNT)
    running = shop.start("run", "flow.py", "-p", "numbers.pause_s=0.05")
    wait_until(lambda: committed(shop), within_s=30)
    running.interrupt()
    done = running.end()
    assert done.code == 130, done.err
    assert all(kind == "now" for _, _, kind in kept(shop))
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_the_order_of_a_key_is_kept_across_crashes(shop, wait_until):
    shop.write("""
        import time
        from zflow import DurableStage

        @source
        def numbers(n: int = 3000):
            for k in range(n):
                if k % 50 == 0:
                    time.sleep(0.02)
                yield k % 7, k

        @stage(replicas=2)
        class Order(DurableStage):
            def process(self, item):
                key, k = item
                before = self.state.get(key, -1)
                self.state[key] = k
                if k != (before + 7 if before >= 0 else key):
                    return ["jump", key, before, k]

            def finish(self):
                yield from (["end", *pair] for pair in self.state.items())

        @sink
        def show(item):
            print(item)

        flow = Topology("order")
        flow.connect(numbers, Order, key=lambda item: item[0])
        flow.connect(Order, show)
    """)
    running = shop.start("run", "flow.py")
    for _ in range(3):
        wait_until(lambda: len(running.replicas("Order")) == 2, within_s=30)
        victims = running.replicas("Order")
        kill(victims)
        wait_until(
            lambda victims=victims: set(running.replicas("Order")) - set(victims), within_s=30
        )
        kill(running.replicas("numbers"))
    done = running.end()
    assert done.code == 0, done.err
    ends = [f"['end', {key}, {2996 + key if key < 4 else 2989 + key}]" for key in range(7)]
    assert done.lines == sorted(ends)


def test_a_different_number_of_partitions_owners_goes_on_with_the_same_state(shop, wait_until):
    shop.write(COUNT)
    running = shop.start("run", "flow.py", "-p", "numbers.pause_s=0.05", "-r", "Count=3")
    wait_until(lambda: committed(shop), within_s=30)
    running.interrupt()
    assert running.end().code == 130
    record = next((shop.folder / ".zflow" / "count").glob("*/run.json"))
    told = json.loads(record.read_text())
    told["replicas"] = ["Count=1"]  # as a rescale between two runs would
    record.write_text(json.dumps(told))
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_durable_stages_finish_one_after_the_other(shop):
    done = shop.run("""
        from zflow import DurableStage

        @source
        def numbers(n: int = 1000):
            yield from range(n)

        @stage(replicas=2)
        class First(DurableStage):
            def process(self, k):
                self.state[k % 50] = self.state.get(k % 50, 0) + 1

            def finish(self):
                yield from self.state.items()

        @stage
        class Second(DurableStage):
            def process(self, pair):
                self.state["keys"] = self.state.get("keys", 0) + 1
                self.state["sum"] = self.state.get("sum", 0) + pair[1]

            def finish(self):
                return self.state.get("keys"), self.state.get("sum")

        @sink
        def show(x):
            print(x)

        flow = Topology("line")
        flow.connect(numbers, First, key=lambda k: k % 50)
        flow.connect(First, Second, show)
    """)
    assert done.lines == ["(50, 1000)"]


LOSSY = """
    from zflow import DurableStage
    from zflow.connectors.sqlite import SqliteTable

    @source
    def numbers(n: int = 5000):
        yield from range(n)

    @stage(replicas=2)
    def same(k):
        return k

    @stage(replicas=2)
    class Count(DurableStage):
        def process(self, k):
            self.state[k % 10] = self.state.get(k % 10, 0) + 1

        def finish(self):
            yield from self.state.items()

    @sink
    class Keep(SqliteTable):
        def __init__(self):
            super().__init__("kept.db", table="kept", columns=("digit", "n"))

    @stage
    def row(k):
        return (k,)

    @sink
    class All(SqliteTable):
        def __init__(self):
            super().__init__("all.db", table="everything", columns=("k",))

    flow = Topology("lossy")
    flow.connect(numbers, same, delivery="at_most_once")
    flow.connect(same, Count, key=lambda k: k % 10)
    flow.connect(Count, Keep)
    flow.connect(same, row)
    flow.connect(row, All)
"""


def test_what_comes_over_edges_that_may_lose_it_is_not_remembered(shop):
    shop.run(LOSSY)
    with closing(sqlite3.connect(shop.folder / "kept.db")) as db:
        assert dict(db.execute("SELECT digit, n FROM kept")) == dict.fromkeys(range(10), 500)
    files = list(shop.folder.glob(".zflow/lossy/*/partitions/Count/*.sqlite"))
    assert files
    for path in files:
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    with closing(sqlite3.connect(shop.folder / "all.db")) as db:
        assert db.execute("SELECT count(*) FROM everything").fetchone() == (5000,)
        assert db.execute("SELECT count(*) FROM zflow_progress").fetchone() == (0,)

"""Timers of durable stages in whole runs: each fires once, whoever dies before or after."""

import json
import os
import signal
import sqlite3
from contextlib import suppress

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

KEYS = 20

REMINDERS = """
    import os, time
    from zflow import DurableStage
    from zflow.connectors.sqlite import SqliteTable

    @source
    def keys():
        yield from range(20)
        while not os.path.exists("stop"):
            time.sleep(0.02)

    @stage(replicas=2)
    class Remind(DurableStage):
        def __init__(self, wait_s: float = 1.0):
            self.wait_s = wait_s

        def process(self, key):
            due_s = self.timers[key] = time.time() + self.wait_s
            if key % 2:
                self.timers["not this one", key] = due_s
                del self.timers["not this one", key]

        def on_timer(self, key):
            self.state[key] = self.state.get(key, 0) + 1
            yield key, self.state[key]
            if self.state[key] == 1:
                self.timers[key] = 0  # once more, at once

        def finish(self):
            yield len(self.timers), -1

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("key", "n"))

    flow = Topology("reminders", delivery="exactly_once")
    flow.connect(keys, Remind, key=int)
    flow.connect(Remind, Keep)
"""

ALL = sorted((key, n) for key in range(KEYS) for n in (1, 2))


def kept(shop) -> list[tuple]:
    db = sqlite3.connect(shop.folder / "kept.db")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone():
            return []
        return sorted(db.execute("SELECT key, n FROM kept WHERE n > 0"))
    finally:
        db.close()


def kill(pids) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end(shop, running) -> None:
    (shop.folder / "stop").touch()
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == ALL


def committed(shop) -> int:
    folder = shop.folder / ".zflow" / "reminders"
    files = folder.glob("*/partitions/Remind/*.sqlite-wal")
    return sum(path.stat().st_size > 0 for path in files)


def test_timers_fire_once_although_nothing_arrives_any_more(shop, wait_until):
    shop.write(REMINDERS)
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(kept(shop)) == len(ALL), 30)
    end(shop, running)


def test_timers_fire_once_although_their_stage_is_killed_before_and_meanwhile(shop, wait_until):
    shop.write(REMINDERS)
    running = shop.start("run", "flow.py", "-p", "Remind.wait_s=3")
    wait_until(lambda: committed(shop) > 5, 30)
    kill(running.replicas("Remind"))
    wait_until(lambda: kept(shop), 30)
    kill(running.replicas("Remind"))
    wait_until(lambda: len(kept(shop)) == len(ALL), 30)
    end(shop, running)


def test_a_drain_keeps_timers_and_a_resume_fires_them(shop, wait_until):
    shop.write(REMINDERS)
    running = shop.start("run", "flow.py", "-p", "Remind.wait_s=6")
    wait_until(lambda: committed(shop) > 5, 30)
    running.interrupt()
    assert running.end().code == 130
    assert kept(shop) == []
    running = shop.start("run", "flow.py", "--resume", "last")
    wait_until(lambda: len(kept(shop)) == len(ALL), 30)
    end(shop, running)


FAILING = """
    import os, time
    from zflow import DurableStage

    @source
    def keys():
        yield from range(3)
        while not os.path.exists("stop"):
            time.sleep(0.02)

    @stage(retries=2, backoff_s=0.01, on_error="dead_letter")
    class Remind(DurableStage):
        def process(self, key):
            self.timers[key] = 0

        def on_timer(self, key):
            self.tries = getattr(self, "tries", 0) + 1
            if key == 1:
                raise ValueError("not this time")
            if key == 2 and self.tries < 6:
                raise ValueError("later")
            return key, self.tries

    @sink
    def show(row):
        with open("out", "a") as file:
            print(*row, file=file)

    flow = Topology("failing")
    flow.connect(keys, Remind)
    flow.connect(Remind, show)
"""


def test_a_timer_that_fails_is_tried_again_and_then_a_dead_letter(shop, wait_until):
    shop.write(FAILING)
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(shop.read("out")) == 2, 30)
    (shop.folder / "stop").touch()
    done = running.end()
    assert done.code == 0, done.err
    assert shop.read("out") == ["0 1", "2 6"]
    (letter,) = map(json.loads, shop.zflow("dead", "ls", "--json").out.splitlines())
    shown = shop.zflow("dead", "show", letter["id"]).out
    assert "not this time" in shown
    assert "'timer': 1" in shown


def test_a_timer_that_fails_ends_the_run_where_that_is_declared(shop):
    done = shop.run(FAILING.replace('"dead_letter"', '"fail"'), code=1)
    assert "not this time" in done.err


IDLE = """
    import os, time
    from zflow import tumbling, window

    @source
    def events():
        yield "a", 5
        yield "b", 25
        while not os.path.exists("stop"):
            time.sleep(0.02)

    @window(tumbling(10), time=lambda event: event[1], idle_s=0.5)
    def counted(key, window, events):
        return key, window.start, len(events)

    @sink
    def show(row):
        with open("out", "a") as file:
            print(*row, file=file)

    flow = Topology("idle")
    flow.connect(events, counted, key=lambda event: event[0])
    flow.connect(counted, show)
"""


def test_windows_of_a_partition_that_fell_silent_fire_after_a_while(shop, wait_until):
    shop.write(IDLE)
    running = shop.start("run", "flow.py")
    wait_until(lambda: shop.read("out") == ["a 0 1"], 30)
    (shop.folder / "stop").touch()
    done = running.end()
    assert done.code == 0, done.err
    assert shop.read("out") == ["a 0 1", "b 20 1"]


HANGING = """
    import os, time
    from pathlib import Path
    from zflow import DurableStage

    @source
    def one():
        yield 1
        while not os.path.exists("fired"):
            time.sleep(0.02)

    def once(name):
        if not os.path.exists(name):
            Path(name).touch()
            time.sleep(3600)

    @stage(timeout_s=1)
    class Hang(DurableStage):
        def process(self, item):
            self.timers[item] = 0

        def on_timer(self, key):
            once("hung")
            Path("fired").touch()
            yield "timer"

        def finish(self):
            once("hung at the end")
            yield "end"

    @sink
    def keep(item):
        with open("kept", "a") as file:
            file.write(f"{item}\\n")

    flow = Topology("hanging")
    flow.connect(one, Hang, key=int)
    flow.connect(Hang, keep)
"""


def test_a_timer_or_a_finish_that_hangs_is_killed_after_timeout_s_and_tried_again(shop):
    done = shop.run(HANGING)
    assert shop.read("kept") == ["end", "timer"]
    assert done.err.count("stuck: it ran for") == 2, done.err

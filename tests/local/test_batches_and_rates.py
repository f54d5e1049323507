"""Batches, rates, deadlines and breakers in real processes: exact, whoever dies, and on time."""

import json
import os
import signal
import socket
import sqlite3
from contextlib import closing, suppress

import pytest

pytestmark = pytest.mark.slow

WITHIN_S = 30.0

# Batches that wait for their timeout would end no run within the time that a test has.
BATCHES = """
    import os, time
    from pathlib import Path
    from zflow.connectors.sqlite import SqliteTable

    @source
    def read(n: int = 400):
        for k in range(n):
            time.sleep(0.004)
            yield k

    @stage(replicas=2, batch=8, batch_timeout_s=600, max_crashes=100)
    def together(items: list) -> list:
        with open("sizes", "a") as file:
            file.write(f"{len(items)}\\n")
        if 7 in items and not Path("failed").exists():
            if len(items) == 1:
                Path("failed").touch()
            raise ValueError("seven fails once")
        time.sleep(0.02)
        return [(k, "even") if k % 2 == 0 else None for k in items]

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("k", "what"))

    flow = Topology("batches", delivery="exactly_once")
    flow.connect(read, together, Keep)
"""


def kept(shop):
    path = shop.folder / "kept.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return sorted(k for (k,) in database.execute("SELECT k FROM kept"))
        except sqlite3.OperationalError:  # the table is being made
            return []


def test_batches_are_exact_although_their_replicas_are_killed(shop, wait_until):
    shop.write(BATCHES)
    running = shop.start("run", "flow.py", "--json")
    for least in (20, 60):
        wait_until(lambda least=least: len(kept(shop)) > least, WITHIN_S)
        with suppress(ProcessLookupError):
            os.kill(running.replicas("together")[0], signal.SIGKILL)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == list(range(0, 400, 2))
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    assert all(row["open"] == row["dead_lettered"] == 0 for row in ledger.values())
    assert ledger["read->together"]["processed"] == 400
    assert "8" in shop.read("sizes")


def test_a_drain_waits_for_no_batch_to_be_full(shop, wait_until):
    shop.write(BATCHES.replace("time.sleep(0.004)", "time.sleep(0.02)"))
    running = shop.start("run", "flow.py", "--json")
    wait_until(lambda: len(kept(shop)) > 8, WITHIN_S)
    running.interrupt()
    done = running.end()
    assert done.code == 130, done.err
    (edge,) = [row for row in done.data["ledger"] if row["edge"] == "read->together"]
    assert edge["processed"] == edge["sent"] - sum(edge["replayed"].values()) < 400
    assert kept(shop) == list(range(0, edge["processed"], 2))


def test_an_item_of_a_batch_that_kills_its_process_is_found_alone(shop):
    done = shop.run(
        """
        import os

        @source
        def read():
            yield from range(40)

        @stage(batch=16, batch_timeout_s=600, max_crashes=1)
        class Together:
            def process(self, items):
                if 13 in items:
                    os._exit(1)
                return items

        @sink(batch=4)
        def keep(items):
            with open("log", "a") as file:
                file.write("".join(f"{k}\\n" for k in items))

        flow = Topology("poison")
        flow.connect(read, Together, keep)
        """,
        "--json",
    )
    assert {int(line) for line in shop.read("log")} == set(range(40)) - {13}
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    assert ledger["read->Together"]["dead_lettered"] == 1
    assert ledger["read->Together"]["processed"] == 39


def test_a_rate_is_that_of_all_replicas_together(shop):
    shop.run(
        """
        import time

        @source
        def read():
            yield from range(300)

        @sink(replicas=2, rate_limit_per_s=200)
        def charge(k):
            with open("log", "a") as file:
                file.write(f"{time.monotonic()} {k}\\n")

        flow = Topology("rate")
        flow.connect(read, charge)
        """
    )
    calls = sorted((float(at_s), int(k)) for at_s, k in map(str.split, shop.read("log")))
    assert sorted(k for _, k in calls) == list(range(300))
    rate_per_s = (len(calls) - 1) / (calls[-1][0] - calls[0][0])
    assert 40 <= rate_per_s <= 220


def test_a_dependency_that_is_down_is_waited_for_and_nothing_is_given_up(shop, wait_until):
    with socket.socket() as bank:
        bank.bind(("127.0.0.1", 0))  # and does not listen: whoever connects is refused
        shop.write(
            """
            import socket
            from zflow import Breaker

            @source
            def read():
                yield from range(40)

            @stage(breaker=Breaker(failures=3, reset_s=0.2), rate_limit_per_s=2000, retries=3)
            def charge(k, port: int = 0):
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                return k

            @sink
            def keep(k):
                with open("log", "a") as file:
                    file.write(f"{k}\\n")

            flow = Topology("bank")
            flow.connect(read, charge, keep)
            """
        )
        port = bank.getsockname()[1]
        running = shop.start("run", "flow.py", "--json", "-p", f"charge.port={port}")

        def alarms():
            said = shop.zflow("status", "--json")
            return json.loads(said.out)["alarms"] if said.code == 0 else []

        wait_until(lambda: any("charge/0: breaker" in one for one in alarms()), WITHIN_S)
        (alarm,) = alarms()
        assert "ConnectionRefusedError" in alarm
        assert shop.read("log") == []
        bank.listen(1000)
        done = running.end()
    assert done.code == 0, done.err
    assert sorted(map(int, shop.read("log"))) == list(range(40))
    assert all(row["open"] == row["dead_lettered"] == 0 for row in done.data["ledger"])


def test_what_is_too_old_is_dropped_or_buried_and_the_ledger_says_so(shop):
    done = shop.run(
        """
        import time

        @source
        def read():
            yield from range(20)

        @sink(deadline_s=2)
        def drops(k):
            time.sleep(2.2)

        @sink(deadline_s=2, on_deadline="dead_letter")
        def buries(k):
            time.sleep(2.2)

        flow = Topology("old")
        flow.connect(read, drops)
        flow.connect(read, buries)
        """,
        "--json",
    )
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    drops, buries = ledger["read->drops"], ledger["read->buries"]
    assert drops["dropped"]["expired"] >= 19
    assert drops["processed"] + drops["dropped"]["expired"] == 20
    assert buries["dead_lettered"] >= 19
    assert buries["processed"] + buries["dead_lettered"] == 20
    assert drops["open"] == buries["open"] == 0
    letters = shop.zflow("dead", "ls").out
    assert "DeadlineExceeded" in letters

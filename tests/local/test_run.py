"""`zflow run` end to end: what a topology gives, whatever its shape and whatever fails in it."""

import json
import re
from collections import Counter

import pytest

pytestmark = pytest.mark.slow

# Every shape at once, so that the processes are started once: `read` fans out to a line of two
# stages, to a diamond, by name and by `when=`; everything that arrives is appended to one file.
SHAPES = """
    import os

    def log(name, item):
        with open("log", "a") as file:
            file.write(f"{name} {item}\\n")

    @source
    def read(n: int = 20):
        yield from range(n)

    @stage
    def double(x):
        yield 2 * x
        if x % 5 == 0:
            yield emit("five", x)

    @stage
    def left(x):
        return x + 1000

    @stage
    def right(x):
        return x + 2000

    @sink
    def joined(x):
        log("joined", x)

    @sink
    def fives(x):
        log("fives", x)

    @sink
    def even(x):
        log("even", x)

    @sink
    def everything(x):
        log("everything", x)

    flow = Topology("shapes")
    flow.connect(read, double, left, joined)
    flow.connect(double, right, joined)
    flow.connect(double, fives, output="five")
    flow.connect(read, even, when=lambda x: x % 2 == 0)
    flow.connect(read, everything)
"""


def test_items_go_where_the_edges_say(shop):
    done = shop.run(SHAPES, "--json", "-r", "left=2")
    arrived = {}
    for line in shop.read("log"):
        name, item = line.split()
        arrived.setdefault(name, Counter())[int(item)] += 1
    # Fan-out: each consumer gets every item. Fan-in and diamond: what came on both ways is there.
    assert arrived["everything"] == Counter(range(20))
    assert arrived["joined"] == Counter(2 * x + add for x in range(20) for add in (1000, 2000))
    # A named output goes only to the edge of that name, `when=` only lets through what it likes.
    assert arrived["fives"] == Counter(range(0, 20, 5))
    assert arrived["even"] == Counter(range(0, 20, 2))
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    assert ledger["read->double"]["sent"] == ledger["read->double"]["processed"] == 20
    assert ledger["double->fives:five"]["processed"] == 4
    assert all(row["open"] == 0 for row in ledger.values())
    assert done.data["items"] == 20


def test_a_linear_run_prints_what_its_replicas_print_and_its_ledger_for_people(shop):
    done = shop.run(
        """
        @source
        def read():
            yield from "abc"

        @stage
        def upper(text):
            return text.upper()

        @sink
        def show(text):
            print(text)

        flow = Topology("line")
        flow.connect(read, upper, show)
        """
    )
    assert done.out == "A\nB\nC\n"
    assert re.search(r"^read->upper +3 +3 +0 +0 +0$", done.err, re.MULTILINE), done.err
    assert re.search(r"^3 items in \d\.\d s \(\d+/s\), latency p50 .+, p99 .+$", done.err, re.M)
    assert re.search(r"^run \d{8}-\d{6}-[0-9a-f]{4}: finished$", done.err, re.M)


def test_parameters_are_typed_and_replicas_counted_and_json_keeps_stdout_to_itself(shop):
    done = shop.run(
        """
        import os
        from pathlib import Path

        @source
        def read(count: int, folder: Path = Path("."), loud: bool = False):
            for _ in range(count):
                yield type(count).__name__, type(folder).__name__, loud

        @sink
        class Show:
            def __init__(self, prefix: str = "?"):
                self.prefix = prefix
            def write(self, items):
                for item in items:
                    print(self.prefix, *item)
            def close(self):
                print("closed by", os.getpid())

        flow = Topology("typed")
        flow.connect(read, Show)
        """,
        *("-p", "read.count=3", "-p", "read.loud=yes", "-p", "Show.prefix=!"),
        *("-r", "Show=2", "--json"),
    )
    assert done.data["exit_code"] == 0
    assert done.data["items"] == 3
    shown = done.err.splitlines()
    assert shown.count("! int PosixPath True") == 3
    assert len({line for line in shown if line.startswith("closed by")}) == 2


def test_a_class_stage_is_opened_once_and_closed_and_knows_its_item(shop):
    done = shop.run(
        """
        @source
        def read():
            yield from range(5)

        @stage(backoff_s=0.01)
        class Work:
            def open(self):
                self.log = open("log", "a")
                self.log.write("opened\\n")

            def process(self, x):
                here = self.context
                if x == 3 and here.attempt < 2:
                    raise ValueError("not yet")
                return x, here.attempt, here.stage, here.replica, here.edge, here.item_id

            def close(self):
                self.log.write("closed\\n")
                self.log.close()

        @sink
        def show(item):
            print(*item)

        flow = Topology("classes")
        flow.connect(read, Work, show)
        """
    )
    assert shop.read("log") == ["closed", "opened"]
    rows = [line.split() for line in done.lines]
    # Retried and then right: the third call of item 3 is attempt 2.
    assert [row[:2] for row in rows] == [["0", "0"], ["1", "0"], ["2", "0"], ["3", "2"], ["4", "0"]]
    assert {tuple(row[2:5]) for row in rows} == {("Work", "0", "read->Work")}
    assert len({row[5] for row in rows}) == 5


def test_a_sink_class_gets_lists_and_one_bad_item_harms_no_other(shop):
    shop.run(
        """
        @source
        def read():
            yield from range(50)

        @sink(retries=0)
        class Write:
            def write(self, items):
                if 13 in items:
                    raise ValueError("unlucky")
                with open("log", "a") as file:
                    file.writelines(f"{item}\\n" for item in items)

        flow = Topology("sinks")
        flow.connect(read, Write)
        """
    )
    assert sorted(map(int, shop.read("log"))) == [x for x in range(50) if x != 13]


def test_one_input_may_yield_a_hundred_thousand_outputs_in_bounded_memory(shop):
    done = shop.run(
        """
        import resource

        @source
        def read():
            yield 100_000

        @stage
        def many(n):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for k in range(n):
                yield k, "x" * 1000
            print("grew", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

        @sink
        class Count:
            seen = 0
            first = None
            def write(self, items):
                self.seen += len(items)
                Count.first = Count.first or items[0][0] == 0
            def close(self):
                print("seen", self.seen, self.first)

        flow = Topology("streams")
        flow.connect(read, many, Count)
        """
    )
    words = dict(line.split(maxsplit=1) for line in done.lines)
    assert words["seen"] == "100000 True"
    # All of it at once would be more than 100 MiB; ru_maxrss counts KiB.
    assert int(words["grew"]) < 64 * 1024


FAILS = """
    import sys

    @source
    def read():
        yield from range(10)

    @stage(retries=2, backoff_s=0.01, on_error="{on_error}")
    def parse(x):
        if x == 4:
            deeper(x)
        return x

    def deeper(x):
        raise KeyError(f"no {{x}}")

    @sink
    def show(x):
        print(x)

    flow = Topology("fails")
    flow.connect(read, parse, show)
"""


def test_what_fails_to_the_last_attempt_is_a_dead_letter_with_its_traceback(shop):
    done = shop.run(FAILS.format(on_error="dead_letter"))
    assert done.lines == [str(x) for x in range(10) if x != 4]
    assert re.search(r"^read->parse +12 +9 +1 +0 +2 nack$", done.err, re.MULTILINE), done.err
    hint = re.search(r"^1 dead letter: zflow (dead ls .*)$", done.err, re.MULTILINE)
    (row,) = shop.zflow(*hint[1].split(), "--json").out.splitlines()
    letter = json.loads(row)
    assert (letter["stage"], letter["edge"], letter["item"]) == ("parse", "read->parse", "4")
    assert (letter["error_class"], letter["attempts"]) == ("KeyError", 3)
    # The traceback begins at the user's own code and shows its lines.
    first, *rest = letter["error"].splitlines()
    assert first == "Traceback (most recent call last):"
    assert "flow.py" in rest[0]
    assert "deeper(x)" in letter["error"]
    assert rest[-1] == "KeyError: 'no 4'"


def test_dead_letters_make_the_exit_code_1_when_asked_for(shop):
    shop.run(FAILS.format(on_error="dead_letter"), "--fail-on-dead", code=1)


def test_on_error_drop_drops_and_counts(shop):
    done = shop.run(FAILS.format(on_error="drop"), "--json")
    ledger = {row["edge"]: row for row in done.data["ledger"]}
    assert ledger["read->parse"]["dropped"]["error"] == 1
    assert ledger["read->parse"]["open"] == 0
    assert done.data["dead_letters"] == 0


def test_on_error_fail_ends_the_run_with_1_and_the_traceback(shop):
    done = shop.run(FAILS.format(on_error="fail"), code=1)
    assert "parse failed on an item (on_error='fail')" in done.err
    assert "KeyError: 'no 4'" in done.err


def test_an_edge_at_most_once_is_settled_when_it_is_sent(shop):
    done = shop.run(
        """
        @source
        def read():
            yield from range(1000)

        @sink(retries=3, backoff_s=0.01)
        def show(x):
            if x == 500:
                raise ValueError("not again")

        flow = Topology("lossy")
        flow.connect(read, show, delivery="at_most_once")
        """,
        "--json",
    )
    (row,) = done.data["ledger"]
    assert row["sent"] == 1000
    assert row["processed"] + row["dropped"]["lost"] + row["dropped"]["error"] == 1000
    assert done.data["stages"]["show"]["errors"] == 1  # one call, whatever retries= says
    assert done.data["dead_letters"] == 0


def test_the_replicas_of_a_source_share_its_partitions(shop):
    done = shop.run(
        """
        @source(replicas=3)
        def read(partition, partitions):
            for x in range(30):
                if x % partitions == partition:
                    yield partition, x

        @sink
        def show(item):
            print(*item)

        flow = Topology("shares")
        flow.connect(read, show)
        """
    )
    assert done.lines == sorted(f"{x % 3} {x}" for x in range(30))


def test_what_cannot_be_pickled_is_a_dead_letter_and_harms_no_other(shop):
    done = shop.run(
        """
        import threading

        @source
        def read():
            yield from range(10)

        @stage(retries=1, backoff_s=0.01)
        def lock(x):
            return threading.Lock() if x == 4 else x

        @sink
        def show(x):
            print(x)

        flow = Topology("unpicklable")
        flow.connect(read, lock, show)
        """
    )
    assert done.lines == [str(x) for x in range(10) if x != 4]
    letter = json.loads(shop.zflow("dead", "ls", "--json").out)
    assert "cannot be pickled" in letter["error"]


def test_a_function_that_raises_stop_iteration_fails_like_any_other(shop):
    shop.run(
        """
        @source
        def read():
            yield from [[1], [], [2]]

        @stage(retries=0)
        def first(items):
            return next(iter(items))

        @sink
        def show(x): ...

        flow = Topology("ends")
        flow.connect(read, first, show)
        """
    )
    letter = json.loads(shop.zflow("dead", "ls", "--json").out)
    assert (letter["item"], letter["error_class"]) == ("[]", "RuntimeError")
    assert "the function raised StopIteration" in letter["error"]


@pytest.mark.parametrize("kind", ["numpy", "bytearray"])
def test_a_buffer_that_is_used_again_gives_distinct_items(shop, kind):
    make = "bytearray(20_000)"
    if kind == "numpy":
        pytest.importorskip("numpy")
        make = "__import__('numpy').zeros(20_000, dtype='u1')"
    done = shop.run(
        f"""
        @source
        def read():
            buffer = {make}
            for k in range(100):
                buffer[:] = bytes([k]) * 20_000 if {kind == "bytearray"} else k
                yield buffer

        used = {make}

        @stage
        def same(frame):
            used[:] = frame
            return used

        @stage
        def twice(frame):
            for _ in range(2):
                used[:] = frame
                yield used

        @sink
        def show(frame):
            assert frame[0] == frame[-1]
            print(int(frame[0]))

        flow = Topology("frames")
        flow.connect(read, same, twice, show)
        """
    )
    assert sorted(map(int, done.out.split())) == sorted([*range(100), *range(100)])


def test_classes_of_the_topology_file_travel_as_items(shop):
    done = shop.run(
        """
        from dataclasses import dataclass

        @dataclass
        class Order:
            number: int

        @source
        def read():
            yield Order(7)

        @stage
        def check(order):
            assert isinstance(order, Order)
            return order

        @sink
        def show(order: Order):
            print(order)

        flow = Topology("orders")
        flow.connect(read, check, show)
        """
    )
    assert done.out == "Order(number=7)\n"


def test_a_slow_source_whose_later_items_share_a_buffer_gives_distinct_items(shop):
    done = shop.run(
        """
        import time

        @source
        def read():
            yield "header"
            buffer = bytearray(1)
            for k in range(20):
                buffer[0] = k
                time.sleep(0.01)
                yield buffer

        @sink
        def show(item):
            if item != "header":
                print(item[0])

        flow = Topology("headed")
        flow.connect(read, show)
        """
    )
    assert sorted(map(int, done.out.split())) == list(range(20))

"""`zflow tap` on real runs: it consumes nothing, and holds nobody up, whatever becomes of it."""

import json
import os
import re
import signal

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

START_S = 60.0
LEASE_S = 30.0  # generously
LINE = re.compile(r"Order\(n=(\d+)\)")

FLOW = """
import time
from dataclasses import dataclass

@dataclass
class Order:
    n: int

@source
def numbers(n: int = 1_000_000_000, pause_s: float = 0.001):
    for one in range(n):
        yield one
        if pause_s:
            time.sleep(pause_s)

@stage(replicas=2)
def order(n: int):
    return Order(n)

@sink
def keep(item):
    with open("kept", "a") as file:
        file.write(f"{item.n}\\n")

flow = Topology("tapped")
flow.connect(numbers, order, keep)
"""


@pytest.fixture
def running(shop, wait_until):
    """The run goes on; it is drained at the end, and its books and its output must be right."""
    shop.write(FLOW)
    run = shop.start("run", "flow.py", "--json")
    wait_until(lambda: shop.read("kept"), START_S)
    yield run
    run.interrupt()
    done = run.end()
    assert done.code == 130, done.err
    kept = sorted({*map(int, shop.read("kept"))})
    assert kept == list(range(len(kept)))  # some twice, where somebody was killed


def mirrors(shop):
    return sorted(path.name for path in shop.runtime.glob("zf-*/s/*.tap"))


def grows(shop):
    before = len(shop.read("kept"))
    return lambda: len(shop.read("kept")) > before + 100


def test_items_are_shown_as_they_go_by(shop, running, wait_until):
    done = shop.zflow("tap", "numbers:order", "-n", 5)
    assert done.code == 0, done.err
    numbers = [int(line) for line in done.out.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    assert "5 items shown" in done.err
    where = "item.n % 7 == 0 or item[0]"
    done = shop.zflow("tap", "order->keep", "-n", 3, "--where", where, "--format", "json")
    assert done.code == 0, done.err
    shown = [json.loads(line) for line in done.out.splitlines()]
    assert [int(one[len("Order(n=") : -1]) % 7 for one in shown] == [0, 0, 0]
    assert "--where has raised TypeError: 'Order' object is not subscriptable" in done.err
    for arguments, why in {
        ("numbers:oder",): "numbers:oder: is no edge of this run; did you mean 'numbers:order'?",
        ("numbers:order", "--where", "item +"): "--where item +: is no Python expression",
    }.items():
        done = shop.zflow("tap", *arguments)
        assert done.code == 2
        assert why in done.err
    tap = shop.start("tap", "numbers:order", "--rate", 5)
    wait_until(lambda: len(tap.out.splitlines()) > 8, START_S)
    tap.interrupt()
    done = tap.end()
    assert done.code == 130
    assert "left out" in done.err.splitlines()[-1]


def test_who_taps_may_stop_or_die_and_so_may_the_tapped(shop, running, wait_until):
    tap = shop.start("tap", "numbers:order")
    wait_until(lambda: tap.out, START_S)
    assert mirrors(shop) == ["0-0.tap"]
    tap.process.send_signal(signal.SIGSTOP)
    wait_until(grows(shop), START_S)
    wait_until(lambda: mirrors(shop) == [], LEASE_S)  # nobody renews the lease
    tap.process.send_signal(signal.SIGCONT)
    wait_until(lambda: mirrors(shop) == ["0-0.tap"], LEASE_S)
    tap.process.kill()
    tap.process.wait()
    wait_until(grows(shop), START_S)
    tap = shop.start("tap", "order:keep")
    wait_until(lambda: tap.out, START_S)
    for pid in running.replicas("order"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "order/0 died" in running.err and "order/1 died" in running.err, START_S)
    newest = max(map(int, shop.read("kept")))
    wait_until(lambda: max(map(int, LINE.findall(tap.out))) > newest + 500, START_S)
    running.interrupt()
    done = tap.end()
    assert done.code == 0, done.err
    assert "items shown" in done.err


def test_a_tap_outlives_the_coordinator(shop, wait_until):
    shop.write(FLOW)
    bind = f"ipc://{shop.runtime}/c"
    lead = shop.start("coordinator", "flow.py", "--bind", bind)
    stages = [
        shop.start("stage", name, "--coordinator", bind) for name in ("numbers", "order", "keep")
    ]
    wait_until(lambda: shop.read("kept"), START_S)
    tap = shop.start("tap", "order:keep")
    wait_until(lambda: tap.out, START_S)
    lead.process.kill()
    lead.process.wait()
    wait_until(lambda: "going on with what comes" in tap.err, START_S)
    wait_until(lambda: mirrors(shop) == [], LEASE_S)  # the replicas end it without a word
    wait_until(grows(shop), START_S)
    lead = shop.start("coordinator", "flow.py", "--bind", bind, "--resume", "last")
    wait_until(lambda: len(mirrors(shop)) == 2, LEASE_S)
    shown = len(tap.out)
    wait_until(lambda: len(tap.out) > shown, START_S)
    lead.interrupt()
    assert [one.end().code for one in (lead, *stages)] == [130] * 4
    assert tap.end().code == 0

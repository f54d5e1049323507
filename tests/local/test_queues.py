"""What waits between real processes: the urgent overtakes, what is too much is dropped."""

import json

import pytest

pytestmark = pytest.mark.slow

URGENT_WITHIN_S = 1.0  # on any machine; the figure on a quiet one is in the README

# The low items are a backlog of several seconds in the outbox; high ones are made behind them.
OVERTAKING = """
    import json, time

    def spin(s):
        end = time.perf_counter() + s
        while time.perf_counter() < end:
            pass

    @source
    def orders(low: int = 100_000, high: int = 100):
        for k in range(low):
            yield "low", k, time.monotonic()
        for k in range(high):
            time.sleep(0.01)
            yield "high", k, time.monotonic()

    @stage
    def work(item):
        spin(30e-6)
        return item

    @sink
    class Waits:
        def open(self):
            self.waits = {"low": [], "high": []}

        def write(self, items):
            now = time.monotonic()
            for kind, k, made in items:
                self.waits[kind].append(now - made)

        def close(self):
            with open("waits", "w") as file:
                json.dump(self.waits, file)

    def urgency(item):
        return 0 if item[0] == "high" else 7

    flow = Topology("overtaking")
    flow.connect(orders, work, window=200_000, priority=URGENCY)
    flow.connect(work, Waits, priority=URGENCY)
"""


def waits(shop, urgency):
    """How long items of each kind took, sorted; p99 of the high ones is the last but one."""
    shop.run(OVERTAKING.replace("URGENCY", urgency), "--json", "--http", "off")
    found = json.loads((shop.folder / "waits").read_text())
    assert (len(found["low"]), len(found["high"])) == (100_000, 100), "each of them once"
    return {kind: sorted(some) for kind, some in found.items()}


def test_what_is_urgent_overtakes_a_backlog_of_100_000(shop):
    found = waits(shop, "urgency")
    assert found["high"][98] < URGENT_WITHIN_S
    assert found["low"][50_000] > found["high"][98], "they did wait"
    assert waits(shop, "None")["high"][50] > URGENT_WITHIN_S, "without priorities they wait behind"


PUSHED_AWAY = """
    import time

    @source
    def ticks(n: int = 3000):
        for k in range(n):
            time.sleep(0.0002)
            yield k

    @sink
    def slow(k):
        time.sleep(0.01)
        with open("seen", "a") as file:
            file.write(f"{k}\\n")

    flow = Topology("pushed")
    flow.connect(ticks, slow, on_full="POLICY", window=20)
"""


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_source_is_not_held_up_by_a_slow_sink_and_what_is_dropped_is_counted(shop, policy):
    done = shop.run(PUSHED_AWAY.replace("POLICY", policy), "--json", "--http", "off")
    (row,) = done.data["ledger"]
    seen = [int(line) for line in (shop.folder / "seen").read_text().splitlines()]
    assert seen == sorted(set(seen)), "what was not dropped came once, in order"
    assert row["sent"] == 3000 == row["processed"] + row["dropped"]["full"]
    assert row["processed"] == len(seen) < 3000
    assert (2999 in seen) == (policy == "drop_oldest"), "the newest is there, or the first ones are"
    assert done.data["seconds"] < 20, "the sink alone would need 30 s for all"

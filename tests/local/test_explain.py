"""`zflow explain` on runs whose answer is known. Stages sleep, so that no machine is too slow."""

import json

import pytest

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
ENDLESS = 10_000_000

CHAIN = """
    import time

    @source
    def numbers(pause_s: float = 0.0):
        for k in range({n}):
            time.sleep(pause_s)
            yield k

    @stage
    def work(k, pause_s: float = 0.0):
        time.sleep(pause_s)
        return k

    @sink
    def keep(k, pause_s: float = 0.0):
        time.sleep(pause_s)

    flow = Topology("chain")
    flow.connect(numbers, work, keep)
"""

SKEWED = """
    import time
    from zflow import DurableStage

    @source
    def numbers():
        for k in range({n}):
            yield k

    @stage(replicas=3)
    class Count(DurableStage):
        def process(self, k):
            time.sleep(0.002)
            self.state["n"] = self.state.get("n", 0) + 1

    flow = Topology("skewed")
    flow.connect(numbers, Count, key=lambda k: 7 if k % 10 else k)
"""

SPINNING = """
    import time

    @source
    def numbers():
        yield from range({n})

    @stage
    def spin(k):
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass
        return k

    @sink
    def keep(k): ...

    flow = Topology("spinning")
    flow.connect(numbers, spin, keep)
"""


def explained(shop, wait_until, source, kind, *arguments):
    """The verdict on this topology once it is of that kind; the first seconds may say others."""
    shop.write(source.format(n=ENDLESS))
    running = shop.start("run", "flow.py", *arguments)
    said = {}

    def settled():
        done = shop.zflow("explain", "--over", "1.5", "--json")
        if done.code != 0:  # not up yet
            assert running.process.poll() is None, running.err
            return False
        said.update(done.data)
        return said["kind"] == kind

    try:
        wait_until(settled, WITHIN_S)
    except AssertionError as error:
        raise AssertionError(f"the last verdict: {json.dumps(said, indent=1)}") from error
    finally:
        running.process.kill()
        running.process.wait()
    return said


def test_a_stage_that_sleeps_is_the_bottleneck_and_a_second_replica_doubles_it(shop, wait_until):
    said = explained(shop, wait_until, CHAIN, "stage", "-p", "work.pause_s=0.004")
    assert said["stage"] == "work"
    assert said["gain"]["factor"] > 1.5
    assert "numbers before it is blocked" in said["sentence"]
    assert "keep after it starves" in said["sentence"]
    assert said["command"] == "zflow scale work=2"


def test_a_stage_that_computes_is_the_bottleneck(shop, wait_until):
    said = explained(shop, wait_until, SPINNING, "stage")
    assert said["stage"] == "spin"


def test_a_sink_that_sleeps_is_a_slow_sink(shop, wait_until):
    said = explained(shop, wait_until, CHAIN, "sink", "-p", "keep.pause_s=0.004")
    assert said["stage"] == "keep"
    assert "work before it is blocked" in said["sentence"]


def test_a_source_that_sleeps_sets_the_pace(shop, wait_until):
    said = explained(shop, wait_until, CHAIN, "source", "-p", "numbers.pause_s=0.01")
    assert said["stage"] == "numbers"
    assert "everything behind it starves" in said["sentence"]


def test_a_replica_with_the_most_frequent_key_is_named(shop, wait_until):
    said = explained(shop, wait_until, SKEWED, "skew")
    assert said["stage"] == "Count"
    assert said["sentence"].startswith("Count/")
    assert said["command"].startswith("zflow move Count ")

"""`zflow explain` on runs whose answer is known. Stages sleep, so that no machine is too slow."""

import pytest

from zflow.clock import Clock
from zflow.net.control import ask
from zflow.paths import RunDirectory, run_directory_of
from zflow.planning.explain import explain
from zflow.planning.processors import processors_here
from zflow.wire.control import Look

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
OVER_S = 1.0
ENDLESS = 10_000_000

# Large items fill a window of 64 MiB at once.
CHAIN = """
    import time

    @source
    def numbers(pause_s: float = 0.0):
        for k in range({n}):
            time.sleep(pause_s)
            yield bytes(1 << 20)

    @stage
    def work(item, pause_s: float = 0.0):
        time.sleep(pause_s)
        return item

    @sink
    def keep(item, pause_s: float = 0.0):
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
            time.sleep(0.005)
            self.state["n"] = self.state.get("n", 0) + 1

    @sink
    def keep(k): ...

    flow = Topology("skewed")
    flow.connect(numbers, Count, key=lambda k: 7 if k % 100 else k)
    flow.connect(Count, keep)
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


def explained(shop, wait_until, source, kind, *words, parameters=()):
    """The verdict on this topology once it is of that kind and has these words in its sentence;
    while everything fills up it may say others."""
    shop.write(source.format(n=ENDLESS))
    running = shop.start("run", "flow.py", *(word for one in parameters for word in ("-p", one)))
    verdicts = []

    def says_so():
        assert running.process.poll() is None, running.err
        pictures = _pictures(shop)
        if pictures:
            verdicts.append(explain(*pictures, processors_here()))
        said = verdicts[-1] if verdicts else None
        return said and said.kind == kind and all(word in said.sentence for word in words)

    try:
        wait_until(says_so, WITHIN_S)
    except AssertionError as error:
        raise AssertionError(f"it said {verdicts[-3:]}") from error
    finally:
        running.process.kill()
        running.process.wait()
    return verdicts[-1]


def _pictures(shop):
    """Two looks at the one run of the shop; none before it answers."""
    for root in shop.folder.glob(".zflow/*/*"):
        place = RunDirectory(run_directory_of(root, shop.environment))
        first = ask(place.control, Look(), within_s=5.0)
        if first is not None and first.phase == "run":
            Clock().sleep(OVER_S)
            return first, ask(place.control, Look(), within_s=5.0)
    return None


def test_a_stage_that_sleeps_is_the_bottleneck_and_a_second_replica_doubles_it(shop, wait_until):
    words = ("numbers before it is blocked", "keep after it starves")
    slow = ["work.pause_s=0.02"]
    said = explained(shop, wait_until, CHAIN, "stage", *words, parameters=slow)
    assert said.stage == "work"
    assert said.gain.factor > 1.5
    assert said.command == "zflow scale work=2"


def test_a_stage_that_computes_is_the_bottleneck(shop, wait_until):
    said = explained(shop, wait_until, SPINNING, "stage")
    assert said.stage == "spin"


def test_a_sink_that_sleeps_is_a_slow_sink(shop, wait_until):
    words, slow = ["work before it is blocked"], ["keep.pause_s=0.02"]
    said = explained(shop, wait_until, CHAIN, "sink", *words, parameters=slow)
    assert said.stage == "keep"


def test_a_source_that_sleeps_sets_the_pace(shop, wait_until):
    words, slow = ["everything behind it starves"], ["numbers.pause_s=0.05"]
    said = explained(shop, wait_until, CHAIN, "source", *words, parameters=slow)
    assert said.stage == "numbers"


def test_a_replica_with_the_most_frequent_key_is_named(shop, wait_until):
    said = explained(shop, wait_until, SKEWED, "skew")
    assert said.stage == "Count"
    assert said.sentence.startswith("Count/")
    assert said.command.startswith("zflow move Count ")

"""A running run becomes another version of its topology, and no item is lost for it."""

import pytest

from tests.local.test_durable import kill

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WITHIN_S = 60.0
FLOW = """
    import time

    @source
    def numbers(n: int = 4000, pause_s: float = 0.002):
        for k in range(n):
            time.sleep(pause_s)
            yield k

    @stage(replicas=2)
    def mark(k: int):
        return f"{k} old"

    @sink
    def write(line: str):
        with open("seen", "a") as file:
            file.write(line + "\\n")

    flow = Topology("flow")
    flow.connect(numbers, mark)
    flow.connect(mark, write)
"""
NEW = FLOW.replace("old", "new")


@pytest.fixture
def begun(shop, wait_until):
    """The run goes on and has written something."""

    def begin(*options):
        shop.write(FLOW)
        running = shop.start("run", "flow.py", *options)
        wait_until(lambda: len(shop.read("seen")) > 20, WITHIN_S)
        return running

    return begin


def complete(shop, running):
    """It ended well, and every number is there, in the old or the new way, or in both."""
    done = running.end()
    assert done.code == 0, done.err
    seen = [line.split() for line in shop.read("seen")]
    assert {int(number) for number, _ in seen} == set(range(4000))
    return {version for _, version in seen}


def test_apply_replaces_what_has_changed_and_the_rest_keeps_running(shop, begun, wait_until):
    running = begun()
    before = {stage: set(running.replicas(stage)) for stage in ("numbers", "mark", "write")}
    shop.write(NEW, "next.py")
    told = shop.zflow("diff", "next.py")
    assert told.out == "mark would be replaced: its code has changed\n"
    done = shop.zflow("apply", "next.py")
    assert (done.code, done.out) == (0, "mark is replaced: its code has changed\n"), done.err
    after = {stage: set(running.replicas(stage)) for stage in ("numbers", "mark", "write")}
    assert (after["numbers"], after["write"]) == (before["numbers"], before["write"])
    assert not after["mark"] & before["mark"]
    assert shop.zflow("diff", "next.py").out == "nothing has changed\n"
    assert complete(shop, running) == {"old", "new"}


def test_a_replica_that_dies_later_has_the_new_code_too(shop, begun, wait_until):
    running = begun()
    shop.write(NEW, "next.py")
    assert shop.zflow("apply", "next.py").code == 0
    lines = len(shop.read("seen"))
    kill(running.replicas("mark"))
    wait_until(lambda: len(shop.read("seen")) > lines + 100, WITHIN_S)
    assert complete(shop, running) == {"old", "new"}


def test_a_version_with_other_stages_is_refused_and_the_run_goes_on(shop, begun):
    running = begun()
    shop.write(FLOW.replace("flow.connect(mark, write)", "flow.connect(numbers, write)"), "next.py")
    refused = shop.zflow("apply", "next.py")
    assert refused.code == 2
    assert "its items go nowhere" in refused.err
    shop.write(FLOW.replace('Topology("flow")', 'Topology("other")'), "next.py")
    refused = shop.zflow("apply", "next.py")
    assert refused.code == 2
    assert "the topology is called other, the run is of flow" in refused.err
    assert complete(shop, running) == {"old"}


def test_reload_applies_the_file_and_tells_of_one_that_cannot_be_read(shop, begun, wait_until):
    running = begun("--reload")
    shop.write(FLOW + "\ndef x(:")
    wait_until(lambda: "flow.py is not applied" in running.err, WITHIN_S)
    shop.write(NEW)
    wait_until(lambda: "reloaded: mark will be replaced" in running.err, WITHIN_S)
    assert complete(shop, running) == {"old", "new"}


def test_a_run_that_was_changed_is_resumed_as_what_it_became(shop, begun):
    running = begun()
    shop.write(NEW)
    assert shop.zflow("apply", "flow.py").code == 0
    assert shop.zflow("drain").code == 0
    assert running.end().code == 130
    complete(shop, shop.start("run", "flow.py", "--resume", "last"))

"""Orders to a running run while data flows: every total stays exact."""

import time

import pytest

from tests.local.flowing import FLOWING, expected, kept, stop, yielded
from zflow.errors import ExitCode
from zflow.net.control import ask
from zflow.wire.control import Look
from zflow.wire.picture import Picture

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WITHIN_S = 40.0
LOOKS_S = 1.5  # after so long every number has been looked at anew


@pytest.fixture
def begin(shop, wait_until):
    """`begin()` is a run whose sink has kept something."""

    def begin(*more):
        shop.write(FLOWING)
        running = shop.start("run", "flow.py", *more)
        wait_until(lambda: kept(shop.folder), WITHIN_S)
        return running

    return begin


def order(shop, *words):
    """Given and obeyed; what it says."""
    done = shop.zflow(*words)
    assert done.code == 0, done.err
    return done.out


def picture(shop):
    """What the coordinator says to whoever looks."""
    (endpoint,) = shop.runtime.glob("zf-*/s/control")
    found = ask(f"ipc://{endpoint}", Look(), within_s=WITHIN_S)
    assert isinstance(found, Picture)
    return found


def incarnations(shop, *stages):
    """The slots of some stages, with the incarnation of each."""
    slots = [slot for name in stages for slot in picture(shop).stage(name).slots]
    return {slot.slot: slot.replica.incarnation for slot in slots}


def finished(shop, running):
    """It comes to its end, and every row is there once."""
    stop(shop.folder)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop.folder) == expected(yielded(shop.folder))


def test_stages_with_and_without_state_grow_and_shrink_while_data_flows(shop, begin):
    running = begin()
    assert order(shop, "scale", "digits=3", "Count=4") == "digits: 3 replicas\nCount: 4 replicas\n"
    assert len(running.replicas("Count")) == 4
    assert order(shop, "scale", "digits=1", "Count=1") == "digits: 1 replica\nCount: 1 replica\n"
    assert [len(running.replicas(name)) for name in ("digits", "Count")] == [1, 1]
    assert order(shop, "scale", "Count=2", "--no-wait") == "Count: 2 replicas\n"
    finished(shop, running)


def test_processes_are_replaced_one_after_the_other_or_at_once(shop, begin):
    running = begin()
    before = incarnations(shop, "Count", "digits")
    said = order(shop, "restart", "Count", "digits", "--rolling")
    assert said == "restarted: Count/0, Count/1, digits/0\n"
    assert "restarted: Count/1" in order(shop, "restart", "Count/1", "numbers")
    after = incarnations(shop, "Count", "digits")
    assert {slot: after[slot] - before[slot] for slot in before} == {
        "Count/0": 1,
        "Count/1": 2,
        "digits/0": 1,
    }
    finished(shop, running)
    assert "died" not in running.err, "nobody has to hear of a process that made room"


def test_a_paused_run_settles_what_it_has_and_yields_nothing_more(shop, begin, wait_until):
    running = begin()
    order(shop, "pause")
    wait_until(lambda: is_still(shop), WITHIN_S)
    before = counters(shop)
    order(shop, "restart", "numbers")
    wait_until(lambda: is_still(shop), WITHIN_S)
    assert counters(shop)["next"] == before["next"], "the successor is paused too"
    order(shop, "resume")
    wait_until(lambda: counters(shop)["next"] > before["next"], WITHIN_S)
    finished(shop, running)


def counters(shop):
    """What the process of the source says of itself."""
    (replica,) = [slot.replica for slot in picture(shop).stage("numbers").slots]
    told = replica.counters if replica is not None else {}
    return {"next": -1, "low": -2} | told  # one that has only just begun says nothing yet


def is_still(shop):
    """The source runs, what it has yielded is settled, and it yields nothing."""
    first = picture(shop)
    before = counters(shop)
    if not (first.paused and 0 < before["next"] == before["low"]):
        return False
    while picture(shop).elapsed_s < first.elapsed_s + LOOKS_S:  # what is seen is not always new
        time.sleep(0.1)
    return counters(shop)["next"] == before["next"]


@pytest.mark.parametrize(
    ("words", "code", "outcome"),
    [
        (("drain",), ExitCode.INTERRUPTED, "everything that was begun is settled"),
        (("down",), ExitCode.INTERRUPTED, "everything that was begun is settled"),
        (("down", "--now"), ExitCode.FORCED, "stopped before everything was settled"),
    ],
)
def test_a_run_that_is_told_to_end_can_be_resumed(words, code, outcome, shop, begin):
    running = begin()
    assert order(shop, *words).endswith("has ended\n")
    done = running.end()
    assert done.code == code
    assert outcome in done.err
    stop(shop.folder)
    resumed = shop.zflow("run", "flow.py", "--resume", "last")
    assert resumed.code == 0, resumed.err
    assert kept(shop.folder) == expected(yielded(shop.folder))

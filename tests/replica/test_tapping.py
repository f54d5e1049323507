"""When a replica mirrors what it sends, and when it no longer does."""

import threading
from types import SimpleNamespace

import pytest

from zflow.ids import Slot
from zflow.net.sockets import Sockets
from zflow.paths import RunDirectory
from zflow.replica.tapping import Tapping

LEASE_S = 6.0


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    made.close_all()


@pytest.fixture
def replica(tmp_path, sockets):
    """The parts of `read/0` that a tap meets; `clock.at_s` is the time."""
    run = RunDirectory(tmp_path / "r")
    run.make()
    edges = [
        SimpleNamespace(label="read->parse", edge=1, source="read"),
        SimpleNamespace(label="parse->keep", edge=2, source="parse"),
    ]
    place = SimpleNamespace(
        stage=SimpleNamespace(name="read", number=0),
        config=SimpleNamespace(edges=edges),
        run=run,
        slot=Slot("read", 0),
        incarnation=1,
    )
    clock = SimpleNamespace(at_s=100.0)
    clock.now_s = lambda: clock.at_s
    links = SimpleNamespace(tap=None)
    tapping = Tapping(place, links, threading.Lock(), clock)
    socket = run.root / "s" / "0-0.tap"
    return SimpleNamespace(tapping=tapping, clock=clock, links=links, socket=socket, run=run)


def is_mirroring(replica):
    there = replica.socket.exists()
    assert (replica.links.tap is not None) == bool(replica.tapping.endpoint)
    return there and bool(replica.tapping.endpoint)


def test_nothing_is_there_while_nobody_looks(replica):
    replica.tapping.learn({})
    replica.tapping.turn()
    assert not is_mirroring(replica)
    assert not replica.socket.exists()


def test_an_edge_of_another_stage_opens_nothing(replica):
    replica.tapping.learn({"parse->keep": LEASE_S})
    assert not is_mirroring(replica)


def test_a_lease_opens_the_mirror_and_its_end_closes_it(replica, wait_until):
    replica.tapping.learn({"read->parse": LEASE_S})
    assert is_mirroring(replica)
    assert replica.tapping.endpoint == f"ipc://{replica.socket}"
    replica.tapping.learn({})
    assert not is_mirroring(replica)
    wait_until(lambda: not replica.socket.exists(), 10)


def test_a_coordinator_that_is_gone_ends_it_too(replica, wait_until):
    replica.tapping.learn({"read->parse": LEASE_S})
    replica.clock.at_s += LEASE_S - 0.1
    replica.tapping.turn()
    assert is_mirroring(replica)
    replica.clock.at_s += 0.2
    replica.tapping.turn()
    assert not is_mirroring(replica)
    wait_until(lambda: not replica.socket.exists(), 10)


def test_it_can_be_opened_again(replica):
    for _ in range(3):
        replica.tapping.learn({"read->parse": LEASE_S})
        assert is_mirroring(replica)
        replica.tapping.learn({})
        assert not is_mirroring(replica)


def test_a_mirror_that_cannot_be_opened_ends_nothing_but_itself(replica, caplog):
    (replica.run.root / "s").rmdir()
    replica.tapping.learn({"read->parse": LEASE_S})
    replica.tapping.turn()
    assert not is_mirroring(replica)
    assert "nobody can look at what is sent here" in caplog.text

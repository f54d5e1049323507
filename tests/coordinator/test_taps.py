"""Leases of who looks at an edge."""

import msgspec
import pytest

from tests.coordinator.test_state import begun, config
from zflow.coordinator.taps import LONGEST_LEASE_S, Taps
from zflow.wire.control import EdgeConfig, Report, Tap

EDGE = EdgeConfig(
    edge=99, label="read->parse", source="read", target="parse", output=None, delivery="d"
)


@pytest.fixture
def state():
    return begun(msgspec.structs.replace(config(), edges=[EDGE]))


@pytest.fixture
def taps(state):
    return Taps(state)


def test_a_tap_is_said_with_every_update_until_its_lease_ends(state, taps):
    assert state.beat().taps == {}
    taps.on_tap(Tap("read->parse", 6.0), 100.0)
    assert state.beat().taps == {"read->parse": 6.0}
    taps.turn(104.0)
    assert state.beat().taps == {"read->parse": 2.0}
    taps.turn(106.0)
    assert state.beat().taps == {}


def test_a_lease_that_is_renewed_goes_on_and_a_shorter_one_shortens_nobodys(state, taps):
    taps.on_tap(Tap("read->parse", 6.0), 100.0)
    taps.on_tap(Tap("read->parse", 6.0), 104.0)
    taps.on_tap(Tap("read->parse", 1.0), 105.0)
    assert state.beat().taps == {"read->parse": 5.0}


def test_nobody_gets_a_lease_for_ever(state, taps):
    taps.on_tap(Tap("read->parse", 1e9), 0.0)
    assert state.beat().taps == {"read->parse": LONGEST_LEASE_S}


def test_the_answer_names_the_mirrors_of_the_senders_alone(state, taps):
    assert taps.on_tap(Tap("read->parse", 6.0), 0.0).endpoints == {}
    for slot in ("read/0", "parse/1"):
        report = Report(slot, 1, "running", False, False, 0, 0, tap=f"ipc://{slot}.tap")
        state.on_report(report)
    answer = taps.on_tap(Tap("read->parse", 6.0), 0.0)
    assert (answer.edge, answer.endpoints) == (99, {"read/0": "ipc://read/0.tap"})


def test_an_edge_that_is_not_there_is_refused_with_the_nearest(state, taps):
    answer = taps.on_tap(Tap("read->prase", 6.0), 0.0)
    assert answer.refusal == "there is no edge read->prase; did you mean 'read->parse'?"
    assert state.beat().taps == {}

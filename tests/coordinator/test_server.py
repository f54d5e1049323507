"""What the coordinator makes of messages, whoever sends them: over sockets that are made up."""

import msgspec
import pytest

from tests.coordinator.test_duties import VERSIONS
from tests.coordinator.test_gathering import replica, slot
from tests.coordinator.test_state import begun, config, crash, up_to
from zflow.clock import Clock
from zflow.coordinator.duties import Duties
from zflow.coordinator.gathering import Gathering
from zflow.coordinator.server import Coordinator
from zflow.coordinator.state import RunState
from zflow.net.control import Peer
from zflow.wire.control import Apply, Died, Down, Look, Move, Standing
from zflow.wire.picture import Census


class Wire:
    """Stands for `ControlServer`: what is to come, and what was answered."""

    def __init__(self):
        self.incoming = []
        self.answers = []

    def receive(self):
        came, self.incoming = self.incoming, []
        return came

    def send(self, _peer, answer):
        self.answers.append(answer)

    def publish(self, message):
        pass

    def handshake_failures(self):
        return {}


class Desk:
    def __init__(self, keep_version=None, state=None):
        self.state = state or up_to(begun(config()), "run")
        duties = Duties(self.state, versions=VERSIONS, code=b"", digest="d", stores={})
        self.wire = Wire()
        gathering = Gathering(self.state, "d", Clock(), waits_for=duties.waits_for)
        self.coordinator = Coordinator(
            self.state, duties, gathering, self.wire, Clock(), keep_version=keep_version
        )

    def hear(self, message, identity=None):
        """What it answers, if anything."""
        self.wire.answers.clear()
        self.wire.incoming = [(Peer(b"route", identity), message)]
        self.coordinator.turn()
        return self.wire.answers[0] if self.wire.answers else None


def standing(versions, census):
    return Standing(
        supervisor="one",
        host="here",
        versions=versions,
        offers={"parse": 2},
        addresses={},
        incarnations={},
        finished=[],
        census=census,
    )


@pytest.mark.parametrize("name", ["parse/x", "parse", "", "absent/0", "parse/01"])
def test_a_death_of_nobody_is_no_news_and_ends_nothing(name):
    desk = Desk()
    assert desk.hear(Died(name, crash("parse/0"))) is None
    assert [e.kind for e in desk.hear(Look()).events] == []


def test_what_a_refused_supervisor_counts_is_not_this_runs():
    desk = Desk()
    counted = Census(slots=[slot("parse/0", replica(processed=5))])
    refused = desk.hear(standing({"zflow": "0"}, counted))
    assert refused.refusal
    assert desk.hear(Look()).stage("parse").slots[0].replica is None


def test_who_may_not_say_it_is_not_heard_and_it_is_told():
    desk = Desk()
    assert desk.hear(Move("parse", {0: 1}), identity="reader") is None
    assert desk.coordinator.forbidden == 1
    assert [e.text for e in desk.hear(Look()).events] == ["Move from reader"]


def test_another_version_keeps_how_items_travel_and_comes_once():
    kept = []
    desk = Desk(kept.append)
    desk.state.config = msgspec.structs.replace(desk.state.config, codec="msgpack")
    order = Apply(config(), b"code", "e", [])
    assert desk.hear(order).refusal == ""
    assert kept == [order]
    assert (desk.state.config.codec, desk.state.config.generation) == ("msgpack", 2)
    assert "somebody else has applied a version" in desk.hear(order).refusal
    assert len(kept) == 1


def test_where_code_does_not_travel_no_version_is_taken():
    desk = Desk()
    assert "nobody knows who sends code" in desk.hear(Apply(config(), b"code", "e", [])).refusal
    assert desk.state.config.generation == 1


def test_who_is_told_to_end_before_anything_has_begun_drains_nothing():
    desk = Desk(state=RunState(config()))
    assert desk.hear(Down(now=False)).refusal == ""
    assert (desk.state.phase, desk.coordinator.drained) == ("gather", True)
    begins = Desk()
    begins.hear(Down(now=False))
    assert begins.state.phase == "drain"


def test_the_picture_says_whom_a_run_waits_for():
    desk = Desk(state=RunState(config()))
    assert desk.hear(Look()).waits_for == "1 replica of read, 2 replicas of parse"
    assert Desk().hear(Look()).waits_for == ""

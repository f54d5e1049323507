"""Which supervisor runs which slots, whatever order their words come in."""

import random

import msgspec
import pytest

from tests.coordinator.test_state import config
from zflow.coordinator.duties import LOST_S, RECOVER_S, Duties
from zflow.coordinator.state import RunState
from zflow.wire.control import Ended, Ownership, Roster, Scale, Snapshot, Standing
from zflow.wire.picture import Census

VERSIONS = {"zflow": "1.0", "Python": "3.11", "protocol": "1"}


class Room:
    """One coordinator's duties and the supervisors that speak to it; time passes when told to."""

    def __init__(self, *, epoch=1, partitions=0):
        wanted = config()
        if partitions:
            durable = msgspec.structs.replace(wanted.stages[1], partitions=partitions)
            wanted = msgspec.structs.replace(wanted, stages=[wanted.stages[0], durable])
        self.state = RunState(wanted, epoch=epoch)
        self.duties = Duties(
            self.state, versions=VERSIONS, code=b"code", digest="digest", stores={}
        )
        self.now_s = 100.0
        self.known = {}  # supervisor -> fields of its standing that stay

    def attend(self, name, offering=None, **fields):
        """One standing and its answer; a supervisor has the slots that it was told to have."""
        mine = self.known.setdefault(name, {"offers": offering, "slots": {}})
        said = {
            "offers": mine["offers"],
            "addresses": {slot: f"ipc://{name}/{slot}" for slot in mine["slots"]},
            "heard": mine.get("heard"),
            "versions": VERSIONS,
            **fields,
        }
        standing = Standing(
            supervisor=name,
            host="host",
            incarnations=dict.fromkeys(mine["slots"], 1),
            finished=said.pop("finished", []),
            census=Census(slots=[]),
            **{"store": "store", **said},
        )
        self.duties.on_standing(standing, self.now_s)
        duty = self.duties.duty(name)
        mine["slots"] = duty.slots
        mine["heard"] = duty.snapshot
        return duty

    def all_attend(self, names=None):
        for name in names or self.known:
            self.attend(name)

    def turn(self, pass_s=0.0):
        """Time passes, and the coordinator goes on as far as it can."""
        self.now_s += pass_s
        lost = self.duties.turn(self.now_s)
        while self.state.advance() is not None:
            pass
        return [slot for slot, _ in lost]

    def run(self):
        """Data flows: every slot has been there."""
        self.all_attend()
        self.turn()
        for view in self.state.slots.values():
            view.state = "running"
        self.turn()
        self.all_attend()
        assert self.state.phase == "run"

    def holders(self, stage="parse"):
        return {s: who for s, who in self.duties.holders.items() if s.startswith(stage)}


@pytest.fixture
def room():
    """A run that flows, its one source at `a` and its two sinks at `b`."""
    made = Room()
    made.attend("a", {"read": None})
    made.attend("b", {"parse": 2})
    made.run()
    return made


@pytest.mark.parametrize("seed", range(20))
def test_every_slot_has_one_supervisor_in_whatever_order_they_come(seed):
    dice = random.Random(seed)
    room = Room()
    offers = {"a": {"read": None}, "b": {"parse": 1}, "c": {"parse": 1}, "d": {"parse": None}}
    for _ in range(3):
        for name in dice.sample(sorted(offers), len(offers)):
            room.attend(name, offers[name])
    assert set(room.duties.holders) == {"read/0", "parse/0", "parse/1"} | set(room.holders())
    assert room.holders("read") == {"read/0": "a"}
    assert len(room.holders()) == len(room.state.slots) - 1, f"seed {seed}"


def test_a_run_waits_for_what_nobody_offers_and_says_so():
    room = Room()
    assert room.duties.waits_for() == "1 replica of read, 2 replicas of parse"
    assert room.attend("b", {"parse": 1}).waits_for == "1 replica of read, 1 replica of parse"
    room.attend("c", {"parse": 1})
    assert room.attend("a", {"read": 1}).waits_for == ""


def test_no_slot_starts_before_its_peers_know_of_it():
    room = Room()
    duty = room.attend("b", {"parse": 2})
    assert duty.waiting == ["parse/0", "parse/1"]
    room.attend("a", {"read": 1})
    room.all_attend()
    room.turn()
    assert room.attend("b").waiting == []


def test_who_is_new_gets_the_code_and_who_has_it_does_not(room):
    assert room.attend("z", {"parse": 1}).code == b"code"
    assert room.attend("b", digest="digest").code is None


def test_the_slots_of_a_lost_supervisor_go_to_its_successor_and_the_stage_does_not_grow(room):
    room.turn(1.0)
    assert room.attend("again", {"parse": 2}).slots == {}, "the old one may still be there"
    lost = []
    for _ in range(12):
        room.now_s += LOST_S / 10
        room.all_attend(["a", "again"])
        lost += room.turn()
    assert sorted(lost) == ["parse/0", "parse/1"]
    assert room.holders() == {"parse/0": "again", "parse/1": "again"}
    assert room.state.wanted["parse"] == 2


def test_who_says_goodbye_leaves_its_slots_at_once(room):
    room.attend("b", offers={}, addresses={})
    room.attend("again", {"parse": 2})
    assert sorted(room.turn()) == ["parse/0", "parse/1"]
    assert list(room.attend("again").slots) == ["parse/0", "parse/1"]


@pytest.mark.parametrize("flows", [False, True])
def test_who_offers_more_than_is_declared_adds_to_the_stage(flows, room):
    if not flows:
        room = Room()
        room.attend("a", {"read": 1})
        room.attend("b", {"parse": 1})
    room.attend("c", {"parse": 3})
    room.now_s += 1.0
    room.all_attend(["a", "b"])
    room.attend("c")
    assert sum(who == "c" for who in room.holders().values()) == 3
    assert room.state.wanted["parse"] == (5 if flows else 4)


def test_a_stage_does_not_grow_while_the_run_connects():
    room = Room()
    room.attend("a", {"read": 1})
    room.attend("b", {"parse": 2})
    room.all_attend()
    room.turn()
    assert room.state.phase == "bind"
    room.now_s += 1.0
    room.all_attend()
    duty = room.attend("c", {"parse": 1})
    room.all_attend(["a", "b"])
    assert (duty.refusal, room.attend("c").slots, room.state.wanted["parse"]) == ("", {}, 2)
    for view in room.state.slots.values():
        view.state = "running"
    room.turn(1.0)
    room.all_attend(["a", "b"])
    assert list(room.attend("c").slots) == ["parse/2"]


def test_a_stage_that_was_shrunk_does_not_grow_again_by_who_is_there(room):
    room.state.on_scale(Scale("parse", 1))
    room.turn()
    room.all_attend()
    room.attend("b", finished=["parse/1"])
    room.turn()
    room.turn()
    room.all_attend()
    assert list(room.state.slots) == ["read/0", "parse/0"]
    assert room.holders() == {"parse/0": "b"}


def test_a_slot_that_is_wanted_again_at_once_does_not_end_as_it_did_before(room):
    room.state.on_scale(Scale("parse", 1))
    room.turn()
    room.all_attend()
    room.state.slots["parse/1"].incarnation = 1
    room.attend("b", finished=["parse/1"])
    room.turn()
    room.state.on_scale(Scale("parse", 2))
    duty = room.attend("b", finished=["parse/1"])
    assert not room.state.slots["parse/1"].ended
    assert duty.slots["parse/1"] == 2, "above that of the process that has left"


def test_a_slot_that_leaves_and_has_lost_its_supervisor_is_through(room):
    room.state.on_scale(Scale("parse", 1))
    room.turn()
    assert room.state.slots["parse/1"].leaving
    room.duties.restart["parse/1"] = 1
    room.now_s += LOST_S + 1.0
    room.attend("a")
    room.turn()
    room.turn()
    assert "parse/1" not in room.state.slots
    assert room.duties.restart == {}, "a rolling restart does not wait for it"


def test_what_is_ordered_beyond_every_offer_goes_to_who_has_least(room):
    room.attend("c", {"parse": 1})
    room.now_s += 1.0
    room.all_attend()
    room.all_attend()
    assert room.holders() == {"parse/0": "b", "parse/1": "b", "parse/2": "c"}
    room.state.on_scale(Scale("parse", 4))
    room.turn()
    assert room.holders()["parse/3"] == "c"


def test_of_two_that_claim_a_slot_the_first_keeps_it(room):
    room.attend("c", {"parse": 1}, addresses={"parse/0": "ipc://c"})
    assert room.holders()["parse/0"] == "b"
    assert "parse/0" not in room.attend("c").slots
    assert room.state.rosters["parse"].slots[0] == "ipc://b/parse/0"


@pytest.mark.parametrize(
    ("fields", "incompatible", "why"),
    [
        (
            {"versions": {**VERSIONS, "zflow": "0.9"}},
            True,
            "this run is of zflow 1.0, the supervisor of zflow 0.9",
        ),
        (
            {"versions": {"zflow": "1.0", "Python": "3.11"}},
            True,
            "this run is of protocol 1, the supervisor of protocol none",
        ),
        (
            {"digest": "another"},
            True,
            "this run has the topology digest, the supervisor another: they differ",
        ),
        (
            {"run_id": "other"},
            False,
            "this is run run, the supervisor belongs to run other",
        ),
        (
            {"offers": {"pars": 1}},
            False,
            "there is no stage 'pars'; this run has: read, parse",
        ),
    ],
)
def test_who_does_not_fit_is_refused_with_the_reason(fields, incompatible, why):
    room = Room()
    duty = room.attend("x", {"parse": 1}, **fields)
    assert (duty.refusal, duty.incompatible, duty.slots) == (why, incompatible, {})
    assert room.duties.holders == {}


def test_a_source_does_not_grow_and_who_would_make_it_is_told_why(room):
    room.attend("c", {"read": 1})
    room.now_s += 1.0
    room.all_attend(["a", "b"])
    assert "its replicas are its shares of the input" in room.attend("c").refusal


def test_everybody_hears_how_the_run_ended(room):
    room.duties.ended = Ended(0, "finished")
    assert room.attend("a").ended == Ended(0, "finished")
    assert not room.duties.all_know_the_end()
    room.attend("a", ended=True)
    room.attend("b", ended=True)
    assert room.duties.all_know_the_end()


# --- a coordinator that comes back ---------------------------------------------------------------


def heard(phase="run", *, epoch=1, number=9, paused=False, slots=3, **more):
    """What a supervisor says it has heard of an older coordinator."""
    rosters = [
        Roster("read", 1, {0: "ipc://a/read/0"}),
        Roster("parse", 4, {k: f"ipc://b/parse/{k}" for k in range(slots)}),
    ]
    fields = {"paused": paused, "epoch": epoch, **more}
    return Snapshot(number, phase, 7, config(), rosters, **fields)


def test_a_new_coordinator_takes_the_run_from_those_that_are_there():
    room = Room(epoch=2, partitions=8)
    room.known["b"] = {
        "offers": {"parse": 2},
        "slots": dict.fromkeys(("parse/0", "parse/1", "parse/2"), 1),
        "heard": heard(paused=True, owners=[Ownership("parse", 3, [0] * 8)], concluding="parse"),
    }
    duty = room.attend("b")
    assert list(duty.slots) == ["parse/0", "parse/1", "parse/2"]
    assert (duty.epoch, duty.snapshot.phase, duty.snapshot.probe) == (2, "run", 7)
    assert (duty.snapshot.paused, duty.snapshot.concluding) == (True, "parse")
    assert duty.snapshot.owners == [Ownership("parse", 3, [0] * 8)]
    assert room.state.wanted == {"read": 1, "parse": 3}


def test_what_it_takes_over_everybody_hears():
    state = Room(epoch=2).state
    updates = state.adopt(heard())
    assert [update.roster.stage for update in updates] == ["read", "parse"]
    assert [update.number for update in updates] == [1, 2]
    assert state.adopt(heard()) == []


def test_the_newest_word_says_whether_the_run_is_paused():
    state = Room(epoch=3).state
    state.adopt(heard(number=5, paused=True))
    state.adopt(heard(number=4, paused=False))
    assert state.paused
    state.adopt(heard(epoch=2, number=1, paused=False))
    assert not state.paused


def test_what_is_its_own_or_of_another_run_is_not_taken_over():
    state = Room(epoch=2).state
    other = msgspec.structs.replace(config(), run_id="other")
    assert state.adopt(heard(epoch=2)) == []
    assert state.adopt(msgspec.structs.replace(heard(), config=other)) == []
    assert state.phase == "gather"


def test_who_is_new_waits_for_those_that_an_older_coordinator_knew():
    room = Room(epoch=2)
    assert room.attend("new", {"parse": 2}).slots == {}
    room.known["b"] = {
        "offers": {"parse": 2},
        "slots": {"parse/0": 1, "parse/1": 1},
        "heard": heard(slots=2),
    }
    assert list(room.attend("b").slots) == ["parse/0", "parse/1"]
    room.now_s += RECOVER_S
    room.attend("b")
    assert list(room.attend("new").slots) == ["parse/2", "parse/3"]


def test_nobody_is_told_anything_before_the_run_is_known():
    from zflow.wire.control import Register  # noqa: PLC0415 - only here

    room = Room(epoch=2)
    assert room.state.on_register(Register("parse/0", 4, 4711)) is None
    room.state.adopt(heard())
    assert room.state.on_register(Register("parse/0", 4, 4711)).rosters[1].slots


def test_what_a_source_has_stored_lies_in_one_place_and_it_goes_on_there_alone():
    room = Room()
    assert "read/0" in room.attend("one", {"read": None}, store="here:/state").slots
    room.turn(LOST_S + 1.0)
    elsewhere = room.attend("two", {"read": None}, store="there:/state")
    assert elsewhere.slots == {}
    assert "read keeps what it has in here:/state, and this is there:/state" in elsewhere.refusal
    assert "read/0" in room.attend("three", {"read": None}, store="here:/state").slots


def test_a_source_has_no_slot_before_its_supervisor_has_named_its_place():
    room = Room()
    assert room.attend("one", {"read": None}, store="").slots == {}
    assert "parse/0" in room.attend("two", {"parse": None}, store="").slots

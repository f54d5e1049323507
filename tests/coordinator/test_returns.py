"""A slot that had left and is wanted again begins a new life, whatever is left of the old one."""

from msgspec.structs import replace

from tests.coordinator.test_state import config
from zflow.coordinator.duties import Duties
from zflow.coordinator.state import RunState
from zflow.wire.control import Report, Scale, Standing
from zflow.wire.picture import Census

VERSIONS = {"zflow": "1"}


def make():
    stages = [replace(stage, kind="stage") for stage in config().stages]
    state = RunState(replace(config(), stages=stages))
    return state, Duties(state, versions=VERSIONS, code=b"", digest="d", stores={})


def standing(addresses, incarnations=(), finished=()):
    return Standing(
        supervisor="one",
        host="here",
        versions=VERSIONS,
        offers={"read": None, "parse": None},
        addresses={slot: f"ipc://{slot}" for slot in addresses},
        incarnations=dict(incarnations),
        finished=list(finished),
        census=Census(slots=[]),
    )


def hear(state, duties, now_s, **others):
    duties.on_standing(standing(**others), now_s)
    duties.turn(now_s)
    while state.advance() is not None:
        pass
    return duties.duty("one")


def all_report(state, what):
    for slot in list(state.slots):
        state.on_report(Report(slot, 1, what, False, False, 0, state.probe))


def test_the_former_life_of_a_slot_is_let_go_before_it_begins_again():
    state, duties = make()
    slots = ["read/0", "parse/0", "parse/1"]
    for now_s in (1.0, 2.0):
        hear(state, duties, now_s, addresses=slots)
    for what in ("bound", "connected", "running"):
        all_report(state, what)
        while state.advance() is not None:
            pass
    assert state.phase == "run"
    all_report(state, "running")

    lives = dict.fromkeys(slots, 1)
    assert state.on_scale(Scale("parse", 1)).refusal == ""
    hear(state, duties, 3.0, addresses=slots, incarnations=lives)
    assert state.slots["parse/1"].leaving
    ended = {"addresses": slots, "incarnations": lives, "finished": ["parse/1"]}
    hear(state, duties, 4.0, **ended)
    assert "parse/1" not in state.slots

    assert state.on_scale(Scale("parse", 2)).refusal == ""
    duty = hear(state, duties, 5.0, **ended)  # it has not been told yet to let go
    assert "parse/1" not in duty.slots
    assert 1 not in state.rosters["parse"].slots
    assert not state.slots["parse/1"].ended
    duty = hear(state, duties, 6.0, addresses=slots[:2], incarnations={"read/0": 1, "parse/0": 1})
    assert duty.slots["parse/1"] == 1, "its next process is the second one"
    assert duty.waiting == ["parse/1"]
    duty = hear(state, duties, 7.0, addresses=slots, incarnations=lives)
    assert 1 in state.rosters["parse"].slots
    assert duty.waiting == []

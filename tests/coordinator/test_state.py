"""What the coordinator decides: the phases of a run, restarts, and when it is over."""

import msgspec
import pytest

from zflow.coordinator.state import RunState
from zflow.wire.control import (
    Move,
    Ownership,
    Register,
    Report,
    RunConfig,
    StageConfig,
    TargetConfig,
)
from zflow.wire.data import Crash

SLOTS = ("read/0", "parse/0", "parse/1")


def config():
    stages = [("read", "source", 1), ("parse", "sink", 2)]
    return RunConfig(
        run_id="run",
        generation=1,
        topology="flow",
        target=TargetConfig(target="flow.py", attribute=None, path=None),
        stages=[
            StageConfig(
                name=name,
                number=number,
                kind=kind,
                replicas=replicas,
                retries=3,
                backoff_s=0.1,
                timeout_s=300.0,
                max_crashes=3,
                on_error="dead_letter",
            )
            for number, (name, kind, replicas) in enumerate(stages)
        ],
        edges=[],
        parameters=[],
    )


def register(state, slot, incarnation=1):
    return state.on_register(Register(slot, incarnation, 4711))


def report(state, slot, what, *, incarnation=1, settled=False, activity=0, probe=None, error=""):
    probe = state.probe if probe is None else probe
    state.on_report(Report(slot, incarnation, what, settled, settled, activity, probe, error))


def crash(slot, incarnation=1):
    return Crash(slot, incarnation, [], False, 3, "exit code 1")


def begun(wanted):
    """A run whose slots have addresses and have registered."""
    made = RunState(wanted)
    for slot in SLOTS:
        made.locate(slot, f"ipc://{slot}")
    assert made.advance().phase == "bind"
    for slot in SLOTS:
        register(made, slot)
    return made


@pytest.fixture
def state():
    """A run whose three slots have registered."""
    return begun(config())


def all_report(state, what, **others):
    for slot in SLOTS:
        report(state, slot, what, **others)


def up_to(state, phase):
    for what, wanted in (("bound", "connect"), ("connected", "run")):
        if state.phase == phase:
            return state
        all_report(state, what)
        assert state.advance().phase == wanted
    return state


# --- the phases ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "needed", "following"),
    [("bind", "bound", "connect"), ("connect", "connected", "run")],
)
def test_a_phase_goes_on_when_every_slot_has_come_so_far(state, phase, needed, following):
    up_to(state, phase)
    for slot in SLOTS:
        assert state.phase == phase
        assert state.advance() is None
        report(state, slot, needed)
    update = state.advance()
    assert (update.phase, state.phase) == (following, following)


def test_a_slot_that_is_further_than_needed_holds_nobody_up(state):
    report(state, "read/0", "running")
    for slot in SLOTS[1:]:
        report(state, slot, "bound")
    assert state.advance().phase == "connect"


def test_nothing_moves_on_by_itself(state):
    up_to(state, "run")
    all_report(state, "running")
    assert state.advance() is None
    assert state.phase == "run"


def test_updates_are_numbered_without_gaps_and_a_beat_repeats_the_newest(state):
    numbers = []
    for what in ("bound", "connected"):
        all_report(state, what)
        numbers.append(state.advance().number)
        assert state.beat().number == numbers[-1]
    numbers.append(state.on_death("parse/0", crash("parse/0")).number)
    numbers.append(state.drain().number)
    assert numbers == [2, 3, 4, 5]
    assert (state.beat().number, state.beat().phase) == (5, "drain")


@pytest.mark.parametrize("phase", ["bind", "connect", "run"])
def test_a_drain_may_be_asked_for_at_any_time_and_once(state, phase):
    up_to(state, phase)
    assert state.drain().phase == "drain"
    assert state.drain() is None


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["run", "drain"])
def test_a_run_finishes_only_after_two_equal_rounds(state, phase):
    up_to(state, "run")
    if phase == "drain":
        state.drain()
    all_report(state, "running", settled=True, activity=7)
    asked = state.advance()
    assert (asked.phase, asked.probe) == (phase, 1)
    assert state.advance() is None, "the answers are those of the first round"
    all_report(state, "running", settled=True, activity=7)
    assert state.advance().phase == "finish"
    assert state.advance() is None


def test_a_slot_that_did_something_between_two_rounds_means_another_round(state):
    up_to(state, "run")
    all_report(state, "running", settled=True, activity=7)
    state.advance()
    all_report(state, "running", settled=True, activity=7)
    report(state, "parse/1", "running", settled=True, activity=8)
    assert state.advance().probe == 2
    all_report(state, "running", settled=True, activity=7)
    report(state, "parse/1", "running", settled=True, activity=8)
    assert state.advance().phase == "finish"


@pytest.mark.parametrize("slot", SLOTS)
def test_one_slot_that_is_not_settled_holds_the_end_up(state, slot):
    up_to(state, "run")
    all_report(state, "running", settled=True)
    report(state, slot, "running", settled=False)
    assert state.advance() is None


def test_an_answer_to_an_earlier_round_does_not_count(state):
    up_to(state, "run")
    all_report(state, "running", settled=True)
    state.advance()
    all_report(state, "running", settled=True)
    report(state, "read/0", "running", settled=True, probe=0)
    assert state.advance() is None


def test_a_death_between_two_rounds_starts_them_anew(state):
    up_to(state, "run")
    all_report(state, "running", settled=True)
    state.advance()
    state.on_death("parse/0", crash("parse/0"))
    register(state, "parse/0", incarnation=2)
    for slot in SLOTS:
        incarnation = 2 if slot == "parse/0" else 1
        report(state, slot, "running", settled=True, incarnation=incarnation)
    assert state.advance().phase == "run", "one round after the death is not two"


# --- restarts ------------------------------------------------------------------------------------


def test_a_replica_is_answered_with_everything_it_must_know(state):
    up_to(state, "run")
    snapshot = register(state, "read/0")
    assert (snapshot.number, snapshot.phase, snapshot.probe) == (3, "run", 0)
    assert snapshot.config == config()
    assert [roster.names() for roster in snapshot.rosters] == [["read/0"], ["parse/0", "parse/1"]]


def test_a_slot_of_another_run_and_an_older_incarnation_are_not_answered(state):
    assert register(state, "absent/0") is None
    register(state, "read/0", incarnation=3)
    assert register(state, "read/0", incarnation=2) is None


def test_registering_again_does_not_take_a_slot_back(state):
    all_report(state, "bound")
    register(state, "read/0")
    assert state.advance().phase == "connect"


def test_a_report_of_a_dead_incarnation_changes_nothing(state):
    register(state, "read/0", incarnation=2)
    report(state, "read/0", "bound", incarnation=1)
    assert state.slots["read/0"].state == "registered"


def test_a_report_of_a_stranger_changes_nothing(state):
    report(state, "absent/0", "bound")
    assert set(state.slots) == set(SLOTS)


def test_a_death_before_all_were_bound_waits_for_the_successor(state):
    all_report(state, "bound")
    state.on_death("parse/1", crash("parse/1"))
    assert state.advance() is None
    register(state, "parse/1", incarnation=2)
    report(state, "parse/1", "bound", incarnation=2)
    assert state.advance().phase == "connect"


def test_everybody_hears_of_a_death_once(state):
    first, second = crash("parse/0", 1), crash("parse/0", 2)
    assert state.on_death("parse/0", first).crash == first
    register(state, "parse/0", incarnation=2)
    assert state.on_death("parse/0", first) is None, "its successor lives"
    assert state.on_death("parse/0", second).crash == second


def test_a_replica_that_failed_is_told_with_its_reason(state):
    assert state.failures() == []
    report(state, "read/0", "failed", error="OSError: gone")
    assert [failure.error for failure in state.failures()] == ["OSError: gone"]


# --- partitions that move ------------------------------------------------------------------------


@pytest.fixture
def keyed():
    """A run whose second stage is durable, with eight partitions and two slots."""
    stages = [*config().stages]
    stages[1] = msgspec.structs.replace(stages[1], kind="stage", partitions=8)
    return up_to(begun(msgspec.structs.replace(config(), stages=stages)), "run")


def test_a_move_is_told_to_everybody_and_to_who_comes_later(keyed):
    moved, update = keyed.on_move(Move("parse", {3: 0, 4: 0}))
    assert moved.owners == Ownership("parse", 1, [0, 1, 0, 0, 0, 1, 0, 1])
    assert update.owners == moved.owners
    again, _ = keyed.on_move(Move("parse", {3: 1}))
    assert again.owners == Ownership("parse", 2, [0, 1, 0, 1, 0, 1, 0, 1])
    assert register(keyed, "parse/1", 2).owners == [again.owners]
    assert keyed.beat().owners is None


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Move("pars", {0: 1}), "pars is no durable stage of this run; it has: parse"),
        (Move("read", {0: 1}), "read is no durable stage of this run; it has: parse"),
        (Move("parse", {8: 1}), "parse has partitions 0 to 7, not 8"),
        (Move("parse", {0: 2}), "parse has replicas 0 to 1, not 2"),
    ],
)
def test_a_move_that_cannot_be_is_refused_with_the_reason(keyed, move, why):
    moved, update = keyed.on_move(move)
    assert (moved.owners, moved.refusal, update) == (None, why, None)


def test_nothing_moves_before_the_data_flows_or_once_a_stage_concludes(keyed):
    early = begun(keyed.config)
    moved, _ = early.on_move(Move("parse", {3: 0}))
    assert "phase bind" in moved.refusal
    while keyed._concluding != "parse":
        all_report(keyed, "running", settled=True)
        keyed.advance()
    moved, update = keyed.on_move(Move("parse", {3: 0}))
    assert (moved.owners, update) == (None, None)
    assert "parse concludes" in moved.refusal


def test_no_stage_concludes_before_every_slot_has_let_go_of_what_is_not_its_own(keyed):
    keyed.on_move(Move("parse", {3: 0}))
    for _ in range(4):
        all_report(keyed, "running", settled=True)
        keyed.advance()
    assert keyed._concluding == ""
    for _ in range(3):
        all_report(keyed, "running", settled=True)
        for slot in SLOTS[1:]:
            done = Report(slot, 1, "running", True, True, 0, keyed.probe, owners=1)
            keyed.on_report(done)
        keyed.advance()
    assert keyed._concluding == "parse"

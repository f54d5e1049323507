"""Slots that come to a supervisor, leave it, come back, and make room for a successor."""

import signal

import pytest

from tests.supervisor.test_supervise import WITHIN_S, Children
from zflow.supervisor.supervise import ROLLOUT_S
from zflow.wire.control import EXIT_ROLLOUT
from zflow.wire.data import decode_crashes


@pytest.fixture
def made(tmp_path, monkeypatch):
    """One slot, whose process has not been started."""
    made = Children(tmp_path, monkeypatch)
    yield made
    made.supervisor.kill_all()
    made.supervisor.reap()


def started(made):
    """The pid of the slot's process, which ends at SIGTERM as a replica that makes room."""
    made.script(
        f"trap 'exit {EXIT_ROLLOUT}' TERM; : > {made.folder}/up; while :; do sleep 0.01; done"
    )
    (made.folder / "up").unlink(missing_ok=True)
    made.supervisor.start_due()
    return made.member.process.pid


def test_a_slot_that_waits_does_not_start(made):
    made.supervisor.hold({"work/0": 0}, waiting=["work/0"])
    assert made.supervisor.start_due() == []
    made.supervisor.hold({"work/0": 0})
    assert [str(slot) for slot in made.supervisor.start_due()] == ["work/0"]


def test_a_process_starts_above_the_incarnation_that_was_told(made):
    made.supervisor.hold({"work/0": 7})
    made.supervisor.start_due()
    assert made.member.incarnation == 8


def test_a_slot_that_goes_is_killed_and_counts_on_when_it_comes_back(made, wait_until):
    started(made)
    made.supervisor.hold({})
    death = made.died(wait_until)
    assert (death.reason, death.cause) == ("stop", "the slot is not here any more")
    assert made.supervisor.start_due() == []
    made.supervisor.hold({})
    assert (list(made.supervisor.members), list(made.supervisor.gone)) == ([], ["work/0"])
    made.supervisor.hold({"work/0": 0})
    made.supervisor.start_due()
    assert made.supervisor.members["work/0"].incarnation == 2
    assert made.supervisor.gone == {}


def test_a_slot_that_has_ended_starts_again_only_for_a_higher_incarnation(made):
    made.member.finished, made.member.incarnation = True, 3
    made.supervisor.hold({"work/0": 3})
    assert made.supervisor.start_due() == []
    made.supervisor.hold({"work/0": 4})
    made.supervisor.start_due()
    assert made.member.incarnation == 5


def test_a_process_that_makes_room_has_its_successor_at_once(made, wait_until):
    started(made)
    wait_until((made.folder / "up").exists, WITHIN_S)
    made.supervisor.hold({"work/0": 0}, {"work/0": 1})
    death = made.died(wait_until)
    assert (death.reason, death.orderly, death.crash.strikes) == ("rollout", False, 0)
    assert [str(slot) for slot in made.supervisor.start_due()] == ["work/0"]
    assert made.member.restarts == {"rollout": 1}
    assert made.member.fruitless == 0


def test_an_order_for_an_older_process_is_not_obeyed_twice(made):
    pid = started(made)
    made.supervisor.hold({"work/0": 0}, {"work/0": 7})
    assert (made.member.process.pid, made.member.rollout_s) == (pid, 0.0)


def test_a_process_that_does_not_make_room_is_killed_in_the_end(made, wait_until):
    made.script(f"trap '' TERM; : > {made.folder}/up; while :; do sleep 0.01; done")
    made.supervisor.start_due()
    wait_until((made.folder / "up").exists, WITHIN_S)
    made.supervisor.roll_out(made.member)
    made.supervisor.kill_stuck()
    assert made.member.process.poll() is None
    made.clock.ahead_s += ROLLOUT_S + 1.0
    made.supervisor.kill_stuck()
    death = made.died(wait_until)
    assert death.reason == "rollout"
    assert death.cause == f"it had not made room after {ROLLOUT_S:g} s"


def test_a_successor_is_told_how_those_before_it_died(made, wait_until):
    started(made)
    made.member.process.send_signal(signal.SIGKILL)
    made.died(wait_until)
    made.clock.ahead_s += 60.0
    made.supervisor.start_due()
    (crash,) = decode_crashes(made.run.crashes(3, 0).read_bytes())
    assert (crash.slot, crash.incarnation) == ("work/0", 1)
    assert "SIGKILL" in crash.cause

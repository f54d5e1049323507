"""What the coordinator shows of its run is made of what supervisors say."""

from tests.coordinator.test_state import config
from zflow.clock import Clock
from zflow.coordinator.gathering import KEPT_EVENTS, Gathering
from zflow.coordinator.state import RunState
from zflow.ids import Slot
from zflow.wire.picture import Census, Replica, SlotCensus


def gathering():
    return Gathering(RunState(config()), "digest", Clock())


def replica(**counters):
    return Replica(
        incarnation=1,
        pid=4711,
        host="here",
        state="running",
        started_at_s=0.0,
        cpu_s=1.5,
        memory_bytes=1,
        open_fds=3,
        counters=counters,
    )


def slot(name, living=None, **retired):
    return SlotCensus(slot=name, replica=living, retired=retired, restarts={})


def test_a_picture_has_every_slot_that_there_should_be():
    picture = gathering().picture()
    assert [stage.name for stage in picture.stages] == ["read", "parse"]
    assert [one.slot for one in picture.stage("parse").slots] == ["parse/0", "parse/1"]
    assert picture.stage("parse").slots[0].replica is None


def test_the_newest_census_of_a_supervisor_counts():
    seen = gathering()
    seen.take(Census(slots=[slot("parse/0", replica(processed=5))]))
    seen.take(Census(slots=[slot("parse/1", replica(processed=7))]))
    seen.take(Census(slots=[slot("parse/0", None, processed=6)]))
    first, second = seen.picture().stage("parse").slots
    assert (first.replica, first.retired) == (None, {"processed": 6})
    assert second.replica is not None
    assert second.replica.counters == {"processed": 7}


def test_what_slots_counted_that_are_gone_stays_with_their_stage():
    seen = gathering()
    seen.take(Census(slots=[slot("parse/2", None, processed=9)]))
    assert seen.picture().stage("parse").gone == {"processed": 9}


def test_events_are_numbered_and_the_oldest_are_forgotten():
    seen = gathering()
    for number in range(KEPT_EVENTS + 2):
        seen.happened("start", f"pid {number}", Slot("parse", 1))
    events = seen.picture().events
    assert len(events) == KEPT_EVENTS
    assert (events[0].number, events[-1].number) == (3, KEPT_EVENTS + 2)
    assert (events[0].stage, events[0].slot) == ("parse", "parse/1")


def test_slots_of_nobody_here_are_left_out():
    seen = gathering()
    names = ["parse/x", "parse", "absent/0", "parse/01", ""]
    seen.take(Census(slots=[slot(name, replica(processed=5)) for name in names]))
    assert seen.picture().stage("parse").gone == {}

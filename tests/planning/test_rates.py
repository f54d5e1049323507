"""Rates between two pictures: what was counted over which time, and never below zero."""

import msgspec
import pytest

from tests.planning.made import HOST, WINDOW_ITEMS, blocked, busy, picture, starved
from zflow.planning.rates import rates_between
from zflow.state.latency import bound_s


def chain():
    return [
        blocked("read", unacked=7, cpu=0.1),
        busy("parse", n=2, rate=100.0, inbox=3, cpu=0.5),
        starved("keep", kind="sink", dead_per_s=0.0),
    ]


def changed(picture, slot, **fields):
    """The picture with one slot's census changed."""
    stages = [
        msgspec.structs.replace(
            stage,
            slots=[
                msgspec.structs.replace(one, **fields) if one.slot == slot else one
                for one in stage.slots
            ],
        )
        for stage in picture.stages
    ]
    return msgspec.structs.replace(picture, stages=stages)


def test_a_stage_has_the_rates_of_its_replicas_and_the_mean_of_their_times():
    rates = rates_between(picture(chain(), 100), picture(chain(), 102))
    parse = rates.stage("parse")
    assert (parse.rate_per_s, parse.items, parse.queue_items) == (100.0, 102 * 100, 6)
    assert parse.times.busy_ratio == 1.0
    assert [one.rate_per_s for one in parse.replicas] == [50.0, 50.0]
    assert (parse.running, parse.desired, parse.states) == (2, 2, {"running": 2})
    read = rates.stage("read").times
    assert (read.blocked_ratio, read.starved_ratio) == (pytest.approx(0.9), 0.0)
    assert read.occupied_ratio == pytest.approx(0.1)


def test_an_edge_has_items_bytes_and_a_queue_that_fills_the_windows_of_its_senders():
    first, _second = rates_between(picture(chain(), 100), picture(chain(), 104)).edges
    assert (first.rate_per_s, first.bytes_per_s) == (pytest.approx(100.0), pytest.approx(1000.0))
    assert (first.queue_items, first.full_ratio) == (7, 7 / WINDOW_ITEMS)


def test_an_edge_is_full_by_its_bytes_too():
    made = picture(chain(), 100)
    edges = [msgspec.structs.replace(one, window_bytes=1000) for one in made.edges]
    read = made.stage("read").slots[0].replica
    counters = {**read.counters, "unacked_bytes:read->parse": 900}
    made = changed(made, "read/0", replica=msgspec.structs.replace(read, counters=counters))
    first, second = rates_between(made, msgspec.structs.replace(made, edges=edges)).edges
    assert (first.full_ratio, second.full_ratio) == (0.9, 0.0)


def test_latency_and_processor_time_are_those_of_the_interval():
    rates = rates_between(picture(chain(), 100), picture(chain(), 102))
    assert rates.latency_p50_s == bound_s(40)
    assert rates.cpu_by_host == {HOST: pytest.approx(0.1 + 2 * 0.5)}
    assert rates.interval_s == 2


def test_a_late_census_does_not_change_a_rate():
    """The counters are half a second older than the picture: their own time tells."""
    late = picture(chain(), 101.5)
    late = msgspec.structs.replace(late, elapsed_s=102.0)
    rates = rates_between(picture(chain(), 100), late)
    assert rates.stage("parse").rate_per_s == pytest.approx(100.0)
    assert rates.stage("read").times.blocked_ratio == pytest.approx(0.9)


def test_counters_that_fall_give_no_negative_rate():
    before, after = picture(chain(), 100), picture(chain(), 102)
    fresh = after.stage("parse").slots[0].replica
    fallen = msgspec.structs.replace(fresh, incarnation=2, cpu_s=0.2, counters={"processed": 1})
    rates = rates_between(before, changed(after, "parse/0", replica=fallen))
    one, other = rates.stage("parse").replicas
    assert (one.rate_per_s, one.times.busy_ratio, one.cpu_ratio) == (0.0, 0.0, 0.1)
    assert other.rate_per_s == 50.0
    assert min(edge.rate_per_s for edge in rates.edges) >= 0


def test_a_process_that_died_and_was_replaced_has_worked_for_both():
    before, after = picture(chain(), 100), picture(chain(), 102)
    old = before.stage("parse").slots[0].replica.counters
    fresh = after.stage("parse").slots[0].replica
    fresh = msgspec.structs.replace(fresh, incarnation=2, counters={"processed": 40})
    after = changed(after, "parse/0", replica=fresh, retired=old, restarts={"signal": 1})
    parse = rates_between(before, after).stage("parse")
    assert parse.replicas[0].rate_per_s == 20.0
    assert (parse.restarts, parse.new_restarts) == (1, 1)


def test_an_ordered_restart_is_no_death_and_those_of_slots_that_are_gone_count():
    before, after = picture(chain(), 100), picture(chain(), 102)
    after = changed(after, "parse/0", restarts={"rollout": 5, "exit": 1})
    stages = [
        msgspec.structs.replace(one, gone={"restarts:oom": 2, "restarts:rollout": 1})
        if one.name == "parse"
        else one
        for one in after.stages
    ]
    parse = rates_between(before, msgspec.structs.replace(after, stages=stages)).stage("parse")
    assert (parse.restarts, parse.new_restarts, parse.replicas[0].restarts) == (3, 3, 1)


def test_a_slot_without_a_process_is_down():
    stages = chain()
    stages[1].states[1] = "down"
    parse = rates_between(picture(stages, 100), picture(stages, 102)).stage("parse")
    assert parse.states == {"running": 1, "down": 1}
    assert parse.replicas[1].pid == 0


def test_a_stage_that_has_grown_counts_its_new_replica():
    small, large = chain(), chain()
    small[1].times, small[1].rates = small[1].times[:1], small[1].rates[:1]
    parse = rates_between(picture(small, 100), picture(large, 102)).stage("parse")
    assert len(parse.replicas) == 2


@pytest.mark.parametrize("elapsed_s", [100, 90])
def test_over_no_time_nothing_has_a_rate(elapsed_s):
    rates = rates_between(picture(chain(), 100), picture(chain(), elapsed_s))
    assert rates.interval_s == 0
    assert all(stage.rate_per_s == 0 for stage in rates.stages)
    assert rates.latency_p50_s is None


def test_another_run_is_no_earlier_picture():
    rates = rates_between(picture(chain(), 100, run_id="other"), picture(chain(), 102))
    assert rates.interval_s == 0


def test_dead_letters_belong_to_the_stage_that_could_not_process_them():
    stages = chain()
    stages[0].dead_per_s = 3.0
    rates = rates_between(picture(stages, 100), picture(stages, 102))
    assert (rates.stage("parse").dead_letters, rates.stage("parse").new_dead_letters) == (306, 6)
    assert rates.stage("read").dead_letters == 0
    assert rates.edges[0].dead_letters == 306

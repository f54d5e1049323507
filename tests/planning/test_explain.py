"""`explain` on pictures made by hand: what is broken comes first, then the stage that limits."""

import msgspec
import pytest

from tests.planning.made import HOST, Made, blocked, busy, hot, picture, starved
from zflow.planning.explain import explain
from zflow.planning.gain import one_more
from zflow.planning.rates import rates_between
from zflow.planning.words import listed


def verdict(*stages, cores=None, seconds=2, **fields):
    before, after = (picture(list(stages), at, **fields) for at in (100, 100 + seconds))
    return explain(before, after, cores)


def slow_parse(**more):
    return blocked("read"), busy("parse", 0.96, n=2, **more), starved("keep", kind="sink")


def test_the_bottleneck_is_named_with_its_neighbours_and_what_one_more_would_give():
    said = verdict(*slow_parse())
    assert (said.kind, said.stage) == ("stage", "parse")
    assert said.sentence == (
        "parse is the bottleneck: its 2 replicas are busy 96% of the time, read before it is "
        "blocked 90%, keep after it starves 90%. One more replica would give about 156 items/s "
        "instead of 100 items/s (+56%)."
    )
    assert said.command == "zflow scale parse=3"


def test_the_next_bottleneck_limits_the_gain():
    read, parse = blocked("read"), busy("parse", n=1)
    said = verdict(read, parse, busy("keep", 0.8, kind="sink"))
    assert said.gain.factor == pytest.approx(1 / 0.8)
    assert said.sentence.endswith(
        "about 125 items/s instead of 100 items/s (+25%), then keep is the limit."
    )


def test_a_neighbour_that_is_as_full_makes_another_replica_worthless():
    said = verdict(blocked("read"), busy("parse"), busy("keep", 0.99, kind="sink"))
    assert said.sentence.endswith("One more replica would give nothing: keep is as full.")
    assert said.command == ""


def test_a_stage_before_it_that_fills_a_queue_can_do_more_than_it_does():
    parse = busy("parse", rate=150.0, filling_per_s=50.0, inbox=500)
    said = verdict(blocked("read"), parse, busy("enrich"), starved("keep", kind="sink"))
    assert said.stage == "enrich"
    assert said.gain.limit == "parse"
    assert said.gain.factor == pytest.approx(150 / 100)


def test_full_processors_limit_the_gain_and_are_said():
    stages = blocked("read", cpu=0.2), busy("parse", n=2, cpu=0.85), starved("keep", kind="sink")
    said = verdict(*stages, cores={HOST: 2})
    assert said.gain.limit == "cpu"
    assert said.sentence.endswith(
        "would give nothing: the replicas use 1.9 of the 2 processors of here."
    )
    roomy = verdict(*stages, cores={HOST: 8})
    assert roomy.command == "zflow scale parse=3"
    some = verdict(*stages, cores={HOST: 2.4})
    assert some.sentence.endswith("(+26%), then the processors are the limit.")


def test_processors_of_a_machine_that_is_not_known_limit_nothing():
    stages = blocked("read"), busy("parse", n=2, cpu=0.9), starved("keep", kind="sink")
    rates = rates_between(picture(list(stages), 100), picture(list(stages), 102))
    assert one_more(rates.stage("parse"), rates, {"elsewhere": 1}).limit == ""


def test_a_queue_that_lasts_longer_than_a_second_shows_the_bottleneck_too():
    said = verdict(busy("read"), busy("parse", inbox=500), starved("keep", kind="sink"))
    assert said.stage == "parse"
    assert "500 items wait for it" in said.sentence


def test_a_full_stage_nobody_waits_for_is_told_only_if_no_source_sets_the_pace():
    assert verdict(busy("read"), busy("parse", 0.95)).kind == "source"
    assert verdict(blocked("read", 0.3), busy("parse", 0.95)).stage == "parse"


def test_a_slow_sink_is_called_one():
    said = verdict(blocked("read"), blocked("parse"), busy("keep", kind="sink"))
    assert (said.kind, said.stage) == ("sink", "keep")
    assert said.sentence.startswith("keep is a slow sink: it is busy 100% of the time, parse")
    assert said.command == "zflow scale keep=2"


def test_a_slow_source_sets_the_pace_and_everything_behind_it_starves():
    said = verdict(busy("read"), starved("parse", 0.9), starved("keep", 0.95, kind="sink"))
    assert (said.kind, said.stage, said.command) == ("source", "read", "")
    assert said.sentence == (
        "read sets the pace: it gives 100 items/s and is busy 100% of the time in its own code, "
        "and everything behind it starves. The fullest stage behind it is parse, busy 10%; it "
        "could take about 1,000 items/s."
    )


def test_a_source_that_waits_for_what_it_reads_sets_the_pace_too():
    said = verdict(starved("read", 0.97), starved("keep", 0.99, kind="sink"))
    assert said.sentence.startswith(
        "read sets the pace: it gives 100 items/s and waits 97% of the time for what it reads, "
        "and everything behind it starves."
    )


def test_a_replica_with_the_most_frequent_keys_is_named_and_how_to_move_them():
    said = verdict(blocked("read"), hot(), starved("keep", kind="sink"))
    assert (said.kind, said.stage) == ("skew", "Count")
    assert said.sentence.startswith(
        "Count/1 has the keys that come most: it is busy 98% of the time with 90% of the items of "
        "Count, while the other replicas starve 92%."
    )
    assert said.command == "zflow move Count 1=0 7=2"


def test_uneven_replicas_without_keys_are_no_skew():
    uneven = hot()
    uneven.keyed = False
    assert verdict(blocked("read"), uneven, starved("keep", kind="sink")).kind == "free"


def test_a_stage_that_moves_more_than_it_computes_is_told_so():
    stage = Made("parse", [(0.2, 0.0, 0.0, 0.8)], [100.0])
    said = verdict(blocked("read"), stage, starved("keep", kind="sink"))
    assert said.sentence.startswith(
        "parse is the bottleneck: it is busy 100% of the time (80% with moving items), read before"
    )


def test_a_stage_that_waits_for_its_disk_is_told_so():
    stage = Made("Count", [(0.2, 0.0, 0.0, 0.8)], [100.0], partitions=64)
    said = verdict(blocked("read"), stage, starved("keep", kind="sink"))
    assert said.kind == "commits"
    assert "Count waits for its disk: 80% of its time goes into commits" in said.sentence


def test_a_durable_stage_with_an_owner_for_each_partition_cannot_grow():
    stage = busy("Count", n=1, partitions=1)
    said = verdict(blocked("read"), stage, starved("keep", kind="sink"))
    assert said.sentence.endswith(
        "More replicas would give nothing: it has 1 partition, and 1 to own them."
    )


def test_a_stage_that_may_not_grow_is_told_so():
    said = verdict(blocked("read"), busy("join", most_replicas=1), starved("keep", kind="sink"))
    assert said.sentence.endswith("It can have no more than 1 replica.")
    assert said.command == ""


def test_what_alarms_a_replica_is_a_note():
    before, after = picture(list(slow_parse()), 100), picture(list(slow_parse()), 102)
    after = msgspec.structs.replace(after, alarms=["parse/0: its disk is full"])
    assert "parse/0: its disk is full" in explain(before, after).notes


def test_a_stage_that_finishes_nothing_promises_no_gain():
    said = verdict(blocked("read"), busy("parse", rate=0.0), starved("keep", rate=0, kind="sink"))
    assert said.sentence.endswith("No item was finished within 2 s.")
    assert said.command == "zflow status parse"


def test_a_crash_loop_comes_before_everything_that_is_slow():
    dying = busy("parse", deaths_per_s=1.5)
    said = verdict(blocked("read"), dying, starved("keep", kind="sink"))
    assert (said.kind, said.stage) == ("crashing", "parse")
    assert said.sentence == "parse died 3 times in 2 s (exit code 3); 153 deaths in this run."


def test_a_stage_of_which_nobody_is_left_is_down():
    down = busy("parse", deaths_per_s=0.01, states={0: "down"})
    said = verdict(blocked("read"), down, starved("keep", kind="sink"))
    assert said.sentence.startswith("parse is down and waits to be started again (exit code 3)")


def test_one_death_is_only_a_note():
    once = starved("keep", kind="sink", deaths_per_s=0.5)
    said = verdict(*slow_parse()[:2], once)
    assert (said.stage, said.notes) == ("parse", ("keep died 1 time meanwhile.",))


def test_dead_letters_are_the_news_if_they_are_many_and_a_note_if_few():
    said = verdict(blocked("read", dead_per_s=50.0), *slow_parse()[1:])
    assert (said.kind, said.stage) == ("dead", "parse")
    assert said.sentence == (
        "parse gives up 33% of its items: 100 dead letters in 2 s, 5,100 in this run."
    )
    assert said.command == "zflow dead ls --stage parse"
    few = verdict(blocked("read"), busy("parse", dead_per_s=2.0), starved("keep", kind="sink"))
    assert (few.stage, few.notes) == ("parse", ("keep gave up 4 items meanwhile.",))


def test_a_paused_run_is_paused():
    said = verdict(*slow_parse(), paused=True)
    assert (said.kind, said.command) == ("paused", "zflow resume")


def test_a_run_that_starts_says_what_it_waits_for():
    parse = busy("parse", n=2, states={0: "registered", 1: "down"})
    said = verdict(blocked("read", states={0: "bound"}), parse, phase="bind")
    assert said.sentence == "The run is starting: parse/0 and parse/1 are not up yet."
    said = verdict(blocked("read", states={0: "bound"}), busy("parse"), phase="connect")
    assert said.sentence == "The run is starting: read/0 has not reached all neighbours yet."


def test_over_too_short_a_time_nothing_is_said():
    assert verdict(*slow_parse(), seconds=0.1).kind == "early"
    nothing = Made("read", [(0, 0, 0, 0)], [0.0]), Made("keep", [(0, 0, 0, 0)], [0.0])
    assert verdict(*nothing).kind == "early"


def test_a_run_with_nothing_to_do_is_idle():
    idle = (starved("read", 1.0, rate=0), starved("keep", 1.0, rate=0, kind="sink"))
    assert verdict(*idle).kind == "idle"
    assert verdict(*idle, phase="drain").sentence == "The run is draining, and nothing moves."
    assert verdict(*idle, phase="finish").kind == "ending"


def test_if_no_stage_is_full_the_fullest_is_named():
    said = verdict(blocked("read", 0.6), starved("parse", 0.4), starved("keep", 0.9, kind="sink"))
    assert said.kind == "free"
    assert said.sentence == (
        "No stage is full: parse has the most to do, busy 60% of the time with 100 items/s."
    )


def test_if_no_stage_is_full_but_the_machine_is_the_machine_is_named():
    said = verdict(
        blocked("read", 0.5, cpu=0.6), starved("keep", 0.4, cpu=0.6, kind="sink"), cores={HOST: 1}
    )
    assert said.kind == "cpu"
    assert "the replicas use 1.2 of the 1 processors of here" in said.sentence


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d"], "a, b and 2 more"),
    ],
)
def test_a_list_reads_as_one(words, text):
    assert listed(words) == text

"""What a replica counts: bounded, in its black box at once, and by portion."""

import logging

import pytest

from tests.replica.conftest import IN_EDGE
from zflow.metrics import MAX_ERROR_CLASSES, MAX_USER_NAMES, MAX_USER_SERIES
from zflow.protocol.sender import LinkState
from zflow.replica.counters import MARK_NS, _Ages
from zflow.replica.emit import Route
from zflow.replica.usercounters import UserCounters
from zflow.replica.worker import StageWorker
from zflow.replica.yields import YieldWorker

OUT = Route(edge=9, output=None, when=None)
LABEL = "read->work"


def worker(bench, call, kind=StageWorker, *, is_sink=False):
    return kind(bench.bench, call, retry_on=(Exception,), positioned=False, is_sink=is_sink)


def work(bench, made):
    while made.slice():
        bench.turn()


def test_what_is_taken_of_an_edge_is_counted_in_units_and_bytes(make_bench):
    bench = make_bench(OUT)
    bench.feed([b"x" * 100] * 5)
    bench.feed([b"y" * 50] * 3)
    size_bytes = sum(parcel.size_bytes for parcel in bench.core.inbox.parcels)
    work(bench, worker(bench, lambda x: x))
    found = bench.counted()
    assert found[f"items_in:{LABEL}"] == 8
    assert found[f"bytes_in:{LABEL}"] == size_bytes
    waits = [n for name, n in found.items() if name.startswith(f"queue_wait:{LABEL}:")]
    assert sum(waits) == 8
    assert sum(n for name, n in found.items() if name.startswith("processing:")) == 8
    assert found["processing_ns"] > 0


def test_what_gives_nothing_is_filtered_and_what_gives_something_is_ok(make_bench):
    bench = make_bench(OUT)
    bench.feed(list(range(8)))
    work(bench, worker(bench, lambda x: x if x % 5 else None))
    found = bench.counted()
    assert (found["processed"], found["ok"], found["filtered"]) == (8, 6, 2)


def test_links_that_come_and_go_are_counted(make_bench):
    bench = make_bench(OUT)
    (outbox,) = bench.core.outboxes.values()
    first = outbox.settings.targets
    bench.core.resize(outbox.settings.stage, 1, [*first, "next/7"], 0.0)
    bench.bench.counters.finished = True  # it looks at once
    assert len(bench.bench.counters.values()) == len(bench.bench.counters.values())
    bench.core.resize(outbox.settings.stage, 2, list(first), 0.0)
    bench.core.tick(1.0)
    assert "credit:" in " ".join(bench.counted())


def test_a_generator_that_yields_nothing_has_filtered(make_bench):
    bench = make_bench(OUT)
    bench.feed(list(range(8)))
    work(bench, worker(bench, lambda x: iter([x] * (x % 3)), YieldWorker))
    found = bench.counted()
    assert (found["processed"], found["ok"], found["filtered"]) == (8, 5, 3)


def test_a_sink_filters_nothing(make_bench):
    bench = make_bench()
    bench.feed([1, 2, 3])
    work(bench, worker(bench, lambda x: None, is_sink=True))
    found = bench.counted()
    assert (found["ok"], found["filtered"]) == (3, 0)
    assert found[f"latency_ns:{LABEL}"] > 0


def test_errors_are_counted_by_class_and_those_beyond_the_cap_together(make_bench):
    bench = make_bench(OUT)
    classes = [type(f"Error{k}", (Exception,), {}) for k in range(MAX_ERROR_CLASSES + 5)]
    for error in (*classes, *classes):
        bench.counters.failed(error())
    found = bench.counted()
    own = {name: n for name, n in found.items() if name.startswith("error:Error")}
    assert own == {f"error:Error{k}": 2 for k in range(MAX_ERROR_CLASSES)}
    assert (found["error:other"], found["errors"]) == (10, 2 * len(classes))


def test_dead_letters_are_counted_for_the_stage_that_failed(make_bench):
    bench = make_bench(OUT)
    bench.counters.buried("next9", "crash", 2)
    bench.counters.buried("work", "unheard of", 1)
    found = bench.counted()
    assert (found["dead:next9:crash"], found["dead:work:other"]) == (2, 1)


def test_late_items_belong_to_the_edge_they_came_on(make_bench):
    bench = make_bench(OUT)
    bench.counters.were_late(IN_EDGE, 3)
    bench.counters.were_late(IN_EDGE, 3)
    bench.counters.were_late(IN_EDGE, 5)
    assert bench.counted()[f"late:{LABEL}"] == 5


def test_credit_and_what_is_unacknowledged_are_told_of_each_edge(make_bench):
    bench = make_bench(OUT)
    (link,) = bench.core.outboxes[9].links
    assert link.state is LinkState.UP
    bench.feed([1, 2, 3])
    work(bench, worker(bench, lambda x: x))
    bench.turn()
    bench.counters.finished = True  # look at once
    found = bench.counted()
    label = "work->next9"
    assert found[f"unacked_items:{label}"] == 3
    assert found[f"unacked_bytes:{label}"] == link.unacked_bytes > 0
    assert found[f"credit:{label}"] == link.room() > 0


def test_the_age_of_the_oldest_message_is_exact_to_a_mark():
    class Link:
        token, next, unacked_items = 1, 0, 0
        unacked = ()

    class Sent:
        left = 1

        def __init__(self, first):
            self.first = first

    link, ages = Link(), _Ages()
    assert ages.oldest_ns(link, 10) == 0
    sent_ns = {}
    for number in range(100):  # a message each mark, ten are open
        now_ns = 1 + (number + 1) * MARK_NS
        sent_ns[number] = now_ns
        link.next, link.unacked_items = number + 1, min(number + 1, 10)
        link.unacked = [Sent(k) for k in range(max(0, number - 9), number + 1)]
        age_ns = now_ns - sent_ns[link.unacked[0].first]
        assert abs(ages.oldest_ns(link, now_ns) - age_ns) <= MARK_NS
    link.token = 2  # dialled again
    assert ages.oldest_ns(link, now_ns) == 0


# --- counters of the user ---------------------------------------------------------------------


@pytest.fixture
def own(make_bench):
    bench = make_bench(OUT)
    bench.context.counters = UserCounters(bench.black_box)
    return bench


def test_a_counter_of_the_stage_is_in_the_black_box_under_its_name_and_labels(own):
    own.context.counter("orders").add()
    own.context.counter("orders", kind="new").add(4)
    own.context.counter("orders_total", kind="new").add(1)
    found = {name: n for name, n in own.counted().items() if name.startswith("user:")}
    assert found == {'user:["orders",{}]': 1, 'user:["orders",{"kind":"new"}]': 5}


def test_the_same_counter_is_given_again(own):
    assert own.context.counter("orders", a=1, b=2) is own.context.counter("orders", b=2, a=1)


@pytest.mark.parametrize("name", ["", "9lives", "with space", "a-b", "é"])
def test_what_is_no_name_is_refused(own, name):
    with pytest.raises(ValueError, match="is no name"):
        own.context.counter(name)


def test_labels_that_are_ours_are_refused(own):
    with pytest.raises(ValueError, match="label 'stage' of the counter 'orders' is zflow's"):
        own.context.counter("orders", stage="x")


def test_a_label_that_is_too_long_is_refused(own):
    with pytest.raises(ValueError, match="more than 190 bytes"):
        own.context.counter("orders", text="x" * 200)


def test_a_counter_never_falls(own):
    with pytest.raises(ValueError, match="only rises; got -1"):
        own.context.counter("orders").add(-1)


def test_before_open_there_is_no_counter(make_bench):
    with pytest.raises(RuntimeError, match="from open"):
        make_bench(OUT).context.counter("orders")


def test_labels_beyond_the_cap_are_not_kept_and_one_warning_says_so(own, caplog):
    caplog.set_level(logging.WARNING, "zflow.replica")
    for number in range(MAX_USER_SERIES + 50):
        own.context.counter("orders", id=number).add()
    found = [name for name in own.counted() if name.startswith("user:")]
    assert len(found) == MAX_USER_SERIES
    assert len(caplog.records) == 1
    assert "'orders' is not kept" in caplog.text


def test_names_beyond_the_cap_are_not_kept(own):
    for number in range(MAX_USER_NAMES + 5):
        own.context.counter(f"name{number}").add()
    found = [name for name in own.counted() if name.startswith("user:")]
    assert len(found) == MAX_USER_NAMES

"""The books of a run: what the dead and the living counted adds up, and a hole is found."""

from zflow.books import Books
from zflow.protocol.ledger import COLUMNS
from zflow.state.latency import bucket_of

EDGE = "read->parse"


def counters(*, next=0, low=0, label=EDGE, **others):
    """What the black box of a sender says; the rest of its ledger is 0."""
    row = {f"{column}:{label}": 0 for column in COLUMNS}
    given = {
        f"{name}:{label}" if f"{name}:{label}" in row else name: n for name, n in others.items()
    }
    return {**row, "next": next, "low": low, **given}


def books():
    return Books([(EDGE, "read")])


def test_two_living_replicas_add_up():
    kept = books()
    kept.living("read/0", counters(sent=5, processed=5))
    kept.living("read/1", counters(sent=7, processed=7))
    edge = kept.edge(EDGE)
    assert (edge.ledger.sent, edge.ledger.processed, edge.open_units) == (12, 12, 0)


def test_a_later_reading_of_a_living_process_replaces_the_earlier_one():
    kept = books()
    kept.living("read/0", counters(sent=5, processed=4))
    kept.living("read/0", counters(sent=9, processed=9))
    assert kept.edge(EDGE).ledger.sent == 9


def test_what_a_dead_sender_had_open_is_replayed_by_its_successor_and_is_no_hole():
    kept = books()
    kept.living("read/0", counters(sent=10, processed=6))
    kept.died("read/0", counters(sent=10, processed=6, next=10, low=6))
    kept.living("read/0", counters(sent=4, processed=4, next=10, low=10))
    edge = kept.edge(EDGE)
    assert (edge.ledger.sent, edge.ledger.processed, edge.open_units) == (14, 10, 0)
    assert edge.ledger.replayed["sender_died"] == 4
    assert kept.holes(["read"]) == []


def test_units_that_were_sent_and_never_settled_are_a_hole():
    kept = books()
    kept.living("read/0", counters(sent=10, processed=9))
    assert kept.holes([]) == [f"edge {EDGE}: sent 10, settled 9"]


def test_a_source_that_yielded_more_than_is_settled_is_a_hole():
    kept = books()
    kept.died("read/0", counters(next=10, low=9))
    assert kept.holes(["read"]) == ["source read: yielded 10, settled 9"]


def test_an_edge_that_never_sent_is_in_the_books():
    (edge,) = books().edges()
    assert (edge.label, edge.ledger.sent, edge.open_units) == (EDGE, 0, 0)


def test_gauges_are_those_of_the_living_and_counters_those_of_all():
    kept = books()
    kept.died("parse/0", {"processed": 10, "inbox": 5, "queued": 2})
    kept.living("parse/0", {"processed": 3, "inbox": 1, "queued": 0})
    totals = kept.stage("parse")
    assert (totals["processed"], totals["inbox"], totals["queued"]) == (13, 1, 0)


def test_a_stage_is_not_mixed_up_with_one_whose_name_begins_alike():
    kept = books()
    kept.living("parse/0", {"processed": 3})
    kept.living("parse_all/0", {"processed": 4})
    assert kept.stage("parse") == {"processed": 3}


def test_latencies_of_dead_and_living_sinks_are_one_distribution():
    kept = books()
    kept.died("show/0", {f"latency:{EDGE}:{bucket_of(0.001)}": 99})
    kept.living("show/0", {f"latency:{EDGE}:{bucket_of(1.0)}": 1})
    assert 0.001 <= kept.latency_s(["show"], 0.5) <= 0.0012
    assert 0.001 <= kept.latency_s(["show"], 0.99) <= 0.0012
    assert 1.0 <= kept.latency_s(["show"], 1.0) <= 1.2
    assert kept.latency_s(["parse"], 0.5) is None


def test_an_edge_that_two_stages_send_over_has_the_books_of_both():
    kept = Books([(EDGE, "read"), (EDGE, "dead:read:parse")])
    kept.living("read/0", counters(sent=5, processed=5))
    kept.living("dead:read:parse/0", counters(sent=2, dead_lettered=2))
    (edge,) = kept.edges()
    assert (edge.ledger.sent, edge.ledger.settled, edge.ledger.dead_lettered) == (7, 7, 2)

"""Whole cores, joined by a wire that loses nothing: what comes out, and under which names."""

from collections import Counter

import pytest

from zflow.protocol.actions import Dial, Hangup, Send
from zflow.protocol.identity import Branch, place_output
from zflow.protocol.outputs import Output
from zflow.wire.data import Bye, Crash, Data, Reset
from zflow.wire.payload import DecodeError
from zflow.wire.run import OSEQ, SUSPECT, Run

TO_MIDDLE, TO_SINK, TO_OTHER = 11, 22, 33
SEEDS = range(50)
ORIGIN = 77


@pytest.fixture
def make_wire(kit):
    return kit.Wire


def pair(kit, wire, **settings):
    """A source and a sink."""
    edge = kit.edge_settings(TO_SINK, "sink/0", **settings)
    source = wire.add("read/0", edges=(edge,))
    sink = wire.add("sink/0", inputs=(TO_SINK,))
    wire.connect()
    return source, sink


def line(kit, wire, make, *, middles: int = 1, yields: bool = False):
    """A source, some replicas of a stage, and a sink."""
    slots = [f"work/{k}" for k in range(middles)]
    source = wire.add("read/0", edges=(kit.edge_settings(TO_MIDDLE, *slots),))
    for slot in slots:
        edges = (kit.edge_settings(TO_SINK, "sink/0"),)
        wire.add(slot, make, inputs=(TO_MIDDLE,), edges=edges, yields=yields)
    sink = wire.add("sink/0", inputs=(TO_SINK,))
    wire.connect()
    return source, sink


def items_of(replica) -> list:
    return [item for _, item in replica.got]


def books(replica, edge: int):
    return replica.core.outboxes[edge].ledger.snapshot()


def named(oseq: int, *edges: Branch, ordinals: tuple[int, ...] = ()) -> tuple:
    """The unit that a source item has become behind these edges, item by item."""
    path = index = 0
    for k, branch in enumerate(edges):
        ordinal = ordinals[k] if k < len(ordinals) else 0
        place = place_output(branch, path, index, ordinal=ordinal)
        path, index = place.path, place.index
    return (ORIGIN, oseq, path, index)


# -- everything arrives ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_that_a_source_yields_arrives_once_and_in_order(kit, make_wire, seed):
    wire = make_wire(seed)
    source, sink = pair(kit, wire)
    for begin in range(0, 600, 60):
        wire.produce("read/0", list(range(begin, begin + 60)))
        wire.step()
    wire.run()
    assert items_of(sink) == list(range(600)), f"seed {seed}"
    assert [unit for unit, _ in sink.got] == [named(k, Branch(edge=TO_SINK)) for k in range(600)]
    assert source.core.origin.low == 600, f"seed {seed}"
    found = books(source, TO_SINK)
    assert (found.sent, found.processed, found.settled) == (600, 600, 600), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_filtered_items_are_settled_and_the_others_keep_their_names(kit, make_wire, seed):
    wire = make_wire(seed)

    def odd(item):
        return {TO_SINK: [-item]} if item % 3 else {}

    source, sink = line(kit, wire, odd, middles=2)
    at = 0
    while at < 300:  # short runs, so that messages hold several and filters empty some
        n = min(300 - at, wire.chance.randrange(1, 5))
        wire.produce("read/0", list(range(at, at + n)))
        at += n
    wire.run()
    kept = [k for k in range(300) if k % 3]
    edges = Branch(edge=TO_MIDDLE), Branch(edge=TO_SINK)
    expected = {(named(k, *edges), -k) for k in kept}
    assert len(sink.got) == len(kept), f"seed {seed}"
    assert set(sink.got) == expected, f"seed {seed}"
    assert source.core.origin.low == 300, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_portion_may_return_in_parts_and_in_any_order(kit, make_wire, seed):
    wire = make_wire(seed)
    source, sink = line(kit, wire, None)
    work = wire.replicas["work/0"].core

    def execute(now_s, chance):
        parcel = work.next_parcel(now_s)
        if parcel is None:
            return False
        portion = work.take(parcel, 100, now_s)
        cuts = sorted({0, portion.n, *(chance.randrange(portion.n) for _ in range(3))})
        parts = list(zip(cuts, cuts[1:], strict=False))
        chance.shuffle(parts)
        for begin, end in parts:
            output = Output(TO_SINK, None, [-item for item in portion.items[begin:end]])
            work.returned(portion, begin, end, [output])
        return True

    wire.replicas["work/0"].work = execute
    for k in range(20):
        wire.produce("read/0", [3 * k, 3 * k + 1, 3 * k + 2])
    wire.run()
    edges = Branch(edge=TO_MIDDLE), Branch(edge=TO_SINK)
    assert set(sink.got) == {(named(k, *edges), -k) for k in range(60)}, f"seed {seed}"
    assert len(sink.got) == 60, f"seed {seed}"
    assert work.running == 0, f"seed {seed}"
    assert source.core.origin.low == 60, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_that_is_yielded_arrives_under_the_number_of_its_yield(kit, make_wire, seed):
    wire = make_wire(seed)

    def some(item):
        return {TO_SINK: [(item, k) for k in range(item % 4)]}

    source, sink = line(kit, wire, some, middles=2, yields=True)
    wire.produce("read/0", list(range(100)))
    wire.run()
    edges = Branch(edge=TO_MIDDLE), Branch(edge=TO_SINK, yields=True)
    expected = [
        (named(item, *edges, ordinals=(0, k)), (item, k))
        for item in range(100)
        for k in range(item % 4)
    ]
    assert Counter(sink.got) == Counter(expected), f"seed {seed}"
    assert source.core.origin.low == 100, f"seed {seed}"


def test_named_outputs_go_where_their_name_leads(kit, make_wire):
    wire = make_wire()
    source = wire.add("read/0", edges=(kit.edge_settings(TO_MIDDLE, "sort/0"),))
    edges = kit.edge_settings(TO_SINK, "even/0"), kit.edge_settings(TO_OTHER, "odd/0")

    def sort(item):
        return {TO_OTHER if item % 2 else TO_SINK: [item]}

    wire.add("sort/0", sort, inputs=(TO_MIDDLE,), edges=edges)
    even = wire.add("even/0", inputs=(TO_SINK,))
    odd = wire.add("odd/0", inputs=(TO_OTHER,))
    wire.connect()
    wire.produce("read/0", list(range(100)))
    wire.run()
    assert items_of(even) == list(range(0, 100, 2))
    assert items_of(odd) == list(range(1, 100, 2))
    assert source.core.origin.empty()


def test_an_input_waits_for_all_its_branches(kit, make_wire):
    wire = make_wire()
    edges = kit.edge_settings(TO_SINK, "a/0"), kit.edge_settings(TO_OTHER, "b/0")
    source = wire.add("read/0", edges=edges)
    fast = wire.add("a/0", inputs=(TO_SINK,))
    slow = wire.add("b/0", inputs=(TO_OTHER,))
    wire.connect()
    wire.produce("read/0", [1, 2, 3])
    slow.work = lambda now_s, chance: False
    for _ in range(50):
        wire.step()
    assert items_of(fast) == [1, 2, 3]
    assert source.core.origin.low == 0
    del slow.work
    wire.run()
    assert items_of(slow) == [1, 2, 3]
    assert source.core.origin.low == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_diamond_brings_both_halves_under_different_names(kit, make_wire, seed):
    wire = make_wire(seed)
    source = wire.add(
        "read/0",
        edges=(kit.edge_settings(TO_SINK, "sink/0"), kit.edge_settings(TO_MIDDLE, "work/0")),
    )

    def negated(item):
        return {TO_OTHER: [-item]}

    edges = (kit.edge_settings(TO_OTHER, "sink/0"),)
    wire.add("work/0", negated, inputs=(TO_MIDDLE,), edges=edges)
    sink = wire.add("sink/0", inputs=(TO_SINK, TO_OTHER))
    wire.connect()
    wire.produce("read/0", list(range(1, 101)))
    wire.run()
    assert sorted(items_of(sink)) == sorted([*range(1, 101), *range(-100, 0)]), f"seed {seed}"
    assert len({unit for unit, _ in sink.got}) == 200, f"seed {seed}"
    assert source.core.origin.empty(), f"seed {seed}"


def test_a_replica_with_more_work_than_room_stops_executing(kit, make_wire):
    wire = make_wire()
    edges = (kit.edge_settings(TO_SINK, "sink/0", window_items=10),)
    wire.add("read/0", edges=(kit.edge_settings(TO_MIDDLE, "work/0"),))

    def same(item):
        return {TO_SINK: [item]}

    middle = wire.add("work/0", same, inputs=(TO_MIDDLE,), edges=edges)
    sink = wire.add("sink/0", inputs=(TO_SINK,))
    wire.connect()
    sink.work = lambda now_s, chance: False
    wire.produce("read/0", list(range(500)))
    for _ in range(100):
        wire.step()
    assert middle.core.full()
    assert len(middle.got) < 500
    del sink.work
    wire.run()
    assert items_of(sink) == list(range(500))


# -- failures -------------------------------------------------------------------------------------


def test_an_item_that_fails_is_tried_again_and_then_buried_and_the_others_arrive(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire, retries=2, backoff_s=0.001)
    tries = Counter()

    def execute(now_s, chance):
        parcel = sink.core.next_parcel(now_s)
        if parcel is None:
            return False
        portion = sink.core.take(parcel, 100, now_s)
        for position, item in enumerate(portion.items):
            tries[item] += 1
            if item == 13:
                sink.core.failed(portion, position, "error", "ValueError", "unlucky")
            else:
                sink.core.returned(portion, position, position + 1, [])
        return True

    sink.work = execute
    wire.produce("read/0", list(range(20)))
    wire.run()
    assert tries == {**dict.fromkeys(range(20), 1), 13: 3}
    (bury,) = wire.buried
    assert (bury.item, bury.attempts, bury.error) == (13, 3, "unlucky")
    assert source.core.origin.low == 20
    assert books(source, TO_SINK).dead_lettered == 1
    assert sink.core.running == 0


def test_a_message_that_only_the_receiver_cannot_read_is_buried_by_its_sender(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    sink.core._codec = ForeignCodec("a", "b", "c")
    wire.produce("read/0", ["a", "b", "c"])
    wire.run()
    assert [(bury.item, bury.code) for bury in wire.buried] == [
        ("a", "decode"),
        ("b", "decode"),
        ("c", "decode"),
    ]
    assert {bury.error_class for bury in wire.buried} == {"LookupError"}
    assert sink.got == []
    assert source.core.origin.low == 3


class ForeignCodec:
    """Of a process in which the class of some items does not exist."""

    def __init__(self, *unknown: str) -> None:
        self.unknown = unknown

    def decode(self, payload):
        if any(item in self.unknown for item in payload.items):
            raise DecodeError("no such class") from LookupError("no such class")
        return payload.items


def test_innocents_that_travel_with_an_item_that_cannot_be_read_arrive(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    sink.core._codec = ForeignCodec("b")
    wire.produce("read/0", ["a", "b", "c"])
    wire.run()
    assert sorted(items_of(sink)) == ["a", "c"]
    assert [(bury.item, bury.code) for bury in wire.buried] == [("b", "decode")]
    assert source.core.origin.low == 3


def test_an_item_that_nobody_can_read_is_buried_and_the_others_arrive(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", [kit.Undecodable()])
    wire.step()
    wire.produce("read/0", [1, 2, 3])
    wire.run()
    assert items_of(sink)[-3:] == [1, 2, 3]
    assert [bury.code for bury in wire.buried] == ["decode"]
    assert source.core.origin.low == 4


def test_a_body_with_another_number_of_items_than_its_header_is_sent_again_one_by_one(
    kit, make_wire
):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", ["a", "b", "c"])
    source.core.tick(wire.now_s)
    (send,) = [a for a in source.core.actions if isinstance(a, Send) and a.payload is not None]
    send.payload = kit.ListPayload(["a", "b"])
    wire.step()
    assert sink.got == []
    wire.run()
    assert sorted(items_of(sink)) == ["a", "b", "c"]
    assert wire.buried == []


def test_an_output_that_cannot_travel_fails_its_input_one_hop_up(kit, make_wire):
    wire = make_wire()

    def spoil(item):
        return {TO_SINK: [kit.Unencodable() if item == 5 else item]}

    source, sink = line(kit, wire, spoil)
    wire.produce("read/0", list(range(10)))
    wire.run()
    assert sorted(items_of(sink)) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    (bury,) = wire.buried
    assert (bury.item, bury.code, bury.error_class) == (5, "encode", "TypeError")
    assert source.core.origin.low == 10


def test_an_item_of_a_source_that_cannot_travel_is_buried_by_the_source(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", [1, kit.Unencodable(), 3])
    wire.run()
    assert items_of(sink) == [1, 3]
    (bury,) = wire.buried
    assert (bury.stage, bury.edge, bury.code) == ("read/0", "", "encode")
    assert source.core.origin.low == 3


def test_an_item_that_a_source_could_not_make_is_buried_and_numbered_all_the_same(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", ["a"])
    source.core.produced_bad("error", "ValueError", "line 2", "behind line 2")
    wire.produce("read/0", ["c"])
    wire.run()
    assert sink.got == [(named(k, Branch(edge=TO_SINK)), item) for k, item in ((0, "a"), (2, "c"))]
    (bury,) = wire.buried
    assert (bury.code, bury.error, bury.run.start) == ("error", "line 2", 1)
    assert source.core.origin.low == 3


def test_a_send_under_an_old_token_is_known_to_be_old(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    link = source.core.outboxes[TO_SINK].links[0]
    assert source.core.current(link.key, link.token)
    before = link.token
    link.recover("reset", wire.now_s)
    assert not source.core.current(link.key, before)


def test_a_reply_about_a_link_that_nobody_has_changes_nothing(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    source.core.on_reply(Reset(123_456, "gap"), wire.now_s)
    assert not source.core.actions
    assert source.core.connected()


def test_a_send_that_the_socket_refused_is_made_good(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", list(range(5)))
    source.core.tick(wire.now_s)
    (send,) = [a for a in source.core.actions if isinstance(a, Send)]
    source.core.actions.clear()
    source.core.refused_send(send.link, send.frame, wire.now_s)
    wire.run()
    assert items_of(sink) == list(range(5))
    assert books(source, TO_SINK).replayed["peer_lost"] == 5


def test_a_death_that_the_supervisor_reports_is_acted_on_once(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    link = source.core.outboxes[TO_SINK].links[0]
    report = Crash("sink/0", 1, [], False, 3, "SIGSEGV")
    dials = link.dials
    source.core.on_crash(report, wire.now_s)
    assert link.dials == dials + 1
    wire.deliver()
    assert source.core.connected()
    source.core.on_crash(report, wire.now_s)
    assert link.dials == dials + 1


def test_the_death_of_another_slot_or_of_an_older_incarnation_dials_nobody(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    for slot, incarnation in (("sink/1", 1), ("sink/0", 0)):
        source.core.on_crash(Crash(slot, incarnation, [], False, 3, "SIGSEGV"), wire.now_s)
    assert source.core.connected()
    assert not source.core.actions


def test_suspects_leave_the_inbox_one_by_one(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    unit = Branch(edge=TO_SINK)
    _, _, path, index = named(0, unit)
    runs = [Run(ORIGIN, path, OSEQ, index, 2, 3)]
    source.core.on_crash(Crash("sink/0", 0, runs, False, 3, "SIGSEGV"), wire.now_s)
    wire.produce("read/0", list(range(8)))
    wire.step(work=False)
    taken = []
    while parcel := sink.core.next_parcel(wire.now_s):
        portion = sink.core.take(parcel, 100, wire.now_s)
        taken.append(portion.items)
        sink.core.returned(portion, 0, portion.n, [])
    assert taken == [[0, 1], [2], [3], [4], [5, 6, 7]]


def test_suspects_leave_one_by_one(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    token = source.core.outboxes[TO_SINK].links[0].token
    runs = [Run(ORIGIN, 5, OSEQ, 0, 10 * k, n, 0, 0, SUSPECT) for k, n in enumerate([2, 1, 3])]
    payload = kit.ListPayload(list("abcdef"))
    sink.core.on_frame(Data(token, 0, 6, runs, payload.sizes), payload, wire.now_s)
    taken = []
    while parcel := sink.core.next_parcel(wire.now_s):
        portion = sink.core.take(parcel, 100, wire.now_s)
        taken.append("".join(portion.items))
        sink.core.returned(portion, 0, portion.n, [])
    assert taken == list("abcdef")


# -- the end --------------------------------------------------------------------------------------


def test_the_end_flows_down_when_nothing_is_queued(kit, make_wire):
    wire = make_wire()
    source, sink = line(kit, wire, lambda item: {TO_SINK: [item]})
    wire.produce("read/0", list(range(50)))
    wire.run()
    assert not sink.core.quiet()
    source.core.source_ended = True
    wire.run(until=sink.core.quiet)
    assert all(replica.core.quiet() for replica in wire.replicas.values())


def test_finishing_says_bye_and_hangs_up(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", [1, 2, 3])
    wire.run()
    source.core.finish()
    frames = [a.frame for a in source.core.actions if isinstance(a, Send)]
    assert [type(frame) for frame in frames] == [Bye]
    assert isinstance(source.core.actions[-1], Hangup)
    wire.deliver()
    assert sink.core.quiet()


def test_finishing_is_refused_while_units_are_unacknowledged(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.produce("read/0", [1, 2, 3])
    wire.step(work=False)
    with pytest.raises(ValueError, match="open units"):
        source.core.finish()
    wire.run()
    assert items_of(sink) == [1, 2, 3]


def test_finishing_is_refused_while_units_are_queued(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    wire.produce("read/0", [1, 2, 3])
    with pytest.raises(ValueError, match="open"):
        source.core.finish()
    assert source.core.connected()


def test_a_refused_finish_closes_no_link_at_all(kit, make_wire):
    wire = make_wire()
    edges = kit.edge_settings(TO_SINK, "a/0"), kit.edge_settings(TO_OTHER, "b/0")
    source = wire.add("read/0", edges=edges)
    wire.add("a/0", inputs=(TO_SINK,))
    wire.add("b/0", inputs=(TO_OTHER,))
    wire.connect()
    wire.produce("read/0", [1], edges=[TO_OTHER])
    wire.step(work=False)
    source.core.actions.clear()
    with pytest.raises(ValueError, match="open"):
        source.core.finish()
    assert not source.core.actions
    assert source.core.connected()


def test_connecting_twice_dials_once(kit, make_wire):
    wire = make_wire()
    source, _ = pair(kit, wire)
    source.core.connect(wire.now_s)
    assert not [a for a in source.core.actions if isinstance(a, Dial)]


def test_a_core_with_nothing_to_do_is_due_at_its_next_heartbeat(kit, make_wire):
    wire = make_wire()
    source, sink = pair(kit, wire)
    wire.step()
    assert wire.now_s < source.core.due_s() <= wire.now_s + 1.0
    assert sink.core.due_s() > wire.now_s + 1000


def test_only_a_source_produces(kit, make_wire):
    wire = make_wire()
    _, sink = pair(kit, wire)
    with pytest.raises(AssertionError, match="only a source produces"):
        sink.core.produced([Output(TO_SINK, None, [1])], 1, 0, None)

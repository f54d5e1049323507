"""What is settled for good flows down with heartbeats, so that anchors may forget it."""

import random
from itertools import count, permutations

import pytest

from zflow.protocol.actions import Send
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import Inbox
from zflow.protocol.origin import SPAN
from zflow.protocol.outputs import Output
from zflow.wire.data import Heartbeat, Hello

TO_MIDDLE, TO_SINK, TO_OTHER = 11, 22, 33
ORIGIN = 77


def heartbeats(core, now_s: float) -> list[list[int]]:
    """The marks that each link states now."""
    core.actions.clear()
    for outbox in core.outboxes.values():
        for link in outbox.links:
            link.heartbeat(now_s)
    frames = [action.frame for action in core.actions if isinstance(action, Send)]
    core.actions.clear()
    return [frame.watermarks for frame in frames if isinstance(frame, Heartbeat)]


def line(kit, wire, *, lossy: bool = False):
    """A source, a stage and a sink."""
    first = kit.edge_settings(TO_MIDDLE, "work/0", at_most_once=lossy)
    source = wire.add("read/0", edges=(first,))
    edges = (kit.edge_settings(TO_SINK, "sink/0"),)
    middle = wire.add("work/0", lambda x: {TO_SINK: [x]}, inputs=(TO_MIDDLE,), edges=edges)
    sink = wire.add("sink/0", inputs=(TO_SINK,))
    wire.connect()
    return source, middle, sink


def beat(wire) -> None:
    """A second, in which every link says where it is."""
    for _ in range(3):
        wire.step(1.0)


def test_a_source_states_the_end_of_its_settled_stretch(kit):
    wire = kit.Wire()
    source, _, sink = line(kit, wire)
    assert heartbeats(source.core, wire.now_s) == [[ORIGIN, 0]]
    wire.produce("read/0", list(range(10)))
    wire.run()
    assert heartbeats(source.core, wire.now_s) == [[ORIGIN, 10]]
    assert [item for _, item in sink.got] == list(range(10))


def test_an_open_unit_holds_the_mark_however_much_behind_it_is_settled(kit):
    wire = kit.Wire()
    edges = kit.edge_settings(TO_SINK, "a/0"), kit.edge_settings(TO_OTHER, "b/0")
    source = wire.add("read/0", edges=edges)
    wire.add("a/0", inputs=(TO_SINK,))
    slow = wire.add("b/0", inputs=(TO_OTHER,))
    wire.connect()
    slow.work = lambda now_s, chance: False
    wire.produce("read/0", [0, 1, 2], [TO_SINK])
    wire.produce("read/0", [3], [TO_OTHER])
    wire.produce("read/0", list(range(4, 100)), [TO_SINK])
    beat(wire)
    assert heartbeats(source.core, wire.now_s) == [[ORIGIN, 3], [ORIGIN, 3]]
    del slow.work
    wire.run()
    assert heartbeats(source.core, wire.now_s) == [[ORIGIN, 100], [ORIGIN, 100]]


def test_a_stage_passes_on_what_it_has_heard_and_adds_nothing(kit):
    wire = kit.Wire()
    _, middle, sink = line(kit, wire)
    wire.produce("read/0", list(range(10)))
    wire.run()
    beat(wire)
    assert middle.core.inbox.watermarks == {ORIGIN: 10}
    assert heartbeats(middle.core, wire.now_s) == [[ORIGIN, 10]]
    assert sink.core.inbox.watermarks == {ORIGIN: 10}


def test_the_marks_of_all_origins_above_reach_everybody_below(kit):
    wire = kit.Wire()
    for k in range(3):
        wire.add(f"read/{k}", edges=(kit.edge_settings(TO_MIDDLE, "work/0"),))
        wire.replicas[f"read/{k}"].core.origin.origin = 70 + k
    edges = (kit.edge_settings(TO_SINK, "sink/0"),)
    wire.add("work/0", lambda x: {TO_SINK: [x]}, inputs=(TO_MIDDLE,), edges=edges)
    sink = wire.add("sink/0", inputs=(TO_SINK,))
    wire.connect()
    for k in range(3):
        wire.produce(f"read/{k}", list(range(10 * k)) or [0])
    wire.run()
    beat(wire)
    assert sink.core.inbox.watermarks == {70: 1, 71: 10, 72: 20}


def inbox_of(kit) -> Inbox:
    found = Inbox(kit.inbox_settings("sink/0", TO_SINK), [].append)
    for token, sender in ((1, "work/0"), (2, "work/1")):
        hello = Hello(token, "run", sender, 1, 1, "ack", TO_SINK, 1, "list", False)
        found.on_hello(hello, 1.0)
    return found


def hear(inbox: Inbox, token: int, *marks: int) -> None:
    frame = Heartbeat(token, 0, 0, False, TO_SINK, f"work/{token - 1}", 1, "ack", [*marks])
    inbox.on_heartbeat(frame, 1.0)


@pytest.mark.parametrize("order", [*permutations([(1, 5), (2, 9), (1, 7)])])
def test_an_inbox_keeps_the_highest_mark_whoever_says_it_and_when(kit, order):
    inbox = inbox_of(kit)
    for token, mark in order:
        hear(inbox, token, ORIGIN, mark, 78, 1)
    assert inbox.watermarks == {ORIGIN: 9, 78: 1}


def test_marks_are_believed_even_if_the_tail_of_the_link_was_lost(kit):
    """They are facts about the origin, whatever became of the link that they came over."""
    inbox = inbox_of(kit)
    frame = Heartbeat(1, 100, 0, False, TO_SINK, "work/0", 1, "ack", [ORIGIN, 5])
    inbox.on_heartbeat(frame, 1.0)
    assert inbox.watermarks == {ORIGIN: 5}


def test_marks_under_an_unknown_token_change_nothing(kit):
    inbox = inbox_of(kit)
    hear(inbox, 99, ORIGIN, 5)
    assert inbox.watermarks == {}


def test_half_a_mark_is_no_mark(kit):
    inbox = inbox_of(kit)
    hear(inbox, 1, ORIGIN, 5, 78)
    assert inbox.watermarks == {ORIGIN: 5}


# -- durable stages -------------------------------------------------------------------------------


def durable(kit, *, partitions: int = 2) -> Core:
    """A durable stage that has heard of an origin above it and owns some partitions."""
    tokens = count(1)
    core = Core(
        CoreSettings(
            identity=kit.identity("keep/0"),
            inbox=kit.inbox_settings("keep/0", TO_MIDDLE),
            edges=(kit.edge_settings(TO_SINK, "sink/0"),),
            upstream=frozenset({(TO_MIDDLE, "read/0")}),
            anchor=True,
        ),
        codec=kit.ListCodec(),
        new_token=lambda: next(tokens),
        random=random.Random(1),
    )
    core.connect(1.0)
    core.inbox.watermarks[ORIGIN] = 50
    for k in range(partitions):
        core.acquired(k, OriginSettings(origin=900 + k, stage="keep", low=10 * k))
    return core


def test_a_durable_stage_states_the_origins_of_its_partitions_and_no_other(kit):
    assert heartbeats(durable(kit), 1.0) == [[900, 0, 901, 10]]


def test_a_durable_stage_without_partitions_states_nothing(kit):
    assert heartbeats(durable(kit, partitions=0), 1.0) == [[]]


def test_what_a_partition_made_raises_its_own_mark_only(kit):
    core = durable(kit)
    one = core.partitions[1]
    core.produced_at(one, [], 3, 0, None)  # no edge wants them
    assert heartbeats(core, 1.0) == [[900, 0, 901, 13]]
    core.produced_at(one, [Output(TO_SINK, [1], ["b"])], 2, 0, None)
    assert heartbeats(core, 1.0) == [[900, 0, 901, 13]]
    assert not core.settled()


def test_a_partition_whose_oldest_output_is_open_for_a_whole_span_stops_the_stage(kit):
    core = durable(kit)
    assert not core.full()
    core.produced_at(core.partitions[0], [Output(TO_SINK, [0], ["a"])], 1, 0, None)
    core.produced_at(core.partitions[0], [], SPAN - 1, 0, None)
    assert core.full()


# -- edges that carry none ------------------------------------------------------------------------


def test_an_at_most_once_edge_states_no_marks(kit):
    """Its units are settled when they are sent, and would be taken for duplicates on arrival."""
    wire = kit.Wire()
    source, middle, sink = line(kit, wire, lossy=True)
    middle.work = lambda now_s, chance: False
    wire.produce("read/0", list(range(5)))
    beat(wire)
    assert source.core.origin.low == 5
    assert heartbeats(source.core, wire.now_s) == [[]]
    assert sink.core.inbox.watermarks == {}
    del middle.work
    wire.run()
    assert [item for _, item in sink.got] == list(range(5))

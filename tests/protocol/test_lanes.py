"""Urgent units overtake, the others are not forgotten, and what is too much is dropped in order."""

import random
from collections import Counter

import pytest

from zflow.protocol.actions import Send
from zflow.protocol.inbox import Inbox
from zflow.protocol.lanes import PriorityOutbox
from zflow.protocol.overflow import DroppingOutbox, DroppingPriorityOutbox
from zflow.protocol.segment import Segment
from zflow.protocol.task import Task
from zflow.protocol.turns import Turns
from zflow.wire.data import Data, Hello, Nack, State, Welcome
from zflow.wire.run import LANES, MIDDLE_LANE, OSEQ, RESENT, Run, lane_flags

NOW_S = 1000.0
EDGE = 9


def drained(turns, waiting, n=1):
    """Lanes in the order in which they are served, until nothing waits."""
    left, order = Counter(waiting), []
    while lanes := sorted(lane for lane, units in left.items() if units):
        lane = turns.next(lanes)
        units = min(left[lane], max(1, turns.most(lane, lanes, n)))
        turns.served(lane, lanes, units)
        left[lane] -= units
        order += [lane] * units
    return order


# -- whose turn it is -----------------------------------------------------------------------------


def test_a_lane_survives_in_the_flags_whatever_else_is_in_them():
    for lane in range(LANES):
        run = Run(1, 2, OSEQ, 0, 0, 9, flags=lane_flags(lane) | RESENT)
        assert (run.lane, run.cut(3, 5).lane) == (lane, lane)
        assert run.marked(attempt=2, flags=run.flags | 7).lane == lane
    assert Run(1, 2, OSEQ, 0, 0, 1, flags=RESENT).lane == MIDDLE_LANE


def test_the_most_urgent_is_first_but_for_the_share_of_the_others():
    order = drained(Turns(0.25), {0: 300, 5: 1000})
    first = order[:400]
    assert first.count(5) == 100, "a quarter of them, while both wait"
    assert order[400:] == [5] * 900


def test_two_lanes_that_are_overtaken_share_what_is_kept_for_them():
    order = drained(Turns(0.2), {1: 400, 3: 400, 7: 400})[:500]
    assert (order.count(1), order.count(3), order.count(7)) == (400, 50, 50)


def test_nobody_is_owed_anything_for_a_time_in_which_he_did_not_wait():
    turns = Turns(0.5)
    drained(turns, {0: 1000})
    assert drained(turns, {0: 2, 1: 2}) == [0, 1, 0, 1]


@pytest.mark.parametrize("fair_ratio", [0.01, 0.1, 0.5, 0.9])
def test_however_many_leave_at_once_the_share_is_kept(fair_ratio):
    dice = random.Random(5)
    turns, waiting, served = Turns(fair_ratio), [0, 3], Counter()
    for _ in range(5000):
        lane = turns.next(waiting)
        units = max(1, turns.most(lane, waiting, dice.randint(1, 64)))
        turns.served(lane, waiting, units)
        served[lane] += units
    assert served[3] / served.total() == pytest.approx(fair_ratio, rel=0.1)


# -- the sender -----------------------------------------------------------------------------------


class Bench:
    """One outbox with one receiver that has room as a test says."""

    def __init__(self, kit, kind, room=0, **settings):
        self.kit, self.owner, self.actions, self.made = kit, kit.Owner(), [], 0
        tokens = iter(range(101, 999))
        self.outbox = kind(
            kit.edge_settings(kit.EDGE, lanes=True, **settings),
            kit.identity(),
            codec=kit.ListCodec(),
            act=self.actions.append,
            new_token=lambda: next(tokens),
            new_ticket=lambda: next(tokens),
            random=random.Random(1),
        )
        (self.link,) = self.outbox.links
        self.link.dial(NOW_S)
        self.link.on_welcome(Welcome(self.link.token, "sink/0", 1, 0, 10**9, []), NOW_S)
        self.version = 0
        self.more(room)

    def more(self, room, acked=(), nacks=(), now_s=NOW_S):
        """Room for so many more; what leaves now, message by message: (lane, items)."""
        self.version += 1
        limit = self.link.credit.sent_items + room
        state = State(self.link.token, self.version, 0, limit, 10**9, 64, [*acked], [*nacks], 0.0)
        self.link.on_state(state, now_s)
        del self.actions[:]
        self.outbox.dispatch(now_s)
        sent = [action for action in self.actions if isinstance(action, Send)]
        data = [one for one in sent if isinstance(one.frame, Data)]
        return [(one.frame.runs[0].lane, one.payload.items) for one in data]

    def enqueue(self, n, lane=None):
        first, self.made = self.made, self.made + n
        task = Task(self.owner, first, n)
        task.made(n)
        flags = 0 if lane is None else lane_flags(lane)
        items = [f"{'-' if lane is None else lane}:{first + k}" for k in range(n)]
        run = Run(1, 2, OSEQ, 0, first, n, flags=flags)
        self.outbox.enqueue(Segment([run], items, task, range(n)))
        task.returned()

    def acknowledge(self, below):
        """Everything below that number, and no more room."""
        if below:
            self.more(0, acked=[0, below])

    def dropped(self):
        return self.outbox.ledger.snapshot().dropped["full"]


def test_what_is_urgent_leaves_before_what_has_waited_longer(kit):
    bench = Bench(kit, PriorityOutbox)
    bench.enqueue(1000, 7)
    bench.enqueue(2, 3)
    bench.enqueue(1, 0)
    assert bench.more(4) == [(0, ["0:1002"]), (3, ["3:1000", "3:1001"]), (7, ["7:0"])]
    bench.enqueue(1, 0)
    assert bench.more(2) == [(0, ["0:1003"]), (7, ["7:1"])]


def test_lanes_never_share_a_message(kit):
    bench = Bench(kit, PriorityOutbox)
    for lane in (3, 1, 3, 1):
        bench.enqueue(5, lane)
    assert [lane for lane, _ in bench.more(20)] == [1, 3]


def test_a_backlog_is_not_starved(kit):
    bench = Bench(kit, PriorityOutbox, fair_ratio=0.2)
    bench.enqueue(1000, 7)
    seen = Counter()
    for _ in range(100):
        bench.enqueue(10, 0)
        bench.acknowledge(bench.link.next)
        for lane, items in bench.more(10):
            seen[lane] += len(items)
    assert seen[7] == pytest.approx(200, abs=10), "a fifth of 1,000, while urgent ones wait"


def test_what_comes_back_keeps_its_lane(kit):
    bench = Bench(kit, PriorityOutbox, retries=3, backoff_s=0.0)
    bench.enqueue(3, 2)
    bench.enqueue(3, 6)
    bench.more(6)
    nacks = [Nack(0, 1, "error", "ValueError", "no"), Nack(3, 1, "error", "ValueError", "no")]
    sent = bench.more(6, nacks=nacks, now_s=NOW_S + 1)
    assert sent == [(2, ["2:0"]), (6, ["6:3"])]
    bench.link.recover("peer_lost", NOW_S + 2)
    bench.link.on_welcome(Welcome(bench.link.token, "sink/0", 2, 0, 10**9, []), NOW_S + 2)
    bench.version = 0
    again = bench.more(9, now_s=NOW_S + 3)
    assert [lane for lane, _ in again] == [2, 6]
    assert sum(len(items) for _, items in again) == 6


# -- what is too much -----------------------------------------------------------------------------


def test_the_newest_are_dropped_and_counted(kit):
    bench = Bench(kit, DroppingOutbox, window_items=10, on_full="drop_newest")
    bench.enqueue(8)
    bench.enqueue(8)
    bench.enqueue(3)
    assert not bench.outbox.full()
    assert (bench.outbox.queued, bench.dropped()) == (10, 9)
    assert bench.owner.settled == [*range(16, 19)], "of the others some still wait"
    assert bench.more(10) == [(MIDDLE_LANE, [f"-:{k}" for k in range(10)])]
    bench.more(0, acked=[0, 10])
    assert sorted(bench.owner.settled) == list(range(19)), "what was dropped is settled too"


def test_the_oldest_are_dropped_but_not_what_is_on_its_way(kit):
    bench = Bench(kit, DroppingOutbox, window_items=10, on_full="drop_oldest")
    bench.enqueue(6)
    assert len(bench.more(4)[0][1]) == 4
    bench.enqueue(20)
    assert (bench.outbox.retained()[0], bench.dropped()) == (10, 16)
    assert bench.more(10) == [(MIDDLE_LANE, [f"-:{k}" for k in range(20, 26)])]


def test_more_at_once_than_there_is_room_for(kit):
    for on_full, kept in (("drop_oldest", [5, 6, 7, 8]), ("drop_newest", [0, 1, 2, 3])):
        bench = Bench(kit, DroppingOutbox, window_items=4, on_full=on_full)
        bench.enqueue(9)
        assert bench.more(9) == [(MIDDLE_LANE, [f"-:{k}" for k in kept])], on_full
        assert bench.dropped() == 5


def test_the_least_urgent_are_dropped_first(kit):
    bench = Bench(kit, DroppingPriorityOutbox, window_items=6, on_full="drop_oldest")
    bench.enqueue(3, 1)
    bench.enqueue(3, 7)
    bench.enqueue(2, 0)
    sent = bench.more(9)
    assert sent == [(0, ["0:6", "0:7"]), (1, ["1:0", "1:1", "1:2"]), (7, ["7:5"])]
    assert bench.dropped() == 2


def test_the_books_balance_whatever_is_dropped(kit):
    dice = random.Random(3)
    for kind, on_full in ((DroppingOutbox, "drop_oldest"), (DroppingPriorityOutbox, "drop_newest")):
        bench = Bench(kit, kind, window_items=50, on_full=on_full)
        for _ in range(300):
            bench.enqueue(dice.randint(1, 30), dice.choice([0, 4, 7]))
            bench.more(dice.randint(0, 12))
            assert bench.outbox.retained()[0] <= 50
            bench.acknowledge(max(0, bench.link.next - dice.randint(0, 20)))
        bench.more(1000)
        bench.more(0, acked=[0, bench.link.next])
        books = bench.outbox.ledger.snapshot()
        assert books.sent == books.settled == bench.made
        assert sorted(bench.owner.settled) == list(range(bench.made))


# -- the receiver ---------------------------------------------------------------------------------


def inbox(kit, fair_ratio=0.1):
    made = Inbox(kit.inbox_settings("sink/0", EDGE, fair_ratio=fair_ratio), lambda action: None)
    hello = Hello(7, "run", "read/0", 1, 1, "ack", EDGE, 1, "list", False)
    made.on_hello(hello, NOW_S)
    made.links[EDGE, "read/0"].credit.widen(10_000, 10**9)
    return made


def arrive(kit, made, n, lane):
    link = made.links[EDGE, "read/0"]
    payload = kit.ListPayload([lane] * n)
    run = Run(1, 2, OSEQ, 0, link.next, n, flags=lane_flags(lane))
    made.on_data(Data(7, link.next, n, [run], payload.sizes), payload, NOW_S)


def taken(made, n):
    parcel = made.first()
    parcel.items = parcel.payload.items
    return made.leave(parcel, n, NOW_S).items


def test_what_is_urgent_is_executed_before_the_rest_of_a_message_that_has_begun(kit):
    made = inbox(kit)
    arrive(kit, made, 10, 5)
    assert taken(made, 4) == [5] * 4
    arrive(kit, made, 2, 5)
    arrive(kit, made, 2, 0)
    arrive(kit, made, 1, 3)
    assert [taken(made, 9) for _ in range(4)] == [[0, 0], [3], [5] * 6, [5, 5]]
    assert not made.parcels


def test_a_receiver_keeps_the_share_too(kit):
    made, seen = inbox(kit, fair_ratio=0.25), Counter()
    for _ in range(200):
        arrive(kit, made, 1, 6)
        arrive(kit, made, 1, 0)
        arrive(kit, made, 1, 0)
        for _ in range(2):
            seen.update(taken(made, 1))
    assert seen[6] == pytest.approx(100, abs=5)
    while made.parcels:
        seen.update(taken(made, 1))
    assert seen == {0: 400, 6: 200}

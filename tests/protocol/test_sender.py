"""The sender link, row by row of its table, and its one recovery against a model."""

import random
from collections import Counter

import pytest

from zflow.intervals import IntervalSet
from zflow.protocol.actions import Dial, Hangup, Retire, Send
from zflow.protocol.sender import (
    HEARTBEAT_S,
    HELLO_FIRST_S,
    HELLO_MAX_S,
    LOST_S,
    REFUSED_MAX_S,
    STUCK_S,
    LinkState,
    SenderLink,
)
from zflow.wire.data import (
    Bye,
    Crash,
    Data,
    Heartbeat,
    Hello,
    Nack,
    Refuse,
    Reset,
    State,
    Welcome,
)

NOW_S = 1000.0
LINK = (9, "sink/0")
DOWN, DIALING, UP, LEAVING, CLOSED = LinkState


class Queue:
    """Writes down what the link hands back, as (unit, item)."""

    def __init__(self, codec) -> None:
        self.codec = codec
        self.settled_units: list = []
        self.nacked_units: list = []
        self.back: list = []
        self.reasons: list[str] = []
        self.crashes: list[Crash] = []

    def settled(self, segment, begin, end):
        units = [unit for run in segment.runs for unit in run.units()]
        self.settled_units += units[begin:end]

    def nacked(self, segment, nack, now_s):
        self.nacked_units += pairs(segment)

    def returned(self, segments, reason):
        self.reasons.append(reason)
        self.back += [pair for segment in segments for pair in pairs(segment)]

    def accused(self, crash):
        self.crashes.append(crash)

    def items_of(self, sent):
        return self.codec.decode(sent.payload)


def pairs(segment) -> list:
    units = [unit for run in segment.runs for unit in run.units()]
    return list(zip(units, segment.items, strict=True))


class Bench:
    """One link with everything around it."""

    def __init__(self, kit) -> None:
        self.kit = kit
        self.actions: list = []
        self.codec = kit.ListCodec()
        self.queue = Queue(self.codec)
        self.tokens = iter(range(101, 10_000))
        self.link = SenderLink(
            LINK, self.queue, kit.identity(), self.actions.append, lambda: next(self.tokens)
        )
        self.pushed = 0

    def up(self, limit: int = 1000) -> None:
        self.link.dial(NOW_S)
        self.welcome(limit)

    def welcome(self, limit: int = 1000, crashes=()) -> None:
        frame = Welcome(self.link.token, LINK[1], 1, limit, 10**9, list(crashes))
        self.link.on_welcome(frame, NOW_S)

    def push(self, *sizes: int) -> None:
        """One message of segments of these sizes."""
        segments = []
        for n in sizes:
            items = [f"item {k}" for k in range(self.pushed, self.pushed + n)]
            segments.append(self.kit.segment_of(items, first=self.pushed))
            self.pushed += n
        items = [item for segment in segments for item in segment.items]
        self.link.push(segments, len(items), self.codec.encode(items), retain=True)

    def state(self, version: int, acked=(), nacks=(), *, token=None, executing_s=0.0) -> None:
        found = self.link.token if token is None else token
        frame = State(found, version, 0, 1000, 10**9, 100, [*acked], [*nacks], executing_s)
        self.link.on_state(frame, NOW_S)

    def frames(self, kind) -> list:
        sent = [action.frame for action in self.actions if isinstance(action, Send)]
        return [frame for frame in sent if isinstance(frame, kind)]

    def snapshot(self) -> tuple:
        """Everything that the link knows."""
        link = self.link
        known = {key: value for key, value in vars(link).items() if not callable(value)}
        del known["_queue"]
        credit = [getattr(link.credit, name) for name in link.credit.__slots__]
        sent = [(s.first, s.n, s.left, id(s.payload)) for s in link.unacked]
        known |= {"credit": credit, "unacked": sent, "_acked": list(link._acked)}
        return known, len(self.actions), vars(self.queue).__repr__()


@pytest.fixture
def bench(kit):
    return Bench(kit)


def in_state(bench: Bench, state: LinkState) -> None:
    """Bring the link there the honest way."""
    if state is not DOWN:
        bench.link.dial(NOW_S)
    if state in (UP, LEAVING, CLOSED):
        bench.welcome()
    if state is LEAVING:
        bench.link.retire()
        bench.link.part(NOW_S)
    if state is CLOSED:
        bench.link.close()
    assert bench.link.state is state
    bench.actions.clear()


EVENTS = {
    "dial": lambda b: b.link.dial(NOW_S),
    "welcome": lambda b: b.welcome(),
    "refuse": lambda b: b.link.on_refuse(Refuse(b.link.token, "draining", 0, 1.0), NOW_S),
    "zombie": lambda b: b.link.on_refuse(Refuse(b.link.token, "stale_incarnation", 2, 1.0), NOW_S),
    "state": lambda b: b.state(1),
    "broken state": lambda b: b.state(1, acked=[0, 5]),
    "reset": lambda b: b.link.on_reset(Reset(b.link.token, "gap"), NOW_S),
    "refused hello": lambda b: b.link.refused(b.frames(Hello)[0], NOW_S),
    "timer": lambda b: b.link.tick(NOW_S + 1.5),
    "close": lambda b: b.link.close(),
    "part": lambda b: b.link.part(NOW_S),
    "part later": lambda b: (b.link.part(NOW_S), b.actions.clear(), b.link.part(NOW_S + LOST_S)),
    "stay": lambda b: b.link.stay(NOW_S),
}

# (state, event) -> state, frames and actions; what is not named here changes nothing.
ROWS = {
    (DOWN, "dial"): (DIALING, [Dial, Hello]),
    (DOWN, "close"): (CLOSED, [Hangup]),
    (DIALING, "dial"): (DIALING, [Dial, Hello]),
    (DIALING, "welcome"): (UP, []),
    (DIALING, "refuse"): (DIALING, []),
    (DIALING, "zombie"): (DIALING, [Retire]),
    (DIALING, "timer"): (DIALING, [Hello]),
    (DIALING, "close"): (CLOSED, [Hangup]),
    (UP, "dial"): (DIALING, [Dial, Hello]),
    (UP, "welcome"): (UP, []),
    (UP, "state"): (UP, []),
    (UP, "broken state"): (DIALING, [Dial, Hello]),
    (UP, "reset"): (DIALING, [Dial, Hello]),
    (UP, "timer"): (UP, [Heartbeat]),
    (UP, "close"): (CLOSED, [Bye, Hangup]),
    (DOWN, "part"): (CLOSED, [Hangup]),
    (DIALING, "part later"): (CLOSED, [Hangup]),
    (UP, "part"): (LEAVING, [Bye, Heartbeat]),
    (UP, "part later"): (CLOSED, [Hangup]),
    (LEAVING, "dial"): (DIALING, [Dial, Hello]),
    (LEAVING, "timer"): (LEAVING, [Bye, Heartbeat]),
    (LEAVING, "reset"): (CLOSED, [Hangup]),
    (LEAVING, "part later"): (CLOSED, [Hangup]),
    (LEAVING, "stay"): (DIALING, [Dial, Hello]),
    (LEAVING, "close"): (CLOSED, [Hangup]),
    (CLOSED, "dial"): (DIALING, [Dial, Hello]),
    (CLOSED, "stay"): (DIALING, [Dial, Hello]),
    (CLOSED, "close"): (CLOSED, []),
}
OUR_EVENTS = {"dial", "refused hello", "close", "part", "part later", "stay"}
FRAME_EVENTS = sorted(set(EVENTS) - OUR_EVENTS)


@pytest.mark.parametrize(("state", "event"), ROWS)
def test_a_row_of_the_table(bench, state, event):
    in_state(bench, state)
    EVENTS[event](bench)
    done = [type(a.frame if isinstance(a, Send) else a) for a in bench.actions]
    assert (bench.link.state, done) == ROWS[state, event]


@pytest.mark.parametrize(
    ("state", "event"),
    [(s, e) for s in LinkState for e in FRAME_EVENTS if (s, e) not in ROWS],
)
def test_what_the_table_does_not_name_changes_nothing(bench, state, event):
    in_state(bench, state)
    before = bench.snapshot()
    EVENTS[event](bench)
    assert bench.snapshot() == before


FOREIGN = {
    "welcome": lambda b, t: b.link.on_welcome(Welcome(t, "sink/0", 9, 9999, 9999, []), NOW_S + 9),
    "refuse": lambda b, t: b.link.on_refuse(Refuse(t, "stale_incarnation", 99, 9.0), NOW_S + 9),
    "state": lambda b, t: b.state(99, acked=[0, 2], token=t),
    "nack": lambda b, t: b.state(99, nacks=[Nack(0, 1, "error", "E", "")], token=t),
    "broken state": lambda b, t: b.state(99, acked=[5, 1], token=t),
    "reset": lambda b, t: b.link.on_reset(Reset(t, "gap"), NOW_S + 9),
    "refused data": lambda b, t: b.link.refused(Data(t, 0, 1, [], [1]), NOW_S + 9),
    "refused heartbeat": lambda b, t: b.link.refused(
        Heartbeat(t, 0, 0, False, 9, "read/0", 1, "a"), NOW_S + 9
    ),
}


@pytest.mark.parametrize("event", FOREIGN)
@pytest.mark.parametrize("state", list(LinkState), ids=lambda state: state.value)
def test_frames_with_another_token_change_nothing(bench, state, event):
    in_state(bench, state)
    if state is UP:
        bench.push(3)
    before = bench.snapshot()
    for token in (100, bench.link.token + 1, 2**64 - 1):
        FOREIGN[event](bench, token)
    assert bench.snapshot() == before


# -- handshake ------------------------------------------------------------------------------------


def test_hello_says_who_we_are_and_counts_the_dials(bench):
    bench.link.dial(NOW_S)
    bench.link.dial(NOW_S)
    first, second = bench.frames(Hello)
    assert (first.sender, first.incarnation, first.edge) == ("read/0", 1, LINK[0])
    assert (first.dial, second.dial) == (1, 2)
    assert first.token != second.token == bench.link.token


def test_hello_is_repeated_ever_more_slowly(bench):
    bench.link.dial(NOW_S)
    waits, now_s = [], NOW_S
    for _ in range(8):
        waits.append(bench.link.due_s() - now_s)
        now_s = bench.link.due_s()
        bench.link.tick(now_s)
    assert waits[:3] == pytest.approx([HELLO_FIRST_S, 2 * HELLO_FIRST_S, 4 * HELLO_FIRST_S])
    assert waits[-1] == pytest.approx(HELLO_MAX_S)
    assert len({hello.token for hello in bench.frames(Hello)}) == 1


def test_a_hello_that_the_socket_refuses_is_said_again_within_a_tenth_of_a_second(bench):
    bench.link.dial(NOW_S)
    now_s = NOW_S
    for _ in range(50):
        bench.link.refused(bench.frames(Hello)[-1], now_s)
        assert now_s < bench.link.due_s() <= now_s + REFUSED_MAX_S
        now_s = bench.link.due_s()
        bench.link.tick(now_s)
    assert bench.link.state is DIALING


def test_a_refused_sender_waits_as_long_as_it_is_told(bench):
    bench.link.dial(NOW_S)
    bench.link.on_refuse(Refuse(bench.link.token, "generation", 0, 1.5), NOW_S)
    assert bench.link.due_s() == pytest.approx(NOW_S + 1.5)
    bench.link.tick(NOW_S + 1.4)
    assert len(bench.frames(Hello)) == 1
    bench.link.tick(NOW_S + 1.5)
    assert len(bench.frames(Hello)) == 2


def test_no_receiver_can_silence_a_link_for_ever(bench):
    bench.link.dial(NOW_S)
    bench.link.on_refuse(Refuse(bench.link.token, "generation", 0, float("inf")), NOW_S)
    assert bench.link.due_s() <= NOW_S + 2.0


def test_a_sender_is_not_retired_by_an_incarnation_that_is_not_newer(bench):
    bench.link.dial(NOW_S)
    bench.actions.clear()
    bench.link.on_refuse(Refuse(bench.link.token, "stale_incarnation", 1, 1.0), NOW_S)
    assert bench.actions == []


def test_crash_reports_in_welcome_reach_the_edge_before_anything_is_sent(bench, kit):
    report = Crash("sink/0", 1, [], True, 3, "SIGSEGV")
    bench.link.dial(NOW_S)
    bench.welcome(crashes=[report])
    assert bench.queue.crashes == [report]


def test_a_link_has_room_only_while_it_is_up(bench):
    assert bench.link.room() == 0
    bench.link.dial(NOW_S)
    assert bench.link.room() == 0
    bench.welcome(limit=10)
    assert bench.link.room() == 10
    bench.push(4)
    assert bench.link.room() == 6


def test_a_repeated_or_older_welcome_never_lowers_a_limit(bench):
    bench.up(limit=10)
    bench.push(4)
    bench.welcome(limit=5)
    assert bench.link.room() == 6


# -- statements -----------------------------------------------------------------------------------


def test_units_are_numbered_without_gaps_from_0_on_every_dial(bench):
    bench.up()
    for n in (3, 1, 5):
        bench.push(n)
    assert [(d.first, d.n) for d in bench.frames(Data)] == [(0, 3), (3, 1), (4, 5)]
    bench.link.recover("reset", NOW_S)
    bench.welcome()
    bench.push(2)
    assert bench.frames(Data)[-1].first == 0


def test_an_older_statement_changes_nothing_but_that_the_peer_was_heard(bench):
    bench.up()
    bench.push(5)
    bench.state(2, acked=[0, 2])
    before = bench.snapshot()
    for version in (1, 2):
        bench.state(version, acked=[0, 5], nacks=[Nack(4, 1, "error", "E", "")])
    assert bench.snapshot() == before


def test_a_unit_is_settled_once_however_often_it_is_acknowledged(bench):
    bench.up()
    bench.push(3, 2)
    bench.state(1, acked=[1, 3])
    bench.state(2, acked=[0, 4])
    bench.state(3, acked=[0, 5])
    assert Counter(unit[1] for unit in bench.queue.settled_units) == Counter(range(5))
    assert (bench.link.unacked_items, bench.link.unacked_bytes) == (0, 0)
    assert not bench.link.unacked


def test_a_nack_hands_the_unit_back_with_its_item_and_only_once(bench):
    bench.up()
    bench.push(3, 2)
    nack = Nack(3, 1, "error", "ValueError", "no")
    for version in (1, 2, 3):
        bench.state(version, acked=[0, 1], nacks=[nack])
    assert bench.queue.nacked_units == [((1, 3, 2, 0), "item 3")]
    assert bench.link.unacked_items == 3


def test_nacks_are_answered_at_once_so_that_the_receiver_may_stop_repeating_them(bench):
    bench.up()
    bench.push(3)
    bench.state(1)
    assert bench.frames(Heartbeat) == []
    bench.state(2, nacks=[Nack(0, 1, "error", "E", "")])
    (heartbeat,) = bench.frames(Heartbeat)
    assert heartbeat.version_seen == 2


def test_a_message_in_which_every_unit_failed_is_read_only_once(bench):
    bench.up()
    bench.push(200)
    nacks = [Nack(k, 1, "decode", "E", "") for k in range(200)]
    bench.state(1, nacks=nacks)
    assert len(bench.queue.nacked_units) == 200
    assert bench.codec.calls["decode"] == 1


BROKEN = {
    "acknowledges what was never sent": {"acked": [0, 6]},
    "nacks what was never sent": {"nacks": [Nack(5, 1, "error", "E", "")]},
    "an odd number of bounds": {"acked": [0, 2, 3]},
    "an empty range": {"acked": [2, 2]},
    "a range upside down": {"acked": [3, 1]},
    "a negative range": {"acked": [-2, 3]},
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
def test_a_statement_that_cannot_be_true_makes_the_link_dial_again_and_settles_nothing(bench, said):
    bench.up()
    bench.push(5)
    bench.state(1, **said)
    assert bench.link.state is DIALING
    assert bench.queue.settled_units == []
    assert [item for _, item in bench.queue.back] == [f"item {k}" for k in range(5)]


def test_a_peer_that_executes_too_long_gets_nothing_new_and_is_not_dialled_again(bench):
    bench.up()
    bench.push(5)
    bench.state(1, executing_s=STUCK_S + 1)
    assert (bench.link.room(), bench.link.state) == (0, UP)
    assert bench.queue.back == []
    bench.state(2, executing_s=0.1)
    assert bench.link.room() > 0


# -- recovery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_recovery_gives_back_everything_open_in_the_order_it_was_sent(bench, seed):
    chance = random.Random(seed)
    bench.up()
    version, gone = 0, set()
    for _ in range(chance.randrange(1, 25)):
        bench.push(*(chance.randrange(1, 6) for _ in range(chance.randrange(1, 4))))
        if chance.random() < 0.6:
            version += 1
            acked, nacks = [], []
            for k in range(bench.pushed):
                luck = chance.random()
                if luck < 0.2:
                    acked += [k, k + 1]
                    gone.add(k)
                elif luck < 0.25:
                    nacks.append(Nack(k, 1, "error", "E", ""))
                    gone.add(k)
            bench.state(version, acked=acked, nacks=nacks)
        left = [k for k in range(bench.pushed) if k not in gone]
        assert bench.link.unacked_items == len(left), f"seed {seed}"
    bench.link.recover("reset", NOW_S)
    expected = [((1, k, 2, 0), f"item {k}") for k in range(bench.pushed) if k not in gone]
    assert bench.queue.back == expected, f"seed {seed}"
    told = [unit[1] for unit in bench.queue.settled_units]
    told += [unit[1] for unit, _ in bench.queue.nacked_units]
    assert sorted(told) == sorted(gone), f"seed {seed}"
    link = bench.link
    assert (link.unacked_items, link.unacked_bytes, len(link.unacked)) == (0, 0, 0), f"seed {seed}"


CAUSES = {
    "reset": ("reset", lambda b: b.link.on_reset(Reset(b.link.token, "gap"), NOW_S)),
    "refused data": ("peer_lost", lambda b: b.link.refused(b.frames(Data)[0], NOW_S)),
}


@pytest.mark.parametrize(("reason", "happens"), CAUSES.values(), ids=CAUSES)
def test_recovery_begins_a_new_token_and_names_its_reason(bench, reason, happens):
    bench.up()
    bench.push(3)
    before = bench.link.token
    happens(bench)
    assert bench.link.token != before
    assert bench.queue.reasons == [reason]
    assert bench.link.state is DIALING
    assert len(bench.queue.back) == 3


def test_a_retained_message_is_read_only_once_however_it_was_acknowledged(bench):
    bench.up()
    bench.push(100)
    bench.state(1, acked=[bound for k in range(0, 100, 2) for bound in (k, k + 1)])
    bench.link.recover("reset", NOW_S)
    assert len(bench.queue.back) == 50
    assert bench.codec.calls["decode"] == 1


def test_a_silent_peer_is_not_lost_while_its_socket_takes_heartbeats(bench):
    bench.up()
    bench.push(3)
    for k in range(1, 100):
        bench.link.tick(NOW_S + k * HEARTBEAT_S)
    assert bench.link.state is UP
    assert len(bench.frames(Heartbeat)) == 99


def test_a_peer_is_lost_when_its_socket_has_refused_heartbeats_for_10_seconds(bench):
    bench.up()
    bench.push(3)
    lost_s = None
    for k in range(1, 30):
        now_s = NOW_S + k * HEARTBEAT_S
        bench.link.tick(now_s)
        if bench.link.state is DIALING:
            lost_s = now_s
            break
        bench.link.refused(bench.frames(Heartbeat)[-1], now_s)
    assert lost_s is not None
    assert LOST_S <= lost_s - NOW_S <= LOST_S + 2 * HEARTBEAT_S
    assert bench.queue.reasons == ["peer_lost"]


def test_a_peer_that_is_heard_again_is_not_lost(bench):
    bench.up()
    for k in range(1, 30):
        now_s = NOW_S + k * HEARTBEAT_S
        bench.link.tick(now_s)
        bench.link.refused(bench.frames(Heartbeat)[-1], now_s)
        bench.link.on_state(State(bench.link.token, k, 0, 9, 9, 9, [], [], 0.0), now_s)
    assert bench.link.state is UP


def test_a_link_with_open_units_cannot_be_closed(bench):
    bench.up()
    bench.push(3)
    before = bench.snapshot()
    with pytest.raises(ValueError, match="3 units open"):
        bench.link.close()
    assert bench.snapshot() == before


def test_that_the_end_has_come_is_said_at_once_and_taken_back_at_once(bench):
    bench.up()
    for ended in (True, False):
        bench.link.set_ended(ended, NOW_S)
        assert bench.frames(Heartbeat)[-1].ended == ended
    assert len(bench.frames(Heartbeat)) == 2


def test_that_the_end_has_come_is_said_with_the_next_hello_if_the_link_is_not_up(bench):
    bench.link.set_ended(True, NOW_S)
    assert bench.actions == []
    bench.link.dial(NOW_S)
    assert bench.frames(Hello)[0].ended


def test_an_unacknowledged_payload_is_kept_and_an_acknowledged_one_is_not(bench):
    bench.up()
    bench.push(3)
    (sent,) = bench.link.unacked
    assert bench.link.unacked_bytes == sent.payload.size_bytes == 30
    bench.state(1, acked=[0, 3])
    assert sent.payload is None


def history(chance: random.Random, units: int) -> list[tuple[list[int], list[Nack]]]:
    """What a receiver states over time: ever more is acknowledged, what failed stays failed."""
    done, failed, told = IntervalSet(), [], []
    order = chance.sample(range(units), units)
    for unit in order:
        if chance.random() < 0.2:
            failed.append(Nack(unit, 1, "error", "E", f"unit {unit}"))
        else:
            done.add(unit, unit + 1)
        if chance.random() < 0.5 or unit == order[-1]:
            told.append(([bound for pair in done for bound in pair], list(failed)))
    return told


def after(kit, told: list, versions: list[int]) -> tuple:
    """What a link that sent ten messages of four units holds after hearing these versions."""
    bench = Bench(kit)
    bench.up()
    for _ in range(10):
        bench.push(4)
    for version in versions:
        acked, nacks = told[version]
        bench.state(version + 1, acked=acked, nacks=nacks)
    link, queue = bench.link, bench.queue
    return (
        link.unacked_items,
        list(link._acked),
        sorted(queue.settled_units),
        sorted(queue.nacked_units),
    )


@pytest.mark.parametrize("seed", range(50))
def test_losing_repeating_and_reordering_statements_changes_no_result(kit, seed):
    chance = random.Random(seed)
    told = history(chance, 40)
    last = len(told) - 1
    in_order = after(kit, told, list(range(len(told))))
    some = chance.choices(range(len(told)), k=2 * len(told))  # lost, repeated, out of order
    assert after(kit, told, [*some, last]) == in_order
    assert after(kit, told, [last]) == in_order

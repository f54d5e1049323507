import random

import pytest

from zflow.protocol.actions import Reply
from zflow.protocol.inbox import RETRY_REPLY_MAX_S, STATE_EVERY_S, Inbox
from zflow.wire.data import (
    MAX_ERROR_BYTES,
    Bye,
    Crash,
    Data,
    Heartbeat,
    Hello,
    Refuse,
    Reset,
    State,
    Welcome,
    decode,
    encode,
)
from zflow.wire.run import OSEQ, Run

NOW_S = 1000.0
EDGE = 9
TOKEN = 101


class Bench:
    """One inbox, and the frames that a sender would send it."""

    def __init__(self, kit, **settings) -> None:
        self.kit = kit
        self.actions: list[Reply] = []
        made = kit.inbox_settings("sink/0", EDGE, **settings)
        self.inbox = Inbox(made, self.actions.append, [(EDGE, "read/0")])

    def hello(self, token=TOKEN, *, sender="read/0", incarnation=1, dial=1, **others) -> list:
        fields = {"run_id": "run", "edge": EDGE, "generation": 1, "codec": "list", "ended": False}
        fields |= others
        frame = Hello(
            token,
            fields["run_id"],
            sender,
            incarnation,
            dial,
            f"ack of {sender}",
            fields["edge"],
            fields["generation"],
            fields["codec"],
            fields["ended"],
        )
        return self.told(lambda: self.inbox.on_hello(frame, NOW_S))

    def data(self, first: int, n: int, token=TOKEN) -> list:
        payload = self.kit.ListPayload([f"item {k}" for k in range(first, first + n)])
        frame = Data(token, first, n, [Run(1, 2, OSEQ, 0, first, n)], payload.sizes)
        return self.told(lambda: self.inbox.on_data(frame, payload, NOW_S))

    def heartbeat(self, next_=0, *, token=TOKEN, seen=0, ended=False) -> list:
        frame = Heartbeat(token, next_, seen, ended, EDGE, "read/0", 1, "ack of read/0")
        return self.told(lambda: self.inbox.on_heartbeat(frame, NOW_S))

    def leave(self, n: int, now_s=NOW_S):
        parcel = self.inbox.parcels[0]
        parcel.items = parcel.payload.items
        return self.inbox.leave(parcel, n, now_s)

    def tick(self, now_s: float) -> list:
        return self.told(lambda: self.inbox.tick(now_s))

    def told(self, event) -> list:
        """The frames that are answered now."""
        before = len(self.actions)
        event()
        return [action.frame for action in self.actions[before:]]

    @property
    def link(self):
        return self.inbox.links[EDGE, "read/0"]

    def snapshot(self) -> tuple:
        links = [
            (link.token, link.next, link.held, link.ended) for link in self.inbox.links.values()
        ]
        return links, [(p.first, p.n, p.taken) for p in self.inbox.parcels], len(self.actions)


@pytest.fixture
def bench(kit):
    return Bench(kit)


# -- handshake ------------------------------------------------------------------------------------


def test_hello_is_answered_with_welcome_and_the_state(bench):
    welcome, state = bench.hello()
    assert isinstance(welcome, Welcome)
    assert isinstance(state, State)
    assert (welcome.receiver, welcome.incarnation, welcome.token) == ("sink/0", 1, TOKEN)
    assert state.next == 0
    assert welcome.limit_items > 0
    assert {action.endpoint for action in bench.actions} == {"ack of read/0"}


def test_a_repeated_hello_keeps_what_has_arrived(bench):
    bench.hello()
    bench.data(0, 3)
    _, state = bench.hello()
    assert state.next == 3
    assert len(bench.inbox.parcels) == 1


def test_a_new_token_begins_anew_and_drops_what_waits_under_the_old(bench):
    bench.hello()
    bench.data(0, 3)
    bench.hello(201, sender="read/1")
    bench.data(0, 2, token=201)
    _, state = bench.hello(102, dial=2)
    assert (state.token, state.next, state.acked) == (102, 0, [])
    assert [parcel.link.token for parcel in bench.inbox.parcels] == [201]
    assert bench.link.held == 0


def test_what_runs_under_an_old_token_settles_without_a_word_to_the_new(bench):
    bench.hello()
    bench.data(0, 3)
    portion = bench.leave(3)
    bench.hello(102, dial=2)
    portion.link.settle(0, 3)
    portion.link.fail(1, "error", "E", "no")
    (state,) = bench.heartbeat(token=102)
    assert (state.acked, state.nacks) == ([], [])


STALE = {
    "an earlier dial": {"incarnation": 5, "dial": 2},
    "an earlier incarnation": {"incarnation": 4, "dial": 9},
}


@pytest.mark.parametrize("older", STALE.values(), ids=STALE)
def test_a_stale_hello_is_refused_and_changes_nothing(bench, older):
    bench.hello(incarnation=5, dial=3)
    bench.data(0, 3)
    links, parcels, _ = bench.snapshot()
    (refusal,) = bench.hello(99, **older)
    assert refusal == Refuse(99, "stale_incarnation", 5, 1.0)
    assert bench.snapshot()[:2] == (links, parcels)


def test_a_new_incarnation_wins_with_its_first_dial(bench):
    bench.hello(incarnation=1, dial=7)
    welcome, _ = bench.hello(102, incarnation=2, dial=1)
    assert welcome.token == 102


REFUSED = {
    "not_mine": [{"run_id": "another"}, {"edge": 10}],
    "codec": [{"codec": "pickle"}],
    "generation": [{"generation": 2}],
}


@pytest.mark.parametrize(
    ("code", "wrong"), [(code, wrong) for code, many in REFUSED.items() for wrong in many]
)
def test_a_sender_that_does_not_belong_here_is_refused_by_name(bench, code, wrong):
    (refusal,) = bench.hello(**wrong)
    assert (type(refusal), refusal.code, refusal.token) == (Refuse, code, TOKEN)
    assert bench.inbox.links == {}


def test_welcome_tells_what_predecessors_died_of(kit):
    report = Crash("sink/0", 1, [Run(1, 2, OSEQ, 0, 5, 1)], True, 3, "SIGSEGV")
    welcome, _ = Bench(kit, crashes=(report,)).hello()
    assert welcome.crashes == [report]


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_exactly_the_next_units_are_accepted(bench, seed):
    chance = random.Random(seed)
    bench.hello()
    bench.link.credit.limit_items = 10**6
    accepted = []
    for _ in range(200):
        before = bench.link.next
        first, n = before + chance.choice([-2, -1, 0, 0, 0, 1, 5]), chance.randrange(1, 5)
        if first < 0:
            continue
        answer = bench.data(first, n)
        if first == before:
            accepted += range(first, first + n)
            assert answer == [], f"seed {seed}"
        elif first > before:
            assert answer == [Reset(TOKEN, "gap")], f"seed {seed}"
        else:
            assert answer == [], f"seed {seed}"
        assert bench.link.next == len(accepted), f"seed {seed}"
        assert bench.link.held == len(accepted), f"seed {seed}"
    waiting = [p.first + k for p in bench.inbox.parcels for k in range(p.n)]
    assert waiting == accepted == list(range(len(accepted))), f"seed {seed}"


def test_an_old_copy_is_answered_with_the_state_a_little_later(bench):
    bench.hello()
    bench.data(0, 3)
    assert bench.data(0, 3) == []
    (state,) = bench.tick(NOW_S + STATE_EVERY_S)
    assert state.next == 3


def test_units_beyond_the_credit_are_refused(bench):
    welcome, _ = bench.hello()
    assert bench.data(0, welcome.limit_items + 1) == [Reset(TOKEN, "credit")]
    assert bench.link.next == 0
    assert bench.data(0, welcome.limit_items) == []


def test_data_under_an_unknown_token_is_dropped_and_counted(bench):
    bench.hello()
    before = bench.snapshot()
    for k in range(3):
        bench.data(0, 1, token=999 + k)
    assert bench.snapshot() == before
    assert bench.inbox.stale_frames == 3


def test_a_heartbeat_under_an_unknown_token_is_answered_with_reset_to_its_sender(bench):
    assert bench.heartbeat(token=999) == [Reset(999, "token")]
    assert bench.actions[-1].endpoint == "ack of read/0"
    assert bench.inbox.stale_frames == 1


def test_a_lost_tail_is_found_by_the_next_heartbeat(bench):
    bench.hello()
    bench.data(0, 3)
    (state,) = bench.heartbeat(3)
    assert isinstance(state, State)
    assert bench.heartbeat(4) == [Reset(TOKEN, "gap")]


# -- credit ---------------------------------------------------------------------------------------


def test_credit_returns_when_units_leave_and_not_when_they_are_done(bench):
    welcome, _ = bench.hello()
    bench.data(0, 8)
    (before,) = bench.heartbeat(8)
    assert before.limit_items == welcome.limit_items
    portion = bench.leave(8)
    (freed,) = bench.heartbeat(8)
    assert freed.limit_items == welcome.limit_items + 8
    portion.link.settle(0, 8)
    (done,) = bench.heartbeat(8)
    assert done.limit_items == freed.limit_items
    assert done.acked == [0, 8]


def test_a_parcel_leaves_in_portions_with_its_units_items_and_bytes(bench):
    bench.hello()
    bench.data(0, 7)
    found = []
    for n in (1, 4, 100):
        portion = bench.leave(n)
        units = [unit[1] for run in portion.runs for unit in run.units()]
        assert portion.items == [f"item {k}" for k in units]
        assert portion.first == units[0]
        found += units
    assert found == list(range(7))
    assert not bench.inbox.parcels
    assert bench.link.held == 0
    assert bench.link.credit.freed_bytes == 70


def test_a_quarter_of_the_window_that_is_freed_is_stated_at_once(bench):
    bench.hello()
    bench.data(0, 8)
    assert bench.told(lambda: bench.leave(1)) == []
    (state,) = bench.told(lambda: bench.leave(1))
    assert isinstance(state, State)


def test_the_bytes_of_all_links_together_fit_the_inbox(kit):
    bench = Bench(kit, window_bytes=1000, inbox_bytes=2000)
    limits = []
    for k in range(4):
        welcome, _ = bench.hello(200 + k, sender=f"read/{k}")
        limits.append(welcome.limit_bytes)
    assert limits == [1000, 1000, 666, 500]


# -- statements -----------------------------------------------------------------------------------


def test_every_statement_has_a_higher_version(bench):
    _, first = bench.hello()
    versions = [first.version, *(bench.heartbeat()[0].version for _ in range(5))]
    assert versions == sorted(set(versions))


def test_acks_are_stated_together_5_milliseconds_later(bench):
    bench.hello()
    bench.data(0, 1)
    portion = bench.leave(1)
    portion.link.settle(0, 1)
    assert bench.tick(NOW_S + 0.001) == []
    assert bench.inbox.due_s() <= NOW_S + 0.001 + STATE_EVERY_S
    (state,) = bench.tick(NOW_S + 0.001 + STATE_EVERY_S)
    assert state.acked == [0, 1]
    assert bench.tick(NOW_S + 10) == []


def test_nacks_are_repeated_until_the_sender_has_seen_them(bench):
    bench.hello()
    bench.data(0, 4)
    portion = bench.leave(4)
    portion.link.settle(0, 3)
    portion.link.fail(3, "error", "ValueError", "no")
    stated = [bench.heartbeat(4)[0] for _ in range(3)]
    assert [[nack.first for nack in state.nacks] for state in stated] == [[3]] * 3
    (late,) = bench.heartbeat(4, seen=stated[0].version - 1)
    assert len(late.nacks) == 1
    (after,) = bench.heartbeat(4, seen=stated[0].version)
    assert (after.nacks, after.acked) == ([], [0, 4])


def test_a_nack_that_came_after_the_statement_seen_is_kept(bench):
    bench.hello()
    bench.data(0, 4)
    portion = bench.leave(4)
    portion.link.fail(0, "error", "E", "first")
    (state,) = bench.heartbeat(4)
    portion.link.fail(1, "error", "E", "second")
    (after,) = bench.heartbeat(4, seen=state.version)
    assert [nack.error for nack in after.nacks] == ["second"]


TEXTS = {
    "long": "x" * 10_000,
    "of wide letters": "€" * 10_000,
    "of wider letters": "a" + "😀" * 5000,
    "with half a letter": "file \udcff not found",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_end_of_any_error_travels_in_4_kibibytes(bench, text):
    bench.hello()
    bench.data(0, 1)
    bench.leave(1).link.fail(0, "error", "ValueError", text)
    (state,) = bench.heartbeat(1)
    (nack,) = decode(encode(state)).nacks
    assert len(nack.error.encode()) <= MAX_ERROR_BYTES
    assert nack.error[-1] == text[-1]


def test_a_statement_says_how_long_user_code_has_been_at_it(bench):
    bench.hello()
    bench.inbox.executing_since_s = NOW_S - 42
    assert bench.heartbeat()[0].executing_s == pytest.approx(42)
    bench.inbox.executing_since_s = None
    assert bench.heartbeat()[0].executing_s == 0.0


def test_a_statement_that_the_socket_refused_is_stated_again_shortly(bench):
    _, state = bench.hello()
    bench.inbox.refused(state, NOW_S)
    assert NOW_S < bench.inbox.due_s() <= NOW_S + STATE_EVERY_S
    (again,) = bench.tick(NOW_S + STATE_EVERY_S)
    assert again.version > state.version


def test_replies_to_a_sender_that_is_gone_are_tried_ever_more_seldom(bench):
    _, state = bench.hello()
    now_s, waits = NOW_S, []
    for _ in range(12):
        bench.inbox.refused(state, now_s)
        waits.append(bench.inbox.due_s() - now_s)
        now_s = bench.inbox.due_s() + 1e-6
        (state,) = bench.tick(now_s)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(RETRY_REPLY_MAX_S)
    (state,) = bench.heartbeat()
    bench.inbox.refused(state, now_s)
    assert bench.inbox.due_s() - now_s == pytest.approx(waits[0])


def test_a_welcome_that_the_socket_refused_is_said_again(bench):
    welcome, _ = bench.hello()
    bench.inbox.refused(welcome, NOW_S)
    again = bench.tick(NOW_S + STATE_EVERY_S)
    assert [type(frame) for frame in again[:2]] == [Welcome, State]
    assert bench.tick(NOW_S + STATE_EVERY_S) == []


def test_a_refused_reply_under_a_forgotten_token_is_forgotten(bench):
    welcome, state = bench.hello()
    bench.hello(102, dial=2)
    for frame in (welcome, state):
        bench.inbox.refused(frame, NOW_S)
    assert bench.tick(NOW_S + 1) == []


def test_with_nothing_to_say_nothing_is_due(bench):
    bench.hello()
    assert bench.tick(NOW_S + 1) == []
    assert bench.inbox.due_s() > NOW_S + 1_000_000


# -- the end --------------------------------------------------------------------------------------


def test_the_input_has_ended_when_every_link_says_so_and_nothing_waits(bench):
    bench.inbox.expect("read", ["read/0", "read/1"])
    assert not bench.inbox.ended()
    bench.hello()
    bench.hello(201, sender="read/1", ended=True)
    assert not bench.inbox.ended()
    bench.data(0, 1)
    bench.heartbeat(1, ended=True)
    assert not bench.inbox.ended()
    bench.leave(1)
    assert bench.inbox.ended()
    bench.inbox.expect("read", ["read/0", "read/1", "read/2"])
    assert not bench.inbox.ended()


def test_a_sender_that_comes_back_with_more_has_not_ended(bench):
    bench.hello(ended=True)
    assert bench.inbox.ended()
    bench.hello(102, dial=2, ended=False)
    assert not bench.inbox.ended()


def test_bye_ends_a_link(bench):
    bench.hello()
    bench.inbox.on_bye(Bye(999))
    assert not bench.inbox.ended()
    bench.inbox.on_bye(Bye(TOKEN))
    assert bench.inbox.ended()
    assert bench.link.ended


def test_an_end_that_overtakes_lost_units_is_not_believed(bench):
    bench.hello()
    assert bench.heartbeat(4, ended=True) == [Reset(TOKEN, "gap")]
    assert not bench.inbox.ended()

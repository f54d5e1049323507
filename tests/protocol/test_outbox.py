import random

import pytest

from zflow.protocol.actions import Bury, Fail, Send
from zflow.protocol.outbox import MAX_BACKOFF_S, MAX_MESSAGE_BYTES, MAX_MESSAGE_ITEMS, Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.task import Task
from zflow.wire.data import (
    DEADLINE,
    DEADLINE_ERROR,
    EXPIRED,
    MAX_FRAME_BYTES,
    Crash,
    Data,
    Nack,
    State,
    Welcome,
)
from zflow.wire.run import OSEQ, RESENT, SUSPECT, Run

NOW_S = 1000.0


class Bench:
    """One outbox; receivers answer only what a test lets them."""

    def __init__(self, kit, *targets: str, **settings) -> None:
        self.kit = kit
        self.actions: list = []
        self.codec = kit.ListCodec()
        self.owner = kit.Owner()
        tokens, tickets = iter(range(101, 10_000)), iter(range(1, 10_000))
        self.outbox = Outbox(
            kit.edge_settings(kit.EDGE, *targets, **settings),
            kit.identity(),
            codec=self.codec,
            act=self.actions.append,
            new_token=lambda: next(tokens),
            new_ticket=lambda: next(tickets),
            random=random.Random(1),
        )
        self.version = 0
        self.made = 0

    def up(self, *limits: int, limit_bytes: int = 10**9) -> "Bench":
        for k, link in enumerate(self.outbox.links):
            if link.state.value == "down":
                link.dial(NOW_S)
            limit = limits[k] if k < len(limits) else 100_000
            frame = Welcome(link.token, link.key[1], 1, limit, limit_bytes, [])
            link.on_welcome(frame, NOW_S)
        return self

    def enqueue(self, *items) -> None:
        items = list(items)
        segment = self.kit.segment_of(items, first=self.made, owner=self.owner)
        self.made += len(items)
        self.outbox.enqueue(segment)

    def numbers(self, n: int) -> None:
        self.enqueue(*range(self.made, self.made + n))

    def dispatch(self, now_s: float = NOW_S) -> list[Data]:
        """What is sent now."""
        before = len(self.actions)
        self.outbox.dispatch(now_s)
        sent = [action for action in self.actions[before:] if isinstance(action, Send)]
        self.payloads = [action.payload for action in sent]
        return [action.frame for action in sent]

    def state(self, acked=(), nacks=(), *, now_s: float = NOW_S, link: int = 0) -> None:
        self.version += 1
        to = self.outbox.links[link]
        limits = (to.credit.limit_items, to.credit.limit_bytes, to.credit.window_items)
        frame = State(to.token, self.version, 0, *limits, [*acked], [*nacks], 0.0)
        to.on_state(frame, now_s)

    def all_of(self, kind) -> list:
        return [action for action in self.actions if isinstance(action, kind)]

    def balanced(self) -> bool:
        """I4: everything sent is settled in one column, or open on a link, or being buried."""
        books = self.outbox.ledger.snapshot()
        open_units = sum(link.unacked_items for link in self.outbox.links)
        return books.sent == books.settled + open_units + len(self.outbox.burying)


@pytest.fixture
def make(kit):
    return lambda *targets, **settings: Bench(kit, *targets, **settings)


def numbers_in(frames: list[Data]) -> list[int]:
    return [unit[1] for frame in frames for run in frame.runs for unit in run.units()]


def error(first: int, code: str = "error") -> Nack:
    return Nack(first, 1, code, "ValueError", "no")


def crash(incarnation: int, *numbers: int, alone: bool, slot: str = "sink/0") -> Crash:
    runs = [Run(1, 2, OSEQ, 0, number, 1) for number in numbers]
    return Crash(slot, incarnation, runs, alone, 3, "SIGSEGV")


# -- dispatch -------------------------------------------------------------------------------------


def test_nothing_is_sent_without_credit(make):
    bench = make()
    bench.numbers(10)
    assert bench.dispatch() == []
    bench.up(4)
    assert numbers_in(bench.dispatch()) == [0, 1, 2, 3]
    assert bench.dispatch() == []
    assert bench.outbox.queued == 6


def test_units_and_items_leave_together_in_order(make):
    bench = make().up()
    for n in (3, 1, 5):
        bench.numbers(n)
    (frame,) = bench.dispatch()
    assert numbers_in([frame]) == list(range(9))
    assert bench.payloads[0].items == list(range(9))
    assert frame.sizes == bench.payloads[0].sizes


def test_the_receiver_with_the_most_free_credit_for_its_window_is_served_first(make):
    bench = make("sink/0", "sink/1").up(100, 10)
    bench.numbers(60)
    bench.dispatch()
    bench.state(acked=[0, 10], link=0)
    free = [link.room() / link.credit.window_items for link in bench.outbox.links]
    assert bench.outbox.links[0].next > 0
    bench.outbox.links[1].credit.raise_to(1000, 10**9)
    bench.numbers(1)
    before = bench.outbox.links[1].next
    bench.dispatch()
    assert bench.outbox.links[1].next == before + 1, free


def test_idle_receivers_share_what_there_is(make):
    bench = make("sink/0", "sink/1", "sink/2").up(100, 100, 100)
    bench.numbers(9)
    bench.dispatch()
    assert [link.next for link in bench.outbox.links] == [3, 3, 3]


@pytest.mark.parametrize("seed", range(50))
def test_credit_is_never_overdrawn_and_no_unit_is_lost_or_doubled(make, seed):
    chance = random.Random(seed)
    bench = make("sink/0", "sink/1").up(5, 5, limit_bytes=500)
    sent = []
    for _ in range(40):
        if chance.random() < 0.5:
            bench.numbers(chance.randrange(1, 30))
        link = chance.choice(bench.outbox.links)
        link.credit.raise_to(
            link.credit.limit_items + chance.randrange(9),
            link.credit.limit_bytes + chance.randrange(90),
        )
        sent += numbers_in(bench.dispatch())
        for link in bench.outbox.links:
            credit = link.credit
            assert credit.sent_items <= credit.limit_items, f"seed {seed}"
            assert credit.sent_bytes < credit.limit_bytes + 10, f"seed {seed}"
        assert sent == list(range(len(sent))), f"seed {seed}"
        assert len(sent) + bench.outbox.queued == bench.made, f"seed {seed}"


def test_messages_are_small_enough(make):
    bench = make().up()
    bench.numbers(3 * MAX_MESSAGE_ITEMS)
    assert all(frame.n <= MAX_MESSAGE_ITEMS for frame in bench.dispatch())
    big = [bench.kit.Big(MAX_MESSAGE_BYTES // 4) for _ in range(100)]
    bench.enqueue(*big)
    frames = bench.dispatch()
    assert sum(frame.n for frame in frames) == 100
    assert all(sum(frame.sizes) <= 4 * MAX_MESSAGE_BYTES for frame in frames)


def test_one_item_larger_than_all_credit_travels_alone(make):
    bench = make().up(10, limit_bytes=1000)
    bench.enqueue(1, bench.kit.Big(50_000), 2)
    assert [frame.n for frame in bench.dispatch()] == [1, 1]
    assert bench.outbox.queued == 1


def test_a_unit_is_retained_until_its_receiver_has_processed_it(make):
    bench = make().up()
    bench.numbers(5)
    bench.dispatch()
    assert bench.owner.settled == []
    bench.state(acked=[0, 4])
    assert bench.owner.settled == []
    bench.state(acked=[0, 5])
    assert bench.owner.settled == [0, 1, 2, 3, 4]
    assert bench.outbox.open_units() == 0


# -- how much is kept -----------------------------------------------------------------------------


def test_a_stage_stops_when_as_many_units_are_kept_as_the_window_allows(make):
    bench = make(window_items=10)
    bench.numbers(9)
    assert not bench.outbox.full()
    bench.numbers(1)
    assert bench.outbox.full()
    bench.up()
    bench.dispatch()
    assert bench.outbox.full()
    bench.state(acked=[0, 1])
    assert not bench.outbox.full()


def test_a_stage_stops_when_as_many_bytes_are_kept_as_the_window_allows(make):
    bench = make(window_bytes=1000).up()
    bench.enqueue(*[bench.kit.Big(99) for _ in range(10)])
    bench.dispatch()
    assert bench.outbox.retained() == (10, 990)
    assert not bench.outbox.full()
    bench.enqueue(bench.kit.Big(99))
    bench.dispatch()
    assert bench.outbox.full()
    bench.state(acked=[0, 10])
    assert not bench.outbox.full()


def test_what_waits_for_its_next_attempt_or_is_being_buried_is_kept_too(make):
    bench = make(retries=1).up()
    bench.numbers(2)
    bench.dispatch()
    bench.state(nacks=[error(0), error(1, "final")])
    assert bench.outbox.retained()[0] == bench.outbox.open_units() == 2


# -- retries --------------------------------------------------------------------------------------


def test_a_failed_unit_is_tried_again_ever_later_and_then_dead_lettered(make):
    bench = make(retries=3, backoff_s=0.1).up()
    bench.enqueue("poison")
    now_s = NOW_S
    attempts, waits = [], []
    for number in range(4):
        (frame,) = bench.dispatch(now_s)
        attempts.append(frame.runs[0].attempt)
        bench.state(nacks=[error(number)], now_s=now_s)
        if number < 3:
            due_s = bench.outbox.retrying[0][0]
            assert bench.outbox.due_s() <= due_s
            waits.append(due_s - now_s)
            assert bench.dispatch(due_s - 0.001) == []
            now_s = due_s
    assert attempts == [0, 1, 2, 3]
    for k, wait_s in enumerate(waits):
        assert 0.05 * 2**k <= wait_s <= 0.1 * 2**k
    (bury,) = bench.all_of(Bury)
    assert (bury.item, bury.attempts, bury.code) == ("poison", 4, "error")
    assert (bury.error_class, bury.error) == ("ValueError", "no")
    assert bench.outbox.ledger.retries == 3
    assert bench.owner.settled == []
    bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0]
    assert bench.balanced()


def test_the_wait_between_attempts_has_an_end(make):
    bench = make(retries=100, backoff_s=10.0).up()
    bench.numbers(1)
    now_s = NOW_S
    for number in range(20):
        bench.dispatch(now_s)
        bench.state(nacks=[error(number)], now_s=now_s)
        assert bench.outbox.retrying[0][0] - now_s <= MAX_BACKOFF_S
        now_s = bench.outbox.retrying[0][0]


@pytest.mark.parametrize("on_error", ["dead_letter", "fail", "drop"])
def test_a_unit_that_is_too_old_is_dropped_whatever_the_policy_for_errors(make, on_error):
    bench = make(on_error=on_error).up()
    bench.numbers(2)
    bench.dispatch()
    bench.state(nacks=[Nack(0, 2, EXPIRED, DEADLINE_ERROR, "old")])
    assert (bench.all_of(Bury), bench.all_of(Fail)) == ([], [])
    assert bench.outbox.ledger.snapshot().dropped == {
        "lost": 0,
        "error": 0,
        "full": 0,
        "expired": 2,
    }
    assert bench.owner.settled == [0, 1]
    assert bench.balanced()


@pytest.mark.parametrize("on_error", ["dead_letter", "fail", "drop"])
def test_a_unit_that_is_too_old_is_buried_where_that_is_declared(make, on_error):
    bench = make(on_error=on_error).up()
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[Nack(0, 1, DEADLINE, DEADLINE_ERROR, "old")])
    (bury,) = bench.all_of(Bury)
    assert (bury.code, bury.error_class, bury.attempts) == ("deadline", "DeadlineExceeded", 0)
    assert (bench.all_of(Fail), bench.owner.settled) == ([], [])
    bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0]
    assert bench.balanced()


@pytest.mark.parametrize("code", ["final", "encode"])
def test_a_failure_that_another_attempt_cannot_mend_is_not_tried_again(make, code):
    bench = make().up()
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[error(0, code)])
    (bury,) = bench.all_of(Bury)
    assert (bury.code, bury.attempts, bury.maybe_applied) == (code, 1, False)


def test_what_is_due_for_its_next_attempt_goes_before_what_is_new(make):
    bench = make().up()
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[error(0)])
    bench.numbers(3)
    assert numbers_in(bench.dispatch(NOW_S + 60)) == [0, 1, 2, 3]


def test_by_declared_policy_an_exhausted_unit_is_dropped(make):
    bench = make(on_error="drop", retries=0).up()
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[error(0)])
    assert bench.all_of(Bury) == []
    assert bench.outbox.ledger.snapshot().dropped == {
        "lost": 0,
        "error": 1,
        "full": 0,
        "expired": 0,
    }
    assert bench.owner.settled == [0]
    assert bench.balanced()


def test_by_declared_policy_an_exhausted_unit_fails_the_run_and_is_buried(make):
    bench = make(on_error="fail", retries=0).up()
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[error(0)])
    assert bench.all_of(Fail) == [Fail("sink", "ValueError", "no")]
    assert len(bench.all_of(Bury)) == 1


# -- recovery -------------------------------------------------------------------------------------


def test_units_given_back_go_first_in_order_and_marked(make):
    bench = make().up(5)
    bench.numbers(8)
    bench.dispatch()
    bench.state(acked=[1, 2])
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up(100)
    frames = bench.dispatch()
    assert numbers_in(frames) == [0, 2, 3, 4, 5, 6, 7]
    assert bench.payloads[0].items == [0, 2, 3, 4, 5, 6, 7]
    flags = [run.flags for frame in frames for run in frame.runs for _ in range(run.n)]
    assert flags == [RESENT] * 4 + [0] * 3
    assert bench.outbox.ledger.snapshot().replayed["peer_lost"] == 4
    assert bench.balanced()


def test_a_dead_letter_that_an_earlier_receiver_may_have_applied_says_so(make):
    bench = make(retries=0).up()
    bench.numbers(1)
    bench.dispatch()
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up()
    bench.dispatch()
    bench.version = 0
    bench.state(nacks=[error(0)])
    (bury,) = bench.all_of(Bury)
    assert bury.maybe_applied


# -- suspects -------------------------------------------------------------------------------------


def test_suspects_travel_apart_from_everybody_else(make):
    bench = make().up()
    bench.numbers(10)
    bench.outbox.accused(crash(1, 2, 3, 7, alone=False))
    frames = bench.dispatch()
    assert numbers_in(frames) == list(range(10))
    for frame in frames:
        numbers, flags = numbers_in([frame]), {run.flags & SUSPECT for run in frame.runs}
        assert flags == {SUSPECT if set(numbers) <= {2, 3, 7} else 0}


def test_suspects_are_told_apart_wherever_they_are(make):
    bench = make(backoff_s=0.1).up(2)
    bench.numbers(4)
    bench.dispatch()
    bench.state(nacks=[error(1)])
    bench.outbox.accused(crash(1, 0, 1, 2, 4, alone=False))
    bench.numbers(2)
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up(100)
    frames = bench.dispatch(NOW_S + 60)
    flags = {unit[1]: run.flags & SUSPECT for f in frames for run in f.runs for unit in run.units()}
    assert flags == {0: SUSPECT, 1: SUSPECT, 2: SUSPECT, 3: 0, 4: SUSPECT, 5: 0}


def test_the_guilty_are_buried_instead_of_sent(make):
    bench = make(max_crashes=2).up()
    for death in (1, 2):
        bench.outbox.accused(crash(death, 1, alone=True))
    bench.numbers(3)
    assert numbers_in(bench.dispatch()) == [0, 2]
    (bury,) = bench.all_of(Bury)
    assert (bury.item, bury.code, bury.attempts) == (1, "crash", 2)
    assert bury.maybe_applied
    assert "SIGSEGV" in bury.error
    assert bench.outbox.queued == 0
    bench.outbox.buried(bury.ticket)
    bench.state(acked=[0, 2])
    assert bench.owner.settled == [0, 1, 2]
    assert bench.balanced()


def test_another_copy_of_a_guilty_unit_is_buried_too(make):
    bench = make(max_crashes=1).up()
    bench.outbox.accused(crash(1, 0, alone=True))
    for copy in (1, 2):
        bench.outbox.enqueue(bench.kit.segment_of([f"copy {copy}"], owner=bench.owner))
        assert bench.dispatch() == []
        bench.outbox.buried(bench.all_of(Bury)[-1].ticket)
    assert [bury.item for bury in bench.all_of(Bury)] == ["copy 1", "copy 2"]
    assert bench.owner.settled == [0, 0]


def test_the_innocent_beside_the_guilty_are_sent(make):
    bench = make(max_crashes=1).up()
    bench.outbox.accused(crash(1, *range(6), alone=False))
    bench.outbox.accused(crash(2, 0, alone=True))
    bench.outbox.accused(crash(3, 5, alone=True))
    bench.outbox.accused(crash(4, 2, alone=True))
    bench.numbers(6)
    assert sorted(numbers_in(bench.dispatch())) == [1, 3, 4]
    assert sorted(bury.item for bury in bench.all_of(Bury)) == [0, 2, 5]


def test_a_suspect_that_is_settled_is_suspected_no_more(make):
    bench = make().up()
    bench.outbox.accused(crash(1, 0, 1, alone=False))
    bench.numbers(2)
    bench.dispatch()
    bench.state(acked=[0, 2])
    assert not bench.outbox.suspects


def test_a_unit_that_is_settled_elsewhere_is_suspected_no_more(make):
    """It was sent again before the report of the death came, so it travels unmarked."""
    bench = make().up()
    bench.numbers(2)
    bench.dispatch()
    bench.outbox.accused(crash(1, 0, 1, alone=False))
    bench.state(acked=[0, 2])
    assert not bench.outbox.suspects


# -- what cannot travel ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_only_the_inputs_of_items_that_cannot_travel_fail(make, seed):
    chance = random.Random(seed)
    bench = make().up()
    n = chance.randrange(1, 60)
    bad = {k for k in range(n) if chance.random() < 0.1}
    bench.enqueue(*[bench.kit.Unencodable() if k in bad else k for k in range(n)])
    frames = bench.dispatch()
    assert numbers_in(frames) == [k for k in range(n) if k not in bad], f"seed {seed}"
    assert bench.outbox.queued == 0, f"seed {seed}"
    bench.state(acked=[0, n - len(bad)] if n > len(bad) else [])
    assert bench.owner.settled == [k for k in range(n) if k not in bad], f"seed {seed}"
    expected = [(k, "encode", "TypeError") for k in sorted(bad)]
    assert bench.owner.failed == expected, f"seed {seed}"
    assert bench.balanced(), f"seed {seed}"


def test_an_item_beyond_the_largest_message_fails_its_input(make):
    bench = make().up()
    bench.enqueue(1, bench.kit.Big(MAX_FRAME_BYTES + 1), 2)
    assert numbers_in(bench.dispatch()) == [0, 2]
    bench.state(acked=[0, 2])
    assert [failure[:2] for failure in bench.owner.failed] == [(1, "encode")]
    assert bench.owner.settled == [0, 2]


def test_an_item_as_large_as_the_largest_message_travels(make):
    bench = make().up()
    bench.enqueue(1, bench.kit.Big(MAX_FRAME_BYTES), 2)
    assert numbers_in(bench.dispatch()) == [0, 1, 2]


def test_a_unit_that_nobody_can_read_is_dead_lettered_and_the_others_go_on(make):
    bench = make().up()
    bench.enqueue(bench.kit.Undecodable())
    bench.numbers(1)
    bench.dispatch()
    bench.state(nacks=[error(0, "decode"), error(1, "decode")])
    buried = bench.all_of(Bury)
    assert [bury.code for bury in buried] == ["decode", "decode"]
    for bury in buried:
        bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0, 1]


def test_a_failed_unit_that_its_maker_cannot_read_again_is_not_sent_as_something_else(make):
    """Only its receiver could read it; there is nothing to try again with."""
    bench = make(retries=3).up()
    bench.enqueue(bench.kit.Undecodable())
    bench.dispatch()
    bench.state(nacks=[error(0)])
    assert bench.dispatch(NOW_S + 60) == []
    (bury,) = bench.all_of(Bury)
    assert (bury.code, bury.items, bury.attempts) == ("error", [], 1)
    bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0]
    assert bench.balanced()


# -- at most once ---------------------------------------------------------------------------------


def test_at_most_once_keeps_no_payload_and_settles_when_it_has_sent(make):
    bench = make(at_most_once=True).up()
    bench.numbers(5)
    bench.dispatch()
    assert bench.owner.settled == [0, 1, 2, 3, 4]
    (link,) = bench.outbox.links
    assert link.unacked_bytes == 0
    assert all(sent.payload is None for sent in link.unacked)
    bench.state(acked=[0, 5])
    assert bench.outbox.ledger.processed == 5
    assert bench.owner.settled == [0, 1, 2, 3, 4]


def test_at_most_once_counts_what_is_lost_and_never_sends_it_again(make):
    bench = make(at_most_once=True).up()
    bench.numbers(5)
    bench.dispatch()
    bench.state(acked=[0, 1], nacks=[error(1)])
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up()
    assert bench.dispatch(NOW_S + 60) == []
    assert bench.outbox.ledger.snapshot().dropped == {
        "lost": 3,
        "error": 1,
        "full": 0,
        "expired": 0,
    }
    assert bench.outbox.open_units() == 0
    assert bench.balanced()


def test_at_most_once_keeps_what_was_never_sent(make):
    bench = make(at_most_once=True)
    bench.numbers(5)
    bench.up()
    bench.outbox.links[0].recover("reset", NOW_S)
    bench.up()
    assert numbers_in(bench.dispatch()) == [0, 1, 2, 3, 4]


def unit_of(bench, items) -> Segment:
    """One unit of several items, for one partition."""
    task = Task(bench.owner, 0, 1)
    task.made(1)
    task.returned()
    run = Run(1, 2, OSEQ, 0, 0, 1, 0, 0, 0, None, 0, [len(items)])
    return Segment([run], list(items), task, [0])


@pytest.mark.parametrize("first", ["letter", "unit"])
def test_a_guilty_item_of_a_unit_is_buried_alone_and_the_others_go_on(make, first):
    bench = make(max_crashes=1).up()
    segment = unit_of(bench, ["a", "bad", "b"])
    run = segment.runs[0]
    bench.outbox.accused(Crash("sink/0", 1, [run], True, 3, "SIGSEGV", 1))
    bench.outbox.enqueue(segment)
    (frame,) = bench.dispatch()
    assert bench.payloads[0].items == ["a", "b"]
    assert [one.unit(0) for one in frame.runs] == [run.unit(0)]
    (bury,) = bench.all_of(Bury)
    assert (bury.items, bury.places, bury.code) == (["bad"], (1,), "crash")
    if first == "letter":
        bench.outbox.buried(bury.ticket)
        assert bench.owner.settled == []
        bench.state(acked=[0, 1])
    else:
        bench.state(acked=[0, 1])
        assert bench.owner.settled == []
        bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0]
    assert bench.outbox.open_units() == 0
    assert bench.balanced()


def test_a_second_guilty_item_of_the_unit_has_the_place_it_had_at_first(make):
    bench = make(max_crashes=1).up()
    segment = unit_of(bench, ["a", "bad", "b", "worse"])
    run = segment.runs[0]
    bench.outbox.accused(Crash("sink/0", 1, [run], True, 3, "SIGSEGV", 1))
    bench.outbox.enqueue(segment)
    bench.dispatch()
    bench.outbox.accused(Crash("sink/0", 2, [run], True, 3, "SIGABRT", 2))
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up()
    bench.dispatch()
    assert bench.payloads[0].items == ["a", "b"]
    first, second = bench.all_of(Bury)
    assert (first.items, first.places) == (["bad"], (1,))
    assert (second.items, second.places) == (["worse"], (3,))
    bench.outbox.buried(second.ticket)
    bench.version = 0
    bench.state(acked=[0, 1])
    assert bench.owner.settled == []
    bench.outbox.buried(first.ticket)
    assert bench.owner.settled == [0]
    assert bench.outbox.open_units() == 0

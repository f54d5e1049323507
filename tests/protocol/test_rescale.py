"""Stages that grow and shrink: links that are made and let go, and who is expected."""

import random

import pytest

from tests.protocol.test_inbox import Bench as Inboxes
from tests.protocol.test_keyed import NOW_S, PARTITIONS, SLOTS, numbers_in, units_in
from tests.protocol.test_keyed import Bench as Keyed
from zflow.protocol.actions import Dial, Hangup, Send
from zflow.protocol.core import OriginSettings
from zflow.protocol.keyed import LOOK_EVERY_S, REFUSED_S, Owners
from zflow.protocol.outbox import Outbox
from zflow.protocol.sender import HEARTBEAT_S, LOST_S, LinkState
from zflow.wire.data import NOT_OWNER, Bye, Data, Heartbeat, Hello, Nack, Refuse, Reset

TO_WORK, TO_SINK = 11, 22
A, B, C = "work/0", "work/1", "work/2"
EDGE = 9


class Free(Keyed):
    """An outbox of a free edge; receivers answer only what a test lets them."""

    def __init__(self, kit, *targets: str) -> None:
        super().__init__(kit, *targets)
        tokens = iter(range(101, 10_000))
        self.outbox = Outbox(
            kit.edge_settings(kit.EDGE, *targets),
            kit.identity(),
            codec=kit.ListCodec(),
            act=self.actions.append,
            new_token=lambda: next(tokens),
            new_ticket=iter(range(1000)).__next__,
            random=random.Random(1),
        )
        self.up()

    def put(self, n: int) -> None:
        self.enqueue(0, *[[k] for k in range(n)])

    def resize(self, *slots: str, now_s: float = NOW_S) -> None:
        self.outbox.resize(slots, now_s, dials=True)

    def link(self, slot: str):
        return next(link for link in self.outbox.links if link.key[1] == slot)

    def part(self, now_s: float = NOW_S) -> list:
        """What the links that leave say now."""
        before = len(self.actions)
        self.outbox.part(now_s)
        return [type(a.frame if isinstance(a, Send) else a) for a in self.actions[before:]]

    def forgotten(self, link) -> None:
        link.on_reset(Reset(link.token, "token"), NOW_S)
        self.outbox.part(NOW_S)

    def slots(self) -> list[str]:
        return [link.key[1] for link in self.outbox.links]


@pytest.fixture
def free(kit):
    return Free(kit, A, B)


# -- a link that leaves ---------------------------------------------------------------------------


def test_a_new_slot_is_dialled_and_gets_its_share(free):
    free.resize(A, B, C)
    assert [type(a) for a in free.actions[-2:]] == [Dial, Send]
    free.up()
    free.put(9)
    assert {send.link[1] for send in free.dispatch()} == {A, B, C}


def test_before_anybody_has_connected_a_new_slot_is_not_dialled(free):
    before = len(free.actions)
    free.outbox.resize((A, B, C), NOW_S, dials=False)
    assert free.link(C).state is LinkState.DOWN
    assert len(free.actions) == before


def test_a_slot_that_leaves_gets_nothing_new_and_keeps_its_link_until_nothing_is_open(free):
    free.put(4)
    sent = free.dispatch()
    leaving = free.link(B)
    free.resize(A)
    free.put(4)
    assert {send.link[1] for send in free.dispatch()} == {A}
    assert leaving.room() == 0
    assert free.part() == []
    n = sum(send.frame.n for send in sent if send.link[1] == B)
    free.state(leaving, acked=(0, n))
    assert free.part() == [Bye, Heartbeat]
    assert free.slots() == [A, B]
    free.forgotten(leaving)
    assert free.slots() == [A]
    assert isinstance(free.actions[-1], Hangup)
    assert free.balanced()


@pytest.mark.parametrize("how", ["lost", "nacked", "reset"])
def test_what_a_slot_that_leaves_gives_back_goes_to_others(free, how):
    free.put(4)
    n = sum(send.frame.n for send in free.dispatch() if send.link[1] == B)
    leaving = free.link(B)
    free.resize(A)
    now_s = NOW_S
    if how == "lost":
        leaving.recover("peer_lost", NOW_S)
    elif how == "reset":
        leaving.on_reset(Reset(leaving.token, "gap"), NOW_S)
    else:
        free.state(leaving, nacks=[Nack(k, 1, "error", "E", "no") for k in range(n)])
        now_s = free.outbox.due_s() + 60.0
    sends = free.dispatch(now_s)
    assert {send.link[1] for send in sends} == {A}
    assert sum(send.frame.n for send in sends) == n
    assert leaving.unacked_items == 0


def test_a_peer_that_comes_back_while_it_leaves_is_dialled_and_told_bye(free):
    leaving = free.link(B)
    free.resize(A)
    leaving.recover("peer_lost", NOW_S)
    assert free.part() == []
    assert leaving.state is LinkState.DIALING
    free.up()
    assert free.part() == [Bye, Heartbeat]
    free.forgotten(leaving)
    assert free.slots() == [A]


def test_bye_is_said_again_until_it_is_heard_and_for_ten_seconds_at_most(free):
    leaving = free.link(B)
    free.resize(A)
    free.part()
    free.actions.clear()
    leaving.tick(NOW_S + HEARTBEAT_S)
    assert [type(a.frame) for a in free.actions] == [Bye, Heartbeat]
    assert leaving.due_s() == NOW_S + 2 * HEARTBEAT_S
    assert free.part(NOW_S + LOST_S - 0.1) == []
    assert free.part(NOW_S + LOST_S) == [Hangup]
    assert free.slots() == [A]


def test_a_slot_that_is_wanted_again_while_something_is_open_goes_on(free):
    free.put(4)
    free.dispatch()
    link, token = free.link(B), free.link(B).token
    free.resize(A)
    free.resize(A, B)
    free.put(4)
    assert {send.link[1] for send in free.dispatch()} == {A, B}
    assert (link.token, link.dials, free.part()) == (token, 1, [])


def test_a_slot_that_is_wanted_again_behind_its_bye_is_dialled_anew(free):
    link, token = free.link(B), free.link(B).token
    free.resize(A)
    free.part()
    free.resize(A, B)
    assert (link.state, link.dials) == (LinkState.DIALING, 2)
    link.on_reset(Reset(token, "token"), NOW_S)  # the answer to the BYE
    assert free.part() == []
    assert free.up().slots() == [A, B]


def test_the_dials_of_a_slot_are_numbered_on_over_a_link_that_was_let_go(free):
    free.link(B).recover("peer_lost", NOW_S)
    for dials in (3, 4):
        free.up().resize(A)
        free.part()
        free.forgotten(free.link(B))
        free.resize(A, B)
        (hello,) = [a.frame for a in free.actions[-1:]]
        assert isinstance(hello, Hello)
        assert hello.dial == dials
        assert free.link(B).token == hello.token


def test_when_every_slot_leaves_units_wait_for_one(free):
    free.put(3)
    free.resize()
    assert free.dispatch() == []
    for link in list(free.outbox.links):
        free.part()
        free.forgotten(link)
    assert free.slots() == []
    assert free.dispatch() == []
    assert free.outbox.open_units() == 3
    free.resize(C)
    free.up()
    assert numbers_in(free.dispatch()) == [0, 1, 2]


# -- keyed edges ----------------------------------------------------------------------------------


@pytest.fixture
def keyed(kit):
    return Keyed(kit).up()


LATER_S = NOW_S + LOOK_EVERY_S


def test_targets_at_birth_need_not_be_contiguous(kit):
    keyed = Keyed(kit, "keep/0", "keep/2").up()
    keyed.outbox.assign(1, [2, 0, 2, 0, 2, 0, 2, 0])
    for partition in range(PARTITIONS):
        keyed.enqueue(partition, [partition])
    found = {send.link[1]: numbers_in([send]) for send in keyed.dispatch(LATER_S)}
    assert found == {"keep/2": [0, 2, 4, 6], "keep/0": [1, 3, 5, 7]}


def test_units_of_a_slot_without_a_link_wait_for_the_word_on_it(keyed):
    keyed.enqueue(3, [0], [1])
    keyed.outbox.assign(1, [7] * PARTITIONS)
    keyed.enqueue(3, [2])
    assert keyed.dispatch(LATER_S) == []
    keyed.outbox.resize((*SLOTS, "keep/7"), LATER_S, dials=True)
    assert keyed.dispatch(LATER_S) == []
    keyed.up()
    sends = keyed.dispatch(LATER_S)
    assert {send.link[1] for send in sends} == {"keep/7"}
    assert numbers_in(sends) == [0, 1, 2]


def test_units_of_a_slot_that_has_left_wait_until_their_partition_moves(keyed):
    owner = keyed.outbox.links[0]
    keyed.enqueue(3, [0])
    keyed.outbox.resize(SLOTS[1:], NOW_S, dials=True)
    keyed.outbox.part(NOW_S)
    owner.on_reset(Reset(owner.token, "token"), NOW_S)
    keyed.outbox.part(NOW_S)
    keyed.enqueue(3, [1])
    assert keyed.dispatch(NOW_S) == []
    assert keyed.outbox.open_units() == 2
    keyed.outbox.assign(1, [1] * PARTITIONS)
    sends = keyed.dispatch(LATER_S)
    assert [send.link[1] for send in sends] == [SLOTS[1]]
    assert numbers_in(sends) == [0, 1]


def test_owners_that_nobody_has_assigned_are_the_declared_ones():
    assert Owners(5, 3).slots == [0, 1, 2, 0, 1]


class Elastic:
    """One keyed outbox, and the truth about a stage of which it hears late and in any order."""

    def __init__(self, kit, seed: int) -> None:
        self.chance = random.Random(seed)
        self.bench = Keyed(kit).up()
        self.now_s = NOW_S
        self.slots, self.owners = [0, 1, 2], [p % 3 for p in range(PARTITIONS)]
        self.words: list = []  # not yet heard
        self.heard = 0
        self.taken: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.open: dict[tuple, list] = {}  # by token, what is out: (lseq, partition, number)
        self.generation = 0

    def rescale(self) -> None:
        free = [k for k in range(5) if k not in self.slots]
        if len(self.slots) > 1 and self.chance.random() < 0.5:
            self.slots.remove(self.chance.choice(self.slots))
        elif free:
            self.slots.append(self.chance.choice(free))
        self.owners = [
            s if s in self.slots and self.chance.random() < 0.8 else self.chance.choice(self.slots)
            for s in self.owners
        ]
        self.generation += 1
        self.words += [("resize", self.generation, tuple(self.slots))] * 2
        self.words += [("assign", self.generation, list(self.owners))] * 2

    def hear(self) -> None:
        kind, generation, what = self.words.pop(self.chance.randrange(len(self.words)))
        outbox = self.bench.outbox
        if kind == "assign":
            outbox.assign(generation, what)
        elif generation > self.heard:  # as the core sees to it
            self.heard = generation
            outbox.resize([f"keep/{k}" for k in what], self.now_s, dials=True)

    def answer(self, link) -> None:
        """As the receiver would: what is not its own goes back, and all that comes behind it."""
        out = self.open.pop(link.token, [])
        mine = int(link.key[1].partition("/")[2])
        if self.chance.random() < 0.1 and link.state is LinkState.UP:
            link.recover("peer_lost", self.now_s)
        elif link.state is LinkState.LEAVING:
            link.on_reset(Reset(link.token, "token"), self.now_s)
        elif link.state is LinkState.UP:
            refused = {p for _, p, _ in out if self.owners[p] != mine}
            nacks = [Nack(at, 1, NOT_OWNER, "", "") for at, p, _ in out if p in refused]
            for _, partition, number in out:
                if partition not in refused:
                    self.taken[partition].append(number)
            acked = [b for at, p, _ in out if p not in refused for b in (at, at + 1)]
            self.bench.state(link, acked=acked, nacks=nacks, now_s=self.now_s)

    def step(self, *, calm: bool) -> None:
        self.now_s += REFUSED_S + LOOK_EVERY_S
        chance, bench = self.chance, self.bench
        if not calm:
            bench.enqueue(chance.randrange(PARTITIONS), *[[k] for k in range(chance.randint(1, 4))])
            if chance.random() < 0.15:
                self.rescale()
        while self.words and (calm or chance.random() < 0.3):
            self.hear()
        bench.up()
        bench.outbox.part(self.now_s)
        for send in bench.dispatch(self.now_s):
            at = send.frame.first
            for partition, unit, _ in units_in(send):
                slot = f"keep/{bench.outbox.owners.slots[partition]}"
                assert send.link[1] == slot, "sent to somebody else than the owner it knows"
                self.open.setdefault(send.frame.token, []).append((at, partition, unit[1]))
                at += 1
        for link in list(bench.outbox.links):
            if calm or chance.random() < 0.7:
                self.answer(link)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_words_come_when_nothing_is_lost_and_order_is_kept(kit, seed):
    elastic = Elastic(kit, seed)
    for _ in range(80):
        elastic.step(calm=False)
    for _ in range(120):
        elastic.step(calm=True)
    outbox = elastic.bench.outbox
    assert outbox.open_units() == 0
    assert sum(map(len, elastic.taken.values())) == elastic.bench.made
    for partition, units in elastic.taken.items():
        assert units == sorted(set(units)), partition
    assert {link.key[1] for link in outbox.links} == {f"keep/{k}" for k in elastic.slots}
    assert elastic.bench.balanced()


# -- who is expected ------------------------------------------------------------------------------


@pytest.fixture
def inbox(kit):
    bench = Inboxes(kit)
    bench.inbox.expect("read", ["read/0", "read/1"])
    return bench


def both(bench) -> None:
    bench.hello(ended=True)
    bench.hello(201, sender="read/1", ended=True)


def bye(bench, token: int, now_s: float = NOW_S) -> None:
    bench.inbox.on_bye(Bye(token))
    bench.inbox.see_off(now_s)


def senders(bench) -> list[str]:
    return [slot for _, slot in bench.inbox.links]


def test_a_slot_that_is_expected_and_not_there_keeps_the_inputs_from_ending(inbox):
    both(inbox)
    assert inbox.inbox.ended()
    inbox.inbox.expect("read", ["read/0", "read/1", "read/2"])
    assert not inbox.inbox.ended()
    inbox.hello(301, sender="read/2", ended=True)
    assert inbox.inbox.ended()


def test_words_on_stages_that_do_not_send_here_change_nothing(inbox):
    both(inbox)
    inbox.inbox.expect("other", ["other/0"])
    assert inbox.inbox.ended()


def test_a_guest_is_served_and_keeps_the_inputs_from_ending_until_it_says_bye(inbox):
    both(inbox)
    inbox.hello(301, sender="read/2", ended=True)
    inbox.data(0, 1, token=301)
    assert len(inbox.inbox.parcels) == 1
    inbox.leave(1)
    assert not inbox.inbox.ended()
    bye(inbox, 301)
    assert inbox.inbox.ended()
    assert senders(inbox) == ["read/0", "read/1"]


def test_whoever_left_is_dropped_whether_the_word_or_the_bye_comes_first(inbox):
    both(inbox)
    bye(inbox, 201)
    assert senders(inbox) == ["read/0", "read/1"]
    assert inbox.inbox.ended()
    inbox.inbox.expect("read", ["read/0"])
    inbox.inbox.see_off(NOW_S)
    assert senders(inbox) == ["read/0"]
    assert inbox.inbox.ended()


def test_its_share_of_the_window_goes_to_the_others(kit):
    bench = Inboxes(kit, inbox_bytes=1000)
    bench.inbox.expect("read", ["read/0", "read/1"])
    both(bench)
    assert bench.inbox.links[EDGE, "read/1"].credit.limit_bytes == 500
    bye(bench, 201)
    bench.inbox.expect("read", ["read/0"])
    bench.inbox.see_off(NOW_S)
    (state,) = bench.heartbeat(0)
    assert state.limit_bytes == 1000


def test_what_comes_behind_a_bye_changes_nothing_and_is_told_so(inbox):
    inbox.hello(dial=3)
    bye(inbox, 101)
    assert inbox.inbox.ended() is False
    assert inbox.heartbeat() == [Reset(101, "token")]
    assert inbox.data(0, 1) == []
    (refusal,) = inbox.hello(dial=3)  # a copy that comes late
    assert isinstance(refusal, Refuse)
    assert inbox.link.ended
    inbox.hello(102, dial=4)
    assert not inbox.link.ended


def test_a_hello_from_before_a_link_that_is_gone_is_refused(inbox):
    inbox.hello(301, sender="read/2", incarnation=2, dial=3)
    bye(inbox, 301)
    assert senders(inbox) == []
    for incarnation, dial in ((1, 9), (2, 2), (2, 3)):
        (refusal,) = inbox.hello(302, sender="read/2", incarnation=incarnation, dial=dial)
        assert (refusal.code, refusal.current) == ("stale_incarnation", 2)
    inbox.hello(303, sender="read/2", incarnation=2, dial=4)
    assert senders(inbox) == ["read/2"]


def test_a_guest_whose_bye_was_lost_is_dropped_after_a_silence(inbox):
    inbox.hello(301, sender="read/2", ended=True)
    inbox.inbox.see_off(NOW_S + LOST_S - 0.1)
    assert senders(inbox) == ["read/2"]
    assert inbox.inbox.due_s() == NOW_S + LOST_S
    inbox.inbox.see_off(NOW_S + LOST_S)
    assert senders(inbox) == []
    assert inbox.inbox.due_s() > NOW_S + 1_000_000


def test_a_silent_guest_is_not_dropped_while_something_of_it_waits(inbox):
    inbox.hello(301, sender="read/2")
    inbox.data(0, 2, token=301)
    inbox.inbox.see_off(NOW_S + LOST_S)
    assert senders(inbox) == ["read/2"]
    inbox.leave(2)
    inbox.inbox.see_off(NOW_S + LOST_S)
    assert senders(inbox) == []


def test_a_silent_guest_that_lives_after_all_may_say_the_same_hello_again(inbox):
    """Its WELCOME was lost for long; it goes on with its dial."""
    inbox.hello(301, sender="read/2", dial=2)
    inbox.inbox.see_off(NOW_S + LOST_S)
    inbox.hello(301, sender="read/2", dial=2)
    assert senders(inbox) == ["read/2"]


def test_who_is_expected_may_be_silent_for_as_long_as_it_likes(inbox):
    both(inbox)
    inbox.inbox.see_off(NOW_S + 100 * LOST_S)
    assert senders(inbox) == ["read/0", "read/1"]


def test_to_a_slot_that_leaves_everybody_is_a_guest(inbox):
    both(inbox)
    inbox.inbox.part_all()
    bye(inbox, 101)
    assert senders(inbox) == ["read/1"]
    assert not inbox.inbox.ended()
    inbox.inbox.see_off(NOW_S + LOST_S)
    assert senders(inbox) == []
    assert inbox.inbox.ended()


# -- whole cores ----------------------------------------------------------------------------------


@pytest.fixture
def lossy(kit):
    class Lossy(kit.Wire):
        """Loses any frame now and then, BYE more often; refuses nothing."""

        odds = 0.0
        bye_odds = 0.0

        def _carry(self, slot, action):
            frame = getattr(action, "frame", None)
            odds = self.bye_odds if isinstance(frame, Bye) else self.odds
            if frame is None or isinstance(frame, Data) or self.chance.random() >= odds:
                super()._carry(slot, action)

    return Lossy


class Stage:
    """A source, a stage of work that is rescaled, and a sink."""

    def __init__(self, kit, wire, *slots: str) -> None:
        self.kit, self.wire, self.generation = kit, wire, 0
        self.slots = list(slots)
        self.source = wire.add("read/0", edges=(kit.edge_settings(TO_WORK, *slots),))
        for slot in slots:
            self.add(slot)
        self.sink = wire.add("sink/0", inputs=(TO_SINK,))
        wire.connect()

    def add(self, slot: str, incarnation: int = 1):
        edge = self.kit.edge_settings(TO_SINK, "sink/0")
        return self.wire.add(
            slot,
            lambda item: {TO_SINK: [item]},
            inputs=(TO_WORK,),
            edges=(edge,),
            incarnation=incarnation,
        )

    def resize(self, *slots: str) -> None:
        """Everybody hears it at once."""
        self.generation += 1
        for slot in slots:
            if slot not in self.wire.replicas:
                self.add(slot).core.connect(self.wire.now_s)
        for slot in {"read/0", "sink/0"}:
            core = self.wire.replicas[slot].core
            core.resize("work", self.generation, slots, self.wire.now_s)
        for slot in set(self.slots) - set(slots):
            self.wire.replicas[slot].core.leave()
        self.slots = list(slots)

    def exits(self) -> list[str]:
        """Those that have retired go."""
        gone = [slot for slot, r in self.wire.replicas.items() if r.core.retired()]
        for slot in gone:
            core = self.wire.replicas[slot].core
            core.finish()
            del self.wire.replicas[slot]
        return gone

    def items(self) -> list:
        return [item for _, item in self.sink.got]


def test_a_slot_joins_and_another_leaves_while_data_flows(kit):
    stage = Stage(kit, kit.Wire(1), A, B)
    wire = stage.wire
    for begin in range(0, 600, 20):
        wire.produce("read/0", list(range(begin, begin + 20)))
        if begin == 200:
            stage.resize(A, B, C)
        if begin == 400:
            stage.resize(A, C)
        wire.step()
        stage.exits()
    wire.run()
    assert sorted(stage.items()) == list(range(600))
    wire.run(until=lambda: B not in wire.replicas or bool(stage.exits()))
    assert set(wire.replicas) == {"read/0", A, C, "sink/0"}
    assert wire.replicas[C].got
    stage.source.core.source_ended = True
    wire.run(until=lambda: wire.replicas["sink/0"].core.quiet())
    assert {slot for _, slot in stage.sink.core.inbox.links} == {A, C}


def test_a_slot_that_leaves_is_retired_once_everybody_has_said_bye_and_heard_its_own(kit):
    stage = Stage(kit, kit.Wire(1), A, B)
    wire, leaving = stage.wire, stage.wire.replicas[B].core
    wire.produce("read/0", list(range(40)))
    wire.step(work=False)
    stage.resize(A)
    wire.step(work=False)
    assert leaving.inbox.parcels
    assert not leaving.retired()
    assert not leaving.quiet()
    wire.run()
    wire.run(until=leaving.retired)
    assert leaving.inbox.links == {}
    assert [slot for _, slot in stage.sink.core.inbox.links] == [A]
    assert sorted(stage.items()) == list(range(40))


def test_words_count_by_their_generation_and_not_by_their_arrival(kit):
    stage = Stage(kit, kit.Wire(1), A, B)
    core = stage.source.core

    def slots() -> list[str]:
        links = core.outboxes[TO_WORK].links
        return [link.key[1] for link in links if not link.retiring]

    core.resize("work", 2, (A,), 1000.0)
    for generation in (0, 1, 2):
        core.resize("work", generation, (A, B, C), 1000.0)
        assert slots() == [A]
    core.resize("other", 9, ("other/0",), 1000.0)
    core.resize("work", 3, (A, C), 1000.0)
    assert slots() == [A, C]


def test_the_generation_known_at_birth_counts_too(kit):
    stage = Stage(kit, kit.Wire(1), A)
    settings = stage.source.core.settings
    known = type(settings)(
        identity=settings.identity,
        inbox=settings.inbox,
        edges=settings.edges,
        upstream=frozenset(),
        generations={"work": 4},
    )
    core = type(stage.source.core)(
        known, codec=kit.ListCodec(), new_token=lambda: 1, random=random.Random(1)
    )
    core.resize("work", 4, (A, B), 1000.0)
    assert [link.key[1] for link in core.outboxes[TO_WORK].links] == [A]
    core.resize("work", 5, (A, B), 1000.0)
    assert [link.key[1] for link in core.outboxes[TO_WORK].links] == [A, B]


def test_a_slot_that_is_wanted_again_before_it_has_left_goes_on(kit):
    stage = Stage(kit, kit.Wire(1), A, B)
    wire = stage.wire
    wire.produce("read/0", list(range(40)))
    wire.step(work=False)
    stage.resize(A)
    wire.step(work=False)
    stage.resize(A, B)
    for begin in range(40, 400, 20):
        wire.produce("read/0", list(range(begin, begin + 20)))
        wire.step()
    wire.run()
    assert not wire.replicas[B].core.retired()
    assert len(wire.replicas[B].got) > 100
    stage.source.core.source_ended = True
    wire.run(until=stage.sink.core.quiet)


def test_a_slot_that_was_through_serves_whoever_comes_back(kit):
    """A sender that was born with an old word."""
    stage = Stage(kit, kit.Wire(1), A, B)
    wire, leaving = stage.wire, stage.wire.replicas[B].core
    stage.resize(A)
    wire.run(until=leaving.retired)
    late = wire.add("read/0", edges=(kit.edge_settings(TO_WORK, A, B),), incarnation=2)
    late.core.connect(wire.now_s)
    wire.step()
    wire.produce("read/0", list(range(100, 140)))
    wire.run()
    assert sorted(stage.items()) == list(range(100, 140))
    late.core.resize("work", 1, (A,), wire.now_s)
    wire.run(until=leaving.retired)


def test_a_partition_keeps_its_slot_from_leaving_and_brings_it_back(kit):
    stage = Stage(kit, kit.Wire(1), A, B)
    wire, leaving = stage.wire, stage.wire.replicas[B].core
    settings = OriginSettings(origin=5, stage="work", low=0)
    leaving.acquired(3, settings)
    stage.resize(A)
    for _ in range(20):
        wire.step(1.0)
    assert not leaving.retired()
    assert [link.state for link in leaving.outboxes[TO_SINK].links] == [LinkState.UP]
    leaving.released(3)
    wire.run(until=leaving.retired)
    leaving.acquired(3, settings)
    assert not leaving.retired()
    wire.step()
    assert leaving.connected()
    assert [link.key[1] for link in leaving.outboxes[TO_SINK].links] == ["sink/0"]


@pytest.mark.parametrize("seed", range(40))
def test_rescaled_at_random_over_a_wire_that_loses_frames_nothing_is_lost(kit, lossy, seed):
    wire = lossy(seed)
    stage = Stage(kit, wire, A, B)
    wire.odds, wire.bye_odds = 0.05, 0.5
    chance = random.Random(seed)
    made = 0
    incarnations = {f"work/{k}": 1 for k in range(4)}
    for _ in range(60):
        n = chance.randint(0, 30)
        wire.produce("read/0", list(range(made, made + n)))
        made += n
        wire.step(chance.choice([0.006, 0.05, 0.5]), work=chance.random() < 0.7)
        for slot in stage.exits():
            incarnations[slot] += 1
            if slot in stage.slots:
                stage.add(slot, incarnations[slot]).core.connect(wire.now_s)
        if chance.random() < 0.3:
            slots = chance.sample(list(incarnations), chance.randint(1, 4))
            for slot in slots:
                if slot not in wire.replicas:
                    stage.add(slot, incarnations[slot]).core.connect(wire.now_s)
            stage.resize(*slots)
    stage.source.core.source_ended = True

    def over() -> bool:
        for slot in stage.exits():
            incarnations[slot] += 1
            if slot in stage.slots:
                stage.add(slot, incarnations[slot]).core.connect(wire.now_s)
        left = set(wire.replicas) == {"read/0", "sink/0", *stage.slots}
        return left and wire.settled() and all(r.core.quiet() for r in wire.replicas.values())

    for _ in range(3000):
        if over():
            break
        wire.step(0.05)
    assert over(), f"seed {seed}: {wire.open_units()}, {set(wire.replicas)} for {stage.slots}"
    assert set(stage.items()) == set(range(made)), f"seed {seed}"
    assert {slot for _, slot in stage.sink.core.inbox.links} == set(stage.slots), f"seed {seed}"


# -- a gentle restart -----------------------------------------------------------------------------


def test_a_replica_that_is_paused_finishes_what_it_has_begun_and_takes_nothing_more(kit):
    stage = Stage(kit, kit.Wire(1), A)
    wire, core = stage.wire, stage.wire.replicas[A].core
    wire.produce("read/0", list(range(60)))
    wire.step(work=False)
    parcel = core.next_parcel(wire.now_s)
    portion = core.take(parcel, 1, wire.now_s)
    core.pause_intake(True)
    assert core.next_parcel(wire.now_s) is None
    assert not core.at_rest()
    replica = wire.replicas[A]
    replica._return(portion)
    assert not core.at_rest()  # its output is on its way
    wire.run(until=core.at_rest)
    assert core.inbox.parcels
    assert not core.settled()
    successor = stage.add(A, incarnation=2)
    successor.core.connect(wire.now_s)
    wire.run()
    assert set(stage.items()) == set(range(60))


def test_a_pause_can_end(kit):
    stage = Stage(kit, kit.Wire(1), A)
    core = stage.wire.replicas[A].core
    core.pause_intake(True)
    stage.wire.produce("read/0", list(range(60)))
    for _ in range(20):
        stage.wire.step()
    assert stage.items() == []
    core.pause_intake(False)
    stage.wire.run()
    assert sorted(stage.items()) == list(range(60))


def test_a_core_is_not_at_rest_while_a_retry_or_a_dead_letter_is_open(kit):
    stage = Stage(kit, kit.Wire(1), A)
    source = stage.source.core
    assert source.at_rest()
    stage.wire.produce("read/0", [1])
    assert not source.at_rest()
    stage.wire.run()
    assert source.at_rest()

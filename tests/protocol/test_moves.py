"""Partitions that move: who sends holds back, who owned gives back, and order is kept."""

import random

import pytest

from tests.protocol.test_inbox import Bench as Inboxes
from tests.protocol.test_keyed import NOW_S, PARTITIONS, SLOTS, Bench, numbers_in, units_in
from zflow.protocol.keyed import LOOK_EVERY_S, REFUSED_S, Owners, owner_of
from zflow.wire.data import NOT_OWNER, Heartbeat, Nack
from zflow.wire.run import RESENT

LATER_S = NOW_S + LOOK_EVERY_S
DECLARED = [owner_of(p, len(SLOTS)) for p in range(PARTITIONS)]


def refusal(first: int, n: int = 1) -> Nack:
    return Nack(first, n, NOT_OWNER, "NotOwner", "")


def moved(partition: int, slot: int) -> list[int]:
    slots = list(DECLARED)
    slots[partition] = slot
    return slots


@pytest.fixture
def bench(kit):
    return Bench(kit).up()


def slots_of(sends) -> list[str]:
    return [send.link[1] for send in sends]


def moving(bench):
    """Three units of partition 3 are on their way, and one is new; the link to its old owner."""
    bench.enqueue(3, [0], [1], [2])
    bench.dispatch()
    bench.enqueue(3, [3])
    bench.outbox.assign(1, moved(3, 2))
    return bench.outbox.links[0]


# -- words --------------------------------------------------------------------------------------


def test_an_older_word_changes_nothing():
    owners = Owners(PARTITIONS, len(SLOTS))
    assert owners.slots == DECLARED
    assert owners.assign(2, moved(3, 2)) == [3]
    for generation in (0, 1, 2):
        assert owners.assign(generation, DECLARED) == []
    assert owners.slots == moved(3, 2)


def test_an_edge_into_one_partition_takes_its_share_of_the_word():
    owners = Owners(1, len(SLOTS))
    assert owners.assign(1, [2, 1, 1]) == [0]
    assert owners.slots == [2]


# -- the sender ---------------------------------------------------------------------------------


def test_what_waits_goes_to_the_new_owner(bench):
    bench.enqueue(3, [1])
    bench.outbox.assign(1, moved(3, 2))
    (send,) = bench.dispatch(LATER_S)
    assert send.link[1] == SLOTS[2]


def test_what_is_new_waits_for_what_is_on_its_way(bench):
    old, new = bench.outbox.links[0], bench.outbox.links[2]
    bench.enqueue(3, [1], [2])
    bench.dispatch()
    bench.outbox.assign(1, moved(3, 2))
    bench.enqueue(3, [3])
    bench.enqueue(1, [4])  # another partition of somebody else goes on
    assert slots_of(bench.dispatch(LATER_S)) == [SLOTS[1]]
    bench.state(old, acked=(0, 1))
    assert bench.dispatch(LATER_S + LOOK_EVERY_S) == []
    bench.state(old, acked=(0, 2))
    assert slots_of(bench.dispatch(LATER_S + 2 * LOOK_EVERY_S)) == [new.key[1]]
    assert bench.balanced()


def test_what_comes_back_goes_before_what_is_new_in_whatever_order_it_comes(bench):
    old = moving(bench)
    bench.state(old, nacks=[refusal(1)])
    bench.state(old, nacks=[refusal(0)])
    assert bench.dispatch(NOW_S + REFUSED_S) == []  # number 2 is still out
    bench.state(old, nacks=[refusal(2)])
    sends = bench.dispatch(NOW_S + 2 * REFUSED_S)
    assert set(slots_of(sends)) == {SLOTS[2]}
    assert numbers_in(sends) == [0, 1, 2, 3]
    assert all(run.flags & RESENT for run in sends[0].frame.runs[:3])
    assert bench.outbox.ledger.snapshot().replayed[NOT_OWNER] == 3
    assert bench.balanced()


def test_a_refusal_that_comes_before_the_word_is_tried_again_a_little_later(bench):
    old = bench.outbox.links[0]
    bench.enqueue(3, [0])
    bench.dispatch()
    bench.state(old, nacks=[refusal(0)])
    assert bench.dispatch(NOW_S + REFUSED_S / 2) == []
    assert NOW_S < bench.outbox.due_s() <= NOW_S + REFUSED_S
    assert slots_of(bench.dispatch(NOW_S + REFUSED_S + LOOK_EVERY_S)) == [SLOTS[0]]


def test_a_link_that_is_lost_meanwhile_gives_its_units_back_in_order(bench):
    old = moving(bench)
    bench.state(old, nacks=[refusal(2)])
    old.recover("peer_lost", NOW_S)
    sends = bench.dispatch(NOW_S + REFUSED_S + LOOK_EVERY_S)
    assert numbers_in(sends) == [0, 1, 2, 3]
    assert set(slots_of(sends)) == {SLOTS[2]}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_refused_and_lost_the_order_of_each_partition_is_kept(kit, seed):
    chance = random.Random(seed)
    bench = Bench(kit).up()
    taken: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
    owners = list(DECLARED)  # the truth
    now_s, generation = NOW_S, 0
    open_units: dict[tuple, list] = {}  # by link, what is out: (lseq, partition, number)
    for step in range(120):
        now_s += REFUSED_S + LOOK_EVERY_S
        if step < 80:
            bench.enqueue(chance.randrange(PARTITIONS), *[[k] for k in range(chance.randint(1, 4))])
        if step < 80 and chance.random() < 0.3:
            generation += 1
            owners = [chance.randrange(len(SLOTS)) for _ in owners]
        if chance.random() < 0.5 or step >= 80:
            bench.outbox.assign(generation, owners)
        for send in bench.dispatch(now_s):
            at = send.frame.first
            for partition, unit, _ in units_in(send):
                open_units.setdefault((send.link, send.frame.token), []).append(
                    (at, partition, unit[1])
                )
                at += 1
        for number, link in enumerate(bench.outbox.links):
            out = open_units.pop((link.key, link.token), [])
            if chance.random() < 0.1:
                link.recover("peer_lost", now_s)
                bench.up()
                continue
            # Once it has refused one of a partition, it refuses all that come behind it.
            refused = {p for _, p, _ in out if owners[p] != number}
            nacks = []
            for lseq, partition, unit in out:
                if partition in refused:
                    nacks.append(refusal(lseq))
                else:
                    taken[partition].append(unit)
            acked = [b for lseq, p, _ in out if p not in refused for b in (lseq, lseq + 1)]
            bench.state(link, acked=acked, nacks=nacks, now_s=now_s)
    assert bench.outbox.open_units() == 0
    assert sum(map(len, taken.values())) == bench.made
    for partition, units in taken.items():
        assert units == sorted(units), partition
    assert bench.balanced()


# -- the receiver -------------------------------------------------------------------------------


@pytest.fixture
def link(kit):
    made = Inboxes(kit)
    made.hello()
    made.data(0, 6)
    return made


def seen(link, version: int) -> None:
    frame = Heartbeat(101, link.link.next, version, False, 9, "read/0", 1, "ack of read/0")
    link.inbox.on_heartbeat(frame, NOW_S)


def test_behind_units_that_went_back_others_go_back_until_the_sender_knows(link):
    receiver = link.link
    receiver.give_back(3, 2, 1)
    assert receiver.is_stray(3, 5)
    assert not receiver.is_stray(4, 5)
    stated = receiver.state(100, 0.0)
    assert [(n.first, n.n, n.code) for n in stated.nacks] == [(2, 1, NOT_OWNER)]
    assert receiver.is_stray(3, 100)  # whatever comes
    seen(link, stated.version)
    assert receiver.is_stray(3, 5)  # it was sent before the sender knew
    assert not receiver.is_stray(3, 6)
    assert receiver.strays == {}


def test_more_that_goes_back_begins_anew(link):
    receiver = link.link
    receiver.give_back(3, 2, 1)
    seen(link, receiver.state(100, 0.0).version)
    link.data(6, 2)
    receiver.give_back(3, 6, 1)
    seen(link, receiver.version)  # of a statement that did not name it
    assert receiver.is_stray(3, 100)
    seen(link, receiver.state(100, 0.0).version)
    assert receiver.is_stray(3, 7)
    assert not receiver.is_stray(3, 8)

"""Keyed edges: every unit at its owner, in the order of its partition, with all of its items."""

import random
from collections import defaultdict

import pytest

from zflow.protocol.actions import Bury, Reply, Send
from zflow.protocol.anchor import Applied, Commit, Dedupe, Partition
from zflow.protocol.identity import Branch, place_output
from zflow.protocol.keyed import KeyedOutbox, owner_of
from zflow.protocol.outbox import MAX_MESSAGE_BYTES
from zflow.protocol.outputs import Output, Share
from zflow.protocol.segment import Segment
from zflow.protocol.task import Task
from zflow.replica.scatter import Scatter
from zflow.wire import data
from zflow.wire.data import Crash, Data, Nack, State, Welcome
from zflow.wire.run import OSEQ, RESENT, SUSPECT, Run, item_span

NOW_S = 1000.0
SEEDS = range(50)
PARTITIONS = 8
SLOTS = ("keep/0", "keep/1", "keep/2")
TO_MIDDLE, TO_KEEP = 11, 22
ORIGIN = 77


def path_of(partition: int) -> int:
    return 1000 + partition


def unit_of(partition: int, number: int) -> tuple:
    return (1, number, path_of(partition), 0)


class Bench:
    """One keyed outbox; receivers answer only what a test lets them."""

    def __init__(self, kit, *targets: str, **settings) -> None:
        self.actions: list = []
        self.owner = kit.Owner()
        tokens, tickets = iter(range(101, 10_000)), iter(range(1, 10_000))
        self.outbox = KeyedOutbox(
            kit.edge_settings(kit.EDGE, *(targets or SLOTS), partitions=PARTITIONS, **settings),
            kit.identity(),
            codec=kit.ListCodec(),
            act=self.actions.append,
            new_token=lambda: next(tokens),
            new_ticket=lambda: next(tickets),
            random=random.Random(1),
        )
        self.kit = kit
        self.made = 0
        self.version = 0

    def up(self, *limits: int, limit_bytes: int = 10**9) -> "Bench":
        for k, link in enumerate(self.outbox.links):
            if link.state.value == "down":
                link.dial(NOW_S)
            limit = limits[k] if k < len(limits) else 100_000
            link.on_welcome(Welcome(link.token, link.key[1], 1, limit, limit_bytes, []), NOW_S)
        return self

    def enqueue(self, partition: int, *units: list) -> range:
        """One segment: for each unit its items. Returns the numbers of the units."""
        n = len(units)
        numbers = range(self.made, self.made + n)
        self.made += n
        counts = [len(items) for items in units]
        run = Run(1, path_of(partition), OSEQ, 0, numbers[0], n, partition=partition)
        run.counts = None if set(counts) == {1} else counts
        task = Task(self.owner, numbers[0], n)
        task.made(n)
        task.returned()
        items = [item for some in units for item in some]
        self.outbox.enqueue(Segment([run], items, task, range(n)))
        return numbers

    def dispatch(self, now_s: float = NOW_S) -> list[Send]:
        """The messages that are sent now."""
        before = len(self.actions)
        self.outbox.dispatch(now_s)
        made = self.actions[before:]
        return [a for a in made if isinstance(a, Send) and isinstance(a.frame, Data)]

    def state(self, link, acked=(), nacks=(), *, now_s: float = NOW_S) -> None:
        self.version += 1
        limits = (link.credit.limit_items, link.credit.limit_bytes, link.credit.window_items)
        version = link.version + self.version
        link.on_state(State(link.token, version, 0, *limits, [*acked], [*nacks], 0.0), now_s)

    def buried(self) -> list[Bury]:
        return [action for action in self.actions if isinstance(action, Bury)]

    def balanced(self) -> bool:
        books = self.outbox.ledger.snapshot()
        open_units = sum(link.unacked_items for link in self.outbox.links)
        return books.sent == books.settled + open_units + len(self.outbox.burying)


@pytest.fixture
def make(kit):
    return lambda *targets, **settings: Bench(kit, *targets, **settings)


def units_in(send: Send) -> list[tuple[int, tuple, list]]:
    """(partition, unit, its items) of every unit of a message."""
    found = []
    runs = send.frame.runs
    at = 0
    for run in runs:
        for position in range(run.n):
            first, last = item_span(runs, at, at + 1)
            found.append((run.partition, run.unit(position), send.payload.items[first:last]))
            at += 1
    assert at == send.frame.n
    assert sum(run.items for run in runs) == len(send.payload.items)
    return found


def numbers_in(sends: list[Send]) -> list[int]:
    return [unit[1] for send in sends for _, unit, _ in units_in(send)]


def some_units(chance: random.Random, n: int) -> list[list]:
    """Units of different numbers of items; an item knows its place."""
    return [
        [(chance.random(), place) for place in range(chance.choice([1, 1, 2, 5]))] for _ in range(n)
    ]


# -- whose is a unit ------------------------------------------------------------------------------


def test_every_partition_has_one_owner_and_slots_have_as_many_as_each_other():
    for slots in (1, 2, 3, 8):
        owners = [owner_of(partition, slots) for partition in range(64)]
        counted = [owners.count(slot) for slot in range(slots)]
        assert max(counted) - min(counted) <= 1


def test_a_slot_without_credit_holds_back_its_own_partitions_only(make):
    bench = make().up(0, 100, 100)
    for partition in range(PARTITIONS):
        bench.enqueue(partition, ["a"], ["b"])
    sends = bench.dispatch()
    assert {send.link[1] for send in sends} == {"keep/1", "keep/2"}
    waiting = [p for p in range(PARTITIONS) if owner_of(p, 3) == 0]
    assert bench.outbox.queued == 2 * len(waiting)
    bench.up(100)
    assert {send.link[1] for send in bench.dispatch()} == {"keep/0"}
    assert bench.outbox.queued == 0


class Receivers:
    """Takes what is sent in order, forgets at will, and writes down each unit's first arrival."""

    def __init__(self, bench: Bench, chance: random.Random, where: str) -> None:
        self.bench = bench
        self.chance = chance
        self.where = where
        self.items: dict[tuple, list] = {}
        self.arrived: dict[int, list[int]] = defaultdict(list)  # by partition
        self.waiting: dict[int, list[Send]] = defaultdict(list)  # by token
        self.taken: dict[int, int] = defaultdict(int)

    def send(self, sends: list[Send]) -> None:
        for send in sends:
            self.waiting[send.frame.token].append(send)
            for partition, _, _ in units_in(send):
                assert send.link[1] == SLOTS[owner_of(partition, len(SLOTS))], self.where

    def take(self, link) -> None:
        """The next message; some of what has been taken is acknowledged, anywhere in it."""
        if not self.waiting[link.token]:
            return
        send = self.waiting[link.token].pop(0)
        assert send.frame.first == self.taken[link.token], self.where
        self.taken[link.token] += send.frame.n
        for partition, unit, items in units_in(send):
            if unit not in self.items:
                self.items[unit] = items
                self.arrived[partition].append(unit[1])
            assert self.items[unit] == items, self.where

    def acknowledge(self, link) -> None:
        if end := self.taken[link.token]:
            first = self.chance.randrange(end)
            self.bench.state(link, [first, self.chance.randint(first + 1, end)])


@pytest.mark.parametrize("seed", SEEDS)
def test_units_arrive_at_their_owner_in_the_order_of_their_partition_whatever_is_lost(make, seed):
    """Partial credit, acknowledgements anywhere, recoveries and suspicions between them."""
    chance = random.Random(seed)
    where = f"seed {seed}"
    bench = make().up(3, 3, 3, limit_bytes=200)
    receivers = Receivers(bench, chance, where)
    made: dict[int, list[int]] = defaultdict(list)
    items: dict[tuple, list] = {}
    for step in range(120):
        link = chance.choice(bench.outbox.links)
        odds = chance.random()
        if odds < 0.3 and step < 80:
            partition, units = (
                chance.randrange(PARTITIONS),
                some_units(chance, chance.randint(1, 9)),
            )
            numbers = bench.enqueue(partition, *units)
            made[partition] += numbers
            items |= {unit_of(partition, n): u for n, u in zip(numbers, units, strict=True)}
        elif odds < 0.5:
            receivers.take(link)
        elif odds < 0.65:
            receivers.acknowledge(link)
        elif odds < 0.7:
            link.recover("peer_lost", NOW_S)
            bench.up(chance.randrange(4), chance.randrange(4), chance.randrange(4))
        elif odds < 0.75 and receivers.items:
            units = chance.sample(sorted(receivers.items), min(3, len(receivers.items)))
            runs = [Run(1, path, OSEQ, 0, number, 1) for _, number, path, _ in units]
            bench.outbox.accused(Crash(link.key[1], step, runs, False, 3, "SIGSEGV"))
        else:
            credit = link.credit
            credit.raise_to(credit.limit_items + chance.randrange(9), credit.limit_bytes + 99)
        receivers.send(bench.dispatch())
        assert bench.balanced(), where
    bench.up(limit_bytes=10**12)
    for _ in range(200):
        receivers.send(bench.dispatch())
        for link in bench.outbox.links:
            receivers.take(link)
            if receivers.taken[link.token]:
                bench.state(link, [0, receivers.taken[link.token]])
    assert receivers.items == items, where
    assert receivers.arrived == made, where
    assert bench.outbox.open_units() == 0, where
    assert sorted(bench.owner.settled) == list(range(bench.made)), where
    assert bench.balanced(), where


def test_what_comes_back_from_one_link_goes_before_what_waits_for_it(make):
    bench = make().up(2, 2, 2)
    for partition in (0, 3, 0, 1):  # 0 and 3 have one owner
        bench.enqueue(partition, ["a"], ["b"])
    assert numbers_in(bench.dispatch()) == [0, 1, 6, 7]
    bench.outbox.links[0].recover("peer_lost", NOW_S)
    bench.up(100)
    sends = bench.dispatch()
    assert numbers_in(sends) == [0, 1, 2, 3, 4, 5]
    flags = [run.flags for send in sends for run in send.frame.runs]
    assert flags == [RESENT, 0, 0]


def test_a_unit_to_be_tried_again_goes_to_the_same_owner(make):
    bench = make(backoff_s=0.1).up()
    bench.enqueue(4, ["a"], ["b", "c"])
    bench.dispatch()
    link = bench.outbox.links[1]
    bench.state(link, [0, 1], [Nack(1, 1, "error", "ValueError", "no")])
    (send,) = bench.dispatch(NOW_S + 60)
    assert send.link[1] == "keep/1"
    assert units_in(send) == [(4, unit_of(4, 1), ["b", "c"])]
    assert send.frame.runs[0].attempt == 1


# -- messages that are too large ------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_too_large_for_one_message_is_halved_and_keeps_its_order(make, seed):
    chance = random.Random(seed)
    bench = make().up()
    sizes = [10, MAX_MESSAGE_BYTES // 8, MAX_MESSAGE_BYTES]
    made: dict[int, list] = defaultdict(list)
    for _ in range(20):
        partition = chance.randrange(PARTITIONS)
        units = [
            [bench.kit.Big(chance.choice(sizes)) for _ in range(chance.randint(1, 4))]
            for _ in range(chance.randint(1, 6))
        ]
        numbers = bench.enqueue(partition, *units)
        made[partition] += zip(numbers, units, strict=True)
    found: dict[int, list] = defaultdict(list)
    for send in bench.dispatch():
        assert send.frame.n == 1 or send.payload.size_bytes <= 4 * MAX_MESSAGE_BYTES
        for partition, unit, items in units_in(send):
            assert send.link[1] == SLOTS[owner_of(partition, 3)]
            found[partition].append((unit[1], items))
    assert found == made, f"seed {seed}"
    assert bench.outbox.queued == 0
    assert bench.balanced()


def test_a_unit_larger_than_all_credit_travels_alone_with_all_its_items(make):
    bench = make().up(10, limit_bytes=100)
    bench.enqueue(0, ["a"], ["b"] * 50, ["c"])
    found = [[len(items) for _, _, items in units_in(send)] for send in bench.dispatch()]
    assert found == [[1], [50]]
    assert bench.outbox.queued == 1


def test_a_unit_with_an_item_that_cannot_travel_fails_its_input_and_no_other(make):
    bench = make().up()
    bench.enqueue(0, ["a", "b"], ["c", bench.kit.Unencodable()], ["d"])
    sends = bench.dispatch()
    assert [items for send in sends for _, _, items in units_in(send)] == [["a", "b"], ["d"]]
    bench.state(bench.outbox.links[0], [0, 2])
    assert bench.owner.failed == [(1, "encode", "TypeError")]
    assert bench.owner.settled == [0, 2]
    assert bench.outbox.open_units() == 0
    assert bench.balanced()


# -- units of several items -----------------------------------------------------------------------


def test_a_unit_counts_once_however_many_items_it_holds(make):
    bench = make(window_items=3).up()
    bench.enqueue(0, ["a"] * 100, ["b"])
    assert bench.outbox.retained()[0] == bench.outbox.open_units() == 2
    assert not bench.outbox.full()
    bench.enqueue(1, ["c"] * 7)
    assert bench.outbox.full()
    bench.dispatch()
    assert bench.outbox.retained() == (3, 1080)
    bench.state(bench.outbox.links[0], [0, 2])
    assert bench.outbox.retained() == (1, 70)
    assert bench.outbox.ledger.processed == 2
    assert bench.balanced()


def test_a_unit_is_never_cut_by_credit(make):
    bench = make().up(1)
    bench.enqueue(0, ["a", "b", "c"], ["d", "e"])
    (send,) = bench.dispatch()
    assert units_in(send) == [(0, unit_of(0, 0), ["a", "b", "c"])]
    assert bench.outbox.queued == 1


def test_a_dead_letter_holds_all_items_of_its_unit(make):
    bench = make(retries=0).up()
    bench.enqueue(0, ["a"], ["b", "c", "d"], ["e"])
    bench.dispatch()
    bench.state(bench.outbox.links[0], [0, 1], [Nack(1, 1, "error", "ValueError", "no")])
    (bury,) = bench.buried()
    assert (bury.items, bury.item, bury.run.items) == (["b", "c", "d"], "b", 3)
    assert list(bury.run.units()) == [unit_of(0, 1)]
    bench.outbox.buried(bury.ticket)
    bench.state(bench.outbox.links[0], [0, 3])
    assert bench.owner.settled == [0, 1, 2]
    assert bench.outbox.ledger.dead_lettered == 1
    assert bench.balanced()


def test_a_unit_that_kills_is_suspected_alone_and_buried_with_all_its_items(make):
    bench = make(max_crashes=2).up()
    bench.enqueue(0, ["a"], ["b", "c"], ["d", "e", "f"])
    bench.dispatch()
    link = bench.outbox.links[0]
    guilty = Run(1, path_of(0), OSEQ, 0, 1, 1)
    bench.outbox.accused(Crash("keep/0", 1, [guilty], True, 3, "SIGSEGV"))
    link.recover("peer_lost", NOW_S)
    bench.up()
    found = [
        (send.frame.runs[0].flags & SUSPECT, [items for _, _, items in units_in(send)])
        for send in bench.dispatch()
    ]
    assert found == [(0, [["a"]]), (SUSPECT, [["b", "c"]]), (0, [["d", "e", "f"]])]
    bench.outbox.accused(Crash("keep/0", 2, [guilty], True, 3, "SIGSEGV"))
    link.recover("peer_lost", NOW_S)
    bench.up()
    sent = [items for send in bench.dispatch() for _, _, items in units_in(send)]
    assert sent == [["a"], ["d", "e", "f"]]
    (bury,) = bench.buried()
    assert (bury.items, bury.code, bury.attempts) == (["b", "c"], "crash", 2)
    bench.outbox.buried(bury.ticket)
    bench.version = 0
    bench.state(link, [0, 2])
    assert sorted(bench.owner.settled) == [0, 1, 2]
    assert bench.outbox.open_units() == 0
    assert bench.balanced()


def test_a_unit_that_its_maker_cannot_read_again_is_dead_lettered_once_and_without_items(make):
    bench = make().up()
    bench.enqueue(0, ["a"], ["b", bench.kit.Undecodable(), "c"])
    bench.dispatch()
    link = bench.outbox.links[0]
    bench.state(link, [0, 1])
    link.recover("peer_lost", NOW_S)
    (bury,) = bench.buried()
    assert (bury.code, bury.items, list(bury.run.units())) == ("decode", [], [unit_of(0, 1)])
    bench.outbox.buried(bury.ticket)
    assert bench.owner.settled == [0, 1]
    assert bench.outbox.open_units() == 0
    assert bench.balanced()


def test_suspects_in_the_middle_of_a_lane_keep_their_place(make):
    bench = make("keep/0")
    bench.enqueue(0, ["a", "b"], ["c"], ["d"])
    bench.enqueue(1, ["e"], ["f", "g"])
    runs = [Run(1, path_of(0), OSEQ, 0, 1, 1), Run(1, path_of(1), OSEQ, 0, 4, 1)]
    bench.outbox.accused(Crash("keep/0", 1, runs, False, 3, "SIGSEGV"))
    bench.up()
    sends = bench.dispatch()
    assert numbers_in(sends) == [0, 1, 2, 3, 4]
    assert [send.payload.items for send in sends] == [["a", "b"], ["c"], ["d", "e"], ["f", "g"]]


# -- at the receiver ------------------------------------------------------------------------------


class Keeper:
    """A durable stage around a core: applies what is fresh, commits now and then.

    What its file holds survives the core: units with their items, and the order in a partition.
    """

    def __init__(self, core) -> None:
        self.core = core
        self.partitions: dict[int, Partition] = {}
        self.open: list[tuple[int, tuple, list]] = []  # applied, in no commit yet
        self.records: dict[int, list[Applied]] = defaultdict(list)
        self.marks: dict[int, dict[int, int]] = defaultdict(dict)
        self.units: dict[tuple, list] = {}
        self.order: dict[int, list[tuple]] = defaultdict(list)

    def killed(self, core) -> None:
        """A successor begins with what was committed."""
        self.core = core
        self.open.clear()
        self.partitions.clear()

    def work(self, now_s: float, chance: random.Random) -> bool:
        parcel = self.core.next_parcel(now_s)
        if parcel is None:
            self.commit()
            return False
        portion = self.core.take(parcel, chance.randrange(1, 50), now_s)
        at = 0
        for run in portion.runs:
            partition = self.partition(run.partition)
            for begin, end in partition.dedupe.fresh(run):
                self.apply(run.cut(begin, end), portion, at + begin)
                partition.applied(run.cut(begin, end), [])
            if not partition.owes(portion.link, portion.first + at, run.n):
                self.core.committed(portion.link, portion.first + at, run.n)
            at += run.n
        if chance.random() < 0.3:
            self.commit()
        return True

    def partition(self, number: int) -> Partition:
        if number not in self.partitions:
            dedupe = Dedupe(self.marks[number], self.records[number])
            self.partitions[number] = Partition(number, dedupe=dedupe, next_oseq=0, done=False)
        return self.partitions[number]

    def apply(self, run: Run, portion, at: int) -> None:
        for position, unit in enumerate(run.units()):
            first, last = item_span(portion.runs, at + position, at + position + 1)
            self.open.append((run.partition, unit, portion.items[first:last]))

    def commit(self) -> None:
        for partition, unit, items in self.open:
            assert unit not in self.units, f"{unit} is applied twice"
            self.units[unit] = items
            self.order[partition].append(unit)
        self.open.clear()
        for number, partition in self.partitions.items():
            if partition.dirty:
                partition.take(self.core.inbox.watermarks, 0)
                self.stored(number, partition.stored())

    def stored(self, number: int, commit: Commit) -> None:
        marks = self.marks[number]
        marks |= commit.watermarks
        records = self.records[number] + commit.applied
        self.records[number] = [r for r in records if r.top >= marks.get(r.origin, 0)]
        for link, first, n in commit.units:
            self.core.committed(link, first, n)


def kill(wire, keeper: Keeper, slot: str) -> None:
    """And start its successor; some of its senders hear of it, others find out."""
    old = wire.replicas[slot].core.settings
    replica = wire.add(slot, inputs=(TO_KEEP,), incarnation=old.inbox.incarnation + 1)
    keeper.killed(replica.core)
    replica.work = keeper.work
    crash = Crash(slot, old.inbox.incarnation, [], False, 3, "SIGKILL")
    for other in wire.replicas.values():
        if wire.chance.random() < 0.5:
            other.core.on_crash(crash, wire.now_s)


def keepers(wire, kit) -> dict[str, Keeper]:
    found = {}
    for slot in SLOTS:
        replica = wire.add(slot, inputs=(TO_KEEP,))
        found[slot] = Keeper(replica.core)
        replica.work = found[slot].work
    return found


def keyed_edge(kit, **settings):
    return kit.edge_settings(TO_KEEP, *SLOTS, partitions=PARTITIONS, **settings)


@pytest.fixture
def lossy(kit):
    class Lossy(kit.Wire):
        """Loses, repeats and delays frames, refuses to send, suspects the living, and kills."""

        odds = 0.05
        late: list = []
        mortals: dict = {}

        def _carry(self, slot, action) -> None:
            if not isinstance(action, Send | Reply) or self.chance.random() >= 4 * self.odds:
                super()._carry(slot, action)
                return
            fate = self.chance.randrange(4)
            if fate == 1:
                super()._carry(slot, action)
                super()._carry(slot, action)
            elif fate == 2:
                self.late = [*self.late, (slot, action)]
            elif fate == 3 and isinstance(action, Send):
                core = self.replicas[slot].core
                core.refused_send(action.link, action.frame, self.now_s)

        def step(self, seconds: float = 0.02, *, work: bool = True) -> None:
            super().step(seconds, work=work)
            late, self.late = self.late, []
            self.chance.shuffle(late)
            for slot, action in late:
                super()._carry(slot, action)
            if self.mortals and self.chance.random() < self.odds / 2:
                slot = self.chance.choice(list(self.mortals))
                kill(self, self.mortals[slot], slot)
            if self.odds and self.chance.random() < 0.02:
                replica = self.chance.choice(list(self.replicas.values()))
                for outbox in replica.core.outboxes.values():
                    link = self.chance.choice(outbox.links)
                    if link.state.value == "up":
                        link.recover("peer_lost", self.now_s)

        def settle(self) -> None:
            """To the end, at last without faults."""
            kill(self, self.mortals["keep/0"], "keep/0")
            for _ in range(100):
                self.step()
            self.odds = 0.0
            self.run(steps=1000)

    return Lossy


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_source_sends_arrives_at_its_owner_once_and_in_order(kit, lossy, seed):
    where = f"seed {seed}"
    wire = lossy(seed)
    source = wire.add("read/0", edges=(keyed_edge(kit),))
    found = wire.mortals = keepers(wire, kit)
    wire.connect()
    chance = random.Random(seed)
    expected: dict[int, list] = defaultdict(list)
    at = 0
    while at < 600:
        n = chance.randint(1, 40)
        given = sorted(chance.sample(range(n), chance.randint(1, n)))
        partitions = [chance.randrange(PARTITIONS) for _ in given]
        items = [(at + k, partition) for k, partition in zip(given, partitions, strict=True)]
        positions = None if len(given) == n else given
        source.core.produced([Output(TO_KEEP, positions, items, partitions)], n, 0, None)
        for oseq, partition in items:
            place = place_output(Branch(edge=TO_KEEP, keyed=True), 0, 0, partition=partition)
            expected[partition].append((ORIGIN, oseq, place.path, place.index))
        at += n
        if chance.random() < 0.5:
            wire.step()
    wire.settle()
    for slot, keeper in found.items():
        for partition, units in keeper.order.items():
            assert slot == SLOTS[owner_of(partition, 3)], where
            assert units == expected.pop(partition), where
            assert all(keeper.units[unit] == [(unit[1], partition)] for unit in units), where
    assert not expected, where
    assert source.core.origin.low == at, where
    books = source.core.outboxes[TO_KEEP].ledger.snapshot()
    assert books.sent == books.settled, where
    assert sum(books.replayed.values()) > 0, where


def yields_of(item: int) -> list[tuple[int, tuple]]:
    """(partition, item) of what the stage in the middle yields; sometimes more than a part."""
    n = 700 if item % 40 == 7 else item % 9
    return [((item + k * k) % (1 if n > 9 else PARTITIONS), (item, k)) for k in range(n)]


class Middle:
    """A generator stage: yields to partitions, a stretch of inputs at once."""

    def __init__(self, core) -> None:
        self.core = core

    def work(self, now_s: float, chance: random.Random) -> bool:
        if self.core.full() or (parcel := self.core.next_parcel(now_s)) is None:
            return False
        portion = self.core.take(parcel, chance.randrange(1, 50), now_s)
        begin = 0
        while begin < portion.n:
            end = chance.randint(begin + 1, portion.n)
            task = self.core.open_tasks(portion, begin, end)
            self.core.yielded_to(task, portion, begin, TO_KEEP, self.scattered(portion, begin, end))
            self.core.done(task)
            begin = end
        return True

    def scattered(self, portion, begin: int, end: int) -> list[Share]:
        scatter = Scatter(TO_KEEP)
        for position, item in enumerate(portion.items[begin:end]):
            scatter.begin()
            made = yields_of(item)
            output = Output(TO_KEEP, None, [x for _, x in made], [p for p, _ in made])
            scatter.add(position, output)
        return scatter.take(full=False)


def expected_units(n: int) -> dict[tuple, list]:
    """What becomes of source items 0..n-1, item by item: the items of each unit by place."""
    first = place_output(Branch(edge=TO_MIDDLE), 0, 0)
    branch = Branch(edge=TO_KEEP, keyed=True, yields=True)
    found: dict[tuple, list] = defaultdict(list)
    for oseq in range(n):
        ordinals: dict[int, int] = defaultdict(int)
        for partition, item in yields_of(oseq):
            ordinal = ordinals[partition]
            ordinals[partition] += 1
            place = place_output(
                branch, first.path, first.index, ordinal=ordinal, partition=partition
            )
            items = found[ORIGIN, oseq, place.path, place.index]
            assert place.place == len(items)
            items.append(item)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_yielded_arrives_once_in_whole_units_named_item_by_item(kit, lossy, seed):
    wire = lossy(seed)
    middles = ("work/0", "work/1")
    source = wire.add("read/0", edges=(kit.edge_settings(TO_MIDDLE, *middles),))
    for slot in middles:
        middle = wire.add(slot, inputs=(TO_MIDDLE,), edges=(keyed_edge(kit),))
        middle.work = Middle(middle.core).work
    found = wire.mortals = keepers(wire, kit)
    wire.connect()
    for begin in range(0, 80, 8):
        wire.produce("read/0", list(range(begin, begin + 8)))
        wire.step()
    wire.settle()
    units = {unit: items for keeper in found.values() for unit, items in keeper.units.items()}
    assert units == expected_units(80), f"seed {seed}"
    for slot, keeper in found.items():
        assert {SLOTS[owner_of(p, 3)] for p in keeper.order} <= {slot}, f"seed {seed}"
    assert source.core.origin.low == 80, f"seed {seed}"
    assert wire.open_units() == dict.fromkeys(wire.replicas, 0), f"seed {seed}"
    assert wire.buried == []


def test_nothing_that_comes_late_behind_an_at_most_once_edge_is_taken_for_a_duplicate(kit):
    """Its sender settles what it has sent, long before it arrives here."""
    wire = kit.Wire()
    first = kit.edge_settings(TO_MIDDLE, "work/0", at_most_once=True)
    source = wire.add("read/0", edges=(first,))
    middle = wire.add("work/0", inputs=(TO_MIDDLE,), edges=(keyed_edge(kit),))
    found = keepers(wire, kit)
    wire.connect()
    for begin in range(0, 200, 2):
        middle.work = lambda now_s, chance: False
        wire.produce("read/0", [begin, begin + 1])
        wire.step(0.3)
        if begin % 40 == 0:
            middle.work = Middle(middle.core).work
            wire.step()
    middle.work = Middle(middle.core).work
    wire.run()
    assert source.core.origin.low == 200
    units = {unit: items for keeper in found.values() for unit, items in keeper.units.items()}
    assert units == expected_units(200)


def counted_parcel(kit, wire, chance: random.Random):
    """A keeper whose inbox holds one message of units of several items, and these."""
    wire.add("read/0", edges=(kit.edge_settings(TO_KEEP, "keep/0", partitions=PARTITIONS),))
    core = wire.add("keep/0", inputs=(TO_KEEP,)).core
    wire.connect()
    units, runs = [], []
    for k in range(chance.randint(1, 5)):
        own = some_units(chance, chance.randint(1, 8))
        counts = [len(items) for items in own] if chance.random() < 0.8 else None
        own = own if counts else [items[:1] for items in own]
        runs.append(Run(ORIGIN, k, OSEQ, 0, 10, len(own), partition=k, counts=counts))
        units += own
    payload = kit.ListPayload([item for items in units for item in items])
    token = wire.replicas["read/0"].core.outboxes[TO_KEEP].links[0].token
    core.inbox.links[TO_KEEP, "read/0"].credit.limit_items = 1000
    frame = data.decode(data.encode(Data(token, 0, len(units), runs, payload.sizes)))
    core.on_frame(frame, payload, wire.now_s)
    return core, units


@pytest.mark.parametrize("seed", SEEDS)
def test_units_leave_the_inbox_with_all_their_items_in_portions_of_any_size(kit, seed):
    chance = random.Random(seed)
    wire = kit.Wire(seed)
    core, units = counted_parcel(kit, wire, chance)
    taken: list[list] = []
    while parcel := core.next_parcel(wire.now_s):
        portion = core.take(parcel, chance.randint(1, 6), wire.now_s)
        assert portion.first == len(taken)
        assert sum(run.items for run in portion.runs) == len(portion.items)
        for k in range(portion.n):
            first, last = item_span(portion.runs, k, k + 1)
            taken.append(portion.items[first:last])
        core.returned(portion, 0, portion.n, [])
    assert taken == units, f"seed {seed}"
    link = core.inbox.links[TO_KEEP, "read/0"]
    assert (link.held, link.credit.freed_items) == (0, len(units)), f"seed {seed}"
    assert link.credit.freed_bytes == 10 * sum(map(len, units)), f"seed {seed}"


def test_suspected_units_leave_the_inbox_one_by_one_with_all_their_items(kit):
    wire = kit.Wire()
    core, _ = counted_parcel(kit, wire, random.Random(1))
    core.inbox.parcels.clear()
    link = core.inbox.links[TO_KEEP, "read/0"]
    run = Run(ORIGIN, 5, OSEQ, 0, 10, 3, flags=SUSPECT, partition=2, counts=[2, 1, 3])
    payload = kit.ListPayload(list("abcdef"))
    core.on_frame(Data(link.token, link.next, 3, [run], payload.sizes), payload, wire.now_s)
    taken = []
    while parcel := core.next_parcel(wire.now_s):
        portion = core.take(parcel, 100, wire.now_s)
        taken.append(("".join(portion.items), portion.n, portion.runs[0].counts))
        core.returned(portion, 0, portion.n, [])
    assert taken == [("ab", 1, [2]), ("c", 1, [1]), ("def", 1, [3])]


def test_a_body_with_another_number_of_items_than_its_units_hold_is_sent_unit_by_unit(kit):
    wire = kit.Wire()
    source = wire.add("read/0", edges=(kit.edge_settings(TO_MIDDLE, "work/0"),))
    middle = wire.add("work/0", inputs=(TO_MIDDLE,), edges=(keyed_edge(kit),))
    middle.work = Middle(middle.core).work
    found = keepers(wire, kit)
    wire.connect()
    wire.produce("read/0", [5, 6, 8])
    carry, spoilt = wire._carry, []

    def spoil(slot, action):
        if slot == "work/0" and isinstance(action, Send) and action.payload is not None:
            action.payload = kit.ListPayload(action.payload.items)
            if not spoilt and len(action.payload.items) > 2:
                spoilt.append(action.frame.n)
                action.payload.items.pop()
        carry(slot, action)

    wire._carry = spoil
    wire.run()
    assert spoilt
    units = [items for keeper in found.values() for items in keeper.units.values()]
    expected = [item for k in (5, 6, 8) for _, item in yields_of(k)]
    assert sorted(item for items in units for item in items) == sorted(expected)
    books = middle.core.outboxes[TO_KEEP].ledger.snapshot()
    assert books.replayed["nack"] == spoilt[0]
    assert wire.buried == []
    assert source.core.origin.low == 3

"""The core under Hypothesis: what the simulator finds by seed, this finds with a short story."""

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zflow.protocol.actions import Send
from zflow.protocol.inbox import Inbox, InboxSettings
from zflow.protocol.ledger import EdgeLedger
from zflow.protocol.outbox import EdgeSettings, Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import Identity
from zflow.protocol.task import Task
from zflow.testing import Rates, World, small_topology
from zflow.testing.items import Item, SimCodec
from zflow.testing.mutants import MUTANTS, mutated
from zflow.testing.process import Process
from zflow.wire.data import Crash, Data, Heartbeat, Hello, State, Welcome
from zflow.wire.run import FREE, OSEQ, Run

EDGE = 7
QUICK = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=False
)


def inbox_settings(incarnation: int) -> InboxSettings:
    return InboxSettings(
        run_id="r",
        slot="b/0",
        incarnation=incarnation,
        generation=1,
        codec="c",
        edges=frozenset({EDGE}),
        window_items=5,
    )


class Settled:
    """The owner of tasks: which inputs it heard were settled."""

    def __init__(self) -> None:
        self.inputs: list[int] = []

    def settle(self, first: int, n: int) -> None:
        self.inputs += range(first, first + n)

    def fail(
        self, first: int, code: str, error_class: str, error: str, *, partial: bool = False
    ) -> None:
        raise AssertionError("nothing here fails its input")


class OneLink(RuleBasedStateMachine):
    """One sender and one receiver; statements reach the sender in any order, twice or never."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_actions: list = []
        self.replies: list = []
        self.outbox = Outbox(
            EdgeSettings(
                edge=EDGE, label="a>b", stage="b", targets=("b/0",), retries=9, backoff_s=0.0
            ),
            Identity(
                run_id="r", slot="a/0", incarnation=1, ack_endpoint="a", generation=1, codec="c"
            ),
            codec=SimCodec(1),
            act=self.sent_actions.append,
            new_token=iter(range(1, 1 << 30)).__next__,
            new_ticket=iter(range(1 << 30)).__next__,
            random=Random(1),
        )
        self.inbox = Inbox(
            inbox_settings(1),
            self.replies.append,
        )
        self.owner = Settled()
        self.made = 0
        self.now_s = 1.0
        self.statements: list[State] = []
        self.running: list = []
        self.processed: set[int] = set()
        self.link = self.outbox.links[0]
        self.link.dial(self.now_s)
        self.carry()

    def carry(self) -> None:
        """Frames to the receiver in order; WELCOME back at once, statements into the pool."""
        while self.sent_actions or self.replies:
            for action in self.sent_actions[:]:
                self.sent_actions.remove(action)
                if isinstance(action, Send):
                    self.to_receiver(action)
            for reply in self.replies[:]:
                self.replies.remove(reply)
                if isinstance(reply.frame, Welcome):
                    self.link.on_welcome(reply.frame, self.now_s)
                else:
                    assert isinstance(reply.frame, State), f"unexpected {reply.frame}"
                    self.statements.append(reply.frame)

    def to_receiver(self, action: Send) -> None:
        frame = action.frame
        if isinstance(frame, Data):
            self.inbox.on_data(frame, action.payload, self.now_s)
        elif isinstance(frame, Hello):
            self.inbox.on_hello(frame, self.now_s)
        else:
            self.inbox.on_heartbeat(frame, self.now_s)

    @rule(n=st.integers(1, 4))
    def make(self, n: int) -> None:
        task = Task(self.owner, self.made, n)
        task.made(n)
        task.returned()
        items = [Item(0, None, 10, FREE) for _ in range(n)]
        run = Run(1, 2, OSEQ, 0, self.made, n)
        self.outbox.enqueue(Segment([run], items, task, range(n)))
        self.made += n
        self.outbox.dispatch(self.now_s)
        self.carry()

    @precondition(lambda self: self.inbox.parcels)
    @rule(n=st.integers(1, 4))
    def take(self, n: int) -> None:
        parcel = self.inbox.parcels[0]
        parcel.items = parcel.payload.items
        portion = self.inbox.leave(parcel, n, self.now_s)
        units = [unit for run in portion.runs for unit in run.units()]
        self.running += [(portion, k, unit[1]) for k, unit in enumerate(units)]
        self.carry()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 100), well=st.booleans())
    def execute(self, which: int, well: bool) -> None:
        portion, position, number = self.running.pop(which % len(self.running))
        if well:
            self.processed.add(number)
            portion.link.settle(portion.first + position, 1)
        else:
            portion.link.fail(portion.first + position, "error", "E", "no")

    @rule(seconds=st.sampled_from([0.001, 0.01, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.inbox.tick(self.now_s)
        self.link.tick(self.now_s)
        self.outbox.dispatch(self.now_s)
        self.carry()

    @precondition(lambda self: self.statements)
    @rule(which=st.integers(0, 100))
    def hear(self, which: int) -> None:
        """Any statement ever made, again or for the first time (I12)."""
        self.link.on_state(self.statements[which % len(self.statements)], self.now_s)
        self.outbox.dispatch(self.now_s)
        self.carry()

    @rule()
    def suspect(self) -> None:
        """A false report of death: all that is open is sent again under another token."""
        if self.link.state.value == "up":
            self.link.recover("peer_lost", self.now_s)
            self.carry()
            self.outbox.dispatch(self.now_s)
            self.carry()

    @invariant()
    def what_is_settled_was_processed(self) -> None:
        assert set(self.owner.inputs) <= self.processed, "acked without being processed (I2)"
        assert len(self.owner.inputs) == len(set(self.owner.inputs)), "told twice (I3)"

    @invariant()
    def the_books_balance(self) -> None:
        books: EdgeLedger = self.outbox.ledger
        settled = books.snapshot().settled
        assert books.sent == settled + self.link.unacked_items + len(self.outbox.burying), "I4"

    @invariant()
    def credit_is_kept(self) -> None:
        assert self.link.next <= self.link.credit.limit_items, "I10"
        assert sum(parcel.n - parcel.taken for parcel in self.inbox.parcels) <= 5, "I10"

    def teardown(self) -> None:
        """Once everything is heard, everything is settled (I13)."""
        for _ in range(3 * self.made + 30):
            while self.running:
                self.execute(0, True)
            self.pass_time(1.0)
            if self.statements:
                self.hear(len(self.statements) - 1)
            while self.inbox.parcels:
                self.take(4)
            if len(self.owner.inputs) == self.made:
                break
        assert sorted(self.owner.inputs) == list(range(self.made))


class Pipeline(RuleBasedStateMachine):
    """A small pipeline whose enemy is Hypothesis; the world checks its invariants at each step."""

    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed: int) -> None:
        self.world = World(seed, topology=small_topology(Random(seed)))
        self.world.start()

    def process(self, which: int):
        processes = self.processes()
        return processes[which % len(processes)]

    def processes(self) -> list[Process]:
        """Of every slot, but for sources of dead letters that nobody has started."""
        return [seat.process for seat in self.world.seats.values() if seat.process is not None]

    @rule(seconds=st.sampled_from([0.001, 0.005, 0.05, 0.5]))
    def pass_time(self, seconds: float) -> None:
        self.world.advance(self.world.now_s + seconds)

    @rule(which=st.integers(0, 20))
    def kill(self, which: int) -> None:
        self.world.kill(self.process(which))

    @rule(which=st.integers(0, 20))
    def succeed(self, which: int) -> None:
        process = self.process(which)
        if process.alive:
            self.world.succeed(process)

    @rule(which=st.integers(0, 20), sender=st.integers(0, 20))
    def suspect(self, which: int, sender: int) -> None:
        process = self.process(which)
        crash = Crash(process.slot, process.incarnation, [], False, 0, "suspected")
        self.process(sender).on_crash(crash, self.world.now_s)

    @rule(which=st.integers(0, 20))
    def cut(self, which: int) -> None:
        process = self.process(which)
        for socket in [*process.sockets.values(), *process.replies.values()]:
            self.world.network.cut(socket)

    @rule()
    def rescale(self) -> None:
        """A stage grows or shrinks; everybody hears of it some time, in any order."""
        self.world.rescales.strike()

    @rule(which=st.integers(0, 20))
    def rest(self, which: int) -> None:
        """A gentle restart."""
        process = self.process(which)
        if process.alive and process.stage.ins:
            process.rest()

    @rule(
        lost=st.sampled_from([0.0, 0.2]),
        repeated=st.sampled_from([0.0, 0.2]),
        reordered=st.sampled_from([0.0, 0.2]),
        late=st.sampled_from([0.0, 0.2]),
    )
    def spoil(self, lost: float, repeated: float, reordered: float, late: float) -> None:
        self.world.network.rates = Rates(
            lost=lost, repeated=repeated, reordered=reordered, late=late
        )

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "world"):
            for process in self.processes():
                self.world.invariants.conserved(process.core.outboxes.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


def test_what_was_seen_of_a_predecessor_is_not_taken_for_seen_of_its_successor():
    """A late HELLO gives the token of the dead receiver to the next one; no nack may be lost."""
    hello = Hello(5, "r", "a/0", 1, 1, "a", EDGE, 1, "c", False)
    stated: dict[int, list[State]] = {1: [], 2: []}
    inboxes = {}
    for incarnation, frames in stated.items():
        actions: list = []
        inboxes[incarnation] = inbox = Inbox(inbox_settings(incarnation), actions.append)
        inbox.on_hello(hello, 1.0)
        for _ in range(60 if incarnation == 1 else 0):
            inbox.on_heartbeat(Heartbeat(5, 0, 0, False, EDGE, "a/0", 1, "a"), 1.0)
        frames += [action.frame for action in actions if isinstance(action.frame, State)]
    successor, link = inboxes[2], inboxes[2].links[EDGE, "a/0"]
    assert stated[2][0].version > stated[1][-1].version
    payload = SimCodec(1).encode([Item(0, None, 10, FREE)])
    successor.on_data(Data(5, 0, 1, [Run(1, 2, OSEQ, 0, 0, 1)], [10]), payload, 1.0)
    link.fail(0, "error", "E", "no")
    link.state(1, 0.0)  # this one is lost
    link.seen(stated[1][-1].version)
    again = link.state(1, 0.0)
    assert [nack.first for nack in again.nacks] == [0]
    assert again.acked == []


TestOneLink = OneLink.TestCase
TestOneLink.settings = settings(QUICK, max_examples=120, stateful_step_count=30)
TestPipeline = Pipeline.TestCase
TestPipeline.settings = settings(QUICK, max_examples=40, stateful_step_count=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["no_requeue", "ack_on_receive", "lost_nack", "credit_incr", "epoch_window"],
)
def test_the_machine_of_one_link_sees_a_missing_protection(name):
    with mutated(MUTANTS[name]), pytest.raises(AssertionError):
        run_state_machine_as_test(
            OneLink,
            settings=settings(TestOneLink.settings, max_examples=5000, phases=[Phase.generate]),
        )

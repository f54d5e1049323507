"""What the durable worker promises: applied once, committed before acknowledged, in order."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zflow import DurableStage
from zflow.clock import Deadline
from zflow.errors import Unavailable
from zflow.hashing import stable_hash
from zflow.ids import Slot
from zflow.paths import StateDirectory
from zflow.replica.committer import Committer
from zflow.replica.durable import DurableWorker
from zflow.replica.emit import Keying
from zflow.replica.moving import LOOK_MAX_S
from zflow.replica.partitions import Partitions
from zflow.stages import StageOptions
from zflow.state.partition import PartitionFile
from zflow.wire.control import StageConfig
from zflow.wire.run import INDEX, OSEQ, Run

EDGE, PARTITIONS = 9, 4
WITHIN_S = 20.0


class Sum(DurableStage):
    """Adds up per key, says every total, and all of them at the end."""

    def process(self, item):
        key, n = item
        if n == "bad":
            self.state[key] = "spoiled"
            raise ValueError(f"no number for {key}")
        self.state[key] = self.state.get(key, 0) + n
        return key, self.state[key]

    def finish(self):
        yield from (("total", *pair) for pair in self.state.items())


class Durable:
    """A durable worker over real files; `restart` gives the next incarnation of the slot."""

    def __init__(self, make: Any, folder: Path, stage: type[DurableStage], **options: Any) -> None:
        self.woken = threading.Event()
        self._make = make
        self._folder = folder
        self._stage = stage
        self.options = StageOptions(**{"backoff_s": 0.0, **options})
        self.start()

    def start(self) -> None:
        self.bench = self._make()
        config = StageConfig(
            name="work",
            number=0,
            kind="stage",
            replicas=1,
            retries=3,
            backoff_s=0.0,
            timeout_s=1.0,
            max_crashes=3,
            on_error="dead_letter",
            partitions=PARTITIONS,
        )
        state = StateDirectory(self._folder)
        state.make()
        partitions = Partitions(
            self.bench.core, self.bench.bench.reactor.lock, config, Slot("work", 0), state
        )
        instance = self._stage()
        instance.context = self.bench.context
        self.worker = DurableWorker(
            self.bench.bench,
            instance,
            instance.process,
            partitions,
            Committer(self.bench.clock, self.woken.set),
            stage="work",
            options=self.options,
            yields=False,
        )
        self.worker.open_existing()

    def die(self) -> None:
        """As after kill -9: nothing is written any more, the files and locks are free."""
        self.worker.rounds._committer.close()
        self.worker.partitions.close()

    def restart(self) -> None:
        self.die()
        self.start()

    def feed(self, items: list[tuple[Any, Any]], first: int | None = None) -> None:
        """One unit per item, of origin 7; `first` is the oseq of the first one."""
        keying = Keying(lambda item: item[0], PARTITIONS)
        for at, item in enumerate(items):
            link = self.bench.core.inbox.links.get((5, "read/0"))
            oseq = (link.next if link else 0) if first is None else first + at
            partition = keying.partition(item)
            run = Run(7, 100 + partition, OSEQ, 0, oseq, 1, 0, 0, 0, None, partition)
            self.bench.feed([item], run=run)

    def work(self) -> None:
        """Until nothing is open."""
        deadline = Deadline(self.bench.clock, WITHIN_S)
        while not deadline.passed():
            self.woken.clear()
            worked = self.worker.slice()
            self.bench.turn()
            if not worked and self.worker.rounds._round:
                self.woken.wait(WITHIN_S)
            elif not worked and not self.worker.rounds._open:
                return
        raise AssertionError("the worker never came to rest")

    def state(self) -> dict[Any, Any]:
        return {k: v for owned in self.worker.partitions.all() for k, v in owned.state.items()}

    @property
    def sent(self) -> list[Any]:
        return self.bench.links.sent.get(EDGE, [])


@pytest.fixture
def durable(make_bench, route, tmp_path) -> Iterator[Any]:
    made: list[Durable] = []

    def make(stage: type[DurableStage] = Sum, **options: Any) -> Durable:
        one = Durable(lambda: make_bench(route(EDGE)), tmp_path / "state", stage, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.die()


def test_what_is_applied_is_committed_acknowledged_and_sent(durable):
    one = durable()
    one.feed([("a", 1), ("b", 2), ("a", 3)])
    one.work()
    assert one.state() == {"a": 4, "b": 2}
    assert sorted(one.sent) == [("a", 1), ("a", 4), ("b", 2)]
    assert one.bench.acked() == [0, 1, 2]
    assert one.bench.core.running == 0


def test_nothing_is_acknowledged_or_sent_before_its_commit(durable, monkeypatch):
    full = True
    commit = PartitionFile.commit

    def refuse(self, batch):
        if full:
            raise Unavailable("no space left")
        commit(self, batch)

    monkeypatch.setattr(PartitionFile, "commit", refuse)
    monkeypatch.setattr("zflow.replica.committer.RETRY_FIRST_S", 0.001)
    one = durable()
    one.feed([("a", 1)])
    for _ in range(50):
        one.worker.slice()
        one.bench.turn()
    assert one.bench.acked() == []
    assert one.sent == []
    assert not one.worker.settled()
    full = False
    one.work()
    assert one.bench.acked() == [0]
    assert one.sent == [("a", 1)]


def test_a_unit_that_comes_again_is_acknowledged_and_changes_nothing(durable):
    one = durable()
    one.feed([("a", 1), ("a", 2)])
    one.work()
    one.feed([("a", 1), ("a", 2)], first=0)
    one.work()
    assert one.state() == {"a": 3}
    assert one.bench.counters.duplicates == 2
    assert one.bench.acked() == [0, 1, 2, 3]


def test_a_unit_that_comes_again_during_a_commit_is_acknowledged_although_nothing_follows(
    durable, monkeypatch
):
    may_commit = threading.Event()
    commit = PartitionFile.commit

    def wait(self, batch):
        assert may_commit.wait(WITHIN_S)
        commit(self, batch)

    monkeypatch.setattr(PartitionFile, "commit", wait)
    one = durable()
    one.feed([("a", 1)])
    while not one.worker.rounds._round:
        one.worker.slice()
    one.feed([("a", 1)], first=0)
    one.worker.slice()
    one.bench.turn()
    assert one.bench.acked() == []
    may_commit.set()
    one.work()
    assert one.bench.acked() == [0, 1]
    assert one.state() == {"a": 1}


def test_a_successor_knows_what_its_predecessor_has_applied_and_sends_what_was_not_settled(durable):
    one = durable()
    one.feed([("a", 1), ("a", 2)])
    one.work()
    one.restart()
    one.bench.turn()
    assert one.sent == [("a", 1), ("a", 3)]
    one.feed([("a", 1), ("a", 2), ("a", 10)], first=0)
    one.work()
    assert one.state() == {"a": 13}


def test_outputs_that_were_settled_are_not_sent_again(durable):
    one = durable()
    one.feed([("a", 1)])
    one.work()
    one.bench.links.settle()
    one.bench.turn()
    one.worker.rounds._low_due_ns = 0
    one.work()
    one.restart()
    one.bench.turn()
    assert one.sent == []


def test_the_names_of_outputs_go_on_where_they_ended_although_no_row_is_left(durable):
    one = durable()
    one.feed([("a", 1)])
    one.work()
    first = {(run.origin, run.start) for run in one.bench.links.runs[EDGE]}
    one.bench.links.settle()
    one.bench.turn()
    one.worker.rounds._low_due_ns = 0
    one.work()
    one.restart()
    one.feed([("a", 2)], first=1)
    one.work()
    second = {(run.origin, run.start) for run in one.bench.links.runs[EDGE]}
    assert {origin for origin, _ in first} == {origin for origin, _ in second}
    assert not first & second


def test_a_failing_unit_is_tried_again_in_its_place_while_other_partitions_go_on(durable):
    calls: list[Any] = []

    class Moody(Sum):
        def process(self, item):
            calls.append(item)
            if item == ("a", 1) and calls.count(item) < 3:
                raise ValueError("not yet")
            return super().process(item)

    one = durable(Moody, retries=3, backoff_s=0.05)
    other = next(
        k for k in "bcdefgh" if stable_hash(k) % PARTITIONS != stable_hash("a") % PARTITIONS
    )
    one.feed([("a", 1), ("a", 2), (other, 5)])
    one.work()
    while not one.worker.settled():  # the failing one waits a moment before each try
        one.work()
    assert calls.index((other, 5)) < calls.index(("a", 2))
    assert [c for c in calls if c[0] == "a"] == [("a", 1)] * 3 + [("a", 2)]
    assert one.state() == {"a": 3, other: 5}
    assert one.bench.acked() == [0, 1, 2]


def test_a_unit_that_always_fails_becomes_a_dead_letter_of_this_stage_and_leaves_no_trace(durable):
    one = durable(retries=1)
    one.feed([("a", 1), ("a", "bad"), ("a", 2)])
    one.work()
    (bury,) = one.bench.buried
    assert (bury.items, bury.stage, bury.edge) == ([("a", "bad")], "work", "read->work")
    assert (bury.attempts, bury.error_class) == (2, "ValueError")
    assert one.bench.acked() == [0]  # what is behind it waits until the letter is committed
    one.bench.core.buried(bury.ticket)
    one.work()
    assert one.state() == {"a": 3}
    assert one.bench.acked() == [0, 1, 2]


@pytest.mark.parametrize(("policy", "failed"), [("drop", 0), ("fail", 1)])
def test_the_declared_policy_of_a_failing_unit_holds(durable, policy, failed):
    one = durable(retries=0, on_error=policy)
    told: list[Any] = []
    one.bench.reactor._on_fail = told.append
    one.feed([("a", "bad"), ("a", 2)])
    one.work()
    for bury in one.bench.buried:
        one.bench.core.buried(bury.ticket)
    one.work()
    assert len(told) == failed
    assert one.state() == {"a": 2}


def one_run(one: Durable, items: list[tuple[Any, Any]]) -> None:
    """All of them in one run, with gaps between their numbers, and taken at once."""
    one.bench.core.inbox.window.service_s = 1e-6
    numbers = [3 * k for k in range(len(items))]
    partition = stable_hash(items[0][0]) % PARTITIONS
    one.bench.feed(items, run=Run(7, 100, OSEQ, 0, 0, len(items), 0, 0, 0, numbers, partition))


def test_what_a_run_did_before_the_item_that_failed_is_done_once(durable):
    calls: list[Any] = []
    seen: list[Any] = []

    class Watched(Sum):
        def process(self, item):
            calls.append(item[1])
            seen.append((item[1], self.context.item_id.split("-")[1], self.state.get("a", 0)))
            self.timers[item[0]] = 4e9 + calls.count(item[1])
            if item[1] == 2:
                self.context.late += 1
            return super().process(item)

    one = durable(Watched, retries=1)
    one_run(one, [("a", 1), ("a", 2), ("a", "bad"), ("a", 4), ("a", 8)])
    one.work()
    assert calls == [1, 2, "bad", 1, 2, "bad"]  # the first two again, without the third
    assert seen[3:5] == seen[:2]
    assert seen[1:3] == [(2, "3", 1), ("bad", "6", 3)]
    assert one.state() == {"a": 3}
    assert one.sent == [("a", 1), ("a", 3)]
    assert one.bench.acked() == [0, 1]
    assert one.bench.counters.late == 1
    (bury,) = one.bench.buried
    assert (bury.items, bury.attempts) == ([("a", "bad")], 2)
    one.bench.core.buried(bury.ticket)
    one.work()
    assert calls[6:] == [4, 8]
    assert one.state() == {"a": 15}
    assert one.bench.acked() == [0, 1, 2, 3, 4]
    assert dict(one.worker.partitions.owned(stable_hash("a") % PARTITIONS).state.timers) == {
        "a": 4e9 + 1
    }


def test_an_earlier_item_that_fails_only_when_it_is_called_again_is_the_one_that_failed(durable):
    calls: list[Any] = []

    class Moody(Sum):
        def process(self, item):
            calls.append(item[1])
            if item[1] == 2 and calls.count(2) == 2:
                raise ValueError("not again")
            return super().process(item)

    one = durable(Moody, retries=0, on_error="drop")
    one_run(one, [("a", 1), ("a", 2), ("a", "bad"), ("a", 4)])
    one.work()
    assert one.state() == {"a": 5}
    assert one.bench.acked() == [0, 1, 2, 3]


def test_an_object_that_an_item_keeps_is_not_changed_in_the_state_by_the_next_one(durable):
    class Keeper(DurableStage):
        kept: list[Any] = []

        def process(self, item):
            key, n = item
            self.kept.append("of another item")
            self.kept = self.state.setdefault(key, [])
            self.kept.append(n)
            if n == "bad":
                raise ValueError("after the change")

    one = durable(Keeper, retries=0, on_error="drop")
    one_run(one, [("a", 1), ("a", 2), ("a", "bad"), ("a", 4)])
    one.work()
    assert one.state() == {"a": [1, 2, 4]}


def test_a_value_that_cannot_be_stored_fails_its_own_item(durable):
    class Odd(DurableStage):
        def process(self, item):
            key, n = item
            self.state[key, n] = (lambda: n) if n == 2 else n

    one = durable(Odd, retries=0)
    one_run(one, [("a", 1), ("a", 2), ("a", 3)])
    one.work()
    (bury,) = one.bench.buried
    assert (bury.items, bury.error_class) == ([("a", 2)], "StateError")
    one.bench.core.buried(bury.ticket)
    one.work()
    assert one.state() == {("a", 1): 1, ("a", 3): 3}


def test_only_the_bad_item_of_a_unit_of_several_is_given_up(durable):
    one = durable(retries=0)
    partition = stable_hash("a") % PARTITIONS
    items = [("a", 1), ("a", "bad"), ("a", 4)]
    one.bench.feed(items, run=Run(7, 100, OSEQ, 0, 0, 1, 0, 0, 0, None, partition, [3]))
    one.work()
    (bury,) = one.bench.buried
    assert bury.items == [("a", "bad")]
    one.bench.core.buried(bury.ticket)
    one.work()
    assert one.state() == {"a": 5}


def test_a_copy_that_was_cut_into_another_kind_of_run_is_found(durable):
    one = durable()
    partition = stable_hash("a") % PARTITIONS
    one.bench.feed([("a", 1)], run=Run(7, 100, OSEQ, 3, 5, 1, 0, 0, 0, None, partition))
    one.work()
    one.bench.feed([("a", 1)], run=Run(7, 100, INDEX, 5, 3, 1, 0, 0, 0, None, partition))
    one.work()
    assert one.state() == {"a": 1}


def test_finish_runs_once_per_partition_and_its_outputs_are_committed_with_it(durable):
    one = durable()
    one.feed([("a", 1), ("b", 2), ("c", 3)])
    one.work()
    one.worker.concluding = True
    assert not one.worker.settled()
    one.work()
    totals = [item for item in one.sent if item[0] == "total"]
    assert sorted(totals) == [("total", "a", 1), ("total", "b", 2), ("total", "c", 3)]
    one.restart()
    one.worker.concluding = True
    one.work()
    assert sorted(item for item in one.sent if item[0] == "total") == sorted(totals)  # from disk


def test_a_finish_that_raises_is_tried_again_and_then_fails_the_run(durable):
    class Never(Sum):
        def finish(self):
            raise RuntimeError("not today")

    one = durable(Never, retries=2)
    told: list[Any] = []
    one.bench.reactor._on_fail = told.append
    one.feed([("a", 1)])
    one.work()
    one.worker.concluding = True
    for _ in range(20):
        one.worker.slice()
    assert [action.error_class for action in told] == ["RuntimeError"]
    assert one.bench.counters.errors == 3
    assert not one.worker.settled()


def test_an_output_that_cannot_be_pickled_fails_its_input(durable):
    class Strange(DurableStage):
        def process(self, item):
            self.state["n"] = self.state.get("n", 0) + 1
            return (lambda: item) if item[1] == 1 else item

    one = durable(Strange, retries=0)
    one.feed([("a", 1), ("a", 2)])
    one.work()
    assert [bury.items for bury in one.bench.buried] == [[("a", 1)]]
    one.bench.core.buried(one.bench.buried[0].ticket)
    one.work()
    assert one.sent == [("a", 2)]
    assert one.state() == {"n": 1}


def test_another_owner_ends_the_process(durable, tmp_path):
    one = durable()
    one.feed([("a", 1)])
    one.work()
    path = next((tmp_path / "state" / "partitions" / "work").glob("*.sqlite"))
    path.with_name(path.name + ".lock").unlink()
    number = int(path.stem)
    thief = PartitionFile(
        path, stage="work", partition=number, partitions=PARTITIONS, durability="power"
    )
    try:
        one.feed([("a", 1)])
        with pytest.raises(Unavailable, match="acquired"):
            one.work()
        assert one.bench.acked() == [0]
    finally:
        thief.close()


def test_units_of_a_partition_that_cannot_be_opened_wait_and_lose_nothing(durable, monkeypatch):
    full = True
    opened = Partitions._open

    def refuse(self, number):
        if full:
            raise Unavailable("no space left")
        return opened(self, number)

    monkeypatch.setattr(Partitions, "_open", refuse)
    one = durable()
    one.feed([("a", 1), ("a", 2)])
    one.work()
    assert one.bench.acked() == []
    assert not one.worker.settled()
    full = False
    one.worker._open_due_s = 0.0
    one.work()
    assert one.state() == {"a": 3}
    assert one.bench.acked() == [0, 1]
    assert one.worker._held == 0


def test_a_commit_that_had_reached_the_disk_although_it_failed_is_not_stored_twice(
    durable, monkeypatch
):
    commit = PartitionFile.commit
    failures = iter([True])

    def lose_the_answer(self, batch):
        commit(self, batch)
        if next(failures, False):
            raise Unavailable("input/output error")

    monkeypatch.setattr(PartitionFile, "commit", lose_the_answer)
    monkeypatch.setattr("zflow.replica.committer.RETRY_FIRST_S", 0.001)
    one = durable()
    one.feed([("a", 1)])
    one.work()
    one.feed([("a", 2)])
    one.work()
    assert one.sent == [("a", 1), ("a", 3)]
    assert one.bench.acked() == [0, 1]


def test_outputs_whose_key_or_when_raises_are_given_up_one_by_one_however_many(
    make_bench, route, tmp_path
):
    def odd(item):
        if item % 2:
            raise ValueError("odd")
        return True

    class Many(DurableStage):
        def process(self, item):
            return None

        def finish(self):
            yield from range(2000)

    one = Durable(lambda: make_bench(route(EDGE, when=odd)), tmp_path / "state", Many)
    try:
        one.feed([("a", 1)])
        one.work()
        one.worker.concluding = True
        one.work()
        assert one.sent == list(range(0, 2000, 2))
        assert len(one.bench.buried) == 1000
    finally:
        one.die()


def test_the_core_gets_and_loses_partitions_under_the_lock(durable):
    """The control thread goes through all of them while the data thread opens one."""
    one = durable()
    reactor, partitions = one.bench.bench.reactor, one.worker.partitions

    def blocked(change: Any) -> bool:
        with reactor.lock:
            known = set(reactor.core.partitions)
            thread = threading.Thread(target=change)
            thread.start()
            thread.join(0.3)
            same = thread.is_alive() and set(reactor.core.partitions) == known
        thread.join(WITHIN_S)
        return same and set(reactor.core.partitions) != known

    assert blocked(lambda: partitions.owned(3))
    assert blocked(lambda: partitions.released(partitions.owned(3)))


def test_a_partition_that_came_and_stays_held_is_told(durable, caplog):
    one = durable()
    partitions, moving = one.worker.partitions, one.worker.moving
    place = {"stage": "work", "partition": 3, "partitions": PARTITIONS}
    with closing(PartitionFile(partitions._path(3), **place, durability="power")):
        moving.assign(1, [0] * PARTITIONS)
        one.worker.slice()
        assert (caplog.text, moving.settled()) == ("", False)  # as in every move
        moving._look_s, moving._pause_s = 0.0, LOOK_MAX_S
        one.worker.slice()
        assert "another process holds partition 3" in caplog.text
    moving._look_s = 0.0
    one.worker.slice()
    assert moving.settled()
    assert partitions.closed() == []

"""The onlooker of anchors: it says what is wrong with a commit, and whatever is lost of it."""

from collections.abc import Sequence
from random import Random

import pytest

from zflow.hashing import key_bytes
from zflow.protocol.anchor import Commit
from zflow.state.entries import Row, pack_row
from zflow.testing import Violation, World, small_topology
from zflow.testing.disk import Disk, Written
from zflow.testing.effects import Effects
from zflow.testing.items import Item, Timer
from zflow.testing.topologies import DURABLE, SOURCE, Topology

SET, SET_TOO = ((key_bytes(key), pack_row(key, 5.0)) for key in (7, 8))  # rows of timers


def straight() -> Topology:
    """One in which a durable stage reads straight from a source."""
    for seed in range(1000):
        topology = small_topology(Random(seed))
        for stage in topology.stages:
            if stage.kind == DURABLE and topology.stages[stage.ins[0].source].kind == SOURCE:
                return topology
    raise AssertionError("no such topology")


class File:
    """A partition's file, and items that may come to it."""

    def __init__(self, *, flocked: bool = False) -> None:
        topology = straight()
        self.stage = next(s for s in topology.stages if s.kind == DURABLE)
        self.disk = Disk(self.stage, 0, 5, flocked=flocked)
        self.effects = Effects(topology, [])
        self.effects.rows[self.disk.origin] = []
        self.disk.fence = 1

    def item(self, oseq: int, *, partition: int = 0) -> Item:
        item = Item(self.stage.index, self.stage.ins[0], 10, partition)
        item.unit = (77, oseq, 1, 0)
        item.owed = 1
        return item

    def commit(
        self, *items: Item, fence: int = 1, alarms=(), timers: Sequence[Row] = (), **facts
    ) -> Written:
        commit = Commit(n=len(items), **facts)
        written = Written(commit, list(items), fence, list(timers), list(alarms))
        self.effects.commits(self.disk, written)
        self.disk.write(written)
        return written


@pytest.fixture
def file():
    return File()


def refused(file: File, *items: Item, **facts) -> str:
    with pytest.raises(Violation) as told:
        file.commit(*items, **facts)
    return told.value.invariant


def test_an_item_is_applied_once(file):
    item = file.item(3)
    file.commit(item)
    assert refused(file, item) == "I5"


def test_nothing_is_applied_behind_finish(file):
    file.commit(done=True)
    assert refused(file, file.item(3)) == "I5"
    assert refused(file, done=True) == "I5"


def test_an_old_fence_commits_nothing(file):
    assert refused(file, file.item(3), fence=0) == "I7"
    assert not file.disk.accepts(0)
    assert file.disk.accepts(1)


def test_an_item_belongs_to_one_partition(file):
    assert refused(file, file.item(3, partition=1)) == "I7"


def test_straight_from_a_source_the_order_is_that_of_oseq(file):
    file.commit(file.item(3), file.item(5))
    assert refused(file, file.item(4)) == "I14"


def test_outputs_are_numbered_without_gaps(file):
    row = Item(file.stage.index, None, 0, -1)
    file.commit(outputs=[row, row], first=0)
    assert refused(file, outputs=[row], first=1) == "I6"


def test_the_low_mark_of_an_outbox_is_below_what_is_open(file):
    row = Item(file.stage.index, None, 0, -1)
    row.owed = 1
    file.commit(outputs=[row], first=0)
    assert refused(file, first=1, low=1) == "I6"
    row.owed = 0
    file.commit(first=1, low=1)
    assert not file.disk.contents.rows


def test_a_watermark_is_true_and_never_falls(file):
    file.effects.rows[77] = [file.item(0), file.item(1)]
    assert refused(file, watermarks={77: 1}) == "I6"
    file.effects.rows[77][0].owed = 0
    file.commit(watermarks={77: 1})
    assert refused(file, watermarks={77: 0}) == "I6"
    with pytest.raises(Violation, match="2 items"):
        file.effects.stated([77, 3], "somebody")


def test_a_power_loss_takes_back_what_is_not_on_the_disk_and_its_effects_may_come_again(file):
    kept, lost = file.item(3), file.item(4)
    row = Item(file.stage.index, None, 0, -1)
    file.effects.durable(file.disk.sync(file.commit(kept).index))
    file.commit(lost, outputs=[row], first=0)
    gone = file.disk.lose_power()
    file.effects.gone(file.disk, gone)
    assert [written.items for written in gone] == [[lost]]
    assert (kept.owed, lost.owed) == (0, 1)
    assert file.disk.mark() == (0, 0)
    file.commit(lost, outputs=[row], first=0)
    assert refused(file, kept) == "I5"


def test_what_was_called_durable_and_is_gone_is_found_at_the_end(file):
    item = file.item(3)
    written = file.commit(item)
    file.effects.durable([written])
    file.effects.gone(file.disk, file.disk.lose_power())
    with pytest.raises(Violation) as told:
        file.effects.ended([], [item], set())
    assert told.value.invariant == "I1"


def timed(file: File, oseq: int) -> Timer:
    """A timer of an item; what it makes is one row."""
    timer = Timer(file.item(oseq), 7, 1.0, 0)
    timer.rows = [Item(file.stage.index, None, 0, -1)]
    return timer


def test_a_timer_fires_once_and_then_its_row_is_gone(file):
    timer = timed(file, 3)
    file.commit(timer.item, alarms=[(7, timer, 5.0)], timers=[SET])
    assert file.disk.contents.timers == dict([SET])
    file.commit(outputs=timer.rows, alarms=[(7, None, 5.1)], timers=[(SET[0], None)])
    assert not file.disk.contents.timers
    assert refused(file, first=1, alarms=[(7, None, 5.2)]) == "I5"


def test_a_timer_does_not_fire_before_its_time(file):
    timer = timed(file, 3)
    file.commit(timer.item, alarms=[(7, timer, 5.0)], timers=[SET])
    assert refused(file, outputs=timer.rows, alarms=[(7, None, 4.9)]) == "I5"


def test_a_timer_is_set_by_an_item_that_is_applied_and_fires_with_its_outputs(file):
    timer = timed(file, 3)
    assert refused(file, alarms=[(7, timer, 5.0)]) == "I5"
    file.commit(timer.item, alarms=[(7, timer, 5.0)], timers=[SET])
    assert refused(file, alarms=[(7, None, 5.1)]) == "I6"


def test_a_timer_that_was_set_again_fires_as_the_last_one(file):
    first, second = timed(file, 3), timed(file, 4)
    file.commit(first.item, second.item, alarms=[(7, first, 5.0), (7, second, 6.0)], timers=[SET])
    assert refused(file, outputs=first.rows, alarms=[(7, None, 6.1)]) == "I6"


def test_a_power_loss_takes_a_timer_back(file):
    timer = timed(file, 3)
    kept = file.commit(timer.item, alarms=[(7, timer, 5.0)], timers=[SET])
    file.effects.durable(file.disk.sync(kept.index))
    fired = {"outputs": timer.rows, "alarms": [(7, None, 5.1)], "timers": [(SET[0], None)]}
    file.commit(**fired)
    file.effects.gone(file.disk, file.disk.lose_power())
    assert file.disk.contents.timers == dict([SET])
    file.commit(**fired)
    assert refused(file, first=1, alarms=[(7, None, 5.2)]) == "I5"


@pytest.mark.parametrize("rows", [[], [SET, SET_TOO]])
def test_at_the_end_a_file_has_the_timers_that_wait_and_no_others(file, rows):
    timer = timed(file, 3)
    file.commit(timer.item, done=True, alarms=[(7, timer, 5.0)], timers=rows)
    with pytest.raises(Violation) as told:
        file.effects.ended([file.disk], [], set())
    assert told.value.invariant == "I1"


class Owner:
    alive = True
    zombie = False


@pytest.mark.parametrize("zombie", [False, True])
@pytest.mark.parametrize("flocked", [False, True])
def test_a_file_is_held_until_its_owner_dies_or_lets_go_if_it_can_be(flocked, zombie):
    disk = File(flocked=flocked).disk
    first, second = Owner(), Owner()
    assert disk.lock(first)
    first.zombie = zombie
    assert disk.lock(second) is (zombie and not flocked)
    disk.unlock(first)
    first.alive = False
    assert disk.lock(second)
    assert not disk.accepts(1)


@pytest.mark.slow
def test_a_small_world_with_an_anchor_drains():
    world = World(1, topology=straight())
    assert world.run().transitions["finish committed"] >= 1

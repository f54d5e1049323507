"""The simulator itself: it finds nothing in the core, and it would say what it finds."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from zflow.protocol.task import Task
from zflow.testing import Violation, World, campaign, coverage, random_topology
from zflow.testing.items import Fate, grow
from zflow.testing.topologies import ANCHORS, DURABLE, EXACT, SINK, SOURCE

ROOT = Path(__file__).parents[2]
SEEDS = range(1, 13)
UNSYNCED = range(1, 41)  # some of which lose power behind a commit
REGRESSIONS = json.loads((Path(__file__).parent / "seeds.json").read_text())["regressions"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_all_invariants_hold(seed):
    result = World(seed).run()
    assert result.items >= 100
    assert 3 <= result.stages <= 8


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "what"), REGRESSIONS)
def test_a_seed_that_once_failed_holds(seed, what):
    assert World(seed).run().seed == seed, what


@pytest.mark.slow
def test_a_seed_always_tells_the_same_story():
    first, second = World(3).run(), World(3).run()
    assert first == second


@pytest.mark.slow
def test_a_failure_names_its_seed_and_invariant_and_shows_the_last_events(monkeypatch):
    monkeypatch.setattr(Task, "settled", lambda self, n: None)  # nothing is ever done
    with pytest.raises(Violation) as quiet:
        World(5).run()
    assert quiet.value.invariant == "I13"
    assert "seed 5" in str(quiet.value)
    with pytest.raises(Violation) as told:
        World(5, trace=True).run()
    assert str(told.value).startswith(str(quiet.value))
    assert str(told.value).count("\n") == 60


@pytest.mark.slow
def test_a_core_that_raises_is_a_failure_like_any_other(monkeypatch):
    monkeypatch.setattr(Task, "settled", lambda self, n: 1 / 0)
    invariant, facts = campaign.fails(5)
    assert invariant == campaign.ERROR
    assert "seed 5: ZeroDivisionError" in facts


@pytest.mark.parametrize("seed", range(50))
def test_topologies_are_what_the_campaign_promises(seed):
    topology = random_topology(Random(seed))
    assert 3 <= len(topology.stages) <= 8
    assert sum(topology.items.values()) >= 100
    for stage in topology.stages:
        assert bool(stage.ins) == (stage.kind != SOURCE)
        assert bool(stage.outs) == (stage.kind not in (SINK, EXACT))
        assert all(edge.source < stage.index for edge in stage.ins)
        assert bool(stage.partitions) == stage.anchor
        assert all(edge.keyed == stage.anchor for edge in stage.ins)
        assert stage.kind != EXACT or len(stage.slots) == stage.partitions == 1


@pytest.mark.parametrize("seed", range(200))
def test_nothing_is_lossy_between_an_origin_and_an_anchor(seed):
    """What an anchor promises, an at_most_once edge on the way to it would void."""
    topology = random_topology(Random(seed))
    before = [stage for stage in topology.stages if stage.kind in ANCHORS]
    while before:
        stage = before.pop()
        assert not any(edge.lossy for edge in stage.ins), f"seed {seed}: {stage.name}"
        sources = [topology.stages[edge.source] for edge in stage.ins]
        before += [source for source in sources if source.kind != DURABLE]


def test_most_topologies_have_an_anchor_and_some_have_a_chain_of_them():
    topologies = [random_topology(Random(seed)) for seed in range(100)]
    anchored = [[s for s in t.stages if s.anchor] for t in topologies]
    assert sum(bool(stages) for stages in anchored) >= 70
    straight = [
        edge
        for topology in topologies
        for stage in topology.stages
        if stage.anchor
        for edge in stage.ins
        if topology.stages[edge.source].kind == DURABLE
    ]
    assert len(straight) >= 10


@pytest.mark.parametrize("seed", range(10))
def test_what_is_owed_is_the_sum_of_the_leaves(seed):
    random = Random(seed)
    topology = random_topology(random)
    roots, everything, _ = grow(topology, random)
    before = sum(root.owed for own in roots.values() for root in own)
    ends = (SINK, *ANCHORS)
    leaves = [
        item
        for item in everything
        if item.doomed or (item.edge is not None and topology.stages[item.stage].kind in ends)
    ]
    for leaf in leaves:
        leaf.settle()
        leaf.settle()  # an effect that happens twice is owed once
    unpaid = [item for item in everything if item.owed > 0]
    assert before > 0
    assert not unpaid, f"{unpaid[0]} is still owed"


def test_every_fate_occurs():
    fates = set()
    for seed in range(60):
        random = Random(seed)
        fates |= {item.fate for item in grow(random_topology(random), random).items}
    assert fates == set(Fate)


def test_what_shares_a_unit_with_an_item_that_kills_or_cannot_be_read_goes_with_it():
    shared = 0
    for seed in range(60):
        random = Random(seed)
        for item in grow(random_topology(random), random).items:
            if item.fate in (Fate.POISON, Fate.UNREADABLE):
                assert all(mate.doomed for mate in item.mates), f"seed {seed}: {item}"
            shared += len(item.mates) > 1
            assert all(mate.partition == item.partition for mate in item.mates)
    assert shared > 50


@pytest.mark.slow
def test_a_power_loss_breaks_a_world_whose_commits_are_not_on_the_disk_when_they_are_told():
    """The twin that must fail: the same seeds hold when they are."""
    broken: list[int] = []
    for seed in UNSYNCED:
        try:
            World(seed, synced=False).run()
        except Violation:
            broken.append(seed)
        if len(broken) == 2:
            break
    assert len(broken) == 2
    assert [World(seed).run().seed for seed in broken] == broken


def test_a_campaign_complains_of_what_was_never_hit_once_it_is_long_enough():
    totals = campaign.Totals(seeds=campaign.ENOUGH_SEEDS - 1)
    assert totals.good()
    totals.seeds += 1
    assert not totals.good()
    assert totals.missing() == [
        *(f"fault: {name}" for name in coverage.FAULTS),
        *(f"transition: {name}" for name in coverage.TRANSITIONS),
    ]
    totals.faults = Counter(coverage.FAULTS)
    totals.transitions = Counter(coverage.TRANSITIONS)
    assert totals.good()


def test_a_campaign_with_a_failure_is_not_good():
    totals = campaign.Totals(seeds=1, failures=[(1, "I1", "seed 1: I1: lost")])
    assert not totals.good()
    assert "FAILED seed 1: I1: lost" in campaign.described(totals, 1.0)


def test_the_figures_are_written_for_machines_too():
    totals = campaign.Totals(seeds=2, faults=Counter(kill=3))
    caught = [campaign.Caught(name="hop_ack", seed=1, invariant="I1")]
    record = json.loads(campaign.as_json(totals, caught, 1.5))
    assert (record["seeds"], record["faults"], record["took_s"]) == (2, {"kill": 3}, 1.5)
    assert record["mutants"] == [{"name": "hop_ack", "seed": 1, "invariant": "I1"}]


@pytest.mark.slow
def test_a_campaign_runs_every_seed_once_over_its_processes():
    totals = campaign.run_campaign(range(1, 22), jobs=2)
    assert totals.seeds == 21
    assert not totals.failures
    assert totals.faults["killed process"] >= 5 * 21
    assert totals.transitions["BYE, all links closed"] == 21


@pytest.mark.slow
def test_a_bounded_campaign_stops_after_its_least_number_of_seeds(monkeypatch):
    monkeypatch.setattr(campaign, "CHUNK", 1)
    totals = campaign.run_campaign(range(1, 10_000), jobs=2, within_s=0.0, at_least=1)
    assert totals.seeds == 2 * 4


@pytest.mark.slow
def test_the_script_runs_one_seed():
    command = [sys.executable, ROOT / "scripts" / "simulate", "--seed", "2", "--trace"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "seed 2: all invariants hold\n"


@pytest.mark.slow
def test_the_script_wants_to_be_told_what_to_do():
    command = [sys.executable, ROOT / "scripts" / "simulate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "one of --seeds, --seed, --mutants and --ci is needed" in done.stderr

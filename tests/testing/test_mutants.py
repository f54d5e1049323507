"""Every protection of the protocol is needed, and the simulator sees when one is missing."""

import inspect
from pathlib import Path

import pytest

from zflow.testing import World
from zflow.testing.campaign import hunt_mutant, read_recorded
from zflow.testing.mutants import MUTANTS, mutated

NEARBY = 100
RECORDED = read_recorded(Path(__file__).parent / "seeds.json")


def test_every_mutant_has_a_recorded_seed():
    assert set(RECORDED) == set(MUTANTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    """By its recorded seed; a change of the core may move it to another one nearby."""
    caught = hunt_mutant(name, [RECORDED[name], *range(1, NEARBY)])
    assert caught.seed >= 0, f"without this nothing fails: {MUTANTS[name].removes}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_seed_holds_with_the_protection_in_place(name):
    assert World(RECORDED[name]).run().seed == RECORDED[name]


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_put_in_place_is_called_like_what_was_there(name):
    """Or it would fail by itself, and prove nothing."""
    for owner, method, by in MUTANTS[name].patches:
        there = inspect.signature(vars(owner)[method]).parameters.values()
        instead = inspect.signature(by).parameters.values()
        assert [p.kind for p in there] == [p.kind for p in instead], f"{owner.__name__}.{method}"


@pytest.mark.parametrize("name", MUTANTS)
def test_the_protection_is_back_afterwards(name):
    patches = MUTANTS[name].patches
    before = [vars(owner)[method] for owner, method, _ in patches]
    with mutated(MUTANTS[name]):
        assert [vars(owner)[method] for owner, method, _ in patches] != before
    assert [vars(owner)[method] for owner, method, _ in patches] == before

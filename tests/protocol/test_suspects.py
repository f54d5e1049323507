import random

import pytest

from zflow.protocol import suspects as module
from zflow.protocol.suspects import STRIKES_PER_DEATH, Suspects
from zflow.wire.data import Crash
from zflow.wire.run import INDEX, OSEQ, Run

WHOLE = STRIKES_PER_DEATH
BARE = 1  # a SIGKILL that may be anybody's
RUN = Run(1, 2, OSEQ, 0, 10, 5)
GUILTY = Run(1, 2, OSEQ, 0, 12, 1)
UNIT = GUILTY.unit(0)


def crash(incarnation: int, runs: list[Run], *, alone: bool, strikes: int = WHOLE) -> Crash:
    return Crash("sink/0", incarnation, runs, alone, strikes, f"cause {incarnation}")


def test_without_a_death_nobody_is_suspected():
    suspects = Suspects(max_crashes=3)
    assert not suspects
    assert suspects.verdict(UNIT) is None
    assert list(suspects.stretches(RUN)) == [(0, 5, False)]


def test_everything_that_was_executing_is_suspected():
    suspects = Suspects(max_crashes=3)
    assert suspects.accuse(crash(1, [GUILTY], alone=False))
    assert suspects
    assert list(suspects.stretches(RUN)) == [(0, 2, False), (2, 3, True), (3, 5, False)]


def test_a_death_is_heard_once():
    suspects = Suspects(max_crashes=1)
    assert suspects.accuse(crash(1, [GUILTY], alone=False))
    assert not suspects.accuse(crash(1, [RUN], alone=True))
    assert len(suspects) == 1
    assert suspects.verdict(UNIT) is None


@pytest.mark.parametrize("max_crashes", [1, 2, 3])
def test_a_unit_is_guilty_after_as_many_deaths_alone_as_declared(max_crashes):
    suspects = Suspects(max_crashes=max_crashes)
    for death in range(1, max_crashes + 1):
        assert suspects.verdict(UNIT) is None
        suspects.accuse(crash(death, [GUILTY], alone=True))
    verdict = suspects.verdict(UNIT)
    assert verdict is not None
    assert (verdict.deaths, verdict.cause) == (max_crashes, f"cause {max_crashes}")


def test_a_unit_that_never_died_alone_is_never_guilty():
    suspects = Suspects(max_crashes=3)
    for death in range(100):
        suspects.accuse(crash(death, [RUN], alone=False))
    assert all(suspects.verdict(unit) is None for unit in RUN.units())


def test_a_bare_kill_counts_a_third_and_only_alone():
    suspects = Suspects(max_crashes=3)
    for death in range(8):
        suspects.accuse(crash(death, [GUILTY], alone=True, strikes=BARE))
        suspects.accuse(crash(1000 + death, [GUILTY], alone=False, strikes=BARE))
    assert suspects.verdict(UNIT) is None
    suspects.accuse(crash(8, [GUILTY], alone=True, strikes=BARE))
    verdict = suspects.verdict(UNIT)
    assert verdict is not None
    assert verdict.strikes == 9


def test_a_settled_unit_is_suspected_no_more():
    suspects = Suspects(max_crashes=1)
    suspects.accuse(crash(1, [RUN], alone=True))
    suspects.acquit(GUILTY)
    assert suspects.verdict(UNIT) is None
    assert len(suspects) == 4
    suspects.acquit(RUN)
    assert not suspects


def test_only_the_same_unit_is_meant():
    suspects = Suspects(max_crashes=1)
    suspects.accuse(crash(1, [GUILTY], alone=True))
    for other in [
        Run(9, 2, OSEQ, 0, 12, 1),
        Run(1, 9, OSEQ, 0, 12, 1),
        Run(1, 2, OSEQ, 9, 12, 1),
        Run(1, 2, OSEQ, 0, 99, 1),
    ]:
        assert suspects.verdict(other.unit(0)) is None
    # The same unit in a run along the other axis.
    assert suspects.verdict(Run(1, 2, INDEX, 12, 0, 1).unit(0)) is not None


def test_memory_is_bounded_and_the_oldest_suspicion_goes_first(monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 10)
    suspects = Suspects(max_crashes=1)
    for death in range(15):
        suspects.accuse(crash(death, [Run(1, 2, OSEQ, 0, death, 1)], alone=True))
    assert len(suspects) == 10
    assert suspects.verdict((1, 4, 2, 0)) is None
    assert suspects.verdict((1, 5, 2, 0)) is not None


@pytest.mark.parametrize("seed", range(50))
def test_stretches_cover_a_run_and_tell_suspects_from_others(seed):
    chance = random.Random(seed)
    for _ in range(10):
        suspects = Suspects(max_crashes=3)
        n = chance.randrange(1, 20)
        run = Run(1, 2, chance.choice([OSEQ, INDEX]), 7, 0, n)
        named = [p for p in range(n) if chance.random() < 0.4]
        if named:
            suspects.accuse(crash(1, [run.kept(named)], alone=False))
        stretches = list(suspects.stretches(run))
        flags = [flag for begin, end, flag in stretches for _ in range(begin, end)]
        assert flags == [p in named for p in range(n)], f"seed {seed}"
        assert stretches[0][0] == 0, f"seed {seed}"
        neighbours = zip(stretches, stretches[1:], strict=False)
        assert all(a[1] == b[0] and a[2] != b[2] for a, b in neighbours), f"seed {seed}"

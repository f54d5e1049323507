"""The verdict of the chaos campaigns. The campaigns themselves run by `scripts/chaos`."""

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def verdict(chaos):
    return chaos["verdict"]


BALANCED = {"holes": [], "ledger": [{"replayed": {"peer_lost": 3, "nack": 2, "sender_died": 4}}]}


def test_what_is_there_once_is_neither_lost_nor_duplicated(verdict):
    found = verdict.count(range(5), array("q", [4, 3, 2, 1, 0]))
    assert (found.lost, found.duplicated, found.unexpected) == (0, 0, 0)


def test_every_missing_number_is_lost_and_the_first_are_shown(verdict):
    found = verdict.count(range(10), [0, 1])
    assert (found.expected, found.lost) == (10, 8)
    assert found.shown == (2, 3, 4, 5, 6)


def test_every_further_copy_is_a_duplicate(verdict):
    assert verdict.count(range(2), [0, 1, 1, 1]).duplicated == 2


def test_a_number_that_nobody_made_is_unexpected_and_makes_up_for_no_lost_one(verdict):
    found = verdict.count(range(3), [0, 1, 7, 7])
    assert (found.lost, found.duplicated, found.unexpected) == (1, 1, 1)


def test_counts_of_several_runs_add_up(verdict):
    found = verdict.count(range(3), [0]) + verdict.count(range(2), [0, 0, 1, 5])
    assert (found.expected, found.lost, found.duplicated, found.unexpected) == (5, 2, 1, 1)


def test_a_lost_item_breaks_the_bar_that_every_campaign_has(verdict):
    made = verdict.Verdict(items=verdict.count(range(3), [0, 1]))
    made.nothing_lost()
    assert made.broken == ["1 items lost, the first: [2]"]
    assert not made.as_data()["ok"]


def test_an_unexpected_item_breaks_it_too(verdict):
    made = verdict.Verdict(items=verdict.count(range(2), [0, 1, 2]))
    made.nothing_lost()
    assert made.broken == ["1 items that nobody made"]


def test_an_end_with_the_right_code_and_balanced_books_counts_what_was_recovered(verdict):
    made = verdict.Verdict()
    made.ended(0, 0, BALANCED)
    assert not made.broken
    assert made.recovered == 7, "a retry is no recovery"


@pytest.mark.parametrize(
    ("code", "result", "sentence"),
    [
        (1, BALANCED, "exit code 1, not 0"),
        (0, {**BALANCED, "holes": ["edge a->b"]}, "the books have holes: ['edge a->b']"),
        (0, None, "the run wrote no result"),
    ],
)
def test_a_bad_end_breaks_the_bar(verdict, code, result, sentence):
    made = verdict.Verdict()
    made.ended(code, 0, result)
    assert made.broken == [sentence]


def test_half_a_record_at_the_end_of_a_dead_sinks_file_was_never_acknowledged(chaos, tmp_path):
    site = chaos["process"].Site(tmp_path / "site")
    (site.records / "1.rec").write_bytes(array("q", [1, 2]).tobytes() + b"\x03\x00")
    (site.records / "2.rec").write_bytes(array("q", [3]).tobytes())
    assert list(site.recorded()) == [1, 2, 3]


def test_every_campaign_has_a_twin_whose_patch_is_python(chaos):
    groups = [module.CAMPAIGNS for module in chaos.values() if hasattr(module, "CAMPAIGNS")]
    campaigns = [campaign for group in groups for campaign in group]
    assert len({campaign.name for campaign in campaigns}) == len(campaigns) >= 19
    for campaign in campaigns:
        compile(campaign.twin.patch, campaign.name, "exec")
        assert campaign.twin.breaks
        assert campaign.full.keys() == campaign.ci.keys()


@pytest.mark.slow
def test_an_unknown_campaign_is_refused_with_those_there_are():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chaos", "C99"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no such campaign: C99; there are C1, C2" in done.stderr

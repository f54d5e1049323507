"""Small campaigns on keyed state: kills, zombies, moves, lost power; all exact.

The other ones, larger sizes and all twins are run by `scripts/chaos`, in CI too.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

SIZES = {
    "D1": {"items": 16_000, "kills": 4, "each": 1, "pause_s": 0.2},
    "D3": {"items": 6_000, "stops": 2, "least_s": 0.5, "most_s": 1},
    "D6": {"items": 6_000, "kills": 2, "pause_s": 0.2, "poison": 0},
    "C28": {"items": 1_000, "commits": 20, "losses": 20},
}


@pytest.fixture
def folder():
    """Of its own, with a short name: sockets lie below it."""
    made = Path(tempfile.mkdtemp(prefix="zc-"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("name", SIZES)
def test_keyed_state_and_its_sink_are_exact_under(name, chaos, folder):
    groups = [chaos[group].CAMPAIGNS for group in ("anchors", "zombies", "bitter", "power")]
    campaign = {one.name: one for group in groups for one in group}[name]
    job = chaos["campaign"].Job(size=SIZES[name], folder=folder, dice=random.Random(1))
    try:
        verdict = campaign.play(job)
    except chaos["process"].Missing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    finally:
        kill_all(chaos, folder)
    assert not verdict.broken, "\n".join(verdict.broken)


def kill_all(chaos, folder):
    """What a campaign that failed has left."""
    for path in folder.iterdir():
        site = chaos["process"].Site.__new__(chaos["process"].Site)
        site.folder = path
        site.kill_marked()

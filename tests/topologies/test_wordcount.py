"""topologies/wordcount.py: every count is exact, whatever is killed meanwhile."""

import re
import shutil
import sqlite3
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

STAGES = ("Count", "words", "Counts", "files", "Count")


@pytest.fixture
def wordcount(load):
    return load("wordcount")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real text: two packages of the standard library."""
    folder = tmp_path / "text"
    for name in ("email", "asyncio"):
        shutil.copytree(Path(sysconfig.get_path("stdlib"), name), folder / name)
    return folder


@pytest.fixture
def totals(folder: Path) -> dict[str, int]:
    """What collections.Counter counts."""
    counts: Counter[str] = Counter()
    for path in folder.rglob("*.py"):
        counts.update(re.findall(r"[a-z']+", path.read_text(errors="replace").lower()))
    return dict(counts)


def stored(tmp_path: Path) -> dict[str, int]:
    db = sqlite3.connect(tmp_path / "words.db")
    try:
        rows = db.execute("SELECT word, n FROM words").fetchall()
    finally:
        db.close()
    assert len(rows) == len(dict(rows)), "a word has two counts"
    return dict(rows)


def has_counted(tmp_path: Path) -> bool:
    """Some partition has committed something."""
    files = (tmp_path / ".zflow").glob("*/*/partitions/Count/*.sqlite-wal")
    return any(path.stat().st_size > 0 for path in files)


def test_words_are_runs_of_small_letters(wordcount):
    assert list(wordcount.words("It's a Test, isn't it? 42!")) == [
        "it's",
        "a",
        "test",
        "isn't",
        "it",
    ]


def test_the_stage_counts_in_its_state_and_gives_the_totals_at_the_end(wordcount):
    count = wordcount.Count()
    for word in ("a", "b", "a"):
        count.process(word)
    assert dict(count.finish()) == {"a": 2, "b": 1}


@pytest.mark.slow
def test_the_counts_are_those_of_a_counter(zflow_run, folder, totals, tmp_path):
    zflow_run("wordcount", f"files.folder={folder}")
    assert stored(tmp_path) == totals


@pytest.mark.slow
@pytest.mark.chaos
def test_the_counts_are_exact_after_kills_of_every_stage(
    zflow_start, folder, totals, tmp_path, wait_until
):
    going = zflow_start("wordcount", "-p", f"files.folder={folder}")
    wait_until(lambda: has_counted(tmp_path), 30)
    kills = 0
    for stage in STAGES:
        before = {victim.pid for victim in going.replicas(stage)}
        kills += going.kill(stage)
        wait_until(
            lambda stage=stage, before=before: (
                going.process.poll() is not None
                or {one.pid for one in going.replicas(stage)} - before
            ),
            30,
        )
    going.end()
    assert kills > 2, "the run was over before it was disturbed"
    assert stored(tmp_path) == totals


@pytest.mark.slow
@pytest.mark.chaos
def test_the_counts_are_exact_after_everything_was_killed_and_resumed(
    zflow_start, folder, totals, tmp_path, wait_until
):
    for attempt in range(3):
        more = ["--resume", "last"] if attempt else ["-p", f"files.folder={folder}"]
        going = zflow_start("wordcount", *more)
        wait_until(lambda: has_counted(tmp_path), 30)
        going.kill_everything()
    zflow_start("wordcount", "--resume", "last").end()
    assert stored(tmp_path) == totals

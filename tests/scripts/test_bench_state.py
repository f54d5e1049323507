"""scripts/bench_state.py: the same words for everybody, and no figures of a wrong result."""

import hashlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Of the first 1000 words. If it changes, nobody's figures compare with older ones.
DIGEST = "3c076468b0342be5"


@pytest.fixture
def state(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_state

    return bench_state


def test_the_words_are_the_same_in_every_run(state):
    words = state.bench_words.draw(1000)
    assert hashlib.sha256("\n".join(words).encode()).hexdigest()[:16] == DIGEST
    assert state.bench_words.draw(100) == words[:100]


def test_a_file_with_too_few_words_is_refused(state, tmp_path):
    path = tmp_path / "words"
    path.write_text("a\nb")
    assert state.bench_words.load(path, 2) == ["a", "b"]
    with pytest.raises(SystemExit, match="fewer than 3"):
        state.bench_words.load(path, 3)


def test_a_wrong_or_missing_or_surplus_total_ends_the_bench(state):
    state.check("it", {"a": 2, "b": 1}, ["a", "b", "a"])
    for counts in ({"a": 3, "b": 1}, {"a": 2}, {"a": 2, "b": 1, "c": 1}):
        with pytest.raises(SystemExit, match="it counted 1 words wrong"):
            state.check("it", counts, ["a", "b", "a"])


def test_a_peer_that_is_not_installed_is_skipped_with_a_sentence(
    state, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(state.install, "PYTHON", tmp_path / "python")
    assert state.usable(["plain", "zflow", "bytewax", "celery"]) == ["plain", "zflow"]
    assert "bytewax is skipped: bytewax is not installed" in capsys.readouterr().err


def test_a_ratio_compares_the_runs_of_one_round(state):
    measured = {"plain": [{"x": 1.0}, {"x": 10.0}], "zflow": [{"x": 2.0}, {"x": 40.0}]}
    assert state.summary_of(measured, "plain")["zflow"]["ratio_to_plain"] == {"x": 3.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "zflow", "zflow_process"])
def test_a_run_counts_right_and_has_figures(state, name):
    figures = state.run_once(name, state.bench_words.draw(300), {})
    assert figures["items_per_s"] > 0

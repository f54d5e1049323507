"""scripts/nexmark: right answers under kill -9; and a wrong answer is one that it can see."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def nexmark(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "nexmark"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loader = importlib.machinery.SourceFileLoader("nexmark_script", str(SCRIPTS / "nexmark"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("queries", ["q0,q2,q7", "q3,q8", "q4", "q5", "q6"])
def test_the_answers_are_the_right_ones_although_replicas_are_killed(queries, tmp_path):
    report = tmp_path / "report.json"
    done = nexmark(
        *("--query", queries, "--events", 4000, "--kills", 4, "--seed", 7, "--json", report)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert list(figures) == queries.split(",")
    for found in figures.values():
        assert (found["equal"], found["late"], found["dead"]) == (True, 0, 0)
        assert found["answers"] > 0
        assert found["kills"] >= 3, "one victim may have been gone already"


@pytest.mark.slow
def test_an_unknown_query_is_refused():
    done = nexmark("--query", "q3,q9")
    assert done.returncode == 2
    assert "no such query: q9" in done.stderr


WRONG = [
    ({(1, 2): 1}, "1 missing: (3, 4)"),
    ({(1, 2): 1, (3, 4): 2}, "1 too many: (3, 4)"),
    ({}, "2 missing: (1, 2), (3, 4)"),
]


@pytest.mark.parametrize(("rows", "said"), WRONG)
def test_a_row_that_is_missing_or_there_twice_is_a_wrong_answer(script, rows, said):
    figures = {"seconds": 1.0, "kills": 0, "said": "", "late": 0, "dead": 0}
    right = Counter([(1, 2), (3, 4)])
    equal, line = script.judge("q9", figures | {"rows": Counter(rows)}, right)
    assert not equal
    assert said in line


@pytest.mark.parametrize("wrong", [{"late": 1}, {"dead": 1}, {"said": "exit code 1"}])
def test_the_right_rows_do_not_make_up_for_a_loss(script, wrong):
    figures = {"seconds": 1.0, "kills": 0, "said": "", "late": 0, "dead": 0, "rows": Counter()}
    equal, _ = script.judge("q9", figures | wrong, Counter())
    assert not equal

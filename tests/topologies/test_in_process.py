"""The example topologies in one process, whatever dies: the quick half of their tests.

What needs real processes (a kill in the middle of an instruction, a resume) is in the other files.
"""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from zflow.loader import load
from zflow.testing import run

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
SEEDS = range(4)


def topology(name: str):
    return load(str(TOPOLOGIES / f"{name}.py")).topology


@pytest.mark.parametrize("seed", SEEDS)
def test_every_order_is_notified_or_reviewed(seed, tmp_path, capsys):
    with (TOPOLOGIES / "orders.csv").open(newline="") as file:
        rows = {row["order"]: row for row in csv.DictReader(file)}
    path = tmp_path / "notified.jsonl"
    result = run(topology("orders"), parameters={"notify.path": path}, faults="kills", seed=seed)

    notified = {order["order"]: order for order in result["notify"]}
    invalid = {order["order"] for order in result["review"] if "reason" in order}
    assert notified.keys() | invalid == rows.keys(), f"seed {seed}"
    assert not notified.keys() & invalid
    assert all(order["receipt"] for order in notified.values())
    large = {name for name, order in notified.items() if order["total_cents"] >= 100_000}
    assert {order["order"] for order in result["review"] if "reason" not in order} == large
    assert result.dead == []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == result["notify"], "what the sink has taken is what it wrote"
    assert "please review order" in capsys.readouterr().out


@pytest.mark.parametrize("seed", SEEDS)
def test_words_are_counted_exactly(seed, tmp_path):
    texts = [path.read_text() for path in sorted(TOPOLOGIES.glob("*.py"))]
    result = run(
        topology("wordcount"),
        inputs={"files": texts},
        parameters={"Counts.path": str(tmp_path / "words.db")},
        faults="kills",
        seed=seed,
    )
    words = Counter(word for text in texts for word in re.findall(r"[a-z']+", text.lower()))
    assert dict(result["Counts"]) == words, f"seed {seed}"
    assert len(result["Counts"]) == len(words)


def test_every_visit_is_there_once_and_as_without_any_death():
    calm = run(topology("sessions"), sinks="record")
    assert len(calm["Visits"]) > 150
    assert calm["too_late"] == []
    for seed in SEEDS:
        torn = run(topology("sessions"), sinks="record", faults="kills", seed=seed)
        assert torn.restarts
        assert Counter(torn["Visits"]) == Counter(calm["Visits"]), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_function_is_reported_and_every_broken_file(seed, tmp_path):
    code = b"def f(x):\n    if x:\n        return 1\n"
    files = [(f"{n}.py", code if n % 5 else b"def f(:\n") for n in range(60)]
    paths = {"Report.path": tmp_path / "functions", "Broken.path": tmp_path / "broken"}
    result = run(
        topology("codebase"), inputs={"files": files}, parameters=paths, faults="kills", seed=seed
    )
    assert {found["file"] for found in result["Report"]} == {f"{n}.py" for n in range(60) if n % 5}
    assert {found["complexity"] for found in result["Report"]} == {2}
    assert {found["file"] for found in result["Broken"]} == {f"{n}.py" for n in range(0, 60, 5)}
    assert all("SyntaxError" in found["error"] for found in result["Broken"])


def test_files_of_the_same_content_meet_in_the_catalogue(tmp_path):
    for name, text in [("a", "same"), ("b", "same"), ("c", "other")]:
        (tmp_path / name).write_text(text)
    result = run(
        topology("duplicates"),
        parameters={"paths.folder": str(tmp_path)},
        sinks="record",
        faults="kills",
    )
    digests = {path: digest for path, _, digest in result["Catalogue"] if digest}
    sizes = {path: size for path, size, _ in result["Catalogue"] if size is not None}
    assert digests.keys() == sizes.keys() == {str(tmp_path / name) for name in "abc"}
    assert digests[str(tmp_path / "a")] == digests[str(tmp_path / "b")]
    assert sizes[str(tmp_path / "c")] == 5

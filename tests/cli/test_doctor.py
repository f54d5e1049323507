"""How `zflow doctor` says what it finds."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import EMPTY_FLOW
from tests.cli.coordinator import Answering
from tests.planning.made import busy, picture
from zflow.cli import doctor as verb
from zflow.paths import RunDirectory


@pytest.fixture
def healthy(tmp_path, tmp_path_factory, monkeypatch, zflow):
    """`zflow` in a folder and with a runtime folder in which nothing is wrong."""
    runtime = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(verb, "findings", lambda _machine, _need: iter(()))
    monkeypatch.setattr(verb, "run_folders", lambda _env: sorted(runtime.glob("zf-*")))
    (tmp_path / "flow.py").write_text(EMPTY_FLOW)
    return zflow


def test_where_nothing_is_wrong_it_says_so_and_what_it_has_seen(healthy):
    done = healthy("doctor", "flow.py", "-r", "parse=3")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Python  ")
    assert any(line.endswith("flow needs up to 160") for line in lines)
    assert lines[-1] == "nothing is wrong"


def test_a_finding_has_a_reason_and_a_command_and_exit_code_1(healthy):
    left = RunDirectory(Path(os.environ["XDG_RUNTIME_DIR"]) / "zf-left")
    left.make()
    os.utime(left.root, (0, 0))
    done = healthy("doctor")
    assert done.exit_code == 1
    assert f"1. left-over run directories: 1 run directory of dead processes: {left.root}" in (
        done.stdout
    )
    assert f"   try: rm -r {left.root}\n" in done.stdout
    assert done.stdout.endswith("\n1 finding\n")


def test_programs_get_one_object(healthy):
    data = json.loads(healthy("doctor", "flow.py", "--json").stdout)
    assert data["ok"] is True
    assert data["findings"] == []
    assert data["facts"]["need"] == {
        "topology": "flow",
        "replicas": 2,
        "links": 2,
        "open_files": 144,
    }
    assert data["facts"]["zmq"]["libzmq"]


def test_a_topology_with_problems_is_a_finding(healthy, tmp_path):
    (tmp_path / "flow.py").write_text(EMPTY_FLOW.replace("flow.connect(read, parse)", ""))
    done = healthy("doctor", "flow.py")
    assert done.exit_code == 1
    assert "   try: zflow check flow.py" in done.stdout


def test_a_target_that_is_not_there_is_wrong_usage(healthy):
    assert healthy("doctor", "flwo.py").exit_code == 2


def test_running_runs_are_looked_at(healthy, tmp_path, make_run):
    state = make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [])
    lost = picture([busy("read"), busy("parse", states={0: "lost"})], 100)
    with Answering(state, [lost], os.environ):
        done = healthy("doctor", "--json")
    (found,) = json.loads(done.stdout)["findings"]
    assert found["check"] == "supervisor"


def test_a_coordinator_that_is_silent_is_a_finding(healthy, tmp_path, make_run, monkeypatch):
    monkeypatch.setattr(verb, "ANSWER_WITHIN_S", 0.2)
    state = make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [])
    with Answering(state, [], os.environ, silent=True):
        done = healthy("doctor", "--json")
    (found,) = json.loads(done.stdout)["findings"]
    assert found["check"] == "coordinator"

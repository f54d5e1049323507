"""Where each value of a run comes from, and that `zflow run` takes it from there."""

import json

import pytest

from zflow.cli import run as run_module

FLOW = """
from zflow import Topology, sink, source, stage

@source
def read(n: int = 3, must: str = "here"):
    yield from range(n)

@stage(replicas=2, retries=7)
def parse(item, strict: bool = False):
    return item

@sink
def keep(item): ...

flow = Topology("flow")
flow.connect(read, parse, keep)
"""


@pytest.fixture
def folder(tmp_path, zflow):
    """A folder with the topology, and `zflow` in it."""
    (tmp_path / "flow.py").write_text(FLOW)
    return tmp_path


def values(done):
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["values"]
    return {(row["section"], row["name"]): (row["value"], row["origin"]) for row in rows}


def test_without_anything_the_code_and_the_defaults_count(folder, zflow):
    found = values(zflow("config", "flow.py", "--json"))
    assert found["run", "timeout"] == (None, "default")
    assert found["run", "log-level"] == ("WARNING", "default")
    assert found["parameters", "read.n"] == (3, "flow.py:4")
    assert found["replicas", "parse"] == (2, "flow.py:8")
    assert found["replicas", "keep"] == (1, "default")
    assert found["parse", "retries"] == (7, "flow.py:8")
    assert found["keep", "retries"] == (3, "default")
    assert ("read", "timeout_s") not in found


def test_flag_wins_over_environment_over_file_over_code(folder, zflow, monkeypatch):
    (folder / "zflow.toml").write_text(
        "[parameters]\nread.n = 10\nread.must = 'file'\nparse.strict = true\n"
        "[replicas]\nparse = 3\nkeep = 4\n[run]\nlog-level = 'ERROR'\ntimeout = 5\n"
    )
    monkeypatch.setenv("ZFLOW_RUN_PARAMETERS", "read.n=20 read.must=environment")
    monkeypatch.setenv("ZFLOW_RUN_REPLICAS", "parse=5")
    monkeypatch.setenv("ZFLOW_RUN_TIMEOUT_S", "7")
    found = values(zflow("config", "flow.py", "-p", "read.n=30", "-r", "parse=6", "--json"))
    assert found["parameters", "read.n"] == (30, "flag")
    assert found["parameters", "read.must"] == (
        "environment",
        "environment ZFLOW_RUN_PARAMETERS",
    )
    assert found["parameters", "parse.strict"] == (True, "zflow.toml:4")
    assert found["replicas", "parse"] == (6, "flag")
    assert found["replicas", "keep"] == (4, "zflow.toml:7")
    assert found["run", "timeout"] == (7.0, "environment ZFLOW_RUN_TIMEOUT_S")
    assert found["run", "log-level"] == ("ERROR", "zflow.toml:9")


def test_people_get_a_table(folder, zflow):
    lines = zflow("config", "flow.py").stdout.splitlines()
    assert lines[0].split() == ["section", "name", "value", "origin"]
    assert ["parameters", "read.must", "here", "flow.py:4"] in [line.split() for line in lines]


def test_everything_that_is_wrong_is_told_at_once(folder, zflow, monkeypatch):
    (folder / "zflow.toml").write_text(
        "[run]\ntimout = 3\ntimeout = 'long'\nparameters = []\n"
        "[parameters]\nread.m = 1\nread.n = 'many'\nraed.n = 2\n"
        "[replicas]\nparse = 0\n"
    )
    monkeypatch.setenv("ZFLOW_RUN_TIMEOUT", "3")
    monkeypatch.setenv("ZFLOW_COORDINATOR_TIMEOUT_S", "soon")
    done = zflow("config", "flow.py")
    assert done.exit_code == 2
    for said in (
        "zflow.toml:2: run.timout: zflow run has no such option; did you mean 'timeout'?",
        "zflow.toml:3: run.timeout: 'long' is not a valid float",
        "zflow.toml:4: run.parameters: zflow run has no such option; write [parameters]",
        "zflow.toml:6: parameters.read.m: read has no parameter 'm'",
        "zflow.toml:7: parameters.read.n: 'many' is not a whole number",
        "zflow.toml:8: parameters.raed.n: there is no stage 'raed'; did you mean 'read'?",
        "zflow.toml:10: replicas.parse: is not a number of replicas",
        "ZFLOW_RUN_TIMEOUT: zflow run reads no such variable; did you mean 'ZFLOW_RUN_TIMEOUT_S'?",
        "ZFLOW_COORDINATOR_TIMEOUT_S: 'soon' is not a valid float",
    ):
        assert said in done.stderr


@pytest.fixture
def planned(monkeypatch):
    """What `zflow run` was about to run, instead of running it."""
    plans = []

    class Planned(Exception):
        pass

    def run_plan(plan, **options):
        plans.append((plan, options))
        raise Planned

    monkeypatch.setattr(run_module, "run_plan", run_plan)
    return plans


def test_run_takes_its_values_from_the_same_places(folder, zflow, monkeypatch, planned):
    (folder / "pyproject.toml").write_text(
        "[tool.zflow.run]\nlog-level = 'info'\ntimeout = 5\n"
        "[tool.zflow.parameters]\nread.n = 10\nread.must = 'file'\nparse.strict = true\n"
        "[tool.zflow.replicas]\nparse = 3\nkeep = 4\n"
    )
    monkeypatch.setenv("ZFLOW_RUN_PARAMETERS", "read.n=20 read.must=environment")
    monkeypatch.setenv("ZFLOW_RUN_TIMEOUT_S", "7")
    zflow("run", "flow.py", "-p", "read.n=30", "-r", "parse=6")
    ((plan, options),) = planned
    assert {stage.name: stage.replicas for stage in plan.config.stages} == {
        "read": 1,
        "parse": 6,
        "keep": 4,
    }
    assert plan.config.parameters == [
        *("read.n=10", "read.must=file", "parse.strict=true"),
        *("read.n=20", "read.must=environment", "read.n=30"),
    ]
    assert (options["timeout_s"], options["log_level"]) == (7.0, "INFO")


def test_a_mistake_in_the_file_stops_a_run_before_it_begins(folder, zflow, planned):
    (folder / "zflow.toml").write_text("[run]\ntimout = 3\n")
    done = zflow("run", "flow.py")
    assert done.exit_code == 2
    assert "zflow.toml:2: run.timout" in done.stderr
    assert not planned
    assert zflow("run", "--help").exit_code == 0


def test_an_option_that_a_verb_requires_may_come_from_the_file(folder, zflow):
    (folder / "zflow.toml").write_text("[stage]\ncoordinator = 'nowhere'\nreplicas = 'two'\n")
    done = zflow("stage", "parse")
    assert "zflow.toml:3: stage.replicas: 'two' is not a valid integer" in done.stderr

"""What `zflow export` writes, where to, and what it never replaces."""

import json
import re

import pytest

from zflow.errors import ExitCode
from zflow.export.grafana import grafana_files
from zflow.export.prometheus import prometheus_files
from zflow.loader import load

FLOW = """
from zflow import Topology, sink, source

@source
def read():
    yield 1

@sink
def write(item): ...

flow = Topology("flow")
flow.connect(read, write)
"""
MAKERS = {"prometheus": prometheus_files, "grafana": grafana_files}


@pytest.fixture
def declared(tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    return load(str(tmp_path / "flow.py")).topology.declared()


def written(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize("tool", MAKERS)
def test_an_export_writes_every_file_into_the_folder(zflow, declared, tmp_path, tool):
    done = zflow("export", tool, "flow.py", "-o", "some/where")
    assert done.exit_code == 0, done.output
    assert written(tmp_path / "some/where") == MAKERS[tool](declared)
    assert done.stdout.splitlines() == [f"some/where/{name}" for name in MAKERS[tool](declared)]
    assert "next: " in done.stderr


@pytest.mark.parametrize("tool", MAKERS)
def test_without_a_folder_it_is_named_like_the_tool(zflow, declared, tmp_path, tool):
    assert zflow("export", tool, "flow.py").exit_code == 0
    assert written(tmp_path / tool) == MAKERS[tool](declared)


@pytest.mark.parametrize("tool", MAKERS)
def test_a_new_export_replaces_an_old_one(zflow, declared, tmp_path, tool):
    options = ("--address", "host:1", "--slo", "0.5")
    assert zflow("export", tool, "flow.py", *options).exit_code == 0
    assert written(tmp_path / tool) == MAKERS[tool](declared, address="host:1", slo_s=0.5)
    assert zflow("export", tool, "flow.py").exit_code == 0
    assert written(tmp_path / tool) == MAKERS[tool](declared)


def test_a_file_of_somebody_else_is_never_replaced_and_then_nothing_is_written(
    zflow, declared, tmp_path
):
    (tmp_path / "etc").mkdir()
    mine = tmp_path / "etc" / "prometheus.yml"
    mine.write_text("scrape_configs: []\n")
    done = zflow("export", "prometheus", "flow.py", "-o", "etc")
    assert done.exit_code == ExitCode.USAGE
    assert "etc/prometheus.yml: is there and was not made by zflow export" in done.stderr
    assert "another folder with -o" in done.stderr
    assert written(tmp_path / "etc") == {"prometheus.yml": "scrape_configs: []\n"}


def test_grafana_is_told_where_prometheus_is(zflow, declared, tmp_path):
    zflow("export", "grafana", "flow.py", "--prometheus", "http://metrics:9090")
    source = tmp_path / "grafana/provisioning/datasources/zflow.yml"
    assert "http://metrics:9090" in source.read_text()


def test_a_program_reads_what_was_written_as_json(zflow, declared):
    done = zflow("export", "prometheus", "flow.py", "--json")
    data = json.loads(done.stdout)
    assert data == {"folder": "prometheus", "files": list(prometheus_files(declared))}
    assert done.stderr == ""


@pytest.mark.parametrize("tool", MAKERS)
def test_an_invalid_topology_is_refused_with_what_is_wrong(zflow, tmp_path, tool):
    (tmp_path / "bad.py").write_text(FLOW.replace("(read, write)", "(read, write, read)"))
    done = zflow("export", tool, "bad.py")
    assert done.exit_code == ExitCode.USAGE
    assert "bad.py:" in done.stderr
    assert not (tmp_path / tool).exists()


@pytest.mark.parametrize("slo", ["0", "-1", "soon"])
def test_an_agreed_latency_is_a_time(zflow, declared, slo):
    done = zflow("export", "prometheus", "flow.py", "--slo", slo)
    assert done.exit_code == ExitCode.USAGE
    assert "--slo" in done.stderr


@pytest.mark.parametrize("words", [(), *((tool,) for tool in MAKERS)])
def test_help_has_an_example(zflow, words):
    done = zflow("export", *words, "--help")
    assert done.exit_code == 0
    assert re.search(r"Example:\n +zflow export ", done.stdout)

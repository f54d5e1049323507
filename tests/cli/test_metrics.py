"""`zflow metrics` shows the table, and `--http` says at once what is wrong with it."""

import json
import socket

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.metrics import METRICS

FLOW = """from zflow import Topology, sink, source

@source
def read(): yield 1

@sink
def show(x): ...

flow = Topology("small")
flow.connect(read, show)
"""


def test_every_metric_is_listed_with_its_type_labels_and_help():
    done = CliRunner().invoke(main, ["metrics"])
    assert done.exit_code == 0
    for metric in METRICS:
        assert f"{metric.name}  {metric.kind}  topology" in done.stdout
        assert metric.help in done.stdout


def test_the_same_as_json():
    found = json.loads(CliRunner().invoke(main, ["metrics", "--json"]).stdout)
    assert found.keys() == {metric.name for metric in METRICS}
    assert found["zflow_queue_items"] == {
        "type": "gauge",
        "unit": "items",
        "labels": ["topology", "stage", "replica", "edge"],
        "help": "Units that wait at a sender to be sent, or sent again.",
    }


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere", "--http: 'nowhere' is no address; give HOST:PORT, a port, or off"),
        (":9464", "say which host: 127.0.0.1 for this machine alone, 0.0.0.0 for all"),
        ("192.0.2.1:9464", "cannot listen on 192.0.2.1:9464: Cannot assign requested address"),
    ],
)
def test_a_wrong_address_is_refused_with_2_before_anything_starts(
    tmp_path, monkeypatch, address, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.py").write_text(FLOW)
    done = CliRunner().invoke(main, ["run", "flow.py", "--http", address])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / ".zflow").exists()


def test_a_port_that_is_taken_is_refused_with_2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.py").write_text(FLOW)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(main, ["run", "flow.py", "--http", port])
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "give another address, port 0 for any free one, or off" in done.stderr

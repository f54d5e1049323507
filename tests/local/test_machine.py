"""What of a machine is a finding, from what was measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from zflow.declared.model import Declared
from zflow.local.machine import (
    FREE_RUN_BYTES,
    FREE_STATE_BYTES,
    Machine,
    Need,
    _numbers,
    findings,
    measured,
    need_of,
)
from zflow.net.versions import ZmqVersions
from zflow.stages import sink, source
from zflow.topology import Topology

MOUNTS = "/dev/sda1 / ext4 rw 0 0\ntmpfs /memory tmpfs rw 0 0\nserver:/x /far nfs4 rw 0 0\n"
FINE = Machine(
    python="3.12.1",
    zmq=ZmqVersions(pyzmq="27.1.0", libzmq="4.3.5", curve=True),
    sqlite="3.45.0",
    open_files=1024,
    processes=4096,
    state_folder=Path("/"),
    state_writable=True,
    state_free_bytes=FREE_STATE_BYTES,
    run_directory=Path("/run"),
    run_directory_problem="",
    run_free_bytes=FREE_RUN_BYTES,
    mounts=MOUNTS,
    clock_source="tsc",
    quick_clocks=("tsc",),
)
SMALL = Need(topology="flow", replicas=2, links=3)


def test_nothing_is_found_where_nothing_is_wrong():
    assert list(findings(FINE, SMALL)) == []
    assert list(findings(FINE, None)) == []


WRONG = [
    ({"zmq": replace(FINE.zmq, curve=False)}, "CURVE", "without CURVE"),
    ({"zmq": replace(FINE.zmq, libzmq="4.3.2")}, "libzmq", "libzmq 4.3.2 is older than 4.3.4"),
    ({"zmq": replace(FINE.zmq, pyzmq="25.1.2")}, "pyzmq", "pyzmq 25.1.2 is older than 26"),
    ({"sqlite": "3.34.1"}, "SQLite", "SQLite 3.34.1 is older than 3.35"),
    ({"clock_source": "hpet"}, "clock source", "the clock source is hpet"),
    ({"state_folder": Path("/memory")}, "state folder", "/memory lies in memory (tmpfs)"),
    ({"state_folder": Path("/far")}, "state folder", "/far lies on a network file system (nfs4)"),
    ({"state_writable": False}, "state folder", "/ cannot be written"),
    ({"state_free_bytes": FREE_STATE_BYTES - 1}, "state folder space", "/ has 255 MiB left"),
    ({"run_free_bytes": FREE_RUN_BYTES - 1}, "run directory space", "/run has 63 MiB left"),
    ({"run_directory_problem": "too long"}, "run directory", "too long"),
    ({"open_files": 151}, "open files", "flow needs up to 152 open files in one process"),
    ({"processes": 17}, "processes", "flow needs about 18 threads, and the limit is 17"),
]


@pytest.mark.parametrize(("wrong", "check", "what"), WRONG)
def test_each_thing_that_is_wrong_is_found_alone_with_a_command(wrong, check, what):
    (found,) = findings(replace(FINE, **wrong), SMALL)
    assert found.check == check
    assert what in found.what
    assert found.why
    assert found.command


def test_more_replicas_need_more_room_for_what_they_print():
    need = Need(topology="flow", replicas=100, links=3)
    (found,) = findings(replace(FINE, processes=None), need)
    assert found.check == "run directory space"
    assert "3200 MiB may be needed" in found.what


def test_a_clock_that_cannot_be_made_quicker_says_where_to_look():
    (found,) = findings(replace(FINE, clock_source="hpet", quick_clocks=()), None)
    assert found.command.startswith("dmesg")


def test_what_a_topology_needs_counts_the_links_of_its_best_connected_process():
    @source
    def read():
        yield 1

    @sink
    def keep(item): ...

    flow = Topology("flow")
    flow.connect(read, keep)
    declared: Declared = flow.declared()
    assert need_of(declared, {}) == Need(topology="flow", replicas=2, links=2)
    assert need_of(declared, {"keep": 50}) == Need(topology="flow", replicas=51, links=51)


@pytest.mark.parametrize(
    ("text", "numbers"), [("27.3.0b1", (27, 3, 0)), ("4.3", (4, 3)), ("dev", ()), ("3.x.1", (3,))]
)
def test_versions_are_compared_as_numbers(text, numbers):
    assert _numbers(text) == numbers


def test_this_machine_can_be_measured(tmp_path, monkeypatch):
    found = measured(tmp_path / "not" / "there", {})
    assert found.state_folder == tmp_path
    assert found.state_writable
    assert found.run_directory == Path("/tmp")
    assert found.run_directory_problem == ""
    assert found.state_free_bytes > 0
    assert _numbers(found.zmq.libzmq) >= (4,)
    assert _numbers(found.sqlite) >= (3, 35)


def test_a_runtime_folder_whose_name_is_too_long_is_a_problem(tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    found = measured(tmp_path, {"XDG_RUNTIME_DIR": str(long)})
    assert "too long for sockets" in found.run_directory_problem
    assert [one.check for one in findings(found, None)][0] == "run directory"

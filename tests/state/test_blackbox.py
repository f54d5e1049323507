"""What a black box says of a process, alive or dead."""

import os
import signal
import struct
import subprocess
import sys

import pytest

from zflow.state import blackbox as module
from zflow.state.blackbox import MAX_SPARE_NAME_BYTES, BlackBox, Names, read_black_box
from zflow.wire.run import OSEQ, Run

NAMES = Names(counters=["received", "processed"], cells=[("wait", 3), ("late", 1)], spare=2)
RUNS = [Run(7, 8, OSEQ, 0, 100, 3), Run(7, 9, OSEQ, 0, 5, 2, numbers=[5, 9])]
AT_LENGTH = 64 * 1024 + 8 + 12  # where the length of the slice is, as the module draws it

WRITER = """
import sys
from pathlib import Path
from zflow.state.blackbox import BlackBox, Names
from zflow.wire.run import OSEQ, Run

box = BlackBox(Path(sys.argv[1]), Names(counters=["received", "processed"]))
box.enter([Run(7, 8, OSEQ, 0, 100, 3)], alone=True, now_ns=11)
box.count([5, 4])
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "box"


@pytest.fixture
def box(path):
    made = BlackBox(path, NAMES)
    yield made
    made.close()


def test_it_says_what_is_executing_since_when_and_how_far_the_counters_have_come(box, path):
    box.beat(10)
    box.enter(RUNS, alone=True, now_ns=20)
    box.count([3, 2])
    read = read_black_box(path)
    assert (read.beat_ns, read.started_ns, read.alone) == (10, 20, True)
    assert read.runs == RUNS
    assert read.counters == {"received": 3, "processed": 2}


def test_between_two_slices_nothing_is_executing(box, path):
    box.enter(RUNS, alone=False, now_ns=20)
    box.leave()
    read = read_black_box(path)
    assert (read.started_ns, read.alone, read.runs) == (0, False, [])


def test_a_new_one_says_nothing_at_all(box, path):
    read = read_black_box(path)
    assert (read.beat_ns, read.started_ns, read.runs) == (0, 0, [])
    assert read.counters == {"received": 0, "processed": 0}


def test_a_slice_that_was_being_written_reads_as_none(box, path):
    box.enter(RUNS, alone=False, now_ns=20)
    with path.open("rb+") as file:
        file.seek(AT_LENGTH)
        file.write(struct.pack("<I", 0))  # what `enter` does before it writes the runs
    assert read_black_box(path).runs == []


def test_a_slice_that_does_not_decode_reads_as_none(box, path):
    box.enter(RUNS, alone=False, now_ns=20)
    with path.open("rb+") as file:
        file.seek(AT_LENGTH + 4)
        file.write(b"\xc1\xc1\xc1")  # never valid msgpack
    assert read_black_box(path).runs == []


def test_a_process_that_died_before_it_had_a_black_box_has_no_reading(path):
    assert read_black_box(path) is None


@pytest.mark.parametrize("raw", [b"", b"zflowbb1", b"\0" * 200_000])
def test_a_head_that_was_not_written_to_its_end_has_no_reading(path, raw):
    path.write_bytes(raw)
    assert read_black_box(path) is None


def test_more_runs_than_it_can_name_are_refused(box):
    run = RUNS[0].renewed(start=0, n=500_000, numbers=list(range(0, 1_000_000, 2)))
    with pytest.raises(ValueError, match="1 runs do not fit a black box"):
        box.enter([run], alone=False, now_ns=1)


def test_more_counters_than_it_can_name_are_refused(path):
    with pytest.raises(ValueError, match="5000 counters do not fit"):
        BlackBox(path, Names(counters=[f"counter {k:04}" for k in range(5000)]))


def test_what_is_added_to_its_cells_is_read_by_name_and_zeros_are_left_out(box, path):
    box.cells[1] += 7
    box.cells[3] += 2
    assert read_black_box(path).counters == {"received": 0, "processed": 0, "wait:1": 7, "late": 2}


def test_a_spare_cell_is_read_under_the_name_it_was_given(box, path):
    assert box.call("error:ValueError") == 0
    box.spare[0] += 3
    assert read_black_box(path).counters["error:ValueError"] == 3


def test_there_are_no_more_names_than_spare_cells(box):
    assert [box.call(name) for name in ("a", "b", "c")] == [0, 1, None]


def test_a_spare_cell_whose_name_was_not_written_to_its_end_is_not_read(box, path):
    box.call("half")
    box.spare[0] += 3
    at = path.read_bytes().index(b"half")
    with path.open("rb+") as file:
        file.seek(at - 2)
        file.write(b"\0\0")  # what is written last
    assert 3 not in read_black_box(path).counters.values()


def test_a_name_that_is_cut_within_a_letter_can_still_be_read(box, path):
    box.call("x" * (MAX_SPARE_NAME_BYTES - 1) + "\u00e9")
    box.spare[0] += 1
    (name,) = [name for name in read_black_box(path).counters if name.startswith("x")]
    assert name == "x" * (MAX_SPARE_NAME_BYTES - 1) + "\ufffd"


def test_a_process_that_dies_while_it_counts_leaves_the_state_before(box, path):
    box.count([3, 2])
    before = path.read_bytes()
    box.count([5, 4])
    after = path.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    which = changed[0]  # it lies in front of both copies, and is written last
    with path.open("rb+") as file:
        file.seek(which)
        file.write(before[which : which + 1])
    assert read_black_box(path).counters == {"received": 3, "processed": 2}


def test_only_its_owner_may_read_the_file(box, path):
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_it_survives_sigkill(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    read = read_black_box(path)
    assert (read.started_ns, read.alone, read.runs) == (11, True, [Run(7, 8, OSEQ, 0, 100, 3)])
    assert read.counters == {"received": 5, "processed": 4}


@pytest.mark.parametrize("beyond", [0, 1, 8])
def test_runs_end_before_the_counters_or_are_refused(tmp_path, monkeypatch, beyond):
    class Encoder:
        @staticmethod
        def encode(_runs):
            return b"\xff" * (module._AT_WHICH - module._AT_RUNS + beyond)

    box = BlackBox(tmp_path / "box", Names(counters=["n"]))
    box.count([7])
    monkeypatch.setattr(module, "_ENCODER", Encoder)
    if beyond:
        with pytest.raises(ValueError, match="do not fit"):
            box.enter([], alone=False, now_ns=1)
    else:
        box.enter([], alone=False, now_ns=1)
    which = module._AT_WHICH
    assert bytes(box._map[which : which + 8]) in (bytes(8), (1).to_bytes(8, "little"))
    box.close()

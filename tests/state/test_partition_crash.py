"""What a partition file holds when its owner dies, hangs, or comes back after it was replaced."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zflow.errors import Unavailable
from zflow.state.partition import Fenced, PartitionFile, decode_numbers

ROOT = Path(__file__).parents[2]
PLACE = {"stage": "count", "partition": 0, "partitions": 64}

# Commits batch after batch, each with all kinds of rows, and prints the number of each behind it.
OWNER = """
import sys
from pathlib import Path
from zflow.state.partition import Batch, OutboxRow, PartitionFile, SeenRow, encode_numbers

path, durability, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner = PartitionFile(path, stage="count", partition=0, partitions=64, durability=durability)
number = owner.loaded.next_oseq
print("ready", flush=True)
sys.stdin.readline()
while number < last:
    key = str(number).encode()
    owner.commit(
        Batch(
            seen=[SeenRow(origin=1, path=2, axis=0, fixed=0, top=number,
                          numbers=encode_numbers([(number, number + 1)]))],
            watermarks={1: number // 2},
            state=[(key, b"v" * 3000), (b"last", key)],
            outbox=[OutboxRow(first=number, n=1, raw=key)],
            outbox_low=number // 2,
            next_oseq=number + 1,
        )
    )
    print(number, flush=True)
    number += 1
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "000.sqlite"


@pytest.fixture
def owner(path):
    """`owner()` starts a process that commits; it is killed at the end."""
    started = []

    def start(durability="process", last=1 << 60, before=(), *, begins=True):
        child = subprocess.Popen(
            [*before, sys.executable, "-c", OWNER, str(path), durability, str(last)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        if begins:
            begin(child)
        return child

    yield start
    for child in started:
        if not child.stdout.closed:
            kill(child)


def begin(child):
    """It commits from now on."""
    child.stdin.write("\n")
    child.stdin.flush()


def kill(child):
    child.kill()
    child.wait()
    child.stdin.close()  # what strace has traced outlives it, until its input ends
    with child.stdout as stdout:
        return stdout.read()


def acquire(path):
    return PartitionFile(path, **PLACE, durability="process")


def assert_holds_exactly(path, count):
    """The batches below `count`, all of each."""
    file = acquire(path)
    loaded = file.loaded
    kept = range(max(count - 1, 0) // 2, count)
    assert loaded.next_oseq == count
    assert loaded.outbox_low == loaded.watermarks.get(1, 0) == kept.start
    assert [row.first for row in loaded.outbox] == list(kept)
    assert [decode_numbers(row.numbers) for row in loaded.seen] == [[(n, n + 1)] for n in kept]
    wanted = {str(n).encode(): b"v" * 3000 for n in range(count)}
    if count:
        wanted[b"last"] = str(count - 1).encode()
    assert dict(file.items()) == wanted
    assert file.count() == (len(wanted), 0)
    file.close()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_owner_leaves_a_prefix_that_has_all_it_has_told(owner, path, seed):
    chance = random.Random(seed)
    told = 0
    for _ in range(5):
        child = owner(chance.choice(["power", "process"]))
        for _ in range(chance.choice([0, 1, 7, 60])):
            told = int(child.stdout.readline()) + 1
        printed = kill(child).split()
        told = max([told, *(int(line) + 1 for line in printed)])
        file = acquire(path)
        found = file.loaded.next_oseq
        file.close()
        assert found in (told, told + 1), f"seed {seed}: told {told}, found {found}"
        assert_holds_exactly(path, found)
        told = found


@pytest.mark.chaos
@pytest.mark.slow
def test_a_stopped_owner_keeps_the_partition_until_it_is_dead(owner, path):
    child = owner()
    child.stdout.readline()
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(Unavailable, match="another process holds partition 0 of stage 'count'"):
        acquire(path)
    kill(child)
    acquire(path).close()


@pytest.mark.chaos
@pytest.mark.slow
def test_an_owner_that_goes_on_after_it_was_replaced_applies_nothing(owner, path):
    child = owner()
    child.stdout.readline()
    child.send_signal(signal.SIGSTOP)
    told = drained(child)
    path.with_name(path.name + ".lock").unlink()  # as if it lay on a disk without locks
    # The owner may have been stopped inside a commit: nobody can write until it is through.
    child.send_signal(signal.SIGCONT)
    successor = acquire(path)
    child.wait()
    told = max([told, *(int(line) for line in child.stdout.read().split())])
    assert child.returncode == 1
    assert successor.loaded.next_oseq == told + 1
    assert successor.reload().next_oseq == told + 1
    successor.close()
    assert_holds_exactly(path, told + 1)


def drained(child):
    """The last number that a stopped child has printed, without waiting for more."""
    os.set_blocking(child.stdout.fileno(), False)
    try:
        raw = os.read(child.stdout.fileno(), 1 << 20).decode()
    except BlockingIOError:
        raw = ""
    os.set_blocking(child.stdout.fileno(), True)
    return max([0, *(int(line) for line in raw.split())])


def test_a_fenced_owner_in_the_same_process_is_told_by_its_own_class(path):
    stale = acquire(path)
    path.with_name(path.name + ".lock").unlink()
    successor = acquire(path)
    with pytest.raises(Fenced):
        stale.reload()
    successor.close()
    stale.close()


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "each"), [("power", True), ("process", False)])
def test_a_commit_reaches_the_disk_before_it_returns_where_power_may_fail(
    owner, path, tmp_path, durability, each
):
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    log, commits = tmp_path / "strace", 20
    traced = (strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(log))
    child = owner(durability, last=commits, before=traced, begins=False)
    acquiring = log.read_text().count("sync(")
    begin(child)
    for number in range(commits):
        assert child.stdout.readline() == f"{number}\n"
        if each:
            assert log.read_text().count("sync(") >= acquiring + number + 1
    if not each:
        assert log.read_text().count("sync(") < acquiring + commits
    child.stdin.close()
    child.wait()


@pytest.mark.slow
def test_a_successor_syncs_what_its_predecessor_has_written_before_it_trusts_it(
    owner, path, tmp_path
):
    """Or it would acknowledge duplicates of a commit that the next power failure takes back."""
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    child = owner("process", last=3)  # which never syncs
    for number in range(3):
        assert child.stdout.readline() == f"{number}\n"
    kill(child)
    log = tmp_path / "strace"
    traced = (strace, "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-o", str(log))
    owner("power", last=3, before=traced, begins=False)
    assert "000.sqlite-wal>" in log.read_text()

"""`zflow move`: partitions of a running stage get another owner, and the results stay exact."""

import json
import sqlite3
from contextlib import closing, suppress

import pytest

from tests.local.test_durable import COUNT, expected, kept, kill

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

START_S = 30.0
MOVES = [f"{partition}={1 - partition % 2}" for partition in range(64)]
PACED = ("-p", "numbers.n=20000", "-p", "numbers.pause_s=0.02")


def fences(shop):
    """How often each partition was acquired."""
    found = {}
    for path in shop.folder.glob(".zflow/count/*/partitions/Count/*.sqlite"):
        # A file that is just being made has no table yet.
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db,
        ):
            (fence,) = db.execute("SELECT fence FROM meta").fetchone() or (0,)
            found[int(path.stem)] = fence
    return found


def begun(shop, wait_until):
    """The run goes on, and some partitions have files."""
    shop.write(COUNT)
    running = shop.start("run", "flow.py", *PACED)
    wait_until(lambda: len(fences(shop)) >= 5, START_S)
    return running


def test_every_partition_moves_to_the_other_replica_and_back(shop, wait_until):
    running = begun(shop, wait_until)
    for number, moves in enumerate((MOVES, [f"{p}={p % 2}" for p in range(64)]), 2):
        done = shop.zflow("move", "Count", *moves)
        assert done.code == 0, done.err
        assert "partition 7 moves to Count/" in done.out
        wait_until(lambda n=number: all(f >= n for f in fences(shop).values()), START_S)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_a_replica_that_dies_after_a_move_comes_back_with_the_new_word(shop, wait_until):
    running = begun(shop, wait_until)
    done = shop.zflow("move", "Count", *MOVES, "--json")
    assert json.loads(done.out)["generation"] == 1
    kill(running.replicas("Count"))
    wait_until(lambda: all(f >= 2 for f in fences(shop).values()), START_S)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_of_several_topologies_the_one_that_is_running_is_meant(shop, wait_until):
    shop.write(COUNT.replace('Topology("count"', 'Topology("another"'))
    assert shop.zflow("run", "flow.py", "-p", "numbers.n=10").code == 0
    running = begun(shop, wait_until)
    done = shop.zflow("move", "Count", "1=0")
    assert done.out == "partition 1 moves to Count/0\n", done.err
    running.interrupt()
    assert running.end().code == 130
    done = shop.zflow("move", "Count", "1=0")
    assert "there are runs of 2 topologies here" in done.err


def test_what_cannot_move_is_refused_with_the_reason(shop, wait_until):
    running = begun(shop, wait_until)
    for words, why in {
        ("Cuont", "1=0"): "Cuont is no durable stage of this run; it has: Count",
        ("Count", "64=0"): "Count has partitions 0 to 63, not 64",
        ("Count", "1=2"): "Count has replicas 0 to 1, not 2",
        ("Count", "1to0"): "is not a move; write PARTITION=SLOT",
    }.items():
        done = shop.zflow("move", *words)
        assert done.code == 2, done.err
        assert why in done.err
    running.interrupt()
    assert running.end().code == 130
    done = shop.zflow("move", "Count", "1=0")
    assert done.code == 3
    assert "is not running: partitions move while data flows" in done.err


def test_a_run_that_is_resumed_after_a_move_begins_with_the_declared_owners(shop, wait_until):
    running = begun(shop, wait_until)
    assert shop.zflow("move", "Count", *MOVES).code == 0
    wait_until(lambda: all(f >= 2 for f in fences(shop).values()), START_S)
    kill([running.process.pid, *running.replicas()])
    running.end()
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()

"""The file below the sinks: many open it at once, and one owns a name."""

import multiprocessing
import sqlite3
from contextlib import closing

import pytest

from zflow.connectors.database import Database, OwnedDatabase
from zflow.errors import Unavailable

FORK = multiprocessing.get_context("fork")


def open_and_write(path, barrier, results):
    barrier.wait()
    try:
        database = Database(path, "process")
        database.open()
        with database.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS t (n)")
            db.execute("INSERT INTO t VALUES (1)")
        database.close()
        results.put(None)
    except Exception as error:  # noqa: BLE001 - told by the process that waits
        results.put(repr(error))


@pytest.mark.slow
def test_a_new_file_may_be_opened_by_many_processes_at_once(tmp_path):
    for start in range(10):
        barrier, results = FORK.Barrier(4), FORK.SimpleQueue()
        arguments = (tmp_path / f"{start}.db", barrier, results)
        processes = [FORK.Process(target=open_and_write, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        said = [results.get() for _ in processes]
        for process in processes:
            process.join()
        assert said == [None] * 4


def test_what_raises_inside_a_transaction_takes_all_of_it_back(tmp_path):
    database = Database(tmp_path / "db", "process")
    database.open()

    def half() -> None:
        with database.transaction() as db:
            db.execute("CREATE TABLE t (n)")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    with database.transaction() as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    database.close()


def test_the_claim_is_looked_at_under_the_lock_of_the_write(tmp_path):
    old, new = (OwnedDatabase(tmp_path / "db", "process", sink="s") for _ in range(2))
    old.open()
    other = sqlite3.connect(tmp_path / "db", timeout=0)
    with closing(other), old.transaction(), pytest.raises(sqlite3.Error, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    new.open()
    with pytest.raises(Unavailable, match="another process has opened this sink"):
        old.load_progress()
    with pytest.raises(Unavailable), old.transaction():
        pytest.fail("a stale owner came into its transaction")
    assert new.load_progress() == []
    old.close()
    new.close()


def test_a_name_can_be_claimed_again_and_again(tmp_path):
    database = OwnedDatabase(tmp_path / "db", "process")
    for _ in range(3):
        database.open()
        assert database.load_progress() == []
        database.close()

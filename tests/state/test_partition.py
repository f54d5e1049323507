"""A partition file: one owner, all of a commit or nothing, and numbers that never fall."""

import os
import resource
import socket
import sqlite3
import stat
import threading
from contextlib import closing

import pytest

from zflow.errors import ConfigError, InternalError, Unavailable
from zflow.paths import StateDirectory
from zflow.state import partition, schema
from zflow.state.partition import (
    Batch,
    Fenced,
    OutboxRow,
    PartitionFile,
    SeenRow,
    decode_numbers,
    encode_numbers,
)
from zflow.state.reader import read_partition, stored_partitions
from zflow.wire.run import INDEX, OSEQ

U64 = (1 << 64) - 1
SEEN = SeenRow(
    origin=U64, path=1 << 63, axis=OSEQ, fixed=3, numbers=encode_numbers([(5, 8), (9, 10)]), top=9
)


def acquire(path, **changes):
    wanted = {"stage": "count", "partition": 7, "partitions": 64, "durability": "process"}
    return PartitionFile(path, **(wanted | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "007.sqlite"


@pytest.fixture
def owner(path):
    made = acquire(path)
    yield made
    made.close()


@pytest.fixture
def again(owner, path):
    """What the next owner finds."""

    def load():
        owner.close()
        successor = acquire(path)
        successor.close()
        return successor.loaded

    return load


# --- what is stored


def test_a_new_partition_is_empty_and_has_a_birth_of_its_own(owner, tmp_path):
    other = acquire(tmp_path / "008.sqlite", partition=8)
    other.close()
    loaded = owner.loaded
    assert (loaded.fence, loaded.next_oseq, loaded.outbox_low, loaded.done) == (1, 0, 0, False)
    assert (loaded.watermarks, loaded.seen, loaded.outbox) == ({}, [], [])
    assert loaded.birth != other.loaded.birth


def test_the_birth_stays_and_the_fence_rises_with_each_acquisition(owner, again):
    loaded = again()
    assert (loaded.birth, loaded.fence) == (owner.loaded.birth, 2)


def test_all_of_a_batch_is_found_by_the_next_owner(owner, again, path):
    outbox = [OutboxRow(first=0, n=2, raw=b"two"), OutboxRow(first=2, n=1, raw=b"one")]
    owner.commit(
        Batch(
            seen=[SEEN],
            watermarks={U64: 4, 0: 1},
            state=[(b"k", b"v"), (b"gone", b"v"), (b"gone", None)],
            outbox=outbox,
            next_oseq=3,
            done=True,
        )
    )
    assert (owner.get(b"k"), owner.get(b"gone"), owner.get(b"other")) == (b"v", None, None)
    loaded = again()
    assert (loaded.seen, loaded.watermarks, loaded.outbox) == ([SEEN], {U64: 4, 0: 1}, outbox)
    assert (loaded.next_oseq, loaded.outbox_low, loaded.done) == (3, 0, True)


def test_a_run_of_units_goes_when_it_lies_wholly_below_the_watermark_of_its_origin(owner, again):
    along_index = SeenRow(origin=1, path=2, axis=INDEX, fixed=9, numbers=SEEN.numbers, top=9)
    of_another = SeenRow(origin=2, path=2, axis=INDEX, fixed=9, numbers=SEEN.numbers, top=9)
    owner.commit(Batch(seen=[SEEN, along_index, of_another], watermarks={U64: 9, 1: 9}))
    owner.commit(Batch(watermarks={1: 10}))
    assert again().seen == [SEEN, of_another]


def test_an_outbox_row_goes_when_it_lies_wholly_below_the_low_mark(owner, again):
    rows = [OutboxRow(first=first, n=10, raw=b"x") for first in (0, 10, 20)]
    owner.commit(Batch(outbox=rows, next_oseq=30))
    owner.commit(Batch(outbox_low=19))
    assert again().outbox == rows[1:]


def test_numbers_never_fall_even_without_any_rows(owner, again):
    owner.commit(Batch(watermarks={1: 5}, next_oseq=30, outbox_low=30, done=True))
    owner.commit(Batch(watermarks={1: 4}, next_oseq=3, outbox_low=2))
    loaded = again()
    assert loaded.watermarks == {1: 5}
    assert (loaded.next_oseq, loaded.outbox_low, loaded.done) == (30, 30, True)


def test_ranges_of_numbers_come_back_as_they_were():
    ranges = [(0, 1), (5, 9), (U64 - 1, U64)]
    assert decode_numbers(encode_numbers(ranges)) == ranges
    assert decode_numbers(encode_numbers([])) == []
    assert len(encode_numbers([(0, 100)])) == 3


def test_the_state_is_read_in_key_order_page_by_page(owner, monkeypatch):
    monkeypatch.setattr(partition, "PAGE_ROWS", 2)
    rows = [(bytes([number]), b"v") for number in range(5)]
    owner.commit(Batch(state=rows[::-1]))
    assert list(owner.items()) == rows
    assert len(owner.page(None)) == 2


def test_a_key_that_stays_comes_once_while_commits_go_on(owner, monkeypatch):
    monkeypatch.setattr(partition, "PAGE_ROWS", 2)
    owner.commit(Batch(state=[(bytes([number]), b"old") for number in range(1, 8)]))
    found = []
    for key, value in owner.items():
        found.append((key, value))
        owner.commit(Batch(state=[(b"\x00", b""), (b"\x02", None), (b"\x07", b"new")]))
    assert [key[0] for key, _ in found] == [1, 2, 3, 4, 5, 6, 7]
    assert found[-1] == (b"\x07", b"new")


def test_keys_are_counted_without_reading_them(owner, again, path):
    owner.commit(Batch(state=[(bytes([number]), b"v") for number in range(5)]))
    owner.commit(Batch(state=[(b"\x00", b"w"), (b"\x01", None), (b"\x01", None), (b"x", None)]))
    assert owner.count() == (4, 0)
    many = [number.to_bytes(2, "big") for number in range(2000)]
    assert owner.count([b"\x00", b"\x01", b"\x02", *many]) == (4, 2)


def test_reading_goes_on_in_another_thread_while_a_commit_is_open(owner):
    owner.commit(Batch(state=[(b"k", b"old")]))
    owner._writer.execute("BEGIN IMMEDIATE")
    owner._writer.execute("UPDATE state SET value = x'00'")
    found = []
    reader = threading.Thread(target=lambda: found.append(owner.get(b"k")))
    reader.start()
    reader.join()
    owner._writer.execute("ROLLBACK")
    assert found == [b"old"]


# --- failures


def test_a_full_disk_applies_nothing_and_the_partition_goes_on_after_a_reload(owner):
    owner.commit(Batch(state=[(b"k", b"v")], next_oseq=1))
    owner._writer.execute("PRAGMA max_page_count=1")
    batch = Batch(
        seen=[SEEN],
        state=[(b"k", b"w" * 100_000)],
        outbox=[OutboxRow(first=1, n=1, raw=b"")],
        next_oseq=2,
    )
    with pytest.raises(Unavailable, match="007.sqlite: database or disk is full"):
        owner.commit(batch)
    loaded = owner.reload()
    assert (loaded.seen, loaded.outbox, loaded.next_oseq, loaded.fence) == ([], [], 1, 1)
    assert owner.get(b"k") == b"v"
    owner.commit(batch)
    assert owner.reload().next_oseq == 2


def test_a_write_that_the_operating_system_refuses_applies_nothing(owner, path):
    owner.commit(Batch(state=[(b"k", b"v")]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(Unavailable):
            owner.commit(Batch(state=[(b"k", b"w" * 1_000_000)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    owner.reload()
    assert owner.get(b"k") == b"v"
    owner.commit(Batch(state=[(b"k", b"new")]))
    assert owner.get(b"k") == b"new"


def test_a_batch_that_reuses_an_output_number_is_our_own_fault_and_changes_nothing(owner):
    row = OutboxRow(first=0, n=1, raw=b"x")
    owner.commit(Batch(outbox=[row], next_oseq=1))
    with pytest.raises(InternalError, match="a batch does not fit"):
        owner.commit(Batch(outbox=[row], state=[(b"k", b"v")]))
    assert owner.get(b"k") is None


def test_a_partition_that_was_closed_is_unavailable(path):
    owner = acquire(path)
    owner.close()
    for use in (lambda: owner.get(b"k"), lambda: owner.page(None), owner.count):
        with pytest.raises(Unavailable, match="closed"):
            use()
    with pytest.raises(Unavailable, match="closed"):
        owner.commit(Batch())
    owner.close()


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        acquire(tmp_path / "none" / "007.sqlite")


def test_a_file_that_is_no_database_is_unavailable_and_left_as_it_is(path):
    path.write_bytes(b"something else" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        acquire(path)
    assert path.read_bytes() == b"something else" * 100


# --- one owner


def test_a_partition_that_is_held_is_refused_with_a_sentence(owner, path):
    with pytest.raises(Unavailable, match="another process holds partition 7 of stage 'count'"):
        acquire(path)
    assert owner.reload().fence == 1


def test_a_stale_owner_is_fenced_and_applies_nothing(owner, path):
    path.with_name("007.sqlite.lock").unlink()  # so that both believe to be the owner
    successor = acquire(path)
    with pytest.raises(Fenced, match=r"another process has acquired .*fence 2, ours is 1"):
        owner.commit(Batch(state=[(b"k", b"stale")], next_oseq=9))
    successor.commit(Batch(state=[(b"k", b"new")]))  # not kept waiting by the other
    with pytest.raises(Fenced):
        owner.reload()
    assert (successor.get(b"k"), successor.reload().next_oseq) == (b"new", 0)
    successor.close()


def test_an_acquisition_that_failed_leaves_the_partition_to_others(path):
    acquire(path).close()
    with pytest.raises(ConfigError):
        acquire(path, partitions=16)
    acquire(path).close()


def test_another_number_of_partitions_is_refused_with_both_numbers_and_the_fix(path):
    acquire(path).close()
    with pytest.raises(ConfigError) as refused:
        acquire(path, partitions=16)
    (problem,) = refused.value.problems
    assert "was made for 64 partitions and the topology now says 16" in problem.message
    assert problem.fix == "declare 64 partitions again, or start a new run"


@pytest.mark.parametrize("other", [{"stage": "sum"}, {"partition": 8}])
def test_the_file_of_another_partition_is_refused(path, other):
    acquire(path).close()
    with pytest.raises(ConfigError, match="holds partition 7 of stage 'count'; partition"):
        acquire(path, **other)


def test_a_file_of_a_newer_zflow_is_refused(path):
    acquire(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(ConfigError, match="has schema 9, made by a newer zflow; this one reads 2"):
        acquire(path)
    with pytest.raises(ConfigError, match="has schema 9"), read_partition(path):
        pass


def test_every_version_has_a_migration_from_the_one_before():
    assert sorted(schema.MIGRATIONS) == list(range(1, schema.SCHEMA_VERSION + 1))


def test_a_file_whose_maker_died_before_its_tables_is_made_anew(path):
    schema.create(path)
    with read_partition(path) as found:
        assert found is None
    acquire(path).close()


def test_a_new_file_is_there_as_a_whole_and_one_that_exists_is_left_as_it_is(path):
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(b"half of one, of a maker that died")
    schema.make(path)
    assert not draft.exists()
    with read_partition(path) as found:
        assert found is None
    with closing(schema.connect(path, writable=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    made = acquire(path)
    made.commit(Batch(state=[(b"k", b"v")]))
    made.close()
    schema.make(path)
    again = acquire(path)
    assert again.get(b"k") == b"v"
    again.close()


def test_only_this_user_can_read_what_is_stored(owner, path):
    owner.commit(Batch(state=[(b"k", b"v")]))
    made = list(path.parent.iterdir())
    assert {found.name.removeprefix(path.name) for found in made} == {"", "-wal", "-shm", ".lock"}
    for found in made:
        assert stat.S_IMODE(found.stat().st_mode) == 0o600, found


def test_the_partitions_of_a_run_lie_in_private_folders_by_stage(tmp_path):
    state = StateDirectory(tmp_path / "run")
    state.make()
    state.make_partitions("count")
    where = state.partition("count", 7)
    assert where == tmp_path / "run" / "partitions" / "count" / "007.sqlite"
    for folder in (where.parent, where.parents[1]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    acquire(where).close()
    assert stored_partitions(state) == {"count": [where]}


# --- tools


def test_a_reader_sees_everything_and_changes_nothing(owner, path, again):
    owner.commit(Batch(seen=[SEEN], state=[(b"k", b"v"), (b"l", b"ww")], next_oseq=1))
    with read_partition(path) as reader:
        assert (reader.stage, reader.partition, reader.partitions) == ("count", 7, 64)
        assert (reader.load().seen, reader.load().fence) == ([SEEN], 1)
        assert list(reader.items()) == [(b"k", b"v"), (b"l", b"ww")]
        assert (reader.count(), reader.size_bytes(), reader.get(b"l")) == (2, 5, b"ww")
    owner.commit(Batch(next_oseq=2))
    assert again().fence == 2


def test_a_reader_sees_one_moment_however_long_it_reads(owner, path):
    owner.commit(Batch(state=[(b"k", b"old")]))
    with read_partition(path) as reader:
        owner.commit(Batch(state=[(b"k", b"new"), (b"l", b"more")]))
        assert (reader.get(b"k"), reader.count()) == (b"old", 1)


def test_a_reader_of_a_missing_or_broken_file_is_unavailable(path):
    with pytest.raises(Unavailable, match="unable to open"), read_partition(path):
        pass
    path.write_bytes(b"something else" * 100)
    with pytest.raises(Unavailable, match="not a database"), read_partition(path):
        pass


def test_a_backup_is_complete_private_and_born_again(owner, path, tmp_path):
    owner.commit(Batch(seen=[SEEN], state=[(b"k", b"v")], next_oseq=5))
    copied = tmp_path / "copy.sqlite"
    with read_partition(path) as reader:
        owner.commit(Batch(state=[(b"k", b"new")]))
        reader.backup(copied)
    assert stat.S_IMODE(copied.stat().st_mode) == 0o600
    restored = acquire(copied)
    assert (restored.get(b"k"), restored.loaded.next_oseq) == (b"v", 5)
    assert restored.loaded.birth != owner.loaded.birth
    restored.close()


def test_a_forked_child_does_not_keep_the_lock(path):
    owner = acquire(path)
    parents, childs = socket.socketpair()
    child = os.fork()
    if child == 0:
        parents.close()
        childs.send(b"up")
        childs.recv(1)  # until the parent closes its end
        os._exit(0)
    childs.close()
    assert parents.recv(2) == b"up"
    owner.close()
    acquire(path).close()
    parents.close()
    os.waitpid(child, 0)

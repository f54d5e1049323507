"""The position of a source: it is born once and its mark never goes back."""

import sqlite3

import pytest

from zflow.errors import Unavailable
from zflow.state.positions import Mark, Position, PositionFile

MARK = Mark(end=100, checksum=17, place=b"there")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "read-0.sqlite"


@pytest.fixture
def position(path):
    made = PositionFile(path)
    yield made
    made.close()


def test_a_new_source_begins_at_0_with_a_birth_of_its_own(position, tmp_path):
    other = PositionFile(tmp_path / "read-1.sqlite")
    first, second = position.load(), other.load()
    other.close()
    assert first == Position(birth=first.birth, low=0, ended=False, mark=None)
    assert first.birth != second.birth


def test_the_birth_outlives_the_process(position, path):
    again = PositionFile(path)
    assert again.load().birth == position.load().birth
    again.close()


def test_what_was_stored_is_loaded(position):
    position.store(120, ended=True, mark=MARK)
    loaded = position.load()
    assert (loaded.low, loaded.ended, loaded.mark) == (120, True, MARK)


def test_a_late_writer_cannot_take_the_mark_back(position, path):
    zombie = PositionFile(path)
    position.store(120, ended=True, mark=MARK)
    zombie.store(60, ended=False, mark=Mark(end=50, checksum=3, place=b"before"))
    zombie.close()
    loaded = position.load()
    assert (loaded.low, loaded.ended, loaded.mark) == (120, True, MARK)


def test_the_end_the_checksum_and_the_place_of_a_mark_belong_together(position):
    position.store(120, ended=False, mark=MARK)
    position.store(130, ended=False, mark=None)
    assert (position.load().low, position.load().mark) == (130, MARK)
    newer = Mark(end=101, checksum=18, place=None)
    position.store(110, ended=False, mark=newer)
    assert (position.load().low, position.load().mark) == (130, newer)


def test_a_file_of_another_schema_is_refused(path):
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(ValueError, match="has schema 9; this zflow reads 1"):
        PositionFile(path)


def test_a_disk_that_refuses_is_told_and_changes_nothing(position, path):
    position.store(5, ended=False, mark=None)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("DROP TABLE position")
    with pytest.raises(Unavailable, match="no such table"):
        position.store(6, ended=False, mark=None)
    blocker.close()


def test_opening_it_again_writes_nothing_so_that_a_source_can_start_on_a_full_disk(position, path):
    position.store(5, ended=False, mark=None)
    wal = path.with_name(path.name + "-wal")
    before = wal.read_bytes()
    again = PositionFile(path)
    assert again.load().low == 5
    assert wal.read_bytes() == before
    again.close()

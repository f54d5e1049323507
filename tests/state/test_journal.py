"""The journal of a source that cannot be replayed."""

import sqlite3

import pytest

from zflow.errors import Incompatible, Unavailable
from zflow.state.journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "read-0.journal.sqlite"


def test_what_was_appended_is_there_after_the_process_is_gone(path):
    first = Journal(path, low=0)
    for k in range(1000):
        first.append(b"%d" % k, low=0)
    second = Journal(path, low=0)  # `first` was never closed
    assert list(second.items(0)) == [b"%d" % k for k in range(1000)]
    assert list(second.items(998)) == [b"998", b"999"]
    assert second.next == 1000
    first.close()
    second.close()


def test_settled_items_are_forgotten_and_numbers_never_fall(path):
    journal = Journal(path, low=0)
    for k in range(10):
        journal.append(b"%d" % k, low=k)
    journal.close()
    journal = Journal(path, low=9)
    assert list(journal.items(9)) == [b"9"]
    journal.append(b"10", low=11)
    journal.close()
    journal = Journal(path, low=11)
    assert journal.next == 11
    assert list(journal.items(11)) == []
    journal.close()


def test_a_gap_is_told_and_never_skipped(path):
    journal = Journal(path, low=0)
    for k in range(3):
        journal.append(b"%d" % k, low=0)
    journal._db.execute("DELETE FROM item WHERE oseq = 1")
    with pytest.raises(ValueError, match="item 1 is missing"):
        list(journal.items(0))
    journal.close()


def test_an_append_that_fails_leaves_no_trace_and_may_be_tried_again(path):
    journal = Journal(path, low=0)
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    journal._db.execute("PRAGMA busy_timeout=0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        journal.append(b"0", low=0)
    other.execute("ROLLBACK")
    other.close()
    journal.append(b"0", low=0)
    assert list(journal.items(0)) == [b"0"]
    journal.close()


def test_a_newer_journal_is_refused_with_a_sentence(path):
    journal = Journal(path, low=0)
    journal._db.execute("PRAGMA user_version=9")
    journal.close()
    with pytest.raises(Incompatible, match="schema 9; this zflow reads 1"):
        Journal(path, low=0)


def test_every_append_is_on_the_disk_before_it_returns(path):
    journal = Journal(path, low=0)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()

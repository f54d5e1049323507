"""The store of dead letters: committed or refused, read back, marked."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from zflow.errors import Unavailable
from zflow.state.deadletter import (
    DeadLetter,
    DeadLetterStore,
    mark_replayed,
    read_dead_letters,
)

LETTER = DeadLetter(
    origin="00000000000000aa",
    oseq=5,
    path="00000000000000bb",
    index=0,
    stage="parse",
    edge="read->parse",
    attempts=4,
    code="error",
    error_class="ValueError",
    error="Traceback ...\nValueError: five",
    item=b"\x80\x05K\x05.",
    shown="5",
    maybe_applied=False,
    buried_at_s=1000.5,
)

BURIER = """
import sys
from pathlib import Path
from zflow.state.deadletter import DeadLetterStore, DeadLetter

fields = dict(origin="a", oseq=1, path="b", index=0, stage="parse", edge="read->parse", attempts=1,
              code="error", error_class="E", error="e", item=None, shown="1", maybe_applied=False,
              buried_at_s=1.0)
DeadLetterStore(Path(sys.argv[1])).bury([DeadLetter(**fields)])
print("buried", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def store(folder):
    made = DeadLetterStore(folder / "parse-0.dead.sqlite")
    yield made
    made.close()


def letters(folder):
    return [stored.letter for stored in read_dead_letters(folder)]


def test_what_was_buried_is_read_back_as_it_was(store, folder):
    others = [replace(LETTER, oseq=6, item=None), replace(LETTER, oseq=7, maybe_applied=True)]
    store.bury([LETTER, *others])
    assert letters(folder) == [LETTER, *others]


def test_ids_name_the_slot_and_the_row(store, folder):
    store.bury([LETTER, replace(LETTER, oseq=6)])
    assert [stored.id for stored in read_dead_letters(folder)] == ["parse-0:1", "parse-0:2"]


def test_all_stores_of_a_run_are_read_in_order(store, folder):
    other = DeadLetterStore(folder / "count-1.dead.sqlite")
    other.bury([LETTER])
    other.close()
    store.bury([LETTER])
    assert [stored.id for stored in read_dead_letters(folder)] == ["count-1:1", "parse-0:1"]


def test_a_run_without_dead_letters_has_none(folder):
    assert list(read_dead_letters(folder)) == []


def test_a_unit_that_is_given_up_again_keeps_one_row_with_the_newest_attempt(store, folder):
    store.bury([replace(LETTER, maybe_applied=True)])
    newest = replace(LETTER, attempts=8, error_class="KeyError", error="again", buried_at_s=2000.0)
    store.bury([newest])
    # That an attempt may have had its effect is never taken back.
    assert letters(folder) == [replace(newest, maybe_applied=True)]


def test_the_same_item_on_two_edges_is_two_letters(store, folder):
    store.bury([LETTER, replace(LETTER, edge="read->count", stage="count")])
    assert len(letters(folder)) == 2


def test_all_of_a_batch_or_none_is_committed(store, folder):
    with pytest.raises(Unavailable, match=r"parse-0\.dead\.sqlite: "):
        store.bury([LETTER, replace(LETTER, oseq=6, stage=None)])
    assert letters(folder) == []
    store.bury([LETTER])
    assert letters(folder) == [LETTER]


def test_a_folder_that_is_not_there_is_refused_with_its_name(folder):
    with pytest.raises(Unavailable, match="absent"):
        DeadLetterStore(folder / "absent" / "x.dead.sqlite")


def test_a_store_of_another_schema_is_refused(folder):
    path = folder / "old.dead.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(ValueError, match="has schema 9; this zflow reads 1"):
        DeadLetterStore(path)


def test_letters_that_were_sent_again_are_marked_and_the_others_are_not(store, folder):
    store.bury([LETTER, replace(LETTER, oseq=6), replace(LETTER, oseq=7)])
    mark_replayed(folder, ["parse-0:1", "parse-0:3"])
    assert [stored.replayed for stored in read_dead_letters(folder)] == [True, False, True]


def test_only_its_owner_may_read_the_store(store, folder):
    assert (folder / "parse-0.dead.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_what_bury_has_returned_for_survives_sigkill(folder):
    path = folder / "parse-0.dead.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", BURIER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"buried\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [letter.oseq for letter in letters(folder)] == [1]

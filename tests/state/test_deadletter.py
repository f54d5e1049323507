"""The store of dead letters: committed or refused, read back, marked."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import fields, replace

import pytest

from zflow.errors import Incompatible, Unavailable
from zflow.state.deadletter import (
    MAX_SHOWN_CHARS,
    DeadLetter,
    DeadLetterStore,
    edit_letter,
    mark_replayed,
    purge,
    read_dead_letters,
    shown_item,
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
    version="0123456789ab",
)

# As zflow wrote it before the columns `version` and `original`.
SCHEMA_1 = """
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    origin TEXT NOT NULL, oseq INTEGER NOT NULL, path TEXT NOT NULL, "index" INTEGER NOT NULL,
    stage TEXT NOT NULL, edge TEXT NOT NULL, attempts INTEGER NOT NULL,
    code TEXT NOT NULL, error_class TEXT NOT NULL, error TEXT NOT NULL,
    item BLOB, shown TEXT NOT NULL, maybe_applied INTEGER NOT NULL, buried_at_s REAL NOT NULL,
    replayed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (origin, oseq, path, "index", stage, edge)
)
"""
OLD = replace(LETTER, version="")

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


@pytest.fixture
def newer(folder):
    """A store that a later zflow wrote."""
    path = folder / "parse-0.dead.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=9")
    return path


@pytest.mark.parametrize(
    "use",
    [
        DeadLetterStore,
        lambda path: list(read_dead_letters(path.parent)),
        lambda path: mark_replayed(path.parent, ["parse-0:1"]),
        lambda path: purge(path.parent, ["parse-0:1"]),
    ],
    ids=["write", "read", "mark", "purge"],
)
def test_a_store_of_a_newer_schema_is_refused_in_a_sentence(newer, use):
    with pytest.raises(Incompatible) as refused:
        use(newer)
    assert str(refused.value) == (
        f"{newer} has schema 9; this zflow reads up to 2: use the zflow that wrote it, "
        "or a newer one"
    )


def test_two_items_of_one_unit_are_two_letters(folder):
    store = DeadLetterStore(folder / "parse-0.dead.sqlite")
    store.bury([LETTER, replace(LETTER, place=1)])
    store.bury([replace(LETTER, place=1, attempts=9)])
    store.close()
    assert [(one.place, one.attempts) for one in letters(folder)] == [(0, LETTER.attempts), (1, 9)]


# --- files of schema 1 ---------------------------------------------------------------------------


@pytest.fixture
def old(folder):
    """A store of schema 1 with two letters, the second of them sent again."""
    path = folder / "parse-0.dead.sqlite"
    newer = ("version", "place")
    names = [field.name for field in fields(DeadLetter) if field.name not in newer]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(SCHEMA_1)
        db.execute("PRAGMA user_version=1")
        for oseq, replayed in ((5, 0), (6, 1)):
            row = [getattr(replace(LETTER, oseq=oseq), name) for name in names]
            columns = ", ".join(f'"{name}"' for name in [*names, "replayed"])
            marks = ", ".join("?" * (len(row) + 1))
            db.execute(f"INSERT INTO dead ({columns}) VALUES ({marks})", [*row, replayed])
    return path


def schema(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def test_a_file_of_schema_1_is_read_and_stays_what_it_is(old, folder):
    before = old.read_bytes()
    stored = list(read_dead_letters(folder))
    assert [one.letter for one in stored] == [OLD, replace(OLD, oseq=6)]
    assert [one.replayed for one in stored] == [False, True]
    assert [one.original for one in stored] == [None, None]
    assert old.read_bytes() == before


def test_a_file_of_schema_1_is_migrated_in_place_when_its_writer_opens_it(old, folder):
    store = DeadLetterStore(old)
    store.bury([replace(LETTER, oseq=7)])
    store.close()
    assert schema(old) == 2
    assert letters(folder) == [OLD, replace(OLD, oseq=6), replace(LETTER, oseq=7)]
    # A unit that had a letter before is still the same unit, and has failed in newer code now.
    store = DeadLetterStore(old)
    store.bury([LETTER])
    store.close()
    assert letters(folder)[0] == LETTER
    assert [stored.id for stored in read_dead_letters(folder)] == [
        f"parse-0:{k}" for k in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: mark_replayed(folder, ["parse-0:1"]),
        lambda folder: edit_letter(folder, next(read_dead_letters(folder)), b"new", "new"),
        lambda folder: purge(folder, ["parse-0:1"]),
    ],
    ids=["mark", "edit", "purge"],
)
def test_a_file_of_schema_1_is_migrated_by_whoever_changes_it(old, folder, change):
    change(folder)
    assert schema(old) == 2
    assert OLD.oseq + 1 in [letter.oseq for letter in letters(folder)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(old, folder):
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("CREATE TABLE older (id)")  # so that its step fails
    with pytest.raises(Unavailable, match="already"):
        DeadLetterStore(old)
    assert schema(old) == 1
    assert letters(folder) == [OLD, replace(OLD, oseq=6)]


# --- what people do to letters -------------------------------------------------------------------


def test_letters_that_were_sent_again_are_marked_and_the_others_are_not(store, folder):
    store.bury([LETTER, replace(LETTER, oseq=6), replace(LETTER, oseq=7)])
    mark_replayed(folder, ["parse-0:1", "parse-0:3"])
    assert [stored.replayed for stored in read_dead_letters(folder)] == [True, False, True]


def edit(folder, item, shown="new"):
    """Give the first letter another item."""
    assert edit_letter(folder, next(read_dead_letters(folder)), item, shown)
    return next(read_dead_letters(folder))


def test_an_edited_letter_keeps_the_item_that_failed_however_often_it_is_edited(store, folder):
    store.bury([LETTER, replace(LETTER, oseq=6)])
    edit(folder, b"second")
    edited = edit(folder, b"third", "3")
    assert edited.letter == replace(LETTER, item=b"third", shown="3")
    assert edited.original == LETTER.item
    assert letters(folder)[1] == replace(LETTER, oseq=6)


def test_a_letter_that_got_its_first_item_back_is_not_edited(store, folder):
    store.bury([LETTER])
    edit(folder, b"second")
    assert edit(folder, LETTER.item).original is None


def test_a_letter_that_somebody_else_has_edited_meanwhile_is_left_alone(store, folder):
    store.bury([LETTER])
    known = next(read_dead_letters(folder))
    edit(folder, b"theirs")
    assert not edit_letter(folder, known, b"mine", "mine")
    assert letters(folder)[0].item == b"theirs"


def test_a_unit_that_is_given_up_again_keeps_its_edited_item(store, folder):
    store.bury([LETTER])
    edit(folder, b"second")
    store.bury([replace(LETTER, attempts=8)])
    (stored,) = read_dead_letters(folder)
    assert (stored.letter.item, stored.letter.attempts) == (b"second", 8)
    assert stored.original == LETTER.item


def test_purged_letters_are_gone_their_space_is_free_and_their_ids_are_not_used_again(folder):
    path = folder / "parse-0.dead.sqlite"
    store = DeadLetterStore(path)
    store.bury([replace(LETTER, oseq=k, item=b"x" * 100_000) for k in range(10)])
    store.close()
    before = path.stat().st_size
    assert purge(folder, [f"parse-0:{k}" for k in (2, 3, 4, 5, 6, 7, 8, 9, 10, 99)]) == 9
    assert [stored.id for stored in read_dead_letters(folder)] == ["parse-0:1"]
    assert path.stat().st_size < before / 5
    assert purge(folder, ["parse-0:1"]) == 1
    store = DeadLetterStore(path)
    store.bury([LETTER])
    store.close()
    assert [stored.id for stored in read_dead_letters(folder)] == ["parse-0:11"]


def test_letters_are_gone_even_if_their_space_cannot_be_given_back(folder):
    store = DeadLetterStore(folder / "parse-0.dead.sqlite")
    large = [replace(LETTER, oseq=k, item=b"x" * 1_000_000) for k in range(2)]
    store.bury([large[0], LETTER, large[1]])
    store.close()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # enough for the row alone
    try:
        with pytest.raises(Unavailable, match="1 removed, but their space is not free: .*sqlite: "):
            purge(folder, ["parse-0:2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [stored.id for stored in read_dead_letters(folder)] == ["parse-0:1", "parse-0:3"]


def test_letters_are_purged_from_every_store_that_has_them(store, folder):
    other = DeadLetterStore(folder / "dead:a:b-0.dead.sqlite")
    other.bury([LETTER])
    other.close()
    store.bury([LETTER, replace(LETTER, oseq=6)])
    assert purge(folder, ["parse-0:2", "dead:a:b-0:1"]) == 2
    assert [stored.id for stored in read_dead_letters(folder)] == ["parse-0:1"]


def test_a_store_that_is_not_there_is_not_made_by_changing_it(folder):
    with pytest.raises(Unavailable, match=r"absent-0\.dead\.sqlite: unable to open"):
        purge(folder, ["absent-0:1"])
    assert list(folder.iterdir()) == []


def test_a_file_that_is_no_store_is_refused_with_its_name(folder):
    (folder / "parse-0.dead.sqlite").write_bytes(b"no database at all" * 99)
    with pytest.raises(Unavailable, match=r"parse-0\.dead\.sqlite: file is not a database"):
        list(read_dead_letters(folder))


def test_a_store_is_found_whatever_its_folder_is_called(tmp_path):
    folder = tmp_path / "50% of #1?"
    folder.mkdir()
    store = DeadLetterStore(folder / "parse-0.dead.sqlite")
    store.bury([LETTER])
    store.close()
    mark_replayed(folder, ["parse-0:1"])
    assert [stored.replayed for stored in read_dead_letters(folder)] == [True]


class Broken:
    def __repr__(self):
        raise OSError("no")


def test_an_item_is_shown_in_a_bounded_text_that_never_fails():
    assert shown_item({"a": 1}) == "{'a': 1}"
    assert shown_item("x" * 5000) == "'" + "x" * (MAX_SHOWN_CHARS - 1) + "..."
    assert shown_item(Broken()) == "<Broken: its repr raised OSError>"


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

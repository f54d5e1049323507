"""Each promise of a sink has a sink that breaks it, and the check of the promise says so."""

import json
import sqlite3
from contextlib import closing, suppress

import pytest

from zflow.connectors.database import Database
from zflow.connectors.files import AppendLines, JsonLines
from zflow.connectors.sqlite import SqliteTable, SqliteUpsert
from zflow.testing import sink_promises as promises
from zflow.testing.sink_faults import BrokenContract
from zflow.testing.sink_trial import IdempotentTrial, PlainTrial, TransactionalTrial
from zflow.testing.sinks import check_idempotent, check_plain, check_transactional

pytestmark = pytest.mark.slow


class Table(SqliteTable):
    def __init__(self, path):
        super().__init__(path, table="results", durability="process")


class Upsert(SqliteUpsert):
    def __init__(self, path):
        super().__init__(path, table="results", durability="process")


# --- sinks that are broken in one way ------------------------------------------------------------


class CannotBeEmpty(Table):
    def commit(self, items, ids, progress):
        if items:
            super().commit(items, ids, progress)


class ForgetsItsText(Table):
    def commit(self, items, ids, progress):
        items = [{**item, "text": item["text"].strip()} for item in items]
        super().commit(items, ids, progress)


class HasALimit(Table):
    def commit(self, items, ids, progress):
        super().commit(items[:5000], ids[:5000], progress)


class StaysInItsThread(Table):
    def open(self):
        super().open()
        self._mine = sqlite3.connect(":memory:")

    def commit(self, items, ids, progress):
        self._mine.execute("SELECT 1")
        super().commit(items, ids, progress)


class ClosesOnce(Table):
    def open(self):
        super().open()
        self._mine = sqlite3.connect(":memory:")

    def close(self):
        self._mine.execute("PRAGMA optimize")
        self._mine.close()
        super().close()


class KeepsThemUntilClose(Table):
    def open(self):
        super().open()
        self._kept = []

    def commit(self, items, ids, progress):
        self._kept.append((list(items), ids, list(progress)))

    def close(self):
        for kept in self._kept:
            super().commit(*kept)
        self._kept = []
        super().close()


class TakesTextOnly(Table):
    def commit(self, items, ids, progress):
        rows = [(key.strip(b"\0"), value) for key, value in progress]
        super().commit(items, ids, rows)


class NeverDeletes(Table):
    def commit(self, items, ids, progress):
        super().commit(items, ids, [row for row in progress if row[1] is not None])


class Swallows(Table):
    def commit(self, items, ids, progress):
        with suppress(Exception):
            super().commit(items, ids, progress)


class TwoSteps(Table):
    def commit(self, items, ids, progress):
        super().commit(items, ids, [])
        super().commit([], [], progress)


class OneBehind(Table):
    def open(self):
        super().open()
        self._last = []

    def commit(self, items, ids, progress):
        super().commit(self._last, ids, progress)
        self._last = items


class NoFence(Table):
    def open(self):
        super().open()
        database = self._database
        database.transaction = lambda: Database.transaction(database)


class NeverCuts(JsonLines):
    def _cut(self, recorded_bytes):
        pass


class Inserts(Upsert):
    def upsert(self, items, ids):
        super().upsert(
            items, [f"{item_id} {item}" for item, item_id in zip(items, ids, strict=True)]
        )


class FirstOneWins(Upsert):
    def upsert(self, items, ids):
        known = ids_in(self._database.path)
        pairs = [pair for pair in zip(items, ids, strict=True) if pair[1] not in known]
        super().upsert([item for item, _ in pairs], [item_id for _, item_id in pairs])


def ids_in(path):
    with closing(sqlite3.connect(path)) as db, suppress(sqlite3.OperationalError):
        return {item_id for (item_id,) in db.execute("SELECT item_id FROM results")}
    return set()


class RunsInto(AppendLines):
    """Writes bytes as they come, so that what a call left behind runs into the next line."""

    def write(self, items):
        for item in items:
            line = json.dumps(item).encode() + b"\n"
            self._file.write(line[:9], at=0)
            self._file.write(line[9:], at=0)


class RemembersWhatItBegan(AppendLines):
    """Takes a call that raised for done."""

    def open(self):
        super().open()
        self._begun = set()

    def write(self, items):
        first = repr(list.__getitem__(items, 0)) if items else ""
        if first not in self._begun:
            self._begun.add(first)
            super().write(items)


# --- and who says so -----------------------------------------------------------------------------


def rows_in(path):
    with closing(sqlite3.connect(path)) as db, suppress(sqlite3.OperationalError):
        rows = db.execute("SELECT number, text FROM results").fetchall()
        return [{"number": number, "text": text} for number, text in rows]
    return []


def lines_in(path):
    return [parsed(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def parsed(line):
    with suppress(ValueError):
        return json.loads(line)
    return line  # a piece, which equals no item


KINDS = {
    Table: (TransactionalTrial, rows_in, check_transactional),
    JsonLines: (TransactionalTrial, lines_in, check_transactional),
    Upsert: (IdempotentTrial, rows_in, check_idempotent),
    AppendLines: (PlainTrial, lines_in, check_plain),
}
REPORTED = [
    (promises.what_was_written_is_there, ForgetsItsText),
    (promises.ten_thousand_items_are_one_call, HasALimit),
    (promises.another_thread_may_write_and_close, StaysInItsThread),
    (promises.a_killed_process_keeps_what_it_wrote, KeepsThemUntilClose),
    (promises.progress_is_stored_with_the_items, TakesTextOnly),
    (promises.progress_may_come_without_items, CannotBeEmpty),
    (promises.none_deletes_a_row_of_progress, NeverDeletes),
    (promises.a_commit_that_raises_changes_nothing, Swallows),
    (promises.a_commit_that_raises_changes_nothing, TwoSteps),
    (promises.a_commit_that_is_killed_half_way_leaves_nothing, TwoSteps),
    (promises.a_commit_that_is_killed_half_way_leaves_nothing, NeverCuts),
    (promises.a_commit_that_is_killed_at_any_line_is_whole_or_absent, TwoSteps),
    (promises.commits_that_are_killed_at_random_leave_whole_batches, OneBehind),
    (promises.of_two_processes_only_one_commits, NoFence),
    (promises.the_same_id_replaces_the_same_row, Inserts),
    (promises.the_same_id_replaces_the_same_row, FirstOneWins),
    (promises.a_call_that_killed_its_process_may_come_again, RunsInto),
    (promises.a_call_that_raised_may_come_again, RemembersWhatItBegan),
]


def trial_of(sink_class, path):
    kind = next(base for base in sink_class.__mro__ if base in KINDS)
    trial_class, read, _ = KINDS[kind]
    return trial_class(lambda: sink_class(path), lambda: read(path))


@pytest.mark.parametrize(
    ("promise", "broken"),
    REPORTED,
    ids=lambda value: value.__name__.replace("_", " "),
)
def test_a_broken_promise_is_reported(promise, broken, tmp_path):
    with pytest.raises(BrokenContract):
        promise(trial_of(broken, tmp_path / "place"))


def test_what_a_sink_raises_itself_is_shown_as_it_is(tmp_path):
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        promises.closing_twice_is_harmless(trial_of(ClosesOnce, tmp_path / "place"))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (NeverDeletes, "none deletes a row of progress: 2 rows of progress are wrong"),
        (Inserts, "the same id replaces the same row: 4 items should not be there"),
        (RunsInto, "a call that killed its process may come again: "),
    ],
)
def test_a_check_names_the_promise_and_what_was_found(broken, said, tmp_path):
    path = tmp_path / "place"
    kind = next(base for base in broken.__mro__ if base in KINDS)
    _, read, check = KINDS[kind]
    with pytest.raises(BrokenContract, match=said):
        check(lambda: broken(path), lambda: read(path))


def test_every_promise_that_a_sink_can_break_unseen_has_a_sink_that_breaks_it():
    every = {*promises.PLAIN, *promises.IDEMPOTENT, *promises.TRANSACTIONAL}
    loud = {
        promises.nothing_to_write_is_harmless,  # it raises by itself
        promises.closing_twice_is_harmless,
        promises.two_processes_may_write_the_same_items,
    }
    assert every - loud == {promise for promise, _ in REPORTED}

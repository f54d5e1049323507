"""Every sink of zflow keeps the contract of its interface; a new one is a line in a table."""

import json
import sqlite3
from contextlib import closing

import pytest

from zflow.connectors.files import AppendLines, JsonLines
from zflow.connectors.sqlite import SqliteTable, SqliteUpsert
from zflow.errors import StageError
from zflow.testing.sink_promises import IDEMPOTENT, PLAIN, TRANSACTIONAL, told
from zflow.testing.sink_trial import (
    Batch,
    IdempotentTrial,
    PlainTrial,
    TransactionalTrial,
    numbered,
)
from zflow.testing.sinks import check_idempotent, check_plain, check_transactional

COLUMNS = ("number", "text")


def rows_in(path, columns="number, text"):
    """The rows of the table `results`, none before it is made."""
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchall():
            return []
        return db.execute(f"SELECT {columns} FROM results").fetchall()


def dicts_in(path):
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows_in(path)]


def lines_in(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def as_tuple(n):
    return tuple(numbered(n).values())


# name: (what makes a sink on a path, what reads it back, what makes item n)
TRANSACTIONAL_SINKS = {
    "table": (lambda path: SqliteTable(path, table="results"), dicts_in, numbered),
    "table of tuples": (
        lambda path: SqliteTable(path, table="results", columns=COLUMNS),
        rows_in,
        as_tuple,
    ),
    "table with a key": (
        lambda path: SqliteTable(path, table="results", key="number", durability="process"),
        dicts_in,
        numbered,
    ),
    "lines": (JsonLines, lines_in, numbered),
    "lines, process": (lambda path: JsonLines(path, durability="process"), lines_in, numbered),
}
IDEMPOTENT_SINKS = {
    "upsert": (lambda path: SqliteUpsert(path, table="results"), dicts_in, numbered),
    "upsert of tuples": (
        lambda path: SqliteUpsert(path, table="results", columns=COLUMNS),
        rows_in,
        as_tuple,
    ),
}
PLAIN_SINKS = {
    "append lines": (AppendLines, lines_in, numbered),
}

pytestmark = pytest.mark.slow


def each(sinks, trial_class):
    """A fixture that makes a trial of each sink, on a place of its own."""

    @pytest.fixture(params=sinks.values(), ids=sinks)
    def trial(self, request, tmp_path):
        make, read, item = request.param
        place = tmp_path / "place"
        return trial_class(lambda: make(place), lambda: read(place), item)

    return trial


def refuses(trial, misfit):
    """The sink refuses a call with that item in it, and nothing of it is stored."""
    good = trial.batch(3)
    with trial.opened() as sink:
        call = Batch([*good.items, misfit], [*good.ids, "misfit"])
        with pytest.raises(StageError, match=f"type {type(misfit).__name__}"):
            trial.write(sink, call)
        trial.expect()


def passes(check, sinks, path):
    """A whole check on one place, as users call it."""
    make, read, item = next(iter(sinks.values()))
    check(lambda: make(path), lambda: read(path), item=item)


class TestTransactional:
    trial = each(TRANSACTIONAL_SINKS, TransactionalTrial)

    @pytest.mark.parametrize("promise", TRANSACTIONAL, ids=told)
    def test_a_transactional_sink_promises_that(self, trial, promise):
        promise(trial)

    def test_an_item_it_cannot_represent_is_refused_before_anything_is_written(self, trial):
        refuses(trial, object())

    def test_it_keeps_all_promises_one_after_the_other_on_the_same_place(self, tmp_path):
        passes(check_transactional, TRANSACTIONAL_SINKS, tmp_path / "place")


class TestIdempotent:
    trial = each(IDEMPOTENT_SINKS, IdempotentTrial)

    @pytest.mark.parametrize("promise", IDEMPOTENT, ids=told)
    def test_an_idempotent_sink_promises_that(self, trial, promise):
        promise(trial)

    def test_an_item_it_cannot_represent_is_refused_before_anything_is_written(self, trial):
        refuses(trial, object())

    def test_it_keeps_all_promises_one_after_the_other_on_the_same_place(self, tmp_path):
        passes(check_idempotent, IDEMPOTENT_SINKS, tmp_path / "place")


class TestPlain:
    trial = each(PLAIN_SINKS, PlainTrial)

    @pytest.mark.parametrize("promise", PLAIN, ids=told)
    def test_a_plain_sink_promises_that(self, trial, promise):
        promise(trial)

    def test_an_item_it_cannot_represent_is_refused_before_anything_is_written(self, trial):
        refuses(trial, object())

    def test_it_keeps_all_promises_one_after_the_other_on_the_same_place(self, tmp_path):
        passes(check_plain, PLAIN_SINKS, tmp_path / "place")

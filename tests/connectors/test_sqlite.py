"""Tables: how items become rows, what is refused, and who may write."""

import sqlite3
from contextlib import closing, contextmanager

import pytest

from zflow import sink
from zflow.connectors import database
from zflow.connectors.sqlite import SqliteTable, SqliteUpsert
from zflow.errors import StageError, Unavailable
from zflow.stages import declaration_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.db"


@contextmanager
def opened(made):
    made.open()
    with closing(made):
        yield made


def commit(made, *items):
    made.commit(list(items), [str(n) for n in range(len(items))], [])


def query(path, sql):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def refused(made, item, match):
    with opened(made) as table, pytest.raises(StageError, match=match):
        commit(table, item)


# --- rows ----------------------------------------------------------------------------------------


def test_the_first_dict_names_the_columns(path):
    with opened(SqliteTable(path, table="t")) as table:
        commit(table, {"b": 1, "a": "x"}, {"a": "y", "b": 2.5})
    assert query(path, "SELECT b, a FROM t") == [(1, "x"), (2.5, "y")]


def test_a_later_process_goes_on_with_the_columns_of_the_table(path):
    with opened(SqliteTable(path, table="t")) as table:
        commit(table, {"a": 1, "b": 2})
    with opened(SqliteTable(path, table="t")) as table:
        commit(table, {"b": 4})
    assert query(path, "SELECT a, b FROM t") == [(1, 2), (None, 4)]


def test_declared_columns_take_tuples_and_dicts(path):
    with opened(SqliteTable(path, table="t", columns=["a", "b"])) as table:
        commit(table, (1, 2), {"b": 4, "a": 3})
    assert query(path, "SELECT a, b FROM t") == [(1, 2), (3, 4)]


def test_every_value_that_sqlite_knows_is_stored_as_it_is(path):
    values = {"a": None, "b": 2**63 - 1, "c": -0.5, "d": "x\0y", "e": b"\0\xff", "f": True}
    with opened(SqliteTable(path, table="t")) as table:
        commit(table, values)
    assert query(path, "SELECT * FROM t") == [tuple(values.values())]


def test_names_need_not_be_words(path):
    with opened(SqliteTable(path, table='my "select"')) as table:
        commit(table, {'a "b"': 1, "order by": 2})
    assert query(path, 'SELECT * FROM "my ""select"""') == [(1, 2)]


def test_with_a_key_an_item_replaces_the_row_of_its_key(path):
    with opened(SqliteTable(path, table="t", key="word")) as table:
        commit(table, {"word": "a", "n": 1}, {"word": "b", "n": 1}, {"word": "a", "n": 2})
        commit(table, {"word": "b", "n": 5})
    assert sorted(query(path, "SELECT word, n FROM t")) == [("a", 2), ("b", 5)]


def test_a_key_alone_makes_a_set(path):
    with opened(SqliteTable(path, table="t", columns=["word"], key="word")) as table:
        commit(table, ("a",), ("a",), ("b",))
    assert sorted(query(path, "SELECT word FROM t")) == [("a",), ("b",)]


def test_a_table_of_the_users_own_keeps_its_types_and_other_columns(path):
    query(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, at TEXT DEFAULT 'now')")
    with opened(SqliteTable(path, table="t", columns=["n"])) as table:
        commit(table, ("7",), ("8",))
    assert query(path, "SELECT * FROM t") == [(1, 7, "now"), (2, 8, "now")]


def test_an_upsert_keeps_the_id_beside_the_item(path):
    with opened(SqliteUpsert(path, table="t")) as table:
        table.upsert([{"n": 1}, {"n": 2}], ["00ab-1-00cd-0", "00ab-2-00cd-0"])
        table.upsert([{"n": 3}], ["00ab-1-00cd-0"])
    rows = [("00ab-1-00cd-0", 3), ("00ab-2-00cd-0", 2)]
    assert sorted(query(path, "SELECT item_id, n FROM t")) == rows


# --- what is refused -----------------------------------------------------------------------------

REFUSED = [
    ({}, {"a": object()}, "type dict holds a value of type object; table 't' stores None, int"),
    ({}, {"a": [1]}, "holds a value of type list"),
    ({}, {"a": 2**63}, "table 't' cannot hold a value: Python int too large"),
    ({}, {"a": "\ud800"}, "table 't' cannot hold a value: .*surrogates not allowed"),
    ({}, "text", "the first for 't' is a value of type str"),
    ({}, (1, 2), "an item is a dict, or a tuple if the sink names its columns"),
    ({}, {1: 2}, "the first for 't' is a value of type dict"),
    ({}, {}, "table 't' would have no column"),
    ({"columns": ["a"]}, {"a": 1, "c": 2}, "has 'c'; table 't' has 1 columns: 'a'"),
    ({"columns": ["a", "b"]}, {"a": 1, "c": 2}, "has 'c'; table 't' has 2 columns: 'a', 'b'"),
    ({"columns": ["a"]}, (1, 2), "type tuple has 2 values; table 't' has 1 columns: 'a'"),
    ({"columns": ["a"]}, "x", "got a value of type str for table 't'"),
    ({"key": "k"}, {"a": 1}, "the key 'k' of 't' is not among 'a'"),
    ({"key": "k", "columns": ["k", "a"]}, {"a": 1}, "NOT NULL constraint failed: t.k"),
]


@pytest.mark.parametrize(("options", "item", "match"), REFUSED)
def test_an_item_that_the_table_cannot_hold_is_the_items_fault(path, options, item, match):
    refused(SqliteTable(path, table="t", **options), item, match)
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name = 't'") == [(0,)]


def test_a_declared_column_that_the_table_lacks_is_refused(path):
    query(path, "CREATE TABLE t (a)")
    refused(SqliteTable(path, table="t", columns=["a", "b"]), (1, 2), "table 't' has no column 'b'")


def test_a_key_that_is_not_unique_in_the_users_table_is_refused(path):
    query(path, "CREATE TABLE t (k, n)")
    refused(SqliteTable(path, table="t", key="k"), {"k": 1, "n": 1}, "ON CONFLICT clause")


def test_an_item_may_not_have_the_column_of_the_ids(path):
    match = "the column 'item_id' of 't' holds the ids"
    with opened(SqliteUpsert(path, table="t")) as table, pytest.raises(StageError, match=match):
        table.upsert([{"item_id": 1}], ["a"])


WRONG = [
    ({"table": ""}, ValueError, "begins without 'zflow_'; got ''"),
    ({"table": "zflow_owner"}, ValueError, "begins without 'zflow_'"),
    ({"table": "t", "columns": "ab"}, TypeError, "a list of names; got the text 'ab'"),
    ({"table": "t", "columns": []}, ValueError, "would have no column"),
    ({"table": "t", "columns": ["a"], "key": "b"}, ValueError, "key 'b' of 't' is not among 'a'"),
    ({"table": "t", "durability": "none"}, ValueError, "'power' or 'process'; got 'none'"),
]


@pytest.mark.parametrize(("options", "error", "match"), WRONG)
def test_wrong_options_are_refused_when_the_sink_is_made(path, options, error, match):
    with pytest.raises(error, match=match):
        SqliteTable(path, **options)
    assert not path.exists()


# --- the file ------------------------------------------------------------------------------------


def test_a_commit_waits_for_the_disk_unless_it_need_only_outlive_the_process(path):
    levels = {}
    for durability in ("power", "process"):
        with opened(SqliteTable(path, table="t", durability=durability)) as table:
            connection = table._database.connection
            (levels[durability],) = connection.execute("PRAGMA synchronous").fetchone()
    assert levels == {"power": 2, "process": 1}  # FULL, NORMAL


def test_sinks_with_tables_of_their_own_share_a_file(path):
    first, second = SqliteTable(path, table="a"), SqliteTable(path, table="b")
    with opened(first), opened(second):
        first.commit([{"n": 1}], ["1"], [(b"k", b"first")])
        second.commit([{"n": 2}], ["2"], [(b"k", b"second")])
        first.commit([{"n": 3}], ["3"], [])
        assert first.load_progress() == [(b"k", b"first")]
        assert second.load_progress() == [(b"k", b"second")]


def test_the_process_that_was_shut_out_is_told_why(path):
    stale, newest = SqliteTable(path, table="t"), SqliteTable(path, table="t")
    match = r"another process .* \(claim 2, ours is 1\)"
    with opened(stale), opened(newest), pytest.raises(Unavailable, match=match):
        commit(stale, {"n": 1})


def test_a_locked_file_is_the_environments_fault(path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
    with opened(SqliteTable(path, table="t")) as table, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"results\.db: database is locked"):
            commit(table, {"n": 1})
        other.rollback()
        commit(table, {"n": 1})
    assert query(path, "SELECT n FROM t") == [(1,)]


@pytest.mark.parametrize("content", [b"this is no database, " * 99, None])
def test_what_is_no_database_is_refused(path, content):
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(Unavailable, match=r"results\.db: "):
        SqliteTable(path, table="t").open()


def test_a_disk_that_is_full_in_the_middle_changes_nothing(path, files_of_at_most):
    with opened(SqliteTable(path, table="t")) as table:
        commit(table, {"n": 0})
        items = [{"n": n} for n in range(50_000)]
        with files_of_at_most(100_000), pytest.raises(Unavailable):
            table.commit(items, ["id"] * len(items), [(b"k", b"v")])
        assert query(path, "SELECT n FROM t") == [(0,)]
        assert table.load_progress() == []
        table.commit(items, ["id"] * len(items), [(b"k", b"v")])
    assert query(path, "SELECT count(*) FROM t") == [(50_001,)]


def test_before_open_and_after_close_it_says_what_is_missing(path):
    table = SqliteTable(path, table="t")
    with pytest.raises(ValueError, match="is not open"):
        commit(table, {"n": 1})
    table.open()
    table.close()
    with pytest.raises(ValueError, match="is not open"):
        table.load_progress()


def test_a_user_derives_a_sink_and_gives_it_arguments_of_its_own(path):
    @sink
    class Counts(SqliteTable):
        def __init__(self, path: str = "counts.db"):
            super().__init__(path, table="counts", key="word")

    assert list(declaration_of(Counts).parameters) == ["path"]
    with opened(Counts(str(path))) as counts:
        commit(counts, {"word": "a", "n": 1})
    assert query(path, "SELECT word, n FROM counts") == [("a", 1)]

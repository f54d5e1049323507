"""Files of lines: what a line is, what is cut off, what is refused, and who may write."""

import os
import shutil
from contextlib import closing, contextmanager

import pytest

from zflow import sink
from zflow.connectors import database
from zflow.connectors.files import AppendLines, JsonLines
from zflow.connectors.lines import json_line
from zflow.errors import StageError, Unavailable
from zflow.stages import declaration_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


@contextmanager
def opened(made):
    made.open()
    with closing(made):
        yield made


def commit(lines, *items, progress=()):
    lines.commit(list(items), [str(n) for n in range(len(items))], list(progress))


# --- a line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ({"a": [1, None, True]}, b'{"a": [1, null, true]}\n'),
        ("two\nlines", b'"two\\nlines"\n'),
        ("čeština 🙂", '"čeština 🙂"\n'.encode()),
        ((1, 2), b"[1, 2]\n"),
        (None, b"null\n"),
    ],
)
def test_an_item_is_one_line_of_json(item, line):
    assert json_line(item) == line


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({1, 2}, "type set cannot be written as JSON: Object of type set is not JSON serializable"),
        ({"a": {"b": b"x"}}, "type dict cannot be written as JSON: Object of type bytes"),
        ({(1, 2): 3}, "type dict cannot be written as JSON: keys must be str"),
        (float("nan"), "type float cannot be written as JSON: Out of range float"),
        ("\ud800", "type str cannot be written as JSON: .*surrogates not allowed"),
        (object(), "make it a dict, list, text or number in the stage before"),
    ],
)
def test_what_json_cannot_represent_is_refused_by_its_type(item, said):
    with pytest.raises(StageError, match=said):
        json_line(item)


def test_an_endless_item_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(StageError, match="type list cannot be written as JSON: Circular"):
        json_line(endless)


# --- JsonLines -----------------------------------------------------------------------------------


def test_lines_are_appended_in_the_order_of_the_commits(path):
    with opened(JsonLines(path)) as lines:
        commit(lines, 1, 2)
        commit(lines, 3)
    with opened(JsonLines(path)) as lines:
        commit(lines, 4)
    assert path.read_bytes() == b"1\n2\n3\n4\n"


def test_a_tail_that_was_not_committed_is_cut_off_when_it_is_opened(path):
    with opened(JsonLines(path)) as lines:
        commit(lines, 1, progress=[(b"k", b"1")])
    with path.open("ab") as file:
        file.write(b'2\n{"half')
    with opened(JsonLines(path)) as lines:
        assert path.read_bytes() == b"1\n"
        assert lines.load_progress() == [(b"k", b"1")]


def test_a_file_that_is_shorter_than_recorded_is_refused(path):
    with opened(JsonLines(path)) as lines:
        commit(lines, 1, 2)
    os.truncate(path, 2)
    with pytest.raises(Unavailable, match="has 2 bytes, but 4 were committed: lines are missing"):
        JsonLines(path).open()
    assert path.read_bytes() == b"1\n"


def test_a_file_that_gets_shorter_meanwhile_is_refused_too(path):
    with opened(JsonLines(path)) as lines:
        commit(lines, 1, 2)
        os.truncate(path, 0)
        with pytest.raises(Unavailable, match=r"or delete results\.jsonl\.progress too"):
            commit(lines, 3)


def test_a_file_that_it_did_not_write_is_refused_and_left_as_it_is(path):
    path.write_bytes(b"somebody's\n")
    with pytest.raises(Unavailable, match="this sink did not write it.*; move it away"):
        JsonLines(path).open()
    assert path.read_bytes() == b"somebody's\n"


def test_an_empty_file_that_is_there_is_taken(path):
    path.touch()
    with opened(JsonLines(path)) as lines:
        commit(lines, 1)
    assert path.read_bytes() == b"1\n"


def test_both_files_may_be_moved_together(path, tmp_path):
    with opened(JsonLines(path)) as lines:
        commit(lines, 1, progress=[(b"k", b"1")])
    (tmp_path / "new").mkdir()
    for file in (path, path.with_name("results.jsonl.progress")):
        shutil.move(file, tmp_path / "new")
    with opened(JsonLines(tmp_path / "new" / path.name)) as lines:
        commit(lines, 2)
        assert lines.load_progress() == [(b"k", b"1")]


def test_a_folder_that_is_missing_is_the_environments_fault(tmp_path):
    for made in (JsonLines(tmp_path / "no" / "x"), AppendLines(tmp_path / "no" / "x")):
        with pytest.raises(Unavailable, match="No such file or directory"):
            made.open()


def test_the_process_that_was_shut_out_harms_no_line_of_its_successor(path):
    with opened(JsonLines(path)) as stale, opened(JsonLines(path)) as newest:
        commit(newest, "longer than the other one")
        with pytest.raises(Unavailable, match="only the newest may write"):
            commit(stale, 1)
        commit(newest, 2)
    assert path.read_bytes() == b'"longer than the other one"\n2\n'


class OpensAnother(list):
    """Progress in whose middle a successor tries to open the same file."""

    def __init__(self, path):
        super().__init__([(b"k", b"1")])
        self._path = path

    def __iter__(self):
        with pytest.raises(Unavailable, match="locked"):
            JsonLines(self._path).open()
        yield from super().__iter__()


def test_nobody_can_open_the_file_between_the_lines_and_their_record(path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
    with opened(JsonLines(path)) as lines:
        lines.commit([1], ["1"], OpensAnother(path))
        commit(lines, 2)
    assert path.read_bytes() == b"1\n2\n"


def test_a_record_that_fails_leaves_a_tail_that_the_next_commit_cuts_off(path):
    with opened(JsonLines(path)) as lines:
        with lines._record.transaction() as db:  # looked at by COMMIT only
            db.execute("CREATE TABLE parent (n PRIMARY KEY)")
            db.execute("CREATE TABLE child (n REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED)")
            db.execute(
                "CREATE TRIGGER fails AFTER UPDATE ON zflow_length"
                " BEGIN INSERT INTO child VALUES (1); END"
            )
        lines._record.connection.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(StageError, match="FOREIGN KEY constraint failed"):
            commit(lines, "long, and never recorded")
        lines._record.connection.execute("DROP TRIGGER fails")
        commit(lines, 1)
    assert path.read_bytes() == b"1\n"


@pytest.mark.parametrize(("durability", "syncs"), [("power", 2), ("process", 0)])
def test_lines_are_synced_before_they_are_recorded(path, monkeypatch, durability, syncs):
    with opened(JsonLines(path, durability=durability)) as lines:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
        commit(lines, 1)
        commit(lines, 2)
        commit(lines, progress=[(b"k", b"nothing was appended")])
    assert [stat.st_size for stat in synced] == [2, 4][:syncs]


def test_a_word_that_is_no_durability_is_refused(path):
    with pytest.raises(ValueError, match="'power' or 'process'; got 'disk'"):
        JsonLines(path, durability="disk")


def test_a_disk_that_is_full_in_the_middle_leaves_no_piece_of_a_line(path, files_of_at_most):
    with opened(JsonLines(path)) as lines:
        commit(lines, 0)
        with files_of_at_most(100_000), pytest.raises(Unavailable, match="File too large"):
            commit(lines, *range(50_000))
        assert path.read_bytes() == b"0\n"
        commit(lines, 1)
    assert path.read_bytes() == b"0\n1\n"


def test_before_open_and_after_close_it_says_what_is_missing(path):
    lines = JsonLines(path)
    with pytest.raises(ValueError, match="is not open"):
        commit(lines, 1)
    with opened(lines):
        pass
    with pytest.raises(ValueError, match="is not open"):
        commit(lines, 1)


# --- AppendLines ---------------------------------------------------------------------------------


def test_lines_are_appended_behind_what_is_there(path):
    path.write_bytes(b"old\n")
    with opened(AppendLines(path)) as lines:
        lines.write([1, 2])
        lines.write([])
        lines.write([3])
    assert path.read_bytes() == b"old\n1\n2\n3\n"


def test_a_piece_of_a_line_does_not_run_into_the_next_one(path):
    path.write_bytes(b'1\n{"half')
    with opened(AppendLines(path)) as lines:
        lines.write([2])
    assert path.read_bytes() == b'1\n{"half\n2\n'


def test_what_a_full_disk_left_of_a_line_is_ended_before_the_next_one(path, files_of_at_most):
    with opened(AppendLines(path)) as lines:
        with files_of_at_most(10), pytest.raises(Unavailable, match="File too large"):
            lines.write(["0123456789"])
        lines.write([1])
    assert path.read_bytes() == b'"012345678\n1\n'


def test_several_processes_may_append_to_one_file(path):
    with opened(AppendLines(path)) as first, opened(AppendLines(path)) as second:
        first.write([1])
        second.write([2])
        first.write([3])
    assert path.read_bytes() == b"1\n2\n3\n"


def test_a_write_is_synced_before_it_returns(path, monkeypatch):
    with opened(AppendLines(path)) as lines:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
        lines.write([1])
    assert [stat.st_size for stat in synced] == [2]


def test_before_open_a_write_says_what_is_missing(path):
    with pytest.raises(ValueError, match="is not open"):
        AppendLines(path).write([1])


def test_a_user_derives_a_sink_that_can_be_declared(path):
    @sink
    class Results(AppendLines):
        def __init__(self, path: str = "results.jsonl"):
            super().__init__(path)

    assert declaration_of(Results).problems == ()

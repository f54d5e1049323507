"""What `zflow dead edit` promises: a mended item, exactly as it was written, or none at all."""

import json
import math
from collections import OrderedDict
from pathlib import Path

import pytest

from zflow.cli.dead_edit import as_text, same, why_not_json
from zflow.state.deadletter import edit_letter, read_dead_letters
from zflow.wire.codec import dump_item, load_item

ITEM = {"name": "Zoë", "prices": [1, 1.0, True, None], "nested": {"": -0.0}}


@pytest.fixture
def run(tmp_path, make_run):
    """A run with one letter; `run(item)` makes it."""

    def make(item):
        letter = {"item": dump_item(item), "shown": repr(item)}
        return make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [letter])

    return make


@pytest.fixture
def drafts(tmp_path, monkeypatch):
    """Where drafts lie."""
    folder = tmp_path / "drafts"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def editor(tmp_path, monkeypatch, drafts):
    """`editor("sed -i s/1/2/")` is what $EDITOR does with the file."""

    def use(command, name="EDITOR"):
        for other in ("VISUAL", "EDITOR"):
            monkeypatch.delenv(other, raising=False)
        script = tmp_path / "editor"
        script.write_text(f'#!/bin/sh\n{command} "$1"\n')
        script.chmod(0o700)
        monkeypatch.setenv(name, str(script))

    return use


def the_letter(state):
    (letter,) = read_dead_letters(state.dead_folder)
    return letter


def item_of(state):
    return load_item(the_letter(state).letter.item)


def test_edit_with_json_changes_the_item_and_says_how_to_send_it(zflow, run):
    state = run(ITEM)
    done = zflow("dead", "edit", "read-0:1", "--json", '{"name": "Zoé", "n": [1.5, false]}')
    assert done.exit_code == 0
    assert done.stderr == "read-0:1: changed; send it again: zflow dead replay read-0:1\n"
    assert same(item_of(state), {"name": "Zoé", "n": [1.5, False]})
    assert the_letter(state).letter.shown == "{'name': 'Zoé', 'n': [1.5, False]}"


@pytest.mark.parametrize("source", ["-", "new.json"])
def test_edit_with_a_file_takes_the_item_from_it(zflow, run, tmp_path, source):
    state = run(ITEM)
    (tmp_path / "new.json").write_text('["ü"]\n')
    done = zflow("dead", "edit", "read-0:1", "--file", source, stdin='["ü"]')
    assert done.exit_code == 0
    assert item_of(state) == ["ü"]


@pytest.mark.parametrize("name", ["VISUAL", "EDITOR"])
def test_edit_opens_the_editor_on_readable_json(zflow, run, editor, drafts, tmp_path, name):
    state = run({"name": "Zoë", "prices": [1, 2]})
    editor(f'cp "$1" {tmp_path}/seen; sed -i s/2/2.5/', name)
    done = zflow("dead", "edit", "read-0:1")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "seen").read_text() == (
        '{\n  "name": "Zoë",\n  "prices": [\n    1,\n    2\n  ]\n}\n'
    )
    assert item_of(state) == {"name": "Zoë", "prices": [1, 2.5]}
    assert list(drafts.iterdir()) == []


def test_show_tells_that_a_letter_was_edited_and_both_items(zflow, run):
    run([1, 2])
    assert "edited         no" in zflow("dead", "show", "read-0:1").stdout.splitlines()
    zflow("dead", "edit", "read-0:1", "--json", "[1, 3]")
    lines = zflow("dead", "show", "read-0:1").stdout.splitlines()
    assert "edited         yes: the item below is not the one that failed" in lines
    assert lines[lines.index("item:") + 1] == "  [1, 3]"
    assert lines[lines.index("item that failed:") + 1] == "  [1, 2]"
    data = json.loads(zflow("dead", "show", "read-0:1", "--json").stdout)
    assert (data["edited"], data["item"], data["original"]) == (True, "[1, 3]", "[1, 2]")
    assert json.loads(zflow("dead", "ls", "--json").stdout)["edited"] is True


def test_the_item_that_failed_comes_back_as_unedited(zflow, run):
    state = run([1, 2])
    before = the_letter(state)
    zflow("dead", "edit", "read-0:1", "--json", "[1, 3]")
    zflow("dead", "edit", "read-0:1", "--json", "[1, 2]")
    assert the_letter(state) == before


def test_what_is_unchanged_is_not_written(zflow, run, editor, drafts):
    state = run([1, 2.0, True])
    before = the_letter(state)
    for arguments in (["--json", "[1,   2.0, true]"], []):
        editor("true")
        done = zflow("dead", "edit", "read-0:1", *arguments)
        assert (done.exit_code, done.stderr) == (0, "read-0:1: unchanged, nothing was written\n")
    assert the_letter(state) == before
    assert list(drafts.iterdir()) == []


@pytest.mark.parametrize("value", ["[1, 2.0, 1]", "[1.0, 2.0, true]", "[true, 2.0, true]"])
def test_another_type_is_a_change(zflow, run, value):
    state = run([1, 2.0, True])
    assert "changed" in zflow("dead", "edit", "read-0:1", "--json", value).stderr
    assert same(item_of(state), json.loads(value))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("[1, 2", "line 1, column 6: Expecting ',' delimiter"),
        ('{\n  "a": nope\n}', "line 2, column 8: Expecting value"),
        ("", "line 1, column 1: Expecting value"),
        ('"\\ud800"', "it cannot be written as JSON: "),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("9" * 5000, "Exceeds the limit (4300 digits)"),
    ],
)
def test_wrong_json_is_refused_with_its_place_and_changes_nothing(zflow, run, value, place):
    state = run([1, 2])
    done = zflow("dead", "edit", "read-0:1", "--json", value)
    assert done.exit_code == 2
    assert f"read-0:1: is not changed: what was given is no JSON, {place}" in done.stderr
    assert "; look at the item: zflow dead show read-0:1" in done.stderr
    assert item_of(state) == [1, 2]


@pytest.mark.parametrize(
    ("content", "place"), [(b"[1,\n 2", "line 2, column 3"), (b"\xff", "'utf-8' codec can't")]
)
def test_wrong_json_in_a_file_is_refused_with_the_command_to_type_again(
    zflow, run, tmp_path, content, place
):
    run([1, 2])
    (tmp_path / "a file").write_bytes(content)
    done = zflow("dead", "edit", "read-0:1", "--file", "a file")
    assert done.exit_code == 2
    assert place in done.stderr
    assert "mend it, and again: zflow dead edit read-0:1 --file 'a file'" in done.stderr


def test_what_was_written_in_the_editor_is_kept_if_it_is_no_json(zflow, run, editor, drafts):
    state = run([1, 2])
    editor("printf '[1, 3' >")
    done = zflow("dead", "edit", "read-0:1")
    assert done.exit_code == 2
    (draft,) = drafts.iterdir()
    assert draft.read_text() == "[1, 3"
    assert draft.stat().st_mode & 0o777 == 0o600
    assert f"what you wrote is kept in {draft}\n" in done.stderr
    assert f"mend it, and again: zflow dead edit read-0:1 --file {draft}" in done.stderr
    draft.write_text("[1, 3]")
    assert zflow("dead", "edit", "read-0:1", "--file", str(draft)).exit_code == 0
    assert item_of(state) == [1, 3]


def test_an_editor_that_fails_changes_nothing(zflow, run, editor, drafts):
    state = run([1, 2])
    editor("exit 3;")
    done = zflow("dead", "edit", "read-0:1")
    assert done.exit_code == 2
    assert "read-0:1: is not changed: " in done.stderr
    assert "give --json VALUE or --file F" in done.stderr
    assert item_of(state) == [1, 2]
    assert list(drafts.iterdir()) == []


def test_without_an_editor_and_a_terminal_it_says_what_to_give(zflow, run, monkeypatch):
    run([1, 2])
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    done = zflow("dead", "edit", "read-0:1")
    assert done.exit_code == 2
    assert "give --json VALUE or --file F, or set EDITOR" in done.stderr


def test_a_value_and_a_file_together_are_wrong_use(zflow, run, tmp_path):
    run([1, 2])
    (tmp_path / "f").write_text("1")
    done = zflow("dead", "edit", "read-0:1", "--json", "1", "--file", "f")
    assert done.exit_code == 2
    assert "one of them" in done.stderr


def test_a_letter_that_somebody_else_changes_meanwhile_is_left_alone(
    zflow, run, editor, drafts, monkeypatch
):
    state = run([1, 2])

    def edit(filename):
        edit_letter(state.dead_folder, the_letter(state), dump_item("theirs"), "theirs")
        Path(filename).write_text("[1, 3]")

    editor("unused")
    monkeypatch.setattr("click.edit", edit)
    done = zflow("dead", "edit", "read-0:1")
    assert done.exit_code == 2
    assert "somebody else has changed or removed it meanwhile" in done.stderr
    assert item_of(state) == "theirs"
    assert [draft.read_text() for draft in drafts.iterdir()] == ["[1, 3]"]


# --- which items ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ((1, 2), "item is of type tuple"),
        ({"a": [1, (2,)]}, "item['a'][1] is of type tuple"),
        ({1: "a"}, "a key of item is of type int"),
        (OrderedDict(a=1), "item is of type OrderedDict"),
        ({"when": Path("x")}, "item['when'] is of type PosixPath"),
        (b"bytes", "item is of type bytes"),
    ],
)
def test_an_item_that_is_no_json_data_is_refused_with_the_part_that_is_not(zflow, run, item, why):
    state = run(item)
    done = zflow("dead", "edit", "read-0:1", "--json", "1")
    assert done.exit_code == 2
    assert done.stderr == (
        f"read-0:1: cannot be edited: {why}, and only JSON data can be edited; "
        "look at it: zflow dead show read-0:1\n"
    )
    assert item_of(state) == item


@pytest.mark.parametrize(
    ("letter_id", "why"),
    [
        ("read-0:4", "it failed in the source read, and is never sent again"),
        ("read-0:5", "its item could not be pickled, only its text is kept"),
    ],
)
def test_a_letter_without_an_item_to_send_is_refused(zflow, stored, letter_id, why):
    done = zflow("dead", "edit", letter_id, "--json", "1")
    assert done.exit_code == 2
    assert f"{letter_id}: cannot be edited: {why}; " in done.stderr


def test_an_item_whose_class_is_gone_is_refused(zflow, tmp_path, make_run):
    letter = {"item": b"cno_such_module\nThing\n."}
    make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [letter])
    done = zflow("dead", "edit", "read-0:1", "--json", "1")
    assert done.exit_code == 2
    assert "its item cannot be read: cannot be unpickled: No module named" in done.stderr


@pytest.mark.parametrize(
    "item",
    [
        *(None, True, 0, 1, -1, 2**80, 0.1, 1e300, -0.0, 5e-324, math.inf, "", '\0\u2028"\\ñ🎉'),
        *([], {}, [[[]]], {"": {"a": [None]}}, ITEM),
    ],
)
def test_json_data_comes_back_exactly_as_it_was(item):
    assert list(why_not_json(item)) == []
    assert same(json.loads(as_text(item)), item)


def test_what_json_cannot_give_back_is_named():
    endless = []
    endless.append(endless)
    assert list(why_not_json(endless)) == ["it is nested too deeply for JSON"]
    (surrogate,) = why_not_json("\ud800")
    assert surrogate.startswith("it cannot be written as JSON: ")
    (huge,) = why_not_json(10**5000)
    assert "4300 digits" in huge


def test_a_file_that_is_not_there_is_wrong_use(zflow, run):
    run([1])
    done = zflow("dead", "edit", "read-0:1", "--file", "absent.json")
    assert done.exit_code == 2
    assert "'absent.json' does not exist" in done.stderr

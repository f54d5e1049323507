"""`zflow keys`: folders are made, shown and renewed, and no secret is ever printed."""

import json

import pytest

from zflow.errors import ExitCode
from zflow.net.keys import KeyFolder

SECRETS = ("coordinator.key", "operator.key", "reader.key")


def assert_no_secret(folder, said):
    for name in SECRETS:
        assert (folder / name).read_text().strip() not in said
    assert (folder / "stages.seed").read_bytes().hex() not in said


def test_new_keys_are_made_and_only_the_public_ones_are_shown(zflow, tmp_path):
    done = zflow("keys", "new", "keys")
    assert done.exit_code == 0
    public = KeyFolder(tmp_path / "keys").public()
    assert done.stdout.split() == [
        "epoch",
        "1",
        *(w for pair in public.people.items() for w in pair),
    ]
    assert_no_secret(tmp_path / "keys", done.output)


def test_programs_get_one_object(zflow, tmp_path):
    made = zflow("keys", "new", "keys", "--json")
    shown = zflow("keys", "show", "keys", "--json")
    assert made.stdout == shown.stdout
    people = KeyFolder(tmp_path / "keys").public().people
    assert json.loads(shown.stdout) == {"epoch": 1, "public_keys": people}
    assert_no_secret(tmp_path / "keys", shown.output)


def test_a_rotation_raises_the_epoch(zflow, tmp_path):
    zflow("keys", "new", "keys")
    assert json.loads(zflow("keys", "rotate", "keys", "--json").stdout)["epoch"] == 2
    assert json.loads(zflow("keys", "show", "keys", "--json").stdout)["epoch"] == 2
    assert len(KeyFolder(tmp_path / "keys").keys_of("parse/0")) == 2


@pytest.mark.parametrize("verb", ["new", "show", "rotate"])
def test_a_folder_that_others_may_use_is_a_usage_error_with_its_fix(zflow, tmp_path, verb):
    zflow("keys", "new", "keys")
    (tmp_path / "keys").chmod(0o755)
    done = zflow("keys", verb, "keys")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr == ("keys in keys: other users may use it (mode 755); chmod 700 keys\n")
    assert done.stdout == ""


def test_keys_are_not_made_twice(zflow, tmp_path):
    zflow("keys", "new", "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    done = zflow("keys", "new", "keys")
    assert done.exit_code == ExitCode.USAGE
    assert "it holds keys already" in done.stderr
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}


def test_keys_that_are_not_there_are_a_usage_error(zflow):
    done = zflow("keys", "show", "nothing")
    assert done.exit_code == ExitCode.USAGE
    assert "there is no such folder; make one: zflow keys new DIR" in done.stderr


@pytest.mark.parametrize("verb", [["--help"], ["new", "-h"], ["show", "-h"], ["rotate", "-h"]])
def test_each_verb_has_an_example(zflow, verb):
    done = zflow("keys", *verb)
    assert done.exit_code == 0
    assert "Example:\n    zflow keys" in done.output

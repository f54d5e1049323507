"""The key folder: private or refused, whole or refused, and no secret ever leaves it."""

import json
import os
import stat

import pytest
import zmq

from zflow.errors import ConfigError
from zflow.net.keys import KeyFolder, new_folder, rotate

FILES = {"coordinator.key", "operator.key", "reader.key", "stages.seed", "epoch", "public.json"}
GOLDEN = "n5wyJV5EA-hM#B!}FhlhUmXPkL%5hct=rm8p2[/&"  # of parse/0, epoch 1, seed 00 01 .. 1f
COORDINATOR = ("coordinator.key", "operator.key", "stages.seed")


def refusal_of(act, *arguments):
    with pytest.raises(ConfigError) as refused:
        act(*arguments)
    (problem,) = refused.value.problems
    assert problem.fix
    return str(problem)


def test_a_new_folder_is_for_its_user_alone(tmp_path):
    before = os.umask(0)
    try:
        new_folder(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == dict.fromkeys(FILES, 0o600)


def test_two_folders_have_nothing_in_common(tmp_path):
    first, second = (new_folder(tmp_path / name) for name in "ab")
    assert first.keys_of("parse/0") != second.keys_of("parse/0")
    assert first.keys_of("coordinator") != second.keys_of("coordinator")


def test_every_name_has_a_key_of_its_own_and_always_the_same(folder):
    names = ["coordinator", "operator", "reader", "a/0", "a/1", "a/10", "a/1/0", "b/0"]
    keys = [folder.keys_of(name) for name in names]
    assert len(set(keys)) == len(names)
    assert keys == [KeyFolder(folder.path).keys_of(name) for name in names]


def test_the_public_key_is_that_of_the_secret_one(folder):
    for name in ("coordinator", "operator", "reader", "parse/3"):
        pair = folder.curve(name).pair
        assert zmq.curve_public(pair.secret).decode() == pair.public == folder.keys_of(name)[0]


def test_a_slots_key_is_what_its_formula_says(folder):
    """Golden: another version of zflow must find the same keys."""
    (folder.path / "stages.seed").write_bytes(bytes(range(32)))
    assert KeyFolder(folder.path).keys_of("parse/0") == (GOLDEN,)


def test_a_rotation_accepts_this_key_and_the_last_one(folder):
    keys = [folder.keys_of("parse/0")]
    for _ in range(3):
        keys.append(rotate(folder.path).keys_of("parse/0"))
    assert [len(accepted) for accepted in keys] == [1, 2, 2, 2]
    for older, newer in zip(keys, keys[1:], strict=False):
        assert newer[1] == older[0]
    assert len({accepted[0] for accepted in keys}) == 4
    assert {path.name for path in folder.path.iterdir()} == FILES


def test_a_rotation_leaves_the_people_their_keys(folder):
    assert rotate(folder.path).public() == (2, folder.public().people)


def test_a_stages_machine_needs_no_secret_of_a_person(folder):
    for name in ("coordinator", "operator", "reader"):
        (folder.path / f"{name}.key").unlink()
    parts = KeyFolder(folder.path)
    assert parts.curve("parse/0", ["read/0"]).name_of(parts.keys_of("read/0")[0]) == "read/0"
    said = refusal_of(parts.curve, "coordinator")
    assert said.endswith("coordinator.key: it is not there; copy it here to be the coordinator")


def test_a_reader_needs_no_seed_and_cannot_be_a_slot(folder):
    for name in COORDINATOR:
        (folder.path / name).unlink()
    parts = KeyFolder(folder.path)
    assert parts.curve("reader").servers("coordinator") == folder.keys_of("coordinator")
    assert "stages.seed: it is not there" in refusal_of(parts.curve, "parse/0")


@pytest.mark.parametrize("name", ["", "parse", "parse/x", "parse/-1", "/0", "admin"])
def test_nobody_else_has_a_key(folder, name):
    assert "nobody is called" in refusal_of(folder.keys_of, name)


# -- folders that are refused ---------------------------------------------------------------------


def test_a_folder_with_keys_is_not_made_again(folder):
    assert "holds keys already; renew them: zflow keys rotate" in refusal_of(
        new_folder, folder.path
    )


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "letter").touch()
    assert "it is not empty; name a new folder" in refusal_of(new_folder, tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter"]


def test_an_empty_private_folder_is_taken(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o700)
    assert new_folder(tmp_path / "keys").epoch == 1


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    assert "it cannot be made" in refusal_of(new_folder, tmp_path / "no" / "keys")


@pytest.mark.parametrize("act", [KeyFolder, new_folder, rotate])
def test_a_symlink_is_refused(folder, tmp_path, act):
    (tmp_path / "link").symlink_to(folder.path)
    assert "it is a symlink" in refusal_of(act, tmp_path / "link")


@pytest.mark.parametrize("act", [KeyFolder, new_folder, rotate])
@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777, 0o720])
def test_a_folder_that_others_may_use_is_refused(folder, act, mode):
    folder.path.chmod(mode)
    said = refusal_of(act, folder.path)
    assert f"other users may use it (mode {mode:o}); chmod 700" in said


@pytest.mark.parametrize("act", [KeyFolder, new_folder, rotate])
def test_a_folder_of_another_user_is_refused(folder, monkeypatch, act):
    monkeypatch.setattr(os, "getuid", lambda: folder.path.stat().st_uid + 1)
    assert "it belongs to user" in refusal_of(act, folder.path)


def test_a_file_and_nothing_are_no_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "it is no folder" in refusal_of(KeyFolder, tmp_path / "file")
    assert "there is no such folder" in refusal_of(KeyFolder, tmp_path / "nothing")


@pytest.mark.parametrize("name", ["stages.seed", "public.json", "epoch"])
def test_a_file_that_others_may_read_is_refused(folder, name):
    (folder.path / name).chmod(0o640)
    assert f"{name}: other users may use it (mode 640); chmod 600" in refusal_of(
        KeyFolder, folder.path
    )


def test_a_secret_that_others_may_read_is_refused(folder):
    (folder.path / "operator.key").chmod(0o604)
    assert "operator.key: other users may use it" in refusal_of(folder.curve, "operator")


@pytest.mark.parametrize("name", ["stages.seed", "public.json", "epoch"])
def test_a_file_that_is_a_symlink_is_refused(folder, tmp_path, name):
    (folder.path / name).rename(tmp_path / name)
    (folder.path / name).symlink_to(tmp_path / name)
    assert f"{name}: it cannot be read" in refusal_of(KeyFolder, folder.path)


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("stages.seed", b"short", "it holds 5 bytes and not 32"),
        ("epoch", b"0", "it holds no epoch"),
        ("epoch", b"one", "it holds no epoch"),
        ("epoch", b"", "it holds no epoch"),
        ("public.json", b"{", "it holds no public keys"),
        ("public.json", b"[1]", "it does not name the coordinator"),
        ("public.json", b'{"coordinator": "x"}', "it holds no public keys"),
        ("public.json", b"{}", "it does not name the coordinator"),
        ("coordinator.key", b"too short", "it holds no key"),
        ("coordinator.key", b"x" * 40, "it does not fit the public key"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_not_shown(folder, name, raw, sentence):
    (folder.path / name).write_bytes(raw)
    said = refusal_of(lambda: KeyFolder(folder.path).curve("coordinator", ["coordinator"]))
    assert name in said
    assert sentence in said
    assert "too short" not in said


def test_public_keys_are_all_that_is_shown(folder):
    shown = json.dumps(folder.public()) + repr(folder) + repr(folder.curve("operator"))
    for name in ("coordinator", "operator", "reader"):
        assert (folder.path / f"{name}.key").read_text().strip() not in shown

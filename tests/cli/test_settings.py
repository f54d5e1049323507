"""What a settings file may say, and how a mistake in it is told."""

import pytest

from zflow.cli.settings import Entry, as_text, find_settings
from zflow.errors import ConfigError

OWN = """
[run]
timeout = 60            # seconds
"log-level" = "INFO"

[parameters]
files.folder = "docs"
parse = { strict = true, words = ["a", "b"] }

[parameters.count]
limit = 3

[replicas]
parse = 4
"""


def project(text):
    return (
        text.replace("[run]", "[tool.zflow.run]")
        .replace("[par", "[tool.zflow.par")
        .replace("[rep", "[tool.zflow.rep")
    )


@pytest.mark.parametrize(("name", "text"), [("zflow.toml", OWN), ("pyproject.toml", project(OWN))])
def test_every_value_is_read_with_its_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    file = find_settings(tmp_path)
    assert file.path == tmp_path / name
    assert list(file.entries) == [
        Entry(("run", "timeout"), 60, 3),
        Entry(("run", "log-level"), "INFO", 4),
        Entry(("parameters", "files", "folder"), "docs", 7),
        Entry(("parameters", "parse", "strict"), True, 8),
        Entry(("parameters", "parse", "words"), ["a", "b"], 8),
        Entry(("parameters", "count", "limit"), 3, 11),
        Entry(("replicas", "parse"), 4, 14),
    ]
    assert [entry.line for entry in file.section("replicas")] == [14]


def test_the_nearest_folder_with_settings_counts(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_settings(below) is None
    (tmp_path / "zflow.toml").write_text("[run]\ntimeout = 1\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.ruff]\n")
    assert find_settings(below).path == tmp_path / "zflow.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.zflow.run]\ntimeout = 2\n")
    assert find_settings(below).path.parent == tmp_path / "a"


def test_an_empty_file_says_nothing(tmp_path):
    (tmp_path / "zflow.toml").write_text("[run]\n")
    assert list(find_settings(tmp_path).section("run")) == []
    (tmp_path / "zflow.toml").write_text("")
    assert find_settings(tmp_path).entries == ()


WRONG = [
    ("[runn]\ntimeout = 1\n", ":2: runn.timeout: is no setting of zflow; did you mean 'run'?"),
    ("\ntimeout = 1\n", ":2: timeout: is no setting of zflow"),
    ("run = 3\n", ":1: run: is no table; write [run]"),
    ("[run]\ntimeout =\n", ":2: zflow.toml: is no TOML: "),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_nobody_reads_is_an_error_with_its_line(tmp_path, text, said):
    (tmp_path / "zflow.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_settings(tmp_path)
    assert f"{tmp_path / 'zflow.toml'}{said}" in str(caught.value)


def test_two_files_in_one_folder_are_one_too_many(tmp_path):
    (tmp_path / "zflow.toml").write_text("[run]\ntimeout = 1\n")
    (tmp_path / "pyproject.toml").write_text("[tool.zflow.run]\ntimeout = 1\n")
    with pytest.raises(ConfigError, match=r"so has zflow\.toml beside it; keep one of them"):
        find_settings(tmp_path)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "zflow.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_settings(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (3, "3"), (0.5, "0.5"), ("x", "x"), ([1, False], "1,false")]
)
def test_a_value_is_what_would_be_typed(value, text):
    assert as_text(value) == text


def test_a_project_file_that_is_not_for_zflow_may_be_as_broken_as_it_likes(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert find_settings(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("[tool.zflow\n")
    with pytest.raises(ConfigError, match="is no TOML"):
        find_settings(tmp_path)

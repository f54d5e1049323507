"""What `zflow new` makes runs as it says."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from zflow.cli.new import project_name

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, zflow):
    done = zflow("new", "my-words")
    assert done.exit_code == 0, done.output
    assert "try: cd my-words && zflow run topologies/words.py" in done.stderr
    return tmp_path / "my-words"


def run(command, folder):
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def commands(project):
    """The two that its README shows, for the Python that runs the tests."""
    shown = re.findall(
        r"^    (zflow run .*|python -m pytest.*)$", (project / "README.md").read_text(), re.M
    )
    assert len(shown) == 2
    for one in shown:
        program, *arguments = shlex.split(one)
        yield [sys.executable, *(["-m", "zflow"] if program == "zflow" else []), *arguments]


@pytest.mark.slow
def test_its_two_commands_work(project):
    topology, tests = commands(project)
    done = run(topology, project)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(project / "words.db")) as db:
        counts = dict(db.execute("SELECT word, n FROM words"))
    assert counts["never"] == 2
    done = run([*tests, "-q", "-p", "no:cacheprovider"], project)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_its_topology_is_fine_and_takes_the_settings_of_the_project(project, zflow, monkeypatch):
    monkeypatch.chdir(project)
    done = zflow("check", "topologies/words.py")
    assert done.exit_code == 0, done.stderr
    assert "Counts: exactly_once" in done.stdout
    done = zflow("config", "topologies/words.py")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"parameters +texts\.folder +texts +pyproject\.toml:\d+", done.stdout)


def test_the_project_is_called_as_its_folder(project):
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"] == "my-words"
    assert 'Topology("my-words")' in (project / "topologies" / "words.py").read_text()
    assert "$" not in "".join(path.read_text() for path in project.rglob("*") if path.is_file())


def test_a_folder_that_is_not_empty_is_refused(project, zflow, tmp_path):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    done = zflow("new", "my-words")
    assert done.exit_code == 2
    assert "my-words: is not empty: " in done.stderr
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    (tmp_path / "file").touch()
    assert "file: is a file" in zflow("new", "file").stderr


def test_an_empty_folder_is_taken(zflow, tmp_path):
    (tmp_path / "empty").mkdir()
    assert zflow("new", "empty").exit_code == 0
    assert (tmp_path / "empty" / "topologies" / "words.py").exists()


def test_a_place_that_cannot_be_written_is_told(zflow, tmp_path):
    (tmp_path / "file").touch()
    done = zflow("new", "file/below")
    assert done.exit_code == 3
    assert "Not a directory" in done.stderr


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Word Count", "word-count"), ("3d", "d"), ("été", "t"), ("42", "pipeline"), ("a_b", "a-b")],
)
def test_any_folder_gives_a_name_that_a_project_may_have(folder, name):
    assert project_name(folder) == name

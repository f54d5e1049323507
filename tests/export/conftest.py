"""Topologies to export, and the programs that read what is exported."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from zflow.declared.model import Declared
from zflow.loader import load

ROOT = Path(__file__).parents[2]
EVERYTHING = Path(__file__).with_name("everything.py")
TARGETS = [*sorted((ROOT / "topologies").glob("*.py")), EVERYTHING]
LONGEST_S = 100


def declared_of(target: Path) -> Declared:
    return load(str(target)).topology.declared()


@pytest.fixture(scope="session", params=TARGETS, ids=lambda path: path.stem)
def declared(request) -> Declared:
    """Each topology of the examples, and the one that has everything."""
    return declared_of(request.param)


@pytest.fixture(scope="session")
def everything() -> Declared:
    """A topology with sources, sinks, a durable stage, dead letters and drops."""
    return declared_of(EVERYTHING)


def program(name: str, package: str) -> str:
    """Where a program is. In CI it must be there, elsewhere the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed: it is in the package {package}")
    return str(found)


def missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def done(command: Iterable[object], folder: Path) -> subprocess.CompletedProcess:
    """A command run in a folder, to its end; stderr is in stdout."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


@pytest.fixture
def promtool(tmp_path):
    """`promtool("check", "rules", ...)` in tmp_path, where written files are."""
    path = program("promtool", "prometheus")
    return lambda *arguments: done([path, *arguments], tmp_path)


@pytest.fixture
def write(tmp_path):
    """`write(files)` puts an export into tmp_path."""

    def written(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return written

"""topologies/duplicates.py: its parts alone, then a folder with known copies in it."""

import sqlite3
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import pytest

CONTENTS = {
    "a/report.txt": b"the same",
    "b/report.txt": b"the same",
    "b/c/copy of report.txt": b"the same",
    "other.txt": b"the Same",
    "longer.bin": b"\0" * 3_000_000,  # more than one block
    "it's.txt": b"quoted",
}


@pytest.fixture
def duplicates(load):
    return load("duplicates")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def digest_of(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def rows_of(database: Path) -> list[tuple]:
    with closing(sqlite3.connect(database)) as db:
        return db.execute("select path, bytes, digest from files order by path").fetchall()


def expected_rows(folder: Path) -> list[tuple]:
    files = {str(folder / name): content for name, content in CONTENTS.items()}
    return sorted((path, len(content), digest_of(content)) for path, content in files.items())


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_the_partitions_share_the_files_without_overlap(duplicates, folder, partitions):
    shares = [
        list(duplicates.paths(str(folder), partition, partitions))
        for partition in range(partitions)
    ]
    assert sorted(sum(shares, [])) == sorted(str(folder / name) for name in CONTENTS)
    assert shares == [sorted(share, key=Path) for share in shares]


@pytest.mark.parametrize("name", CONTENTS)
def test_size_and_checksum_of_a_file(duplicates, folder, name):
    path = str(folder / name)
    checksum = duplicates.Checksum()
    checksum.open()

    assert duplicates.size(path) == (path, len(CONTENTS[name]), None)
    assert checksum.process(path) == (path, None, digest_of(CONTENTS[name]))


def test_the_two_answers_make_one_row_in_any_order_and_also_twice(duplicates, tmp_path):
    catalogue = duplicates.Catalogue(path=str(tmp_path / "files.db"))
    catalogue.open()
    catalogue.write([("a", 5, None), ("b", None, "d1"), ("b", 7, None)])
    catalogue.write([("a", None, "d2"), ("a", 5, None), ("a", None, "d2")])
    catalogue.close()

    assert rows_of(tmp_path / "files.db") == [("a", 5, "d2"), ("b", 7, "d1")]


@pytest.mark.slow
def test_copies_are_found_in_a_folder(zflow_run, folder, tmp_path):
    database = tmp_path / "files.db"
    zflow_run("duplicates", f"paths.folder={folder}", f"Catalogue.path={database}")

    assert rows_of(database) == expected_rows(folder)
    with closing(sqlite3.connect(database)) as db:
        (copies,) = db.execute(query_of_the_docstring()).fetchall()
    assert set(copies[0].split(",")) == {
        str(folder / name) for name, content in CONTENTS.items() if content == b"the same"
    }


def query_of_the_docstring() -> str:
    """What the example tells its reader to ask."""
    source = (Path(__file__).parents[2] / "topologies" / "duplicates.py").read_text()
    return source.split("sqlite3 files.db '")[1].split("'")[0]

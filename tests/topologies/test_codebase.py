"""topologies/codebase.py: its functions alone, then the whole of it on real code."""

import ast
import json
import shutil
import sysconfig
import warnings
from collections import Counter
from pathlib import Path

import pytest

SAMPLE = b"""
def outer(a):
    if a:
        return [x for x in a]

    async def inner():
        for _ in a:
            pass
    return inner
"""
BROKEN = {
    "a_syntax_error.py": b"def f(:\n",
    "a_null_byte.py": b"x = 1\0\n",
    "bad_utf8.py": b"name = '\xff'\n",
    "no_such_encoding.py": b"# coding: klingon\n",
}


@pytest.fixture
def codebase(load):
    return load("codebase")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A real package, and files that no parser takes."""
    folder = tmp_path / "code"
    shutil.copytree(Path(sysconfig.get_path("stdlib"), "email"), folder / "email")
    for name, code in BROKEN.items():
        (folder / name).write_bytes(code)
    return folder


def test_files_come_in_a_fixed_order_and_without_installed_packages(codebase, tmp_path):
    for name in ("b.py", "a/z.py", "a/readme.txt", "site-packages/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    assert list(codebase.files(str(tmp_path))) == [("a/z.py", b"a/z.py"), ("b.py", b"b.py")]


def test_the_default_is_the_standard_library(codebase):
    name, code = next(codebase.files())
    assert code == Path(sysconfig.get_path("stdlib"), name).read_bytes()


def test_parse_yields_each_function_with_its_size_and_complexity(codebase):
    found = list(codebase.parse(("sample.py", SAMPLE)))

    place = {"file": "sample.py"}
    assert found == [
        place | {"function": "outer", "line": 2, "size_lines": 8, "complexity": 3},
        place | {"function": "inner", "line": 6, "size_lines": 3, "complexity": 2},
    ]


def test_a_file_may_declare_its_encoding(codebase):
    code = "# coding: latin-1\ndef für():\n    pass\n".encode("latin-1")
    assert [found["function"] for found in codebase.parse(("f.py", code))] == ["für"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_parse_goes_to_the_broken_ones(codebase, name):
    (said,) = codebase.parse((name, BROKEN[name]))
    assert said.name == "broken"
    assert said.item["file"] == name
    assert said.item["error"].partition(":")[0] in ("SyntaxError", "ValueError")


def test_the_report_appends_one_json_line_per_item(codebase, tmp_path):
    path = tmp_path / "report.jsonl"
    for items in ([{"a": 1}, {"a": 2}], [{"a": 3}]):
        report = codebase.Report(path=str(path))
        report.open()
        report.write(items)
        report.close()

    assert lines_of(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.slow
def test_every_function_of_a_package_is_reported_once(zflow_run, codebase, folder, tmp_path):
    report, broken = tmp_path / "report.jsonl", tmp_path / "broken.jsonl"
    zflow_run(
        "codebase",
        f"files.folder={folder}",
        f"Report.path={report}",
        f"Broken.path={broken}",
    )

    functions, failed = reference(codebase, folder)
    assert counted(lines_of(report)) == counted(functions)
    assert counted(lines_of(broken)) == counted(failed)
    assert {line["file"] for line in lines_of(broken)} == set(BROKEN)
    assert len(functions) == count_of_functions(folder / "email")


@pytest.mark.slow
@pytest.mark.timeout(300)  # half of it is the reference, in one process
def test_the_whole_standard_library_is_reported(zflow_run, codebase, tmp_path):
    zflow_run("codebase")  # with every default: files in the working directory

    functions, failed = reference(codebase, "")
    assert counted(lines_of(tmp_path / "functions.jsonl")) == counted(functions)
    assert counted(lines_of(tmp_path / "broken.jsonl")) == counted(failed)
    assert len(functions) > 10_000


def reference(codebase, folder: Path | str) -> tuple[list[dict], list[dict]]:
    """What the plain functions say without zflow: the functions, and what did not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old code are not the subject
        found = [item for file in codebase.files(str(folder)) for item in codebase.parse(file)]
    functions = [item for item in found if isinstance(item, dict)]
    return functions, [item.item for item in found if not isinstance(item, dict)]


def count_of_functions(folder: Path) -> int:
    trees = [ast.parse(path.read_bytes()) for path in folder.rglob("*.py")]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(isinstance(node, kinds) for tree in trees for node in ast.walk(tree))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counted(items: list[dict]) -> Counter[str]:
    return Counter(json.dumps(item, sort_keys=True) for item in items)

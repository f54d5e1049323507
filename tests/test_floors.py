"""The layout of zflow/ is a building: a file imports from lower floors and its own package only.

The tables below are the rules. They are read against the source (ast), nothing is imported, so
that an import inside a function or under TYPE_CHECKING counts like any other.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    0: "errors clock ids intervals hashing",
    1: "locks log paths metrics wire durable occasions",
    2: "shapes limits",
    3: "stages",
    4: "declared windowing",
    5: "topology windows",
    6: "config protocol state loader export",
    7: "net books planning",
    8: "replica coordinator supervisor connectors",
    9: "launchers local",
    10: "cli testing",
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts.split()}

# The two public doors; they may import from any floor, but importing zflow loads no zmq.
EXEMPT_FROM_FLOORS = {"zflow/__init__.py", "zflow/__main__.py"}
# Every other __init__ holds a docstring and nothing else.
RE_EXPORTING = {"zflow/__init__.py", "zflow/testing/__init__.py"}

# Who alone may import a module: files, or folders with a slash at the end.
OWNERS = {
    "zmq": ("zflow/net/",),
    "cloudpickle": ("zflow/wire/codec.py",),
    "pickle": ("zflow/wire/codec.py",),
    "click": ("zflow/cli/",),
    "rich": ("zflow/cli/",),
    "time": ("zflow/clock.py",),
    "sqlite3": ("zflow/state/", "zflow/connectors/"),
    "prometheus_client": ("zflow/coordinator/",),
    "starlette": ("zflow/coordinator/",),
    "uvicorn": ("zflow/coordinator/",),
    "psutil": ("zflow/supervisor/", "zflow/replica/"),
}

# The state machines are told everything: the time, the random numbers, what arrived.
PURE = "zflow/protocol/"
NOT_IN_PURE = {
    *("asyncio", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors"),
    *("signal", "socket", "subprocess", "tempfile", "threading", "time"),
}

LONGEST_FUNCTION_LINES = 60

IMPORT_CALLS = ("__import__", "import_module", "importlib.import_module")

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
    *("zflow", "topologies", "scripts", "tests"),
}


# --- reading ---------------------------------------------------------------------------------


def imports_in(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, relative ones and those by a literal name included."""
    package = Path(path).parent.parts
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(package[: len(package) - level + 1]) if level else ""
                origin = ".".join(filter(None, [base, module]))
                if origin == "zflow":  # `from zflow import wire` is the module zflow.wire
                    yield from ((node.lineno, f"zflow.{alias.name}") for alias in names)
                else:
                    yield node.lineno, origin
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(function) in IMPORT_CALLS:
                    yield node.lineno, name


def part_of(module_or_path: str) -> str:
    """`zflow.wire.data` and `zflow/wire/data.py` are both of the part `wire`."""
    pieces = module_or_path.removesuffix(".py").replace("/", ".").split(".")
    return pieces[1] if len(pieces) > 1 else ""


# --- rules: (path, tree) -> "file:line: rule: what is wrong" -------------------------------------


def floor_violations(path: str, tree: ast.Module) -> Iterator[str]:
    if path in EXEMPT_FROM_FLOORS:
        return
    own = part_of(path)
    if own not in FLOOR_OF:
        yield f"{path}:1: floor: {own!r} has no floor; the table in {Path(__file__).name} has all"
        return
    for line, module in imports_in(tree, path):
        if module.partition(".")[0] != "zflow" or part_of(module) == own:
            continue
        other = part_of(module)
        if other not in FLOOR_OF:
            yield f"{path}:{line}: floor: imports {module}; name the module that defines it"
        elif FLOOR_OF[other] >= FLOOR_OF[own]:
            yield (
                f"{path}:{line}: floor: {own} (floor {FLOOR_OF[own]}) imports {module}"
                f" (floor {FLOOR_OF[other]}); only lower floors and the own package are allowed"
            )


def owner_violations(path: str, tree: ast.Module) -> Iterator[str]:
    for line, module in imports_in(tree, path):
        name = module.partition(".")[0]
        allowed = OWNERS.get(name)
        if allowed and not any(path == place or is_below(path, place) for place in allowed):
            yield f"{path}:{line}: owner: {name} is imported only in {' and '.join(allowed)}"


def purity_violations(path: str, tree: ast.Module) -> Iterator[str]:
    if not is_below(path, PURE):
        return
    for line, module in imports_in(tree, path):
        name = module.partition(".")[0]
        if name in NOT_IN_PURE:
            yield f"{path}:{line}: purity: {PURE} decides only and never imports {name}"


def door_violations(path: str, tree: ast.Module) -> Iterator[str]:
    if Path(path).name != "__init__.py" or path in RE_EXPORTING:
        return
    if ast.get_docstring(tree) is None:
        yield f"{path}:1: door: has no docstring"
    for node in tree.body[1:]:
        yield f"{path}:{node.lineno}: door: a sub-package's __init__ holds a docstring only"


def length_violations(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION_LINES:
                yield (
                    f"{path}:{node.lineno}: length: {node.name} has {lines} lines;"
                    f" {LONGEST_FUNCTION_LINES} are the limit"
                )


LAYOUT_RULES = [floor_violations, owner_violations, purity_violations, door_violations]


def is_below(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)


def parsed(folder: str) -> list[tuple[str, ast.Module]]:
    """Every Python file below a folder of the repository, scripts without a suffix included."""
    found = []
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix == ".py" or (path.parent.name == "scripts" and is_python_script(path)):
            found.append((path.relative_to(ROOT).as_posix(), ast.parse(path.read_bytes())))
    return found


def is_python_script(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        shebang = file.readline()
    return shebang.startswith(b"#!") and b"python" in shebang


def violations(rule, *folders: str) -> list[str]:
    files = [file for folder in folders for file in parsed(folder)]
    return [said for path, tree in files for said in rule(path, tree)]


# --- the repository --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", LAYOUT_RULES, ids=lambda rule: rule.__name__)
def test_zflow_keeps_its_layout(rule):
    found = violations(rule, "zflow")
    assert not found, "\n" + "\n".join(found)


def test_no_function_is_longer_than_a_reader_can_hold():
    found = violations(length_violations, "zflow", "topologies", "scripts", "tests")
    assert not found, "\n" + "\n".join(found)


def test_the_top_level_of_the_repository_stays_small():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so what belongs to the repository is unknown")
    names = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    strangers = {name for name in names if not name.startswith(".")} - TOP_LEVEL
    assert not strangers, f"top: {sorted(strangers)} at the top level; allowed: {sorted(TOP_LEVEL)}"


@pytest.mark.slow
@pytest.mark.parametrize("heavy", ["zmq", "starlette", "rich"])
def test_importing_zflow_loads_nothing_heavy(heavy):
    program = f"import sys, zflow; sys.exit({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0, f"import zflow loads {heavy}"


# --- the rules themselves: each catches what it is for ------------------------------------------

CAUGHT = [
    (floor_violations, "zflow/wire/data.py", "from zflow.net import sender", 1),
    (floor_violations, "zflow/wire/data.py", "\nimport zflow.topology", 2),
    (floor_violations, "zflow/wire/data.py", "from zflow import topology", 1),
    (floor_violations, "zflow/wire/data.py", "from zflow import Topology", 1),
    (floor_violations, "zflow/wire/data.py", "from ..topology import Topology", 1),
    (floor_violations, "zflow/wire/data.py", "from .. import topology", 1),
    (floor_violations, "zflow/wire/data.py", "def f():\n    import zflow.net.sender", 2),
    (floor_violations, "zflow/wire/data.py", "import_module('zflow.net.sender')", 1),
    (floor_violations, "zflow/replica/main.py", "import zflow.coordinator.state", 1),
    (floor_violations, "zflow/supervisor/", "from zflow.replica import main", 1),
    (floor_violations, "zflow/ids.py", "from zflow.clock import Clock", 1),
    (floor_violations, "zflow/helpers.py", "", 1),
    (owner_violations, "zflow/protocol/link.py", "import zmq", 1),
    (owner_violations, "zflow/replica/main.py", "from zmq.utils import monitor", 1),
    (owner_violations, "zflow/replica/main.py", "import_module('zmq')", 1),
    (owner_violations, "zflow/wire/data.py", "import pickle", 1),
    (owner_violations, "zflow/local.py", "import time", 1),
    (owner_violations, "zflow/local.py", "import psutil", 1),
    (purity_violations, "zflow/protocol/link.py", "import threading", 1),
    (purity_violations, "zflow/protocol/link.py", "from os import path", 1),
    (door_violations, "zflow/net/__init__.py", '"""Doc."""\nfrom .sender import Sender', 2),
    (door_violations, "zflow/net/__init__.py", "", 1),
    (length_violations, "zflow/ids.py", "def f():\n" + "    pass\n" * 60, 1),
]


@pytest.mark.parametrize(("rule", "path", "source", "line"), CAUGHT)
def test_a_violation_is_reported_with_file_line_and_rule(rule, path, source, line):
    name = rule.__name__.removesuffix("_violations")
    (said,) = rule(path, ast.parse(source))
    assert said.startswith(f"{path}:{line}: {name}: ")


ALLOWED = [
    (floor_violations, "zflow/net/sender.py", "from zflow.net import sockets\nimport zflow.wire"),
    (floor_violations, "zflow/net/sender.py", "from . import sockets\nfrom ..wire import data"),
    (floor_violations, "zflow/__init__.py", "from zflow.stages import stage"),
    (floor_violations, "zflow/ids.py", "import json, zflowers"),
    (owner_violations, "zflow/net/sockets.py", "import zmq"),
    (owner_violations, "zflow/clock.py", "import time"),
    (purity_violations, "zflow/net/sockets.py", "import os, threading"),
    (door_violations, "zflow/testing/__init__.py", "from .runner import run"),
    (length_violations, "zflow/ids.py", "def f():\n" + "    pass\n" * 59),
]


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED)
def test_what_the_rules_allow_is_not_reported(rule, path, source):
    assert list(rule(path, ast.parse(source))) == []

"""Every function of a code base with its size and complexity, one JSON line each.

Shows a source with a parameter, a stage in two processes, a named output for what went wrong, and
sinks that are on disk before an item counts as done.

    zflow run topologies/codebase.py -p files.folder=src -p Report.path=functions.jsonl
"""

import ast
import json
import os
import sysconfig
from pathlib import Path

from zflow import Topology, emit, sink, source, stage


@source
def files(folder: str = ""):  # by default the standard library of this Python
    root = Path(folder or sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and "-packages/" not in name:
            yield name, path.read_bytes()  # bytes: the file itself declares its encoding


@stage(replicas=2)
def parse(file: tuple[str, bytes]):
    name, code = file
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        yield emit("broken", {"file": name, "error": f"{type(error).__name__}: {error}"})
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size_lines = node.end_lineno - node.lineno + 1
            branches = sum(hasattr(inner, "orelse") for inner in ast.walk(node))
            found = {"file": name, "function": node.name, "line": node.lineno}
            yield found | {"size_lines": size_lines, "complexity": 1 + branches}


@sink
class Report:
    def __init__(self, path: str = "functions.jsonl"):
        self.path = path

    def open(self):
        self.file = open(self.path, "a", encoding="utf-8")

    def write(self, items):
        self.file.writelines(json.dumps(item) + "\n" for item in items)
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        self.file.close()


@sink
class Broken(Report):
    def __init__(self, path: str = "broken.jsonl"):
        super().__init__(path)


flow = Topology("codebase")
flow.connect(files, parse, Report)
flow.connect(parse, Broken, output="broken")

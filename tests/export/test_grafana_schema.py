"""The exported dashboard by Grafana's own schema: the npm package @grafana/schema, and tsc.

The packages are installed once, into the user's cache.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.export.conftest import TARGETS, declared_of, done, missing, program
from zflow.export.grafana import dashboard

PACKAGES = ["@grafana/schema@13.2.3", "typescript@7.0.2"]
SCHEMA = Path(__file__).with_name("schema.ts")
TSC = ["node_modules/.bin/tsc", "--noEmit", "--strict", "--module", "nodenext"]

# A change to the dashboard that the schema must refuse, and what the compiler then names.
MISTAKES = [
    ('"mode": "multi"', '"mode": "many"', '"many"'),
    ('"lineWidth": 1', '"lineWdth": 1', "lineWdth"),
    ('"showHeader": true', '"showHeeder": true', "showHeeder"),
    ('"placement": "bottom"', '"placement": "top"', '"top"'),
    ('"schemaVersion": 39', '"schemaVersion": "39"', "'string'"),
    ('"collapsed": true, ', "", "collapsed"),
    ('"type": "datasource"', '"type": "data"', '"data"'),
    ('"mode": "palette-classic"', '"mode": "rainbow"', '"rainbow"'),
    ('"legendFormat"', '"legend"', "legend"),
    ('"barWidth": 0.8', '"barWidth": "0.8"', "'string'"),
]


@pytest.fixture(scope="module")
def packages():
    """A folder with the packages in node_modules."""
    npm = program("npm", "npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zflow-tests"
    folder = cache / re.sub(r"[^\w.]+", "-", " ".join(PACKAGES)).strip("-")
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            installed = done([*install, "--prefix", made, *PACKAGES], Path(made))
            if installed.returncode:
                missing(f"npm cannot install {' '.join(PACKAGES)}: {installed.stdout}")
            settle(Path(made) / "node_modules", folder)
    return folder


def settle(made: Path, folder: Path) -> None:
    """At once or not at all: another session of tests may do the same."""
    whole = Path(tempfile.mkdtemp(dir=made.parent))
    made.rename(whole / "node_modules")
    try:
        whole.rename(folder)
    except OSError:
        assert (folder / "node_modules").is_dir()


@pytest.fixture
def compiled(packages, tmp_path):
    """`compiled(board)` is what tsc says of a dashboard; nothing if it is right."""
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")

    def compiled(source: str) -> subprocess.CompletedProcess:
        (tmp_path / "dashboard.ts").write_text(source)
        return done([*TSC, "dashboard.ts"], tmp_path)

    return compiled


def as_typescript(board) -> str:
    """A dashboard as literals: the whole, and every part that the whole leaves open."""
    lines = [literal("Plain<Dashboard>", board)]
    for panel in board["panels"]:
        if panel["type"] == "row":
            lines.append(literal("Plain<RowPanel>", panel))
        for one in [panel, *panel.get("panels", [])]:
            if one["type"] != "row":
                lines += panel_literals(one)
    return "\n".join(lines)


def panel_literals(panel) -> list[str]:
    kind = panel["type"]
    return [
        literal("Plain<Panel>", panel),
        literal(f'Plain<Options["{kind}"]>', panel["options"]),
        literal(f'Plain<Custom["{kind}"]>', panel["fieldConfig"]["defaults"]["custom"]),
        *(literal("Plain<Query>", target) for target in panel["targets"]),
    ]


def literal(kind: str, data) -> str:
    # In a block of its own, so that every constant may have the same name.
    return f"{{ const one: {kind} = {json.dumps(data)}; void one; }}"


@pytest.mark.slow
def test_grafanas_schema_takes_every_dashboard(compiled):
    # One file for all of them, since the compiler's start is what takes time.
    boards = [as_typescript(dashboard(declared_of(target))) for target in TARGETS]
    checked = compiled("\n".join([SCHEMA.read_text(), *boards]))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_the_check_would_notice_mistakes(compiled, everything):
    right = as_typescript(dashboard(everything))
    wrong = [right.replace(was, made) for was, made, _ in MISTAKES]
    assert right not in wrong
    parts = [SCHEMA.read_text(), *wrong]
    checked = compiled("\n".join(parts))
    errors = re.findall(r"^dashboard\.ts\((\d+),\d+\): (error .*)$", checked.stdout, re.MULTILINE)
    end = parts[0].count("\n") + 1
    for part, (_, _, named) in zip(wrong, MISTAKES, strict=True):
        begin, end = end, end + part.count("\n") + 1
        assert any(named in text for line, text in errors if begin < int(line) <= end), named

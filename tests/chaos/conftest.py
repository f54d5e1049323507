"""The modules of `scripts/chaos`, as that script finds them."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def chaos(monkeypatch):
    """By name, without the package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = [path.stem for path in sorted((SCRIPTS / "chaos_campaigns").glob("[a-z]*.py"))]
    return {name: importlib.import_module(f"chaos_campaigns.{name}") for name in names}

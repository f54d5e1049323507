"""The environment that peers run in: `.peers` beside pyproject.toml, apart from the project's own.

Decides what is in it. Installs nothing into the system: `redis-server` is named if it is missing.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".peers"
PYTHON = FOLDER / "bin" / "python"
# `packaging` is imported by kombu's transport for Redis, which does not always ask for it.
PACKAGES = {"bytewax": ["bytewax"], "celery": ["celery[redis]", "packaging"]}


def install() -> None:
    """Make the environment, and add each peer to it that this Python can have."""
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for peer, packages in PACKAGES.items():
        if subprocess.run([*pip, *packages], check=False).returncode != 0:
            print(f"bench: {peer} could not be installed, it will be skipped", file=sys.stderr)


def missing(peer: str) -> str | None:
    """Why a peer cannot run, as a sentence; None if it can."""
    there = (
        PYTHON.exists()
        and (
            subprocess.run([PYTHON, "-c", f"import {peer}"], capture_output=True, check=False)
        ).returncode
        == 0
    )
    if not there:
        return f"{peer} is not installed (scripts/bench --peers installs it into .peers)"
    if peer == "celery" and shutil.which("redis-server") is None:
        return (
            "it needs redis-server, which is not installed (Debian: apt-get install redis-server)"
        )
    return None

"""`zflow run --reload`: the topology's file is watched, and every version of it applied.

Decides when a file has changed, and how that is told. What is replaced is decided in
`zflow.declared.changes`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from zflow.clock import Clock
from zflow.errors import ZflowError
from zflow.loader import load
from zflow.local.lead import Lead
from zflow.local.plan import next_version

LOOK_EVERY_S = 0.5


class Reloader:
    """Of one run, whose thread calls it between two turns. say: takes a line for people."""

    def __init__(self, target: str, path: Path, clock: Clock, say: Callable[[str], None]) -> None:
        self._target = target
        self._path = path
        self._clock = clock
        self._say = say
        self._look_s = 0.0
        self._seen = self._stamp()

    def __call__(self, lead: Lead) -> None:
        """Look, twice a second."""
        now_s = self._clock.now_s()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_EVERY_S
        stamp = self._stamp()
        if stamp is not None and stamp != self._seen:
            self._seen = stamp
            self._apply(lead)

    def _stamp(self) -> tuple[int, int] | None:
        """None while an editor replaces the file."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def _apply(self, lead: Lead) -> None:
        try:
            loaded = load(self._target)
            problems = loaded.topology.problems()
            version = next_version(lead.stored, loaded, (), os.environ)
        except ZflowError as error:
            self._tell(f"{self._path.name} is not applied: {error}")
            return
        found = version.changes
        refusals = [*map(str, problems), *found.refusals]
        if refusals:
            self._tell(f"{self._path.name} is not applied: {'; '.join(refusals)}")
        elif found.reasons:
            why = lead.apply(version.config, loaded.source, loaded.digest, list(found.reasons))
            names = ", ".join(found.reasons)
            self._tell(f"not applied: {why}" if why else f"reloaded: {names} will be replaced")

    def _tell(self, text: str) -> None:
        self._say(f"zflow: {text}")

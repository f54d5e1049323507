"""One run taken apart under attack: a coordinator, and a process for each of its stages.

Decides nothing about faults or bars.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from chaos_campaigns import exact
from chaos_campaigns.process import Replica, Run, Site, Stuck, wait_until
from zflow.net.control import ask
from zflow.wire.control import Look
from zflow.wire.picture import Picture

STAGES = ("numbers", "spread", "Tally", "Rows")
STARTS_WITHIN_S = 60.0
ANSWERS_WITHIN_S = 5.0


class ApartRun(Run):
    """The topology `exact`; `process` is its coordinator, and may be killed and started again."""

    def __init__(self, site: Site, n: int) -> None:
        self.site = site
        self.url = f"ipc://{site.folder}/c"
        self.out, self.err = site.folder / "out", site.folder / "err"
        self._topology = f"{exact.TOPOLOGIES}:exact"
        self._numbers: dict[str, int] = {}
        given = [f"numbers.n={n}", f"numbers.gate={site.gate}", f"Rows.path={exact.rows_of(site)}"]
        self.parameters = [word for one in given for word in ("-p", one)]
        self.process = self.coordinate(self.parameters)
        self.stages: dict[str, subprocess.Popen[bytes]] = {}

    def coordinate(
        self, more: Sequence[str], *, url: str = "", patch: str = "", name: str = ""
    ) -> "subprocess.Popen[bytes]":
        """A coordinator. patch: what this one executes first. name: of its files, if it is not
        the run's own."""
        command = ["coordinator", self._topology, "--bind", url or self.url, "--json", *more]
        return self._start(command, name, patch)

    def resume(self, patch: str = "") -> None:
        """The coordinator comes back."""
        self.process = self.coordinate(["--resume", "last"], patch=patch)

    def stage(self, stage: str, *, patch: str = "") -> "subprocess.Popen[bytes]":
        """A process that runs replicas of the stage."""
        return self._start(["stage", stage, "--coordinator", self.url], stage, patch)

    def start_stages(self) -> None:
        """One for each, and wait until data may flow."""
        self.stages = {name: self.stage(name) for name in STAGES}
        wait_until(self.all_run, STARTS_WITHIN_S, "a run that runs")

    def _start(self, words: Sequence[str], name: str, patch: str) -> "subprocess.Popen[bytes]":
        environment = self.site.environment()
        if patch:
            folder = self.site.folder / f"patch-{name or 'coordinator'}"
            folder.mkdir(exist_ok=True)
            (folder / "sitecustomize.py").write_text(patch)
            environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment['PYTHONPATH']}"
        out = self.site.folder / f"{name}.out" if name else self.out
        err = self.site.folder / f"{name}.err" if name else self.err
        with out.open("wb") as out_file, err.open("ab") as err_file:
            return subprocess.Popen(
                [sys.executable, "-m", "zflow", *words],
                cwd=self.site.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
            )

    def said(self, name: str = "") -> str:
        """What a stage's process, or the coordinator, has told people."""
        path = self.site.folder / f"{name}.err" if name else self.err
        return path.read_text(errors="replace") if path.exists() else ""

    def replicas(self) -> list[Replica]:
        """Those that live now, whoever supervises them."""
        return self.replicas_of([process.pid for process in self.stages.values()])

    def picture(self) -> Picture | None:
        """What the coordinator says to whoever looks; None while it does not answer."""
        found = ask(self.url, Look(), within_s=ANSWERS_WITHIN_S)
        return found if isinstance(found, Picture) else None

    def all_run(self) -> bool:
        """The coordinator says so, and has heard what each replica has counted."""
        if self.process.poll() is not None:
            raise Stuck(f"the coordinator ended too early: {self.ending()}")
        picture = self.picture()
        slots = [slot for stage in picture.stages for slot in stage.slots] if picture else []
        return bool(slots) and all(
            slot.replica is not None and slot.replica.state == "running" and slot.replica.counters
            for slot in slots
        )

    def stages_end(self, within_s: float) -> dict[str, int | str]:
        """The exit codes of the processes of the stages, once the coordinator has ended."""
        codes: dict[str, int | str] = {}
        for name, process in self.stages.items():
            codes[name] = "still there"
            with suppress(subprocess.TimeoutExpired):
                codes[name] = process.wait(within_s)
        return codes

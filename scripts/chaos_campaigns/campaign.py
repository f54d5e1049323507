"""What a campaign is: its sizes, its faults, its bar, and the twin that must miss that bar."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos_campaigns.process import Run, Site, Stuck
from chaos_campaigns.verdict import Verdict

Size = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One execution of a campaign. patch: what its runs execute first; empty but for twins."""

    size: Size
    folder: Path
    dice: random.Random
    patch: str = ""

    def number(self, name: str) -> int:
        """One of the campaign's sizes, where it is a whole number."""
        return int(self.size[name])

    def site(self, name: str = "site", patch: str = "") -> Site:
        """A fresh folder for one or more runs."""
        return Site(self.folder / name, patch + self.patch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The campaign with its protection off. breaks: a word of the bar that it must miss."""

    patch: str
    breaks: str
    size: Size | None = None  # if the ordinary one would only take longer to fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One line of the table that `scripts/chaos --help` prints."""

    name: str
    title: str
    full: Size
    ci: Size
    play: Callable[[Job], Verdict]
    twin: Twin


def start(
    site: Site,
    topology: str,
    n: int,
    parameters: Sequence[str] = (),
    replicas: Sequence[str] = (),
) -> Run:
    """A run whose source and sink know the site's gate and records."""
    common = [f"numbers.n={n}", f"numbers.gate={site.gate}", f"Collect.folder={site.records}"]
    return Run(site, topology, [*common, *parameters], replicas)


def finish(run: Run, verdict: Verdict, within_s: float, wanted: int = 0) -> None:
    """Wait for the end of a run; what its sinks have kept is to be judged even if it hangs."""
    try:
        code = run.wait(within_s)
    except Stuck as stuck:
        verdict.broken.append(str(stuck))
        return
    verdict.ended(code, wanted, run.result())

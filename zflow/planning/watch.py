"""What an onlooker makes of one picture after another: the newest rates, and a verdict on a while.

Decides how far back to look: rates follow quickly, a verdict does not change with every breath.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zflow.planning.explain import verdict_of
from zflow.planning.rates import Rates, rates_between
from zflow.planning.verdict import Verdict
from zflow.wire.picture import Picture

RATES_S = 3.0
VERDICT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A picture and what it means."""

    picture: Picture
    rates: Rates
    verdict: Verdict

    def as_data(self) -> dict[str, Any]:
        """`rates` and `verdict` as plain data, for JSON beside the picture."""
        return {"rates": asdict(self.rates), "verdict": asdict(self.verdict)}


class Watch:
    """The pictures of the last seconds. One thread owns it. cores: of the hosts, by name."""

    def __init__(self, cores: Mapping[str, float]) -> None:
        self._cores = cores
        self._pictures: deque[Picture] = deque()

    def take(self, picture: Picture) -> View:
        """The newest picture; another run, or a coordinator that began anew, forgets the others."""
        known = self._pictures
        if known and not _follows(known[-1], picture):
            known.clear()
        known.append(picture)
        while picture.elapsed_s - known[0].elapsed_s > VERDICT_S:
            known.popleft()
        rates = rates_between(self._before(RATES_S), picture)
        lasting = rates_between(known[0], picture)
        verdict = verdict_of(picture, lasting, self._cores)
        return View(picture=picture, rates=rates, verdict=verdict)

    def _before(self, seconds: float) -> Picture:
        """The youngest picture that is at least that much older than the newest, or the oldest."""
        newest = self._pictures[-1]
        old = [one for one in self._pictures if newest.elapsed_s - one.elapsed_s >= seconds]
        return old[-1] if old else self._pictures[0]


def _follows(before: Picture, after: Picture) -> bool:
    return before.run_id == after.run_id and before.elapsed_s <= after.elapsed_s

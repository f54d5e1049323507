"""What the page is told, once a second and the same for all who look: rates, verdict, and history.

Decides what of a picture the page needs, and what is kept for its charts. One thread owns it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from zflow.planning.rates import Rates
from zflow.planning.watch import View, Watch
from zflow.wire.picture import Picture

KEPT_POINTS = 900  # of one second each
_ABOUT = ("topology", "run_id", "generation", "digest", "phase", "paused", "at_s", "elapsed_s")

# at_s, yielded by sources and finished by sinks per second, latency p50 and p99 (null without any),
# waiting items; then the rates and the queues of all stages, in their order.
Point = list[Any]


class Live:
    """Of one run. cores: of the hosts, by name."""

    def __init__(self, cores: Mapping[str, float]) -> None:
        self._watch = Watch(cores)
        self._stages: list[str] = []
        self._points: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._taken: Picture | None = None
        self._message = b"null"

    def take(self, picture: Picture) -> None:
        """The newest picture, about once a second; the same one again changes nothing."""
        if picture is self._taken:
            return
        self._taken = picture
        view = self._watch.take(picture)
        stages = [stage.name for stage in picture.stages]
        if stages != self._stages:
            self._stages = stages
            self._points.clear()
        if view.rates.interval_s:
            self._points.append(point_of(view.rates))
        self._message = msgspec.json.encode(_message(view))

    def message(self) -> bytes:
        """JSON: `run`, `edges`, `rates`, `verdict`, `point`; `null` before the first picture."""
        return self._message

    def history(self) -> bytes:
        """JSON: the points so far, oldest first."""
        return msgspec.json.encode(list(self._points))


def _message(view: View) -> dict[str, Any]:
    return {
        "run": {name: getattr(view.picture, name) for name in _ABOUT},
        "edges": view.picture.edges,
        "point": point_of(view.rates) if view.rates.interval_s else None,
        **view.as_data(),
    }


def point_of(rates: Rates) -> Point:
    """One point of the charts."""
    return [
        round(rates.at_s, 1),
        _sum(stage.rate_per_s for stage in rates.stages if stage.kind == "source"),
        _sum(stage.rate_per_s for stage in rates.stages if stage.kind == "sink"),
        rates.latency_p50_s,
        rates.latency_p99_s,
        sum(edge.queue_items for edge in rates.edges),
        [round(stage.rate_per_s, 1) for stage in rates.stages],
        [stage.queue_items for stage in rates.stages],
    ]


def _sum(numbers: Iterable[float]) -> float:
    return round(sum(numbers), 1)

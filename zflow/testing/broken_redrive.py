"""Dead letters that are sent again, without the names that they are given for it.

Decides nothing; `mutants` puts these in place. Each says what it no longer does by its name, and
does everything else as the original does.
"""

from typing import Any

from msgspec.structs import replace

from zflow.hashing import text_hash64
from zflow.protocol.origin import Origin
from zflow.testing.items import Item
from zflow.testing.redrive import Redrives
from zflow.testing.worker import Worker
from zflow.testing.world import Seat
from zflow.wire.run import Run

_produce_some = Worker._produce_some
_yielded = Origin.yielded


def produce_as_first(self: Worker, origin: Origin, items: list[Item], now_s: float) -> None:
    """Remember what each was called before it was sent again, for `yielded_as_first`."""
    if self._stage.resends is None:
        _produce_some(self, origin, items, now_s)
        return
    for item in items:
        letter = item.kids[0][0][1].letter
        origin.__dict__["first"] = letter and letter.unit
        _produce_some(self, origin, [item], now_s)


def yielded_as_first(self: Origin, n: int, born_ns: int, mark: Any) -> Run:
    """Keep the name of before."""
    run = _yielded(self, n, born_ns, mark)
    first = self.__dict__.get("first")
    if first is None:
        return run
    origin, oseq, path, index = first
    return replace(run, origin=origin, start=oseq, path=path, fixed=index)


def origin_of_the_edge(self: Redrives, seat: Seat) -> int:
    """All sources of one edge's dead letters are the same origin."""
    return text_hash64("origin", seat.stage.name)

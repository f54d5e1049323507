"""A source that cannot be replayed: its items go to disk first, and come from there after a crash.

Decides only the order: an item is durable before the source's code goes on behind its `yield`, so
that what stands there, the acknowledgement to a client, is true whatever happens next.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.state.journal import Journal
from zflow.wire.codec import load_item, pack

_LOG = logging.getLogger("zflow.journal")
RETRY_S = 0.5


def journaled(
    begin: Callable[[Any], Iterator[Any]], journal: Journal, low: Callable[[], int], clock: Clock
) -> Callable[[int], Iterator[Any]]:
    """`begin` as a source that can be replayed: settled -> what is kept from there on, then new.

    low: the low mark on disk; what is below is forgotten. A full disk blocks the source, with an
    alarm; what it has yielded meanwhile is not acknowledged.
    """
    repeating = Repeating(_LOG, clock)

    def keep(item: Any) -> None:
        raw = pack(item)
        while True:
            try:
                journal.append(raw, low=low())
                return
            except Unavailable as error:
                repeating.warning("cannot write the journal: %s; the source waits", error)
                clock.sleep(RETRY_S)

    def replayable(settled: int) -> Iterator[Any]:
        yield from map(load_item, journal.items(settled))
        for item in begin(None):
            if item is not None:
                keep(item)
                yield item

    return replayable

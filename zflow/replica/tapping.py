"""Which of a replica's edges somebody looks at now, and the mirror that is there meanwhile.

Decides when the mirror is opened and closed. Never keeps one open for which no lease is heard any
more, and never lets it hold up or end the replica.
"""

import logging
import threading
from collections.abc import Mapping

from zflow.clock import Clock
from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.net.links import DataLinks
from zflow.net.tap import Mirror
from zflow.protocol.actions import Send
from zflow.replica.place import Place

_LOG = logging.getLogger("zflow.replica")


class Tapping:
    """`learn` and `turn` are called by the control thread, without the reactor's lock.

    endpoint: where the mirror is, empty while there is none.
    """

    def __init__(
        self,
        place: Place,
        links: DataLinks,
        lock: threading.Lock,
        clock: Clock,
    ) -> None:
        stage = place.stage
        edges = place.config.edges
        self.endpoint = ""
        self._edges = {edge.label: edge.edge for edge in edges if edge.source == stage.name}
        self._where = place.run.endpoint(stage.number, place.slot.index, "tap")
        self._place = place
        self._links = links
        self._lock = lock
        self._clock = clock
        self._warnings = Repeating(_LOG, clock)
        self._until_s: dict[int, float] = {}
        self._mirror: Mirror | None = None

    def learn(self, taps: Mapping[str, float]) -> None:
        """The coordinator's newest word: which edges, by label, for how many more seconds."""
        if not taps and self._mirror is None:
            return
        now_s = self._clock.now_s()
        mine = taps.keys() & self._edges.keys()
        self._until_s = {self._edges[label]: now_s + taps[label] for label in mine}
        self.turn()

    def turn(self) -> None:
        """Open, go on, or close; at least once a second while there is a mirror."""
        now_s = self._clock.now_s()
        chosen = [edge for edge, until_s in self._until_s.items() if until_s > now_s]
        if chosen and self._mirror is None:
            self._open()
        mirror = self._mirror
        if mirror is None:
            return
        with self._lock:
            mirror.choose(chosen, now_s)
            mirror.tell(now_s)
            if not chosen:
                self._links.tap = None
                self._mirror = None
                self.endpoint = ""
                mirror.close()

    def _open(self) -> None:
        slot, incarnation = str(self._place.slot), self._place.incarnation
        try:
            with self._lock:
                mirror = Mirror(self._where, slot, incarnation)
        except Unavailable as error:
            self._warnings.warning("nobody can look at what is sent here: %s", error)
            self._until_s = {}
            return

        def take(action: Send) -> None:
            payload = action.payload
            parts = payload.parts if payload is not None else ()  # type: ignore[attr-defined]
            mirror.mirror(action.link[0], action.frame, parts, self._clock.now_s())

        self._mirror = mirror
        self.endpoint = self._where
        with self._lock:
            self._links.tap = take

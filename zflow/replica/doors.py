"""Who may connect to a replica, and who has failed to. Decides nothing without keys."""

from zflow.net.links import DataLinks
from zflow.net.security import Security
from zflow.net.sockets import Sockets
from zflow.replica.place import Place


class Doors:
    """Of one replica. `turn` about once a second, under the reactor's lock.

    alarm: what is wrong at them, a sentence; empty if nothing is.
    """

    def __init__(
        self, place: Place, security: Security, sockets: Sockets, links: DataLinks
    ) -> None:
        self.alarm = ""
        self._place = place
        self._security = security
        self._sockets = sockets
        self._links = links
        self._accept()

    def turn(self) -> None:
        """Let in whom this slot has an edge with now, and look who knocks in vain."""
        self._accept()
        self.alarm = self._look()

    def _accept(self) -> None:
        here, edges = self._place.slot.stage, self._place.config.edges
        above = {edge.source for edge in edges if edge.target == here}
        below = {edge.target for edge in edges if edge.source == here}
        rosters = [self._place.rosters[stage] for stage in above | below]
        self._security.accept(name for roster in rosters for name in roster.names())

    def _look(self) -> str:
        for peer, failure in self._sockets.handshake_failures().items():
            if failure.failing:
                return f"handshake with {peer} fails: {failure.reason}"
        if self._links.bad_identity:
            return f"{self._links.bad_identity} messages came in another slot's name"
        return ""

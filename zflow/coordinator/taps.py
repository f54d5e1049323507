"""Which edges of a run somebody looks at, and until when.

Decides only. A lease that is not renewed ends, whatever became of who looked.
"""

from zflow.coordinator.state import RunState
from zflow.errors import suggest
from zflow.ids import Slot
from zflow.wire.control import Tap, Tapped

LONGEST_LEASE_S = 60.0


class Taps:
    """Of one run. One thread owns it."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._edges = {edge.label: edge for edge in state.config.edges}
        self._ends_s: dict[str, float] = {}

    def on_tap(self, tap: Tap, now_s: float) -> Tapped:
        """Begin or go on; where the senders of the edge mirror what they send, as far as known."""
        edge = self._edges.get(tap.edge)
        if edge is None:
            return Tapped(refusal=f"there is no edge {tap.edge}; {suggest(tap.edge, self._edges)}")
        ends_s = now_s + max(0.0, min(tap.lease_s, LONGEST_LEASE_S))
        self._ends_s[tap.edge] = max(ends_s, self._ends_s.get(tap.edge, 0.0))
        self.turn(now_s)
        endpoints = {
            name: view.report.tap
            for name, view in self._state.slots.items()
            if view.report is not None and view.report.tap and Slot.parse(name).stage == edge.source
        }
        return Tapped(edge.edge, endpoints)

    def turn(self, now_s: float) -> None:
        """Forget those that have ended, and say how long the others still last."""
        self._ends_s = {edge: ends_s for edge, ends_s in self._ends_s.items() if ends_s > now_s}
        self._state.taps = {edge: ends_s - now_s for edge, ends_s in self._ends_s.items()}

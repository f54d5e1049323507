"""Urgent units overtake others: which of the lanes that wait is served next.

Decides by strict priority, but a share of the units is kept for whoever would otherwise wait for
ever. Both ends of an edge ask: the sender which lane fills the next message, the receiver which
message is executed. So what an urgent unit does not overtake is the window of one replica.
"""

from collections.abc import Sequence


class Turns:
    """Of `fair_ratio` of all units, the lanes below the most urgent one are served, in turn.

    Nothing is saved up: while nobody is overtaken, nobody is owed anything.
    """

    def __init__(self, fair_ratio: float) -> None:
        self._owed_per_unit = fair_ratio / (1.0 - fair_ratio)
        self._owed = 0.0
        self._turn = 0

    def next(self, waiting: Sequence[int]) -> int:
        """Which of the lanes that wait, the most urgent first, is served now."""
        if self._owed < 1.0 or len(waiting) < 2:
            return waiting[0]
        return waiting[1 + self._turn % (len(waiting) - 1)]

    def most(self, lane: int, waiting: Sequence[int], n: int) -> int:
        """How many of `n` units that lane may have at once."""
        return n if lane == waiting[0] else min(n, int(self._owed))

    def served(self, lane: int, waiting: Sequence[int], n: int) -> None:
        """`n` units of a lane have left; waiting: the lanes before that."""
        if len(waiting) < 2:
            self._owed = 0.0
        elif lane == waiting[0]:
            self._owed += n * self._owed_per_unit
        else:
            self._owed -= n
            self._turn += 1

"""Partitions that come to this replica, and leave it, while data flows (R9).

Decides when one that is somebody else's by now is let go of, and when one that is ours may be
opened: its last owner holds the file until then. Runs no user code. The data thread owns it; the
control thread only leaves a word.
"""

import logging
from collections.abc import Callable

from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.replica.partitions import Owned, Partitions
from zflow.replica.rounds import Rounds
from zflow.replica.worker import Bench

_LOG = logging.getLogger("zflow.durable")
LOOK_S = 0.05  # for files that their last owner has let go of, and then more and more seldom
LOOK_MAX_S = 2.0  # from then on it is said: no move takes so long


class Moving:
    """See the module. opened: told when partitions have come; left: of one that goes.

    released: the generation of the coordinator's word up to which everything has been let go of.
    """

    def __init__(
        self,
        bench: Bench,
        partitions: Partitions,
        rounds: Rounds,
        opened: Callable[[], None],
        left: Callable[[Owned], None],
    ) -> None:
        self.released = 0
        self._bench = bench
        self._partitions = partitions
        self._rounds = rounds
        self._opened = opened
        self._left = left
        self._word: tuple[int, list[int]] = (0, [])
        self._leaving: dict[int, Owned] = {}
        self._expects = False  # partitions that have come may have files
        self._look_s = 0.0
        self._pause_s = LOOK_S
        self._complain = Repeating(_LOG, bench.clock)

    def assign(self, generation: int, slots: list[int]) -> None:
        """The coordinator's word on who owns what; from any thread."""
        if generation > self._word[0]:
            self._word = generation, slots

    def hear(self) -> list[Owned]:
        """Take in the newest word: the partitions that have to leave."""
        owners = self._partitions.owners
        generation, slots = self._word
        if generation <= owners.generation:
            return []
        owners.assign(generation, slots)
        mine = self._partitions.is_mine
        self._leaving = {o.number: o for o in self._partitions.all() if not mine(o.number)}
        self._expects = True
        self._look_s, self._pause_s = 0.0, LOOK_S
        return list(self._leaving.values())

    def turn(self) -> None:
        """Let go of what is at rest, and look for what has come."""
        for owned in list(self._leaving.values()):
            if self._is_at_rest(owned):
                del self._leaving[owned.number]
                self._left(owned)
                self._partitions.released(owned)
        if not self._leaving:
            self.released = self._partitions.owners.generation
        now_s = self._bench.clock.now_s()
        if self._expects and now_s >= self._look_s:
            self._look_s = now_s + self._pause_s
            self._pause_s = min(LOOK_MAX_S, 1.5 * self._pause_s)
            self._open_all()

    def _is_at_rest(self, owned: Owned) -> bool:
        """All of it is on disk, and its outputs are settled: here and, so that nobody sends them
        again, in the file."""
        if self._rounds.has(owned) or not owned.origin.empty():
            return False
        if owned.origin.low > owned.low:
            self._rounds.opened(owned)
            return False
        return True

    def _open_all(self) -> None:
        """What is ours and has a file that nobody holds."""
        for number in self._partitions.closed():
            try:
                self._partitions.owned(number)
            except Unavailable as error:  # usually its last owner has not let go of it yet
                if self._pause_s == LOOK_MAX_S:
                    self._complain.warning(
                        "cannot open a partition that came: %s; nothing is lost, its units wait",
                        error,
                    )
        self._opened()

    def settled(self) -> bool:
        """Nothing has to leave, and everything that is ours and has a file is open."""
        return not self._leaving and not (self._expects and self._partitions.closed())

    def due_s(self) -> float:
        """When to look again."""
        return self._look_s if self._expects or self._leaving else float("inf")

"""What a replica has heard of its coordinator.

Decides which word counts: of the newest coordinator, and never back to an earlier phase. Words may
come late, twice and in any order.
"""

from zflow.wire.control import PHASES, Ownership, Snapshot, Update

PHASE = {name: number for number, name in enumerate(PHASES)}


class Heard:
    """Of one replica. phase: its number in `PHASE`. concluding: it is this stage's turn to run
    `finish`. owners: of the stages whose partitions have moved. stale: words of a coordinator
    that is not the newest."""

    def __init__(self, snapshot: Snapshot, stage: str) -> None:
        self.phase = PHASE[snapshot.phase]
        self.probe = snapshot.probe
        self.paused = snapshot.paused
        self.concluding = snapshot.concluding == stage
        self.generation = snapshot.config.generation
        self.owners: dict[str, Ownership] = {}
        self.stale = 0
        self._stage = stage
        self._epoch = snapshot.epoch
        self._number = snapshot.number

    def take(self, word: Update | Snapshot) -> bool:
        """Believe it; False if it is none of the newest coordinator's."""
        if word.epoch < self._epoch:
            self.stale += 1
            return False
        said = word.generation if isinstance(word, Update) else word.config.generation
        self.generation = max(self.generation, said)
        self._epoch = word.epoch
        self._number = word.number
        self.phase = max(self.phase, PHASE[word.phase])
        self.probe = max(self.probe, word.probe)
        self.paused = word.paused
        self.concluding |= word.concluding == self._stage
        return True

    def missed_before(self, update: Update) -> bool:
        """Something was said between the last word and this one."""
        return update.epoch > self._epoch or update.number > self._number + 1

    def own(self, word: Ownership) -> None:
        """Who owns the partitions of a stage."""
        known = self.owners.get(word.stage)
        if known is None or word.generation > known.generation:
            self.owners[word.stage] = word

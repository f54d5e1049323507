"""Where and who a replica is: all that it is told at birth."""

from dataclasses import dataclass

from zflow.ids import Slot
from zflow.paths import RunDirectory, StateDirectory
from zflow.protocol.actions import LinkKey
from zflow.wire.control import Roster, RunConfig, StageConfig
from zflow.wire.data import Crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which replica this is, and what it was told."""

    config: RunConfig
    slot: Slot
    incarnation: int
    crashes: tuple[Crash, ...]
    run: RunDirectory  # where its locks, its black box and its logs are
    state: StateDirectory  # where the positions, partitions and dead letters are
    into: str  # where it takes messages
    ack: str  # where it takes the answers to its own
    rosters: dict[str, Roster]  # who its neighbours are, as far as is known; grows with the run

    @property
    def stage(self) -> StageConfig:
        """The stage's own configuration."""
        return self.config.stage(self.slot.stage)

    def endpoint_of_link(self, key: LinkKey) -> str:
        """Where the receiver of a link takes messages."""
        slot = Slot.parse(key[1])
        return self.rosters[slot.stage].slots[slot.index]

"""What the coordinator has heard of its run, put together to one picture.

Decides what is kept: the last census of every supervisor, the last events. Soft state: supervisors
say everything again.
"""

from collections import deque

from zflow.clock import Clock
from zflow.coordinator.state import RunState
from zflow.ids import Slot
from zflow.wire.picture import (
    Census,
    EdgePicture,
    Event,
    Picture,
    SlotCensus,
    StagePicture,
    Totals,
    added,
    restarts_of,
    totals_of,
)

KEPT_EVENTS = 500


class Gathering:
    """Of one run. One thread owns it. digest: of the topology's code."""

    def __init__(self, state: RunState, digest: str, clock: Clock) -> None:
        self._state = state
        self._digest = digest
        self._clock = clock
        self._began_s = clock.now_s()
        self._slots: dict[str, SlotCensus] = {}
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._numbered = 0

    def take(self, census: Census) -> None:
        """What one supervisor says of its slots."""
        for slot in census.slots:
            self._slots[slot.slot] = slot

    def happened(self, kind: str, text: str, slot: Slot | None = None, stage: str = "") -> None:
        """Remember an event."""
        self._numbered += 1
        self._events.append(
            Event(
                number=self._numbered,
                at_s=self._clock.wall_s(),
                kind=kind,
                stage=slot.stage if slot is not None else stage,
                slot=str(slot) if slot is not None else "",
                text=text,
            )
        )

    def picture(self) -> Picture:
        """Everything that is known now."""
        config = self._state.config
        return Picture(
            topology=config.topology,
            run_id=config.run_id,
            generation=config.generation,
            digest=self._digest,
            phase=self._state.phase,
            paused=False,
            at_s=self._clock.wall_s(),
            elapsed_s=self._clock.now_s() - self._began_s,
            stages=[
                StagePicture(
                    name=stage.name,
                    kind=stage.kind,
                    desired=stage.replicas,
                    partitions=stage.partitions,
                    durability=stage.durability,
                    timeout_s=stage.timeout_s,
                    slots=[self._slot(stage.name, k) for k in range(stage.replicas)],
                    gone=self._gone(stage.name, stage.replicas),
                )
                for stage in config.stages
            ],
            edges=[
                EdgePicture(
                    label=edge.label,
                    source=edge.source,
                    target=edge.target,
                    output=edge.output,
                    delivery=edge.delivery,
                    keyed=bool(edge.partitions),
                    window_items=edge.window_items,
                )
                for edge in config.edges
            ],
            events=list(self._events),
        )

    def _slot(self, stage: str, index: int) -> SlotCensus:
        name = str(Slot(stage, index))
        known = self._slots.get(name)
        return known or SlotCensus(slot=name, replica=None, retired={}, restarts={})

    def _gone(self, stage: str, replicas: int) -> Totals:
        """Of slots that are no longer there."""
        return added(
            *(
                added(totals_of(census), restarts_of(census))
                for name, census in self._slots.items()
                if (slot := Slot.parse(name)).stage == stage and slot.index >= replicas
            )
        )

"""What the coordinator has heard of its run, put together to one picture.

Decides what is kept: the last census of every supervisor, the last events. Soft state: supervisors
say everything again.
"""

from collections import deque
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from zflow.books import Books
from zflow.clock import Clock
from zflow.coordinator.state import RunState
from zflow.ids import Slot
from zflow.net.monitor import Failure
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
    """Of one run. One thread owns it. digest: of the topology's code. waits_for: see `Duties`."""

    def __init__(
        self,
        state: RunState,
        digest: str,
        clock: Clock,
        *,
        waits_for: Callable[[], str] = str,
    ) -> None:
        self._state = state
        self._digest = digest
        self._clock = clock
        self._waits_for = waits_for
        self._began_s = clock.now_s()
        self._slots: dict[str, SlotCensus] = {}
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._numbered = 0
        self._handshakes: list[str] = []

    def take(self, census: Census) -> None:
        """What one supervisor says of its slots; those of no stage of this run are left out."""
        stages = {stage.name for stage in self._state.config.stages}
        for slot in census.slots:
            try:
                place = Slot.parse(slot.slot)
            except ValueError:
                continue
            if place.stage in stages:
                self._slots[slot.slot] = slot

    def books(self) -> Books:
        """The books of the whole run, from every census."""
        books = Books((edge.label, edge.source) for edge in self._state.config.edges)
        books.take(Census(slots=list(self._slots.values())))
        return books

    def restarts(self) -> dict[str, int]:
        """How often a process of each stage had to be replaced."""
        totals: dict[str, int] = {}
        for census in self._slots.values():
            stage = Slot.parse(census.slot).stage
            totals[stage] = totals.get(stage, 0) + sum(census.restarts.values())
        return totals

    def applied(self, digest: str) -> None:
        """The run is of another version now."""
        self._digest = digest
        self.happened("apply", f"version {digest}")

    def handshakes(self, failures: Mapping[str, Failure]) -> None:
        """Who does not come in at the coordinator, by endpoint."""
        self._handshakes = [
            f"{endpoint}: {one.reason} ({one.count} times)"
            for endpoint, one in failures.items()
            if one.failing
        ]

    def _alarms(self) -> list[str]:
        views = self._state.slots.items()
        replicas = [f"{name}: {v.report.alarm}" for name, v in views if v.report and v.report.alarm]
        return [*self._handshakes, *replicas]

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

    def events_behind(self, number: int) -> list[Event]:
        """Those that came later and are still known, oldest first."""
        return [event for event in self._events if event.number > number]

    def picture(self) -> Picture:
        """Everything that is known now."""
        config = self._state.config
        return Picture(
            topology=config.topology,
            run_id=config.run_id,
            generation=config.generation,
            digest=self._digest,
            phase=self._state.phase,
            paused=self._state.paused,
            at_s=self._clock.wall_s(),
            elapsed_s=self._clock.now_s() - self._began_s,
            stages=[
                StagePicture(
                    name=stage.name,
                    kind=stage.kind,
                    desired=self._state.wanted[stage.name],
                    partitions=stage.partitions,
                    durability=stage.durability,
                    timeout_s=stage.timeout_s,
                    slots=[self._slot(name) for name in self._names(stage.name)],
                    gone=self._gone(stage.name),
                    owners=list(self._state.owners_of(stage)) if stage.partitions else [],
                    most_replicas=stage.most_replicas,
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
                    window_bytes=edge.window_bytes,
                )
                for edge in config.edges
            ],
            events=list(self._events),
            alarms=self._alarms(),
            waits_for=self._waits_for(),
        )

    def _names(self, stage: str) -> list[str]:
        slots = map(Slot.parse, self._state.slots)
        return [str(slot) for slot in sorted(slots) if slot.stage == stage]

    def _slot(self, name: str) -> SlotCensus:
        known = self._slots.get(name)
        if known is None:
            return SlotCensus(slot=name, replica=None, retired={}, restarts={})
        view = self._state.slots[name]
        if known.replica is None or known.replica.incarnation != view.incarnation:
            return known
        return replace(known, replica=replace(known.replica, state=view.state))

    def _gone(self, stage: str) -> Totals:
        """Of slots that are no longer there."""
        return added(
            *(
                added(totals_of(census), restarts_of(census))
                for name, census in self._slots.items()
                if name not in self._state.slots and Slot.parse(name).stage == stage
            )
        )

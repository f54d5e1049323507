"""Which supervisor runs which slots: what each is told in answer to its standing.

Decides who gets a slot, when a supervisor counts as lost, and whom this run does not want. Starts
nothing: supervisors do, and they go on while no coordinator is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from zflow.coordinator.state import RunState
from zflow.ids import Slot
from zflow.wire.control import Duty, Ended, Standing, Update
from zflow.wire.data import Crash

LOST_S = 5.0  # of silence; its slots may go to another one then
RECOVER_S = 3.0  # for the supervisors of a run to find its new coordinator


@dataclass(slots=True)
class Supervised:
    """One supervisor. placed: stages whose offer has been judged."""

    standing: Standing
    since_s: float
    heard_s: float
    placed: set[str] = field(default_factory=set)
    refusal: str = ""
    incompatible: bool = False


class Duties:
    """Of one run. One thread owns it.

    versions: of zflow, Python and the protocol, which all processes of a run share. code: the
    source of the topology's file, None if it does not travel; digest: its name. stores: where
    sources and durable stages keep what they must not lose, by stage; filled here, and kept by
    whoever made it.
    """

    def __init__(
        self,
        state: RunState,
        *,
        versions: Mapping[str, str],
        code: bytes | None,
        digest: str,
        stores: dict[str, str],
    ) -> None:
        self.supervisors: dict[str, Supervised] = {}
        self.holders: dict[str, str] = {}  # slot -> supervisor
        self.ended: Ended | None = None
        self.stores = stores
        self.restart: dict[str, int] = {}  # slot -> the incarnation that is to be replaced
        self._state = state
        self._versions = dict(versions)
        self._code = code
        self._digest = digest
        self._digests = {digest}  # of all versions that this run has been
        self._began_s = float("inf")

    # -- standings ---------------------------------------------------------------------------

    def on_standing(self, standing: Standing, now_s: float) -> list[Update]:
        """A supervisor says what it has; what everybody has to hear of that."""
        known = self.supervisors.get(standing.supervisor)
        if known is None:
            known = Supervised(standing, now_s, now_s)
            known.refusal = self._difference(standing)
            known.incompatible = bool(known.refusal)
            known.refusal = known.refusal or self._refusal(standing)
            self.supervisors[standing.supervisor] = known
            if standing.heard is not None and not known.refusal:
                known.placed.update(standing.offers)  # it was there before this coordinator
        known.standing, known.heard_s = standing, now_s
        if known.refusal:
            return []
        if not standing.offers:
            known.heard_s = float("-inf")  # it has said goodbye
            return []
        adopted = self._state.adopt(standing.heard) if standing.heard is not None else []
        known.refusal = self._elsewhere(standing)
        if known.refusal:
            return adopted
        self._keep(known)
        if self._may_place(now_s):
            self._place(known)
        return [*adopted, *self._learn(known)]

    def _may_place(self, now_s: float) -> bool:
        """Not before those have spoken whom an older coordinator knew: they have slots."""
        self._began_s = min(self._began_s, now_s)
        return self._state.epoch == 1 or now_s - self._began_s >= RECOVER_S

    def _difference(self, standing: Standing) -> str:
        for name, mine in self._versions.items():
            theirs = standing.versions.get(name, "none")
            if theirs != mine:
                return f"this run is of {name} {mine}, the supervisor of {name} {theirs}"
        if standing.digest and standing.digest not in self._digests:
            return (
                f"this run has the topology {self._digest[:12]}, the supervisor "
                f"{standing.digest[:12]}: they differ"
            )
        return ""

    def _refusal(self, standing: Standing) -> str:
        config = self._state.config
        if standing.run_id and standing.run_id != config.run_id:
            return f"this is run {config.run_id}, the supervisor belongs to run {standing.run_id}"
        names = [stage.name for stage in config.stages]
        for name in standing.offers:
            if name not in names:
                return f"there is no stage '{name}'; this run has: {', '.join(names)}"
        return ""

    def _elsewhere(self, standing: Standing) -> str:
        """What a stage has stored lies in one place: it cannot go on without it."""
        for stage in filter(self._stores, standing.offers):
            store = self.stores.get(stage, standing.store)
            if standing.store and store != standing.store:
                return (
                    f"{stage} keeps what it has in {store}, and this is {standing.store}: "
                    "start it there, or give --state"
                )
        return ""

    def _stores(self, stage: str) -> bool:
        config = self._state.config.stage(stage)
        return config.kind == "source" or bool(config.partitions)

    def _keep(self, me: Supervised) -> None:
        """What it has already is its own, unless another one that is heard has it."""
        for slot in me.standing.addresses:
            if slot in self._state.slots:
                self.holders.setdefault(slot, me.standing.supervisor)

    def _place(self, me: Supervised) -> None:
        """Slots that nobody has, as far as its offer goes."""
        for stage, offered in me.standing.offers.items():
            if self._stores(stage):
                if not me.standing.store:
                    continue  # its next word names it
                self.stores.setdefault(stage, me.standing.store)
            mine = sum(
                holder == me.standing.supervisor and Slot.parse(slot).stage == stage
                for slot, holder in self.holders.items()
            )
            for slot in self._free(stage):
                if offered is not None and mine >= offered:
                    break
                self.holders[slot] = me.standing.supervisor
                mine += 1
            if offered is None or mine >= offered:
                me.placed.add(stage)
            elif stage not in me.placed and self._may_grow(stage, me):
                # Nobody whose slots it could take over is silent: it is one more.
                me.placed.add(stage)
                refusal = self._state.offered(stage, offered - mine)
                if not mine:  # else it goes on with those that it has
                    me.refusal = refusal
                self._place(me)

    def _free(self, stage: str) -> list[str]:
        slots = [
            slot
            for slot, view in self._state.slots.items()
            if slot not in self.holders and not view.leaving and Slot.parse(slot).stage == stage
        ]
        return sorted(slots, key=lambda slot: Slot.parse(slot).index)

    def _may_grow(self, stage: str, me: Supervised) -> bool:
        """Not while the run connects, nor before it is known that nobody's slots are to take."""
        connects = self._state.begins() and self._state.phase != "gather"
        return not connects and self._all_heard_since(stage, me)

    def _all_heard_since(self, stage: str, me: Supervised) -> bool:
        """Everybody who offers the stage, or has slots of it and may have said goodbye."""
        return all(
            one.heard_s > me.since_s
            for name, one in self.supervisors.items()
            if one is not me
            and not one.refusal
            and (stage in one.standing.offers or self._load(name, stage))
        )

    def _learn(self, me: Supervised) -> list[Update]:
        """Addresses and ends that it tells."""
        updates = []
        name = me.standing.supervisor
        for slot, address in me.standing.addresses.items():
            if self.holders.get(slot) == name:
                update = self._state.locate(slot, address)
                if update is not None:
                    updates.append(update)
        for slot in me.standing.finished:
            if self.holders.get(slot) == name and self._is_newest(me.standing, slot):
                self._state.ended(slot)
        for slot, incarnation in list(self.restart.items()):
            if me.standing.incarnations.get(slot, 0) > incarnation:
                del self.restart[slot]
        return updates

    def apply(self, code: bytes, digest: str) -> None:
        """Another version of the topology's code."""
        self._code, self._digest = code if self._code is not None else None, digest
        self._digests.add(digest)

    def _is_newest(self, standing: Standing, slot: str) -> bool:
        """A slot that has left may be wanted again, before its supervisor has heard of it."""
        view = self._state.slots.get(slot)
        return view is not None and standing.incarnations.get(slot, 0) >= view.incarnation

    # -- duties ------------------------------------------------------------------------------

    def duty(self, supervisor: str) -> Duty:
        """What the supervisor has to do."""
        me = self.supervisors[supervisor]
        state = self._state
        if me.refusal:
            return Duty(epoch=state.epoch, refusal=me.refusal, incompatible=me.incompatible)
        slots = {
            slot: state.slots[slot].incarnation
            for slot, holder in self.holders.items()
            if holder == supervisor and slot in state.slots
        }
        new = me.standing.heard is None
        return Duty(
            epoch=state.epoch,
            slots=slots,
            waiting=[slot for slot in slots if not state.is_known(slot)],
            restart={slot: n for slot, n in self.restart.items() if slot in slots},
            snapshot=state.snapshot(),
            digest=self._digest,
            code=self._code if new or me.standing.digest != self._digest else None,
            waits_for=self.waits_for(),
            ended=self.ended,
        )

    def waits_for(self) -> str:
        """What a run that has not begun is waiting for; empty if nothing."""
        if self._state.phase != "gather":
            return ""
        missing: dict[str, int] = {}
        for slot in self._state.slots:
            if slot not in self.holders:
                stage = Slot.parse(slot).stage
                missing[stage] = missing.get(stage, 0) + 1
        return ", ".join(f"{n} replica{'s' * (n > 1)} of {stage}" for stage, n in missing.items())

    # -- time --------------------------------------------------------------------------------

    def turn(self, now_s: float) -> list[tuple[str, Update]]:
        """Slots whose supervisor is lost are free; which those are, and what everybody hears.

        What was ordered beyond every offer goes to whoever has least.
        """
        lost: list[tuple[str, Update]] = []
        for name, one in list(self.supervisors.items()):
            if now_s - one.heard_s < LOST_S:
                continue
            del self.supervisors[name]
            for slot in [slot for slot, holder in self.holders.items() if holder == name]:
                del self.holders[slot]
                update = self._give_up(slot, one)
                if update is not None:
                    lost.append((slot, update))
        self._spread()
        self._forget()
        return lost

    def _forget(self) -> None:
        """Slots that are not there any more; one that leaves and that nobody has is through."""
        for slot, view in self._state.slots.items():
            if view.leaving and slot not in self.holders:
                self._state.ended(slot)
        for known in (self.holders, self.restart):
            for slot in [slot for slot in known if slot not in self._state.slots]:
                del known[slot]

    def _give_up(self, slot: str, lost: Supervised) -> Update | None:
        view = self._state.slots.get(slot)
        if view is None or view.state == "finished":
            return None
        cause = f"its supervisor on {lost.standing.host} is not heard"
        update = self._state.on_death(slot, Crash(slot, view.incarnation, [], False, 0, cause))
        view.state = "lost"
        return update

    def _spread(self) -> None:
        for slot, view in self._state.slots.items():
            if view.ordered and not view.leaving and slot not in self.holders:
                stage = Slot.parse(slot).stage
                fit = [
                    name
                    for name, one in self.supervisors.items()
                    if stage in one.standing.offers and not one.refusal
                ]
                if fit and all(stage in self.supervisors[name].placed for name in fit):
                    self.holders[slot] = min(fit, key=lambda name: self._load(name, stage))

    def _load(self, supervisor: str, stage: str) -> int:
        return sum(
            holder == supervisor and Slot.parse(slot).stage == stage
            for slot, holder in self.holders.items()
        )

    def all_know_the_end(self) -> bool:
        """Every supervisor that is heard has said that it knows how the run ended."""
        return all(one.standing.ended or one.refusal for one in self.supervisors.values())

    def looping(self) -> str:
        """Why a supervisor has given a slot up; empty if none has."""
        reasons = (one.standing.looping for one in self.supervisors.values())
        return next(filter(None, reasons), "")

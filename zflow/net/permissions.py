"""Who may say what to the coordinator (S14). One row per message; what has no row, nobody may.

Decides only. Without CURVE there is no identity: then the run directory, which only its user can
enter, has decided already.
"""

from collections.abc import Iterable

from zflow.ids import Slot
from zflow.net.curve import OPERATOR, READER, SUPERVISOR
from zflow.wire import control
from zflow.wire.picture import Picture

SLOT = "slot"  # a replica, and only about itself
STAGE = "stage"  # a supervisor, and only about slots of its stage
NOBODY: frozenset[str] = frozenset()

# What the coordinator says is here too: nobody else may say it to the coordinator.
MAY: dict[type[control.Message], frozenset[str]] = {
    control.Register: frozenset({SLOT}),
    control.Report: frozenset({SLOT}),
    control.Standing: frozenset({STAGE}),
    control.Died: frozenset({STAGE}),
    control.Move: frozenset({OPERATOR}),
    control.Scale: frozenset({OPERATOR}),
    control.Pause: frozenset({OPERATOR}),
    control.Restart: frozenset({OPERATOR}),
    control.Down: frozenset({OPERATOR}),
    control.Apply: frozenset({OPERATOR}),
    control.Tap: frozenset({OPERATOR}),
    control.Look: frozenset({OPERATOR, READER}),
    control.Snapshot: NOBODY,
    control.Update: NOBODY,
    control.Duty: NOBODY,
    control.Moved: NOBODY,
    control.Tapped: NOBODY,
    control.Answer: NOBODY,
    Picture: NOBODY,
}


def may(identity: str | None, message: control.Message) -> bool:
    """True if `identity` may send this to the coordinator.

    identity: of the message, as its key says: a slot, "operator", "reader"; None without CURVE.
    """
    if identity is None:
        return True
    allowed = MAY.get(type(message), NOBODY)
    if role_of(identity) not in allowed:
        return False
    return all(_speaks_for(identity, slot) for slot in _slots_in(message))


def _slots_in(message: control.Message) -> Iterable[str]:
    """Of which slots it speaks."""
    if isinstance(message, control.Standing):
        offered = [str(Slot(stage, 0)) for stage in message.offers]
        census = [one.slot for one in message.census.slots]
        return [*offered, *message.addresses, *message.incarnations, *message.finished, *census]
    if isinstance(message, control.Register | control.Report | control.Died):
        return [message.slot]
    return []


def _speaks_for(identity: str, slot: str) -> bool:
    if role_of(identity) == STAGE:
        return slot.rpartition("/")[0] == identity.removeprefix(SUPERVISOR)
    return slot == identity


def role_of(identity: str) -> str:
    """ "operator", "reader", "stage" or "slot"; empty for all others, the coordinator too."""
    if identity in (OPERATOR, READER):
        return identity
    if identity.startswith(SUPERVISOR):
        return STAGE
    try:
        Slot.parse(identity)
    except ValueError:
        return ""
    return SLOT

"""Who may say what to the coordinator (S14). One row per message; what has no row, nobody may.

Decides only. Without CURVE there is no identity: then the run directory, which only its user can
enter, has decided already.
"""

from zflow.ids import Slot
from zflow.net.curve import OPERATOR, READER
from zflow.wire import control

SLOT = "slot"  # a replica, and only about itself
NOBODY: frozenset[str] = frozenset()

# What the coordinator says is here too: nobody else may say it to the coordinator.
MAY: dict[type[control.Message], frozenset[str]] = {
    control.Register: frozenset({SLOT}),
    control.Report: frozenset({SLOT}),
    control.Move: frozenset({OPERATOR}),
    control.Snapshot: NOBODY,
    control.Update: NOBODY,
    control.Moved: NOBODY,
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
    named = getattr(message, "slot", None)  # who speaks of a slot speaks as that slot
    return role_of(identity) != SLOT or named is None or named == identity


def role_of(identity: str) -> str:
    """ "operator", "reader" or "slot"; empty for whoever is neither, the coordinator too."""
    if identity in (OPERATOR, READER):
        return identity
    try:
        Slot.parse(identity)
    except ValueError:
        return ""
    return SLOT

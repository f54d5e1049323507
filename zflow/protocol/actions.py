"""What the core asks its driver to do, in order. Values only.

A driver that cannot send says so with `Core.refused_send` or `refused_reply`, and drops what was
still to be sent for that token.
"""

from dataclasses import dataclass
from typing import Any

from zflow.wire.data import Frame
from zflow.wire.payload import Payload
from zflow.wire.run import Run

LinkKey = tuple[int, str]  # edge, slot of the peer


@dataclass(slots=True)
class Dial:
    """Close the link's socket if there is one and open a fresh one to the peer's `in` endpoint."""

    link: LinkKey


@dataclass(slots=True)
class Send:
    """Sender -> receiver, on the link's own socket; never blocks."""

    link: LinkKey
    frame: Frame
    payload: Payload | None = None


@dataclass(slots=True)
class Reply:
    """Receiver -> sender, to the `ack` endpoint that HELLO named."""

    link: LinkKey
    endpoint: str
    incarnation: int
    frame: Frame


@dataclass(slots=True)
class Hangup:
    """Close the link's socket: it is drained."""

    link: LinkKey


@dataclass(slots=True)
class Bury:
    """Commit a unit to the dead-letter store, then call `Core.buried(ticket)`.

    items: of the unit, nearly always one; none if nobody has them any more. places: where in the
    unit each of them was. stage: where it failed; edge: the label of the edge it was on, "" at a
    source.
    maybe_applied: an attempt may have had effects (a crash, a streamed output, a lost peer).
    """

    ticket: int
    stage: str
    edge: str
    run: Run
    items: list[Any]
    attempts: int
    code: str
    error_class: str
    error: str
    maybe_applied: bool
    places: tuple[int, ...] = (0,)

    @property
    def item(self) -> Any:
        """The first of its items; None without any."""
        return self.items[0] if self.items else None


@dataclass(slots=True)
class Fail:
    """The run has failed by declared policy."""

    stage: str
    error_class: str
    error: str


@dataclass(slots=True)
class Retire:
    """A newer incarnation of this slot is known to a peer: this process must end."""

    current: int


Action = Dial | Send | Reply | Hangup | Bury | Fail | Retire

"""Methods of the core without the protection that they are there for.

Decides nothing; `mutants` puts them in place. Each says what it no longer does by its name, and
does everything else as the original does.
"""

from collections import deque
from typing import Any

from msgspec.structs import replace

from zflow.hashing import mix64
from zflow.protocol.core import Core
from zflow.protocol.credit import SenderCredit, Window
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, Parcel, Portion, ReceiverLink
from zflow.protocol.origin import Origin
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import SenderLink
from zflow.protocol.suspects import Suspects
from zflow.protocol.task import Task
from zflow.testing.graves import Graves
from zflow.wire.data import Crash, Data, Frame, Heartbeat, Hello, Nack, State
from zflow.wire.run import OSEQ, Run, Unit

_on_data = Inbox.on_data
_on_reply = Core.on_reply
_refusal = Inbox._refusal
_replace = Inbox._replace
_state = ReceiverLink.state
_dial = SenderLink.dial
_bury = Outbox._bury
_add = Suspects._add


# --- tasks and acknowledgements -----------------------------------------------------------------


def ack_on_receive(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    """Settle what has just been accepted."""
    link = self._tokens.get(frame.token)
    before = link.next if link else 0
    _on_data(self, frame, payload, now_s)
    if link is not None and link.next > before:
        link.settle(before, link.next - before)


def hop_ack(self: Task) -> None:
    """Tell the owner when the user's code is through, whatever becomes of the outputs."""
    if not self._returned:
        self._returned = True
        self._open = -1 << 40  # whatever is settled later, nobody waits for it
        self._tell()


def tell_success(self: Task) -> None:
    """Settle the inputs that failed like the others."""
    self.owner.settle(self.first, self.n)


def emission_after_return(self: Task, n: int) -> None:
    """Take outputs at any time."""
    self._open += n


def low_is_highest(self: Origin, first: int, n: int) -> None:
    """Make the end of the highest settled stretch the low mark."""
    self.low = max(self.low, first + n)
    while self._marks and self._marks[0][0] <= self.low:
        self.mark = self._marks.popleft()


# --- links --------------------------------------------------------------------------------------


def on_state_of_any_token(self: Core, frame: Frame, now_s: float) -> None:
    """What an earlier token of a link was told is taken for the present one."""
    for link in self._links.values():
        if isinstance(frame, State) and frame.token in getattr(link, "earlier", ()):
            frame = replace(frame, token=link.token)
    _on_reply(self, frame, now_s)


def dial_remembering(self: SenderLink, now_s: float) -> None:
    """Remember the tokens of earlier dials, for `on_state_of_any_token`."""
    self.__dict__.setdefault("earlier", set()).add(self.token)
    _dial(self, now_s)


def dial_with_same_token(self: SenderLink, now_s: float) -> None:
    """Dial with the first token again."""
    token = self.token
    if token:
        renew, self._new_token = self._new_token, lambda: token
        _dial(self, now_s)
        self._new_token = renew
    else:
        _dial(self, now_s)


def replace_keeping_tokens(self: Inbox, frame: Hello, old: ReceiverLink | None) -> ReceiverLink:
    """Go on listening to the token of before."""
    link = _replace(self, frame, old)
    if old is not None:
        self._tokens[old.token] = link
    return link


def replace_keeping_parcels(self: Inbox, frame: Hello, old: ReceiverLink | None) -> ReceiverLink:
    """Go on holding what came under the token of before."""
    parcels = self.parcels
    link = _replace(self, frame, old)
    self.parcels = parcels
    return link


def accept_any(self: Inbox, link: ReceiverLink, frame: Data, payload: Any) -> None:
    """Put a message into the inbox, whatever its number."""
    link.next = max(link.next, frame.first + frame.n)
    link.held += frame.n
    self.parcels.append(Parcel(link, frame, payload))


def on_data_with_gaps(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    """Accept what lies behind a gap."""
    link = self._tokens.get(frame.token)
    if link is not None and frame.first > link.next:
        accept_any(self, link, frame, payload)
    else:
        _on_data(self, frame, payload, now_s)


def on_data_repeated(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    """Accept what was accepted before."""
    link = self._tokens.get(frame.token)
    if link is not None and frame.first < link.next:
        accept_any(self, link, frame, payload)
    else:
        _on_data(self, frame, payload, now_s)


def refuse_strangers_only(
    self: Inbox, frame: Hello, link: ReceiverLink | None
) -> tuple[str, int] | None:
    """Give the link to any HELLO of this run."""
    return _refusal(self, frame, None)


def heartbeat_without_tail(self: Inbox, frame: Heartbeat, now_s: float) -> None:
    """Neither compare how far the link has gone nor answer an unknown token."""
    link = self._known(frame)
    if link is not None:
        link.ended = frame.ended
        link.seen(frame.version_seen)
        self._state(link, now_s)


def on_reset_ignored(self: SenderLink, frame: Frame, now_s: float) -> None:
    """Do not recover."""
    return


def requeue_nothing(self: Outbox, segments: list[Segment], reason: str) -> None:
    """Forget what a link gave back."""
    for segment in segments:
        self.ledger.replayed(reason, segment.n)


def state_with_nacks_once(self: ReceiverLink, window: int, executing_s: float) -> State:
    """State each nack in one statement only."""
    frame = _state(self, window, executing_s)
    self.nacks.clear()
    return frame


def seen_always(self: ReceiverLink, version: int) -> None:
    """Take every nack for seen at any heartbeat."""
    for _, nack in self.nacks:
        self.acked.add(nack.first, nack.first + nack.n)
    self.nacks.clear()


# --- credit -------------------------------------------------------------------------------------


def raise_by(self: SenderCredit, limit_items: int, limit_bytes: int) -> None:
    """Every statement is taken for a grant on top of what has been sent."""
    self.limit_items = self.sent_items + self.window_items
    self.limit_bytes = max(self.limit_bytes, limit_bytes)


def room_without_bytes(self: SenderCredit) -> int:
    """Count units only."""
    return self.limit_items - self.sent_items


def fits_without_bytes(self: SenderCredit, items: int, size_bytes: int) -> bool:
    """Count units only."""
    return items <= self.limit_items - self.sent_items


def first_window(self: Window, links: int) -> int:
    """Grant the first window without looking at the declared one."""
    return self.FIRST_ITEMS


def never_full(self: Outbox) -> bool:
    """Have room for everything."""
    return False


# --- failures -----------------------------------------------------------------------------------


def bury_settled(self: Outbox, segment: Segment, nack: Nack, attempts: int) -> None:
    """Settle the unit when its burial is asked for."""
    _bury(self, segment, nack, attempts)
    segment.task.settled(1)


def buried_settled(self: Outbox, ticket: int) -> None:
    """The counterpart of `bury_settled`: settle nothing when it is committed."""
    self.ledger.dead_lettered += 1
    self._acquit(self.burying.pop(ticket))


def failed_as_committed(self: Graves) -> None:
    """Say of what could not be written that it is."""
    self._tell(self._take())


def blame_all(self: Suspects, unit: Unit, crash: Crash) -> None:
    """Count every death as one that the unit died alone and of a cause of its own."""
    _add(self, unit, Crash(crash.slot, crash.incarnation, [], True, 3, crash.cause))


def none_guilty(self: Outbox, queue: deque[Segment], segment: Segment) -> bool:
    """Send everybody again."""
    return False


def take_many(self: Core, parcel: Parcel, n: int, now_s: float) -> Portion:
    """Suspects are executed together like everybody else."""
    portion = self.inbox.leave(parcel, n, now_s)
    self.running += portion.n
    return portion


def forget_guilty(self: Outbox, segment: Segment) -> None:
    """Forget the guilt of a unit with its burial."""
    self.suspects.acquit(segment.runs[0])


def accuse_nobody(self: Outbox, crash: Crash) -> None:
    """Ignore reports of crashes."""
    return


def sort_nothing(self: Outbox, segment: Segment) -> list[Segment]:
    """Leave suspects among the others."""
    return [segment]


# --- names --------------------------------------------------------------------------------------


def yielded_without_index(
    self: Brancher, run: Run, position: int, ordinals: list[int] | range
) -> Run:
    """Name the yields of all inputs of one source item alike."""
    number = run.number(position)
    oseq = number if run.axis == OSEQ else run.fixed
    path = mix64(run.path, self._edge)
    gaps = ordinals[-1] - ordinals[0] != len(ordinals) - 1
    numbers = list(ordinals) if gaps else None
    return Run(run.origin, path, 1, oseq, ordinals[0], len(ordinals), 0, 0, 0, numbers)


def returned_without_edge(self: Brancher, run: Run, positions: list[int] | None) -> Run:
    """Name outputs like their inputs."""
    return run if positions is None else run.kept(positions)


def kept_renumbered(self: Run, positions: list[int]) -> Run:
    """What survives a filter is numbered anew."""
    return self.renewed(start=self.number(0), n=len(positions), numbers=None)

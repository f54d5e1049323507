"""The protocol with one protection taken away, to show that the simulator would see it.

Decides how each protection is removed: by replacing methods of the core for the time of a `with`
block, so that no production code knows of tests. A mutant that no seed catches means that the
simulator is too weak or the protection needless.

Not here, because removing it loses nothing by design: the order in which units go back to their
queue (no edge promises order), and the version of STATE on one link (limits only rise, acks and
nacks are sets; an older statement repeats less; versions matter for what the sender has *seen*,
and `nack_seen_early` is that protection).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from zflow.hashing import mix64
from zflow.protocol.core import Core
from zflow.protocol.credit import SenderCredit, Window
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, Parcel, ReceiverLink
from zflow.protocol.origin import Origin
from zflow.protocol.outbox import Outbox
from zflow.protocol.segment import Segment
from zflow.protocol.sender import SenderLink
from zflow.protocol.suspects import Suspects
from zflow.protocol.task import Task
from zflow.wire.data import Crash, Data, Frame, Heartbeat, Hello, Nack, State
from zflow.wire.run import OSEQ, Run, Unit

Patch = tuple[type, str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One protection removed. patches: (class, method, replacement)."""

    name: str
    removes: str
    patches: tuple[Patch, ...]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The core without one protection, within the block. Not for several threads."""
    before = [(owner, method, vars(owner)[method]) for owner, method, _ in mutant.patches]
    for owner, method, by in mutant.patches:
        setattr(owner, method, by)
    try:
        yield
    finally:
        for owner, method, old in before:
            setattr(owner, method, old)


_on_data = Inbox.on_data
_on_reply = Core.on_reply
_refusal = Inbox._refusal
_replace = Inbox._replace
_state = ReceiverLink.state
_dial = SenderLink.dial
_bury = Outbox._bury
_add = Suspects._add


# --- tasks and acknowledgements -----------------------------------------------------------------


def _ack_on_receive(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    link = self._tokens.get(frame.token)
    before = link.next if link else 0
    _on_data(self, frame, payload, now_s)
    if link is not None and link.next > before:
        link.settle(before, link.next - before)


def _hop_ack(self: Task) -> None:
    if not self._returned:
        self._returned = True
        self._open = -1 << 40  # whatever is settled later, nobody waits for it
        self._tell()


def _tell_success(self: Task) -> None:
    self.owner.settle(self.first, self.n)


def _emission_after_return(self: Task, n: int) -> None:
    self._open += n


def _low_is_highest(self: Origin, first: int, n: int) -> None:
    self.low = max(self.low, first + n)
    while self._marks and self._marks[0][0] <= self.low:
        self.mark = self._marks.popleft()


# --- links --------------------------------------------------------------------------------------


def _on_state_of_any_token(self: Core, frame: Frame, now_s: float) -> None:
    """What an earlier token of a link was told is taken for the present one."""
    for link in self._links.values():
        if isinstance(frame, State) and frame.token in getattr(link, "earlier", ()):
            frame = replace(frame, token=link.token)
    _on_reply(self, frame, now_s)


def _dial_remembering(self: SenderLink, now_s: float) -> None:
    self.__dict__.setdefault("earlier", set()).add(self.token)
    _dial(self, now_s)


def _dial_with_same_token(self: SenderLink, now_s: float) -> None:
    token = self.token
    if token:
        renew, self._new_token = self._new_token, lambda: token
        _dial(self, now_s)
        self._new_token = renew
    else:
        _dial(self, now_s)


def _replace_keeping_tokens(self: Inbox, frame: Hello, old: ReceiverLink | None) -> ReceiverLink:
    link = _replace(self, frame, old)
    if old is not None:
        self._tokens[old.token] = link
    return link


def _replace_keeping_parcels(self: Inbox, frame: Hello, old: ReceiverLink | None) -> ReceiverLink:
    parcels = self.parcels
    link = _replace(self, frame, old)
    self.parcels = parcels
    return link


def _accept_any(self: Inbox, link: ReceiverLink, frame: Data, payload: Any) -> None:
    link.next = max(link.next, frame.first + frame.n)
    link.held += frame.n
    self.parcels.append(Parcel(link, frame, payload))


def _on_data_with_gaps(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    link = self._tokens.get(frame.token)
    if link is not None and frame.first > link.next:
        _accept_any(self, link, frame, payload)
    else:
        _on_data(self, frame, payload, now_s)


def _on_data_repeated(self: Inbox, frame: Data, payload: Any, now_s: float) -> None:
    link = self._tokens.get(frame.token)
    if link is not None and frame.first < link.next:
        _accept_any(self, link, frame, payload)
    else:
        _on_data(self, frame, payload, now_s)


def _refuse_strangers_only(
    self: Inbox, frame: Hello, link: ReceiverLink | None
) -> tuple[str, int] | None:
    return _refusal(self, frame, None)


def _heartbeat_without_tail(self: Inbox, frame: Heartbeat, now_s: float) -> None:
    link = self._known(frame)
    if link is not None:
        link.ended = frame.ended
        link.seen(frame.version_seen)
        self._state(link, now_s)


def _on_reset_ignored(self: SenderLink, frame: Frame, now_s: float) -> None:
    return None


def _requeue_nothing(self: Outbox, segments: list[Segment], reason: str) -> None:
    for segment in segments:
        self.ledger.replayed(reason, segment.n)


def _state_with_nacks_once(self: ReceiverLink, window: int, executing_s: float) -> State:
    frame = _state(self, window, executing_s)
    self.nacks.clear()
    return frame


def _seen_always(self: ReceiverLink, version: int) -> None:
    for _, nack in self.nacks:
        self.acked.add(nack.first, nack.first + nack.n)
    self.nacks.clear()


# --- credit -------------------------------------------------------------------------------------


def _raise_by(self: SenderCredit, limit_items: int, limit_bytes: int) -> None:
    """Every statement is taken for a grant on top of what has been sent."""
    self.limit_items = self.sent_items + self.window_items
    self.limit_bytes = max(self.limit_bytes, limit_bytes)


def _room_without_bytes(self: SenderCredit) -> int:
    return self.limit_items - self.sent_items


def _fits_without_bytes(self: SenderCredit, items: int, size_bytes: int) -> bool:
    return items <= self.limit_items - self.sent_items


def _first_window(self: Window, links: int) -> int:
    return self.FIRST_ITEMS


def _never_full(self: Outbox) -> bool:
    return False


# --- failures -----------------------------------------------------------------------------------


def _bury_settled(self: Outbox, segment: Segment, nack: Nack, attempts: int) -> None:
    _bury(self, segment, nack, attempts)
    segment.task.settled(1)


def _buried_settled(self: Outbox, ticket: int) -> None:
    self.ledger.dead_lettered += 1
    self._acquit(self.burying.pop(ticket))


def _blame_all(self: Suspects, unit: Unit, crash: Crash) -> None:
    _add(self, unit, Crash(crash.slot, crash.incarnation, [], True, 3, crash.cause))


def _none_guilty(self: Outbox, segment: Segment) -> bool:
    return False


def _never_suspect(parcel: Parcel) -> bool:
    return False


def _forget_guilty(self: Outbox, segment: Segment) -> None:
    self.suspects.acquit(segment.runs[0])


def _accuse_nobody(self: Outbox, crash: Crash) -> None:
    return None


def _sort_nothing(self: Outbox, segment: Segment) -> list[Segment]:
    return [segment]


# --- names --------------------------------------------------------------------------------------


def _yielded_without_index(
    self: Brancher, run: Run, position: int, ordinals: list[int] | range
) -> Run:
    number = run.number(position)
    oseq = number if run.axis == OSEQ else run.fixed
    path = mix64(run.path, self._edge)
    gaps = ordinals[-1] - ordinals[0] != len(ordinals) - 1
    numbers = list(ordinals) if gaps else None
    return Run(run.origin, path, 1, oseq, ordinals[0], len(ordinals), 0, 0, 0, numbers)


def _returned_without_edge(self: Brancher, run: Run, positions: list[int] | None) -> Run:
    return run if positions is None else run.kept(positions)


def _kept_renumbered(self: Run, positions: list[int]) -> Run:
    """What survives a filter is numbered anew."""
    return self.renewed(start=self.number(0), n=len(positions), numbers=None)


def _mutants(*rows: tuple[str, str, tuple[Patch, ...]]) -> dict[str, Mutant]:
    return {name: Mutant(name=name, removes=text, patches=patches) for name, text, patches in rows}


MUTANTS = _mutants(
    (
        "ack_on_receive",
        "a unit is acked when its task is done, not when it is received",
        ((Inbox, "on_data", _ack_on_receive),),
    ),
    (
        "hop_ack",
        "a task waits for its outputs",
        ((Task, "returned", _hop_ack), (Task, "settled", lambda self, n: None)),
    ),
    (
        "failure_forgotten",
        "a task whose output cannot travel fails its input",
        ((Task, "_tell", _tell_success),),
    ),
    (
        "emission_after_return",
        "a task that has returned makes no more outputs",
        ((Task, "made", _emission_after_return),),
    ),
    (
        "commit_max",
        "the low mark is the end of the unbroken stretch",
        ((Origin, "settle", _low_is_highest),),
    ),
    (
        "ack_no_epoch",
        "replies to an earlier token change nothing",
        ((SenderLink, "dial", _dial_remembering), (Core, "on_reply", _on_state_of_any_token)),
    ),
    ("no_new_token", "every dial makes a token", ((SenderLink, "dial", _dial_with_same_token),)),
    (
        "stale_accept",
        "DATA of an earlier token is not taken",
        ((Inbox, "_replace", _replace_keeping_tokens),),
    ),
    (
        "epoch_window",
        "what an earlier token left in the inbox is dropped",
        ((Inbox, "_replace", _replace_keeping_parcels),),
    ),
    ("gap_ok", "DATA behind a gap is not taken", ((Inbox, "on_data", _on_data_with_gaps),)),
    ("repeat_ok", "DATA is taken once", ((Inbox, "on_data", _on_data_repeated),)),
    (
        "zombie_hello",
        "a HELLO older than the link is refused",
        ((Inbox, "_refusal", _refuse_strangers_only),),
    ),
    (
        "no_tail_loss",
        "a heartbeat finds a lost tail and an unknown token",
        ((Inbox, "on_heartbeat", _heartbeat_without_tail),),
    ),
    ("no_reset", "RESET makes the sender dial", ((SenderLink, "on_reset", _on_reset_ignored),)),
    (
        "no_requeue",
        "recovery takes back what is open",
        ((Outbox, "returned", _requeue_nothing),),
    ),
    (
        "lost_nack",
        "nacks are repeated until they were seen",
        ((ReceiverLink, "state", _state_with_nacks_once),),
    ),
    (
        "nack_seen_early",
        "a nack counts as seen only with the version that stated it",
        ((ReceiverLink, "seen", _seen_always),),
    ),
    ("credit_incr", "limits are absolute", ((SenderCredit, "raise_to", _raise_by),)),
    (
        "no_byte_credit",
        "credit is in bytes too",
        (
            (SenderCredit, "room_items", _room_without_bytes),
            (SenderCredit, "fits", _fits_without_bytes),
        ),
    ),
    (
        "first_window",
        "the first window is no wider than declared",
        ((Window, "items", _first_window),),
    ),
    (
        "no_retention_limit",
        "a stage stops when retention is full",
        ((Outbox, "full", _never_full),),
    ),
    (
        "ack_before_bury",
        "a dead letter is committed before its unit is settled",
        ((Outbox, "_bury", _bury_settled), (Outbox, "buried", _buried_settled)),
    ),
    ("blame_all", "only who ran alone is blamed", ((Suspects, "_add", _blame_all),)),
    (
        "no_dispatch_check",
        "the guilty are not sent again",
        ((Outbox, "_bury_guilty", _none_guilty),),
    ),
    (
        "not_alone",
        "suspects run one by one",
        ((Core, "_suspect_at", staticmethod(_never_suspect)),),
    ),
    (
        "forget_guilty",
        "who was found guilty stays so for other copies",
        ((Outbox, "_acquit", _forget_guilty),),
    ),
    ("accuse_nobody", "senders hear of crashes", ((Outbox, "accused", _accuse_nobody),)),
    ("no_sorting", "suspects are kept apart", ((Outbox, "_sorted_out", _sort_nothing),)),
    (
        "name_without_index",
        "what is yielded carries the index of its input",
        ((Brancher, "yielded", _yielded_without_index),),
    ),
    (
        "name_without_edge",
        "what is returned carries its edge",
        ((Brancher, "returned", _returned_without_edge),),
    ),
    ("renumbered", "filters leave gaps in the numbers", ((Run, "kept", _kept_renumbered),)),
)

"""The protocol with one protection taken away, to show that the simulator would see it.

Decides how each protection is removed: by putting `broken` methods into the core for a `with`
block, so that no production code knows of tests. A mutant that no seed catches means that the
simulator is too weak or the protection needless.

Not here, because removing it loses nothing by design: the version of STATE on one link (limits only
rise, acks and nacks are sets; an older statement repeats less; versions matter for what the sender
has *seen*, and `nack_seen_early` is that protection).

Not here, because no seed can show it: that a unit is looked up along both axes. In the simulator,
as in a replica, a unit comes along the same axis however it is cut; `tests/protocol/test_dedupe.py`
asks for both, and shows that it would see the lookup missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zflow.protocol.core import Core
from zflow.protocol.credit import SenderCredit, Window
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, ReceiverLink
from zflow.protocol.keyed import KeyedOutbox
from zflow.protocol.origin import Origin
from zflow.protocol.outbox import Outbox
from zflow.protocol.sender import SenderLink
from zflow.protocol.suspects import Suspects
from zflow.protocol.task import Task
from zflow.testing import broken
from zflow.testing import broken_anchors as anchors
from zflow.testing.graves import Graves
from zflow.testing.mutants_anchors import ANCHOR_ROWS, Patch, Row
from zflow.wire.run import Run


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


def _mutants(*rows: Row) -> dict[str, Mutant]:
    return {name: Mutant(name=name, removes=text, patches=patches) for name, text, patches in rows}


MUTANTS = _mutants(
    (
        "ack_on_receive",
        "a unit is acked when its task is done, not when it is received",
        ((Inbox, "on_data", broken.ack_on_receive),),
    ),
    (
        "hop_ack",
        "a task waits for its outputs",
        ((Task, "returned", broken.hop_ack), (Task, "settled", lambda self, n: None)),
    ),
    (
        "failure_forgotten",
        "a task whose output cannot travel fails its input",
        ((Task, "_tell", broken.tell_success),),
    ),
    (
        "emission_after_return",
        "a task that has returned makes no more outputs",
        ((Task, "made", broken.emission_after_return),),
    ),
    (
        "commit_max",
        "the low mark is the end of the unbroken stretch",
        ((Origin, "settle", broken.low_is_highest),),
    ),
    (
        "ack_no_epoch",
        "replies to an earlier token change nothing",
        (
            (SenderLink, "dial", broken.dial_remembering),
            (Core, "on_reply", broken.on_state_of_any_token),
        ),
    ),
    (
        "no_new_token",
        "every dial makes a token",
        ((SenderLink, "dial", broken.dial_with_same_token),),
    ),
    (
        "stale_accept",
        "DATA of an earlier token is not taken",
        ((Inbox, "_replace", broken.replace_keeping_tokens),),
    ),
    (
        "epoch_window",
        "what an earlier token left in the inbox is dropped",
        ((Inbox, "_replace", broken.replace_keeping_parcels),),
    ),
    ("gap_ok", "DATA behind a gap is not taken", ((Inbox, "on_data", broken.on_data_with_gaps),)),
    ("repeat_ok", "DATA is taken once", ((Inbox, "on_data", broken.on_data_repeated),)),
    (
        "zombie_hello",
        "a HELLO older than the link is refused",
        ((Inbox, "_refusal", broken.refuse_strangers_only),),
    ),
    (
        "no_tail_loss",
        "a heartbeat finds a lost tail and an unknown token",
        ((Inbox, "on_heartbeat", broken.heartbeat_without_tail),),
    ),
    (
        "no_reset",
        "RESET makes the sender dial",
        ((SenderLink, "on_reset", broken.on_reset_ignored),),
    ),
    (
        "no_requeue",
        "recovery takes back what is open",
        ((Outbox, "returned", broken.requeue_nothing),),
    ),
    (
        "lost_nack",
        "nacks are repeated until they were seen",
        ((ReceiverLink, "state", broken.state_with_nacks_once),),
    ),
    (
        "nack_seen_early",
        "a nack counts as seen only with the version that stated it",
        ((ReceiverLink, "seen", broken.seen_always),),
    ),
    ("credit_incr", "limits are absolute", ((SenderCredit, "raise_to", broken.raise_by),)),
    (
        "no_byte_credit",
        "credit is in bytes too",
        (
            (SenderCredit, "room_items", broken.room_without_bytes),
            (SenderCredit, "fits", broken.fits_without_bytes),
        ),
    ),
    (
        "first_window",
        "the first window is no wider than declared",
        ((Window, "items", broken.first_window),),
    ),
    (
        "no_retention_limit",
        "a stage stops when retention is full",
        ((Outbox, "full", broken.never_full),),
    ),
    (
        "ack_before_bury",
        "a dead letter is committed before its unit is settled",
        ((Outbox, "_bury", broken.bury_settled), (Outbox, "buried", broken.buried_settled)),
    ),
    (
        "buried_unwritten",
        "a dead letter is tried again until its commit is written",
        ((Graves, "_failed", broken.failed_as_committed),),
    ),
    ("blame_all", "only who ran alone is blamed", ((Suspects, "_add", broken.blame_all),)),
    (
        "no_dispatch_check",
        "the guilty are not sent again",
        ((Outbox, "_bury_guilty", broken.none_guilty),),
    ),
    (
        "not_alone",
        "suspects run one by one",
        ((Core, "take", broken.take_many),),
    ),
    (
        "forget_guilty",
        "who was found guilty stays so for other copies",
        ((Outbox, "_acquit", broken.forget_guilty),),
    ),
    ("accuse_nobody", "senders hear of crashes", ((Outbox, "accused", broken.accuse_nobody),)),
    ("no_sorting", "suspects are kept apart", ((Outbox, "_sorted_out", broken.sort_nothing),)),
    (
        "name_without_index",
        "what is yielded carries the index of its input",
        ((Brancher, "yielded", broken.yielded_without_index),),
    ),
    (
        "name_without_edge",
        "what is returned carries its edge",
        ((Brancher, "returned", broken.returned_without_edge),),
    ),
    ("renumbered", "filters leave gaps in the numbers", ((Run, "kept", broken.kept_renumbered),)),
    (
        "requeue_behind",
        "what comes back goes to the front of its queue",
        ((Outbox, "_to_front", anchors.to_back), (KeyedOutbox, "_to_front", anchors.to_back)),
    ),
    *ANCHOR_ROWS,
)

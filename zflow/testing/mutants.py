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
from typing import Any

from zflow.protocol.anchor import Dedupe, Partition
from zflow.protocol.core import Core
from zflow.protocol.credit import SenderCredit, Window
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, ReceiverLink
from zflow.protocol.keyed import KeyedOutbox, Owners
from zflow.protocol.origin import Origin
from zflow.protocol.outbox import Outbox
from zflow.protocol.sender import SenderLink
from zflow.protocol.suspects import Suspects
from zflow.protocol.task import Task
from zflow.testing import broken
from zflow.testing import broken_anchors as anchors
from zflow.testing import broken_moves as moves
from zflow.testing.anchors import AnchorWorker
from zflow.testing.disk import Disk
from zflow.testing.ending import Ending
from zflow.testing.graves import Graves
from zflow.testing.moves import Moves
from zflow.testing.worker import Worker
from zflow.testing.world import Seat
from zflow.wire.run import Run

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


def _mutants(*rows: tuple[str, str, tuple[Patch, ...]]) -> dict[str, Mutant]:
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
    # -- anchors ---------------------------------------------------------------------------------
    (
        "no_fence",
        "a commit needs the current fence",
        ((Disk, "accepts", anchors.accept_any_fence),),
    ),
    (
        "wm_high",
        "a watermark is the end of the unbroken settled stretch",
        ((Core, "_watermarks", anchors.highest_settled),),
    ),
    (
        "below_mark",
        "everything below the watermark is a duplicate",
        ((Dedupe, "_fresh_along", anchors.fresh_unmarked),),
    ),
    (
        "dedupe_ack",
        "units are remembered until the watermark has passed them",
        ((Partition, "stored", anchors.stored_and_forgotten),),
    ),
    (
        "dedupe_memory",
        "what was applied is stored with its effects",
        ((Dedupe, "__init__", anchors.dedupe_of_nothing),),
    ),
    (
        "ack_before_commit",
        "an anchor acknowledges after its commit",
        ((Partition, "owes", anchors.owe_nothing),),
    ),
    (
        "duplicate_acked",
        "a duplicate waits for the commit of its first copy",
        ((Partition, "owes", anchors.owe_open_only),),
    ),
    (
        "sent_before_commit",
        "outputs leave after the commit that they are in",
        (
            (AnchorWorker, "_take", anchors.take_and_send),
            (AnchorWorker, "_send", anchors.send_nothing),
        ),
    ),
    (
        "low_in_memory",
        "an outbox's low mark counts committed rows only",
        (
            (AnchorWorker, "_take", anchors.take_and_count),
            (Core, "_watermarks", anchors.low_in_memory),
        ),
    ),
    (
        "oseq_of_rows",
        "the next number is stored, not derived from the rows that are left",
        ((Disk, "mark", anchors.mark_of_rows),),
    ),
    (
        "outbox_forgotten",
        "a successor sends the rows of the outbox again",
        ((Disk, "mark", anchors.mark_at_end),),
    ),
    (
        "finish_unmarked",
        "that `finish` has run is committed with its outputs",
        ((Partition, "finished", anchors.finished_unmarked),),
    ),
    (
        "acquired_unsynced",
        "an owner makes durable what its predecessor has written, before it trusts it",
        ((AnchorWorker, "_make_durable", anchors.leave_unsynced),),
    ),
    (
        "unburied",
        "what an anchor gives up is a dead letter before it is acknowledged",
        ((AnchorWorker, "_bury", anchors.bury_nothing),),
    ),
    (
        "bury_unawaited",
        "an anchor goes on when its dead letter is committed, not when it is asked for",
        ((AnchorWorker, "_bury", anchors.bury_unawaited),),
    ),
    (
        "no_birth",
        "a source that cannot go back is another origin at every start",
        ((Seat, "new_origin", anchors.same_origin),),
    ),
    (
        "finish_early",
        "a durable stage finishes when everything upstream is settled",
        ((Ending, "may_finish", anchors.finish_at_once),),
    ),
    # -- keyed edges -----------------------------------------------------------------------------
    (
        "not_affine",
        "what is sent again goes to the owner of its partition",
        ((KeyedOutbox, "_queue_of", anchors.queue_of_anybody),),
    ),
    (
        "nondeterminism",
        "a stage between origin and anchor makes the same again",
        ((Worker, "_place", anchors.place_anew),),
    ),
    (
        "keyed_without_partition",
        "a keyed unit carries its partition in its name",
        ((Brancher, "keyed", anchors.keyed_without_partition),),
    ),
    (
        "keyed_without_part",
        "a keyed unit carries its part in its name",
        ((Brancher, "keyed", anchors.keyed_without_part),),
    ),
    (
        "keyed_without_index",
        "a keyed unit keeps the index of its input",
        ((Brancher, "keyed", anchors.keyed_without_index),),
    ),
    # -- partitions that move --------------------------------------------------------------------
    (
        "aba",
        "an owner begins with what the file says, not with what it knew in an earlier term",
        ((AnchorWorker, "_release", moves.keep), (AnchorWorker, "_own", moves.own_as_before)),
    ),
    (
        "released_unstored",
        "a partition is let go of at a commit boundary",
        ((AnchorWorker, "_at_rest", moves.at_rest_always),),
    ),
    (
        "older_word",
        "an older word on who owns what changes nothing",
        ((Owners, "assign", moves.assign_anything),),
    ),
    (
        "not_held",
        "while a partition moves, nothing new of it is sent",
        ((KeyedOutbox, "_hold", moves.hold_nothing),),
    ),
    (
        "sent_at_once",
        "what is held back waits for everything that was on its way",
        ((SenderLink, "open_partitions", moves.nothing_open),),
    ),
    (
        "as_it_came",
        "what comes back is put before what was made later",
        ((KeyedOutbox, "_to_front", moves.in_front),),
    ),
    (
        "stray_taken",
        "behind units that went back, others go back until the sender knows",
        ((ReceiverLink, "is_stray", lambda self, partition, first: False),),
    ),
    (
        "stray_seen",
        "what was sent before the sender knew goes back, even if it waited here since",
        ((ReceiverLink, "seen", moves.seen_without_end),),
    ),
    (
        "finish_while_moving",
        "a stage is over when all of it knows the newest word on who owns what",
        ((Moves, "known", lambda self, stage: True),),
    ),
    # -- runs with several items -----------------------------------------------------------------
    (
        "keyed_without_counts",
        "a run says how many items its units hold",
        ((Brancher, "keyed", anchors.keyed_without_counts),),
    ),
)

"""The mutants of anchors, keyed edges, moves, rescales, re-driven dead letters and timers.

Decides nothing; `mutants` makes them what they are.
"""

from typing import Any

from zflow.protocol.anchor import Dedupe, Partition
from zflow.protocol.core import Core
from zflow.protocol.identity import Brancher
from zflow.protocol.inbox import Inbox, ReceiverLink
from zflow.protocol.keyed import KeyedOutbox, Owners
from zflow.protocol.origin import Origin
from zflow.protocol.roster import Roster
from zflow.protocol.sender import SenderLink
from zflow.testing import broken_anchors as anchors
from zflow.testing import broken_moves as moves
from zflow.testing import broken_redrive as redrive
from zflow.testing import broken_rescales as rescales
from zflow.testing import broken_timers as timers
from zflow.testing.anchors import AnchorWorker
from zflow.testing.disk import Contents, Disk
from zflow.testing.ending import Ending
from zflow.testing.moves import Moves
from zflow.testing.redrive import Redrives
from zflow.testing.timers import Alarms, Armed
from zflow.testing.worker import Worker
from zflow.testing.world import Seat

Patch = tuple[type, str, Any]
Row = tuple[str, str, tuple[Patch, ...]]  # the name, what it removes, and how

ANCHOR_ROWS: tuple[Row, ...] = (
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
    # -- dead letters that are sent again ----------------------------------------------------------
    (
        "sent_again_as_first",
        "a dead letter that is sent again has a new name",
        (
            (Worker, "_produce_some", redrive.produce_as_first),
            (Origin, "yielded", redrive.yielded_as_first),
        ),
    ),
    (
        "sent_again_without_birth",
        "every source of dead letters is an origin of its own",
        ((Redrives, "_origin", redrive.origin_of_the_edge),),
    ),
    # -- slots that come and go ------------------------------------------------------------------
    (
        "retired_open",
        "a link is let go once nothing is open on it",
        ((SenderLink, "part", rescales.part_with_open_units),),
    ),
    (
        "retired_taking",
        "nothing new is sent to a slot that leaves",
        ((SenderLink, "retire", rescales.retire_and_go_on),),
    ),
    (
        "stay_parted",
        "a link whose BYE was said is made anew if its slot is there again",
        ((SenderLink, "stay", rescales.stay_parted),),
    ),
    (
        "dials_from_one",
        "the dials of a slot are numbered on over a link that was let go",
        ((Roster, "_add", rescales.add_from_the_first_dial),),
    ),
    (
        "expected_at_birth",
        "the inputs end with those who are there now",
        ((Inbox, "expect", rescales.expect_as_at_birth),),
    ),
    (
        "guests_ignored",
        "the inputs have not ended while somebody is there who is not expected",
        ((Inbox, "ended", rescales.ended_without_guests),),
    ),
    (
        "no_silent_end",
        "a link whose BYE was lost with its sender is forgotten",
        ((Inbox, "see_off", rescales.see_off_byes_only),),
    ),
    (
        "parted_for_good",
        "a slot that was through, and is needed again, has its own links again",
        ((Core, "_part", rescales.part_for_good),),
    ),
    (
        "leaving_kept",
        "a slot that leaves forgets everybody who has said BYE",
        (
            (Inbox, "part_all", rescales.part_all_but_the_expected),
            (Inbox, "_find_guests", rescales.find_guests_unexpected),
        ),
    ),
    (
        "older_slots",
        "an older word on who is there changes nothing",
        ((Core, "resize", rescales.resize_by_any_word),),
    ),
    (
        "unknown_owner",
        "the partition of a slot that has no link waits",
        ((KeyedOutbox, "_queue_of", rescales.queue_of_who_is_there),),
    ),
    # -- timers ----------------------------------------------------------------------------------
    (
        "timer_kept",
        "the row of a timer is deleted in the commit that has what it made",
        ((Contents, "_apply_timers", timers.rows_kept),),
    ),
    (
        "timer_kept_for_now",
        "the row of a timer is deleted in that commit, and not in the next",
        ((Armed, "take", timers.take_rows_later),),
    ),
    (
        "timer_unstored",
        "the timers that an item sets are stored with its effects",
        ((Contents, "_apply_timers", timers.rows_not_stored),),
    ),
    (
        "timers_unloaded",
        "a successor fires the timers that it finds in the file",
        ((Armed, "__init__", timers.armed_with_nothing),),
    ),
    (
        "timer_of_failure",
        "an item that raises sets no timers",
        ((Armed, "fails", timers.fails_and_stays),),
    ),
    (
        "timer_behind_finish",
        "no timer fires behind `finish`",
        ((Alarms, "_due_s", timers.due_behind_finish),),
    ),
    (
        "timer_too_soon",
        "no timer fires before its time",
        ((Alarms, "_due_s", timers.fire_before_time),),
    ),
)

"""What a campaign must have gone through: every fault kind, every row of the links' tables.

Decides only what was never hit. `watched` counts the few decisions that no frame shows.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from zflow.protocol.inbox import Inbox, Parcel
from zflow.protocol.outbox import Outbox
from zflow.protocol.sender import LOST_S, LinkState, SenderLink
from zflow.protocol.turns import Turns

FAULTS = (
    *("kill", "kill in slice", "kill pair", "kill all", "hunt", "silent death", "killed process"),
    *("zombie", "pause", "false suspicion", "cut", "slow", "slow disk", "stranger", "stuck"),
    *("lost", "repeated", "reordered", "late", "refused", "unnoticed", "poison"),
    *("kill in commit", "kill at finish", "failing disk", "failing dead letters", "power loss"),
    *("move", "moved partition", "moved away and back", "move at finish"),
    *("kill of a source of dead letters", "kill at a timer"),
    *("rescale", "grown", "shrunk", "rescaled and back", "gentle restart"),
)

TRANSITIONS = (
    # the sender's table, row by row
    *("HELLO after dial", "HELLO again", "HELLO refused"),
    *("WELCOME when dialing", "WELCOME when up", "REFUSE when dialing"),
    *("STATE newer when up", "STATE older when up", "STATE newer when dialing"),
    *("RESET when up", "DATA refused", "HEARTBEAT refused", "STATE says stuck"),
    *("recover reset", "recover peer_lost", "recover after silence", "BYE, all links closed"),
    # frames and answers of the receiver
    *(f"{kind} handled" for kind in ("HELLO", "DATA", "HEARTBEAT", "WELCOME", "REFUSE", "STATE")),
    *("RESET handled", "STATE refused", "WELCOME refused"),
    *(f"REFUSE for {code}" for code in ("not_mine", "codec", "generation", "stale_incarnation")),
    *("RESET for gap", "RESET for token", "RETIRE"),
    *("stale DATA ignored", "stale reply ignored"),
    # what becomes of units
    *(f"bury {code}" for code in ("crash", "decode", "encode", "error", "final")),
    *("died before a dead letter was committed", "FAIL", "message halved"),
    *("commit of a dead letter failed", "stage stopped by dead letters"),
    *("ledger processed", "ledger dead_lettered", "ledger replayed_reset"),
    *("ledger replayed_peer_lost", "ledger replayed_nack", "ledger retries"),
    *("ledger dropped_lost", "ledger dropped_error"),
    # user code
    *("streaming step", "generator suspended", "failed after some outputs"),
    *("emission after return refused", "died inside a slice", "died inside a slice, alone"),
    "suspect ran alone",
    # keyed edges
    *("unit of several items", "part beyond the first"),
    # anchors
    *("partition acquired", "partition acquired after finish", "outbox sent again"),
    *("waited for a partition that somebody held", "commit refused by its fence"),
    *("commit written", "finish committed", "commit failed", "records forgotten"),
    *("died in a commit, which is whole", "died in a commit, which is not there"),
    *("died behind a commit", "power loss took a commit back"),
    *("duplicate waited for a commit", "duplicate acknowledged at once"),
    *("tried again in place", "dead letter of an anchor"),
    *("source born", "source born again"),
    # timers
    *("timer fired", "timer fired where its partition went", "timer tried again"),
    # dead letters that are sent again
    *("dead letter sent again", "dead letter sent again twice", "applied again"),
    *("applied behind its first mark", "source of dead letters started again"),
    # slots that come and go
    *("BYE handled", "BYE refused", "RESET when leaving", "slot retired", "came to rest"),
    *("retired, and wanted again", "wanted again before it has left", "born with an old word"),
    *("died while leaving, and was not started again", "hung up after silence"),
    *("guest forgotten after silence", "partition of a slot without a link"),
    # lanes
    *("overtaken in an inbox", "turn of the overtaken"),
    # partitions that move
    *("partition released", "given back", "given back as a stray", "ledger replayed_not_owner"),
)


def missing(faults: Counter[str], transitions: Counter[str]) -> list[str]:
    """What should have been hit and never was."""
    never = [f"fault: {name}" for name in FAULTS if not faults[name]]
    return never + [f"transition: {name}" for name in TRANSITIONS if not transitions[name]]


@contextmanager
def watched(seen: Counter[str]) -> Iterator[None]:
    """Count recoveries by reason, halved messages, forgotten links and overtaking."""
    recover, halve = SenderLink.recover, Outbox._halve
    part, see_off = SenderLink.part, Inbox.see_off
    line_up, following = Inbox._line_up, Turns.next

    def counting_recover(self: SenderLink, reason: str, now_s: float) -> None:
        refused_s = now_s - (self._refused_since_s or now_s)
        silent = reason == "peer_lost" and refused_s >= LOST_S
        seen["recover after silence" if silent else f"recover {reason}"] += 1
        recover(self, reason, now_s)

    def counting_halve(self: Outbox, *arguments: Any) -> None:
        seen["message halved"] += 1
        halve(self, *arguments)

    def counting_part(self: SenderLink, now_s: float) -> None:
        part(self, now_s)
        since_s = self._idle_since_s
        if self.state is LinkState.CLOSED and since_s is not None and now_s - since_s >= LOST_S:
            seen["hung up after silence"] += 1

    def counting_see_off(self: Inbox, now_s: float) -> None:
        silent = [link for link in self.guests if not link.parted]
        see_off(self, now_s)
        seen["guest forgotten after silence"] += sum(
            self.links.get(link.key) is not link for link in silent
        )

    def counting_line_up(self: Inbox, parcel: Parcel) -> None:
        line_up(self, parcel)
        seen["overtaken in an inbox"] += self.parcels[-1] is not parcel

    def counting_next(self: Turns, waiting: Sequence[int]) -> int:
        lane = following(self, waiting)
        seen["turn of the overtaken"] += lane != waiting[0]
        return lane

    replaced: tuple[tuple[type, str, Callable[..., Any]], ...] = (
        (SenderLink, "recover", counting_recover),
        (Outbox, "_halve", counting_halve),
        (SenderLink, "part", counting_part),
        (Inbox, "see_off", counting_see_off),
        (Inbox, "_line_up", counting_line_up),
        (Turns, "next", counting_next),
    )
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in replaced]
    for owner, name, by in replaced:
        setattr(owner, name, by)
    try:
        yield
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)

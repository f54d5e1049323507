"""Stages that grow and shrink, without the protection that their links are in need of.

Decides nothing; `mutants` puts these in place. Each says what it no longer does by its name, and
does everything else as the original does.

Not here, because losing it loses nothing by design: that a BYE is said again until it is heard. A
receiver forgets a link whose BYE it never heard after 10 s of silence (`no_silent_end` is that
protection); the repetition saves these 10 s.

Not here, because no seed has shown it: that a HELLO older than a link that has ended is refused.
The link that it would make is silent, and forgotten like one whose BYE was lost;
`tests/protocol/test_rescale.py` asks for it.
"""

from collections import deque
from collections.abc import Sequence

from zflow.ids import Slot
from zflow.protocol.core import Core
from zflow.protocol.inbox import Inbox
from zflow.protocol.keyed import KeyedOutbox
from zflow.protocol.roster import Roster
from zflow.protocol.segment import Segment
from zflow.protocol.sender import LinkState, SenderLink

_see_off = Inbox.see_off
_resize = Core.resize
_part = Core._part


def part_with_open_units(self: SenderLink, now_s: float) -> None:
    """Hang up, whatever is open."""
    if self.state is not LinkState.CLOSED:
        self._hang_up()


def retire_and_go_on(self: SenderLink) -> None:
    """Send new units to a slot that leaves."""
    self.retiring = True


def stay_parted(self: SenderLink, now_s: float) -> None:
    """Go on with a link whose BYE was said."""
    self.retiring = False
    self.barred = self.stuck
    self._idle_since_s = None


def add_from_the_first_dial(self: Roster, slot: str, now_s: float, *, dials: bool) -> None:
    """Number the dials of a slot that is there again from 1."""
    link = self._make(slot, 0)
    self.links.append(link)
    if dials:
        link.dial(now_s)


def expect_as_at_birth(self: Inbox, stage: str, slots: Sequence[str]) -> None:
    """Expect who was there at the start, for ever."""


def ended_without_guests(self: Inbox) -> bool:
    """End when the expected links have, whoever else may send."""
    links = self.links
    expected = all(key in links and links[key].ended for key in self.expected)
    return not self.parcels and (expected or (self._leaving and not links))


def see_off_byes_only(self: Inbox, now_s: float) -> None:
    """Wait for the BYE of a link for ever."""
    _see_off(self, float("-inf"))


def part_for_good(self: Core, ended: bool, now_s: float) -> None:
    """Have nobody downstream any more, whoever comes back."""
    if not self._parted:
        _part(self, ended, now_s)


def part_all_but_the_expected(self: Inbox) -> None:
    """Keep the links of those who are expected, although this slot leaves."""
    self._leaving = True
    self.guests = [link for key, link in self.links.items() if key not in self.expected]


def find_guests_unexpected(self: Inbox) -> None:
    """The same, later."""
    self.guests = [link for key, link in self.links.items() if key not in self.expected]


def resize_by_any_word(
    self: Core, stage: str, generation: int, slots: Sequence[str], now_s: float
) -> None:
    """Believe the word that came last."""
    self._generations[stage] = generation - 1
    _resize(self, stage, generation, slots, now_s)


def queue_of_who_is_there(self: KeyedOutbox, segment: Segment) -> deque[Segment]:
    """Give the partition of a slot that nobody here knows to another one."""
    partition = segment.runs[0].partition
    held = self._held.get(partition)
    if held is not None:
        return held
    there = [Slot.parse(link.key[1]).index for link in self.links]
    owner = self.owners.slots[partition]
    return self._lanes[owner if owner in there or not there else there[0]]

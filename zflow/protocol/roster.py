"""The links of one outgoing edge while the stage that it leads to grows and shrinks.

Decides which slots have a link, and when the link of one that leaves may go. Never looks at units.

Rules:
1. A slot that leaves keeps its link until nothing is open on it: what was sent there is
   acknowledged or given back there, and nowhere else. Nothing new is sent meanwhile.
2. The dials of one slot are numbered on, even over a link that was let go: the receiver takes the
   highest, and an old HELLO may still be on its way.
"""

from collections.abc import Callable, Iterable, Sequence

from zflow.protocol.sender import LinkState, SenderLink

MakeLink = Callable[[str, int], SenderLink]  # of a slot, whose dials so far are so many


class Roster:
    """The links of one edge. One thread at a time owns it.

    links: in the order in which they were made; the same list for ever. leaving: those of them
    whose slots are gone.
    """

    def __init__(self, slots: Iterable[str], make: MakeLink) -> None:
        self.links = [make(slot, 0) for slot in slots]
        self.leaving: list[SenderLink] = []
        self._make = make
        self._dials: dict[str, int] = {}

    def resize(self, slots: Sequence[str], now_s: float, *, dials: bool) -> None:
        """From now on the stage has these slots. dials: new ones are dialled at once."""
        wanted = set(slots)
        for link in self.links:
            if link.key[1] not in wanted:
                link.retire()
            elif link.retiring:
                link.stay(now_s)
        known = {link.key[1] for link in self.links}
        for slot in slots:
            if slot not in known:
                self._add(slot, now_s, dials=dials)
        self.leaving = [link for link in self.links if link.retiring]

    def _add(self, slot: str, now_s: float, *, dials: bool) -> None:
        link = self._make(slot, self._dials.pop(slot, 0))
        self.links.append(link)
        if dials:
            link.dial(now_s)

    def part(self, now_s: float) -> bool:
        """Go on with the end of those that leave; True if one of them is gone."""
        for link in self.leaving:
            link.part(now_s)
        gone = [link for link in self.leaving if link.state is LinkState.CLOSED]
        for link in gone:
            self._dials[link.key[1]] = link.dials
            self.links.remove(link)
            self.leaving.remove(link)
        return bool(gone)

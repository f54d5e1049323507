"""What became of the items: lost, duplicated, unexpected; and whether a campaign's bar holds.

Decides only; starts nothing and reads no file. Of the environment it reads whether this is CI.
"""

import os
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

SHOWN_LOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Recorded numbers against the exact reference. shown: the first of the lost ones."""

    expected: int
    lost: int
    duplicated: int
    unexpected: int
    shown: tuple[Hashable, ...] = ()

    def __add__(self, other: "Count") -> "Count":
        return Count(
            expected=self.expected + other.expected,
            lost=self.lost + other.lost,
            duplicated=self.duplicated + other.duplicated,
            unexpected=self.unexpected + other.unexpected,
            shown=(self.shown + other.shown)[:SHOWN_LOST],
        )


NOTHING = Count(expected=0, lost=0, duplicated=0, unexpected=0)


def count(expected: Collection[Hashable], recorded: Collection[Hashable]) -> Count:
    """expected: a range or a set, so that looking up is cheap."""
    unique = set(recorded)
    found = sum(1 for number in unique if number in expected)
    lost = len(expected) - found
    shown = []
    if lost:
        for number in expected:
            if number not in unique:
                shown.append(number)
            if len(shown) == SHOWN_LOST:
                break
    return Count(
        expected=len(expected),
        lost=lost,
        duplicated=len(recorded) - len(unique),
        unexpected=len(unique) - found,
        shown=tuple(shown),
    )


@dataclass(slots=True)
class Verdict:
    """A campaign's result. broken: the bars that do not hold, each a sentence with its facts.

    faults: what was done to the processes, by kind. recovered: units that the ledger says were
    sent again since a process died. dead: dead letters.
    """

    items: Count = NOTHING
    faults: dict[str, int] = field(default_factory=dict)
    recovered: int = 0
    dead: int = 0
    facts: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: str = ""

    def need(self, holds: object, sentence: str) -> None:
        """A bar of this campaign."""
        if not holds:
            self.broken.append(sentence)

    def skip(self, reason: str) -> "Verdict":
        """Something is not there that the campaign needs; CI has to have it."""
        self.skipped = reason
        self.need(os.environ.get("CI") != "true", f"skipped: {reason}")
        return self

    def nothing_lost(self) -> None:
        """The bar that every campaign has."""
        items = self.items
        self.need(items.lost == 0, f"{items.lost} items lost, the first: {list(items.shown)}")
        self.need(items.unexpected == 0, f"{items.unexpected} items that nobody made")

    def ended(self, code: int | None, wanted: int, result: Mapping[str, object] | None) -> None:
        """The run has told the truth about its end, and its books balance."""
        self.need(code == wanted, f"exit code {code}, not {wanted}")
        if result is None:
            self.broken.append("the run wrote no result")
            return
        self.need(not result["holes"], f"the books have holes: {result['holes']}")
        self.recovered += replayed(result)

    def as_data(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": not self.broken,
            "expected": self.items.expected,
            "lost": self.items.lost,
            "duplicated": self.items.duplicated,
            "unexpected": self.items.unexpected,
            "recovered": self.recovered,
            "dead": self.dead,
            "faults": self.faults,
            "facts": self.facts,
            "broken": self.broken,
            "skipped": self.skipped,
        }


def replayed(result: Mapping[str, object], reasons: Iterable[str] = ()) -> int:
    """Units that were sent again, over all edges; of some reasons only if any are named."""
    wanted = set(reasons) or {"reset", "peer_lost", "sender_died"}
    edges: list = result["ledger"]  # type: ignore[assignment]
    return sum(n for edge in edges for reason, n in edge["replayed"].items() if reason in wanted)

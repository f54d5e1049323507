"""The faults of a run in one process: which replica dies or hangs, and when.

Decides when, and nothing of what comes of it. Light: whoever imports `zflow.testing` loads it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

KILLED = "signal 9 (SIGKILL)"
SOON_S = 0.05  # chaos kills at some time within that, and at some of the first items
EARLY_ITEMS = 20.0  # on average


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One death. At an item or at a time; `after`: when user code has returned, its result lost.

    hangs: user code never returns, until the process is killed for it after `timeout_s`.
    """

    slot: str
    at_item: int = 0
    at_s: float = 0.0
    after: bool = False
    hangs: bool = False

    def __post_init__(self) -> None:
        if self.at_item < 0 or self.at_s < 0.0:
            raise ValueError(f"a fault comes at an item from 1 on, or at a time; got {self}")


def kill(slot: str, *, at_item: int, after: bool = False) -> Fault:
    """The replica dies like of a SIGKILL with its n-th item in hand, all its incarnations counted.

    after: not before user code is called with the item, but when it has returned.

    >>> kill("charge/0", at_item=10).slot
    'charge/0'
    """
    if at_item < 1:
        raise ValueError(f"items are counted from 1; got at_item={at_item}")
    return Fault(slot=slot, at_item=at_item, after=after)


def kill_at(slot: str, *, at_s: float) -> Fault:
    """The replica dies at that time, in virtual seconds from the beginning of the run."""
    return Fault(slot=slot, at_s=at_s)


def hang(slot: str, *, at_item: int) -> Fault:
    """User code never returns from the n-th item; the stage's `timeout_s` ends it."""
    if at_item < 1:
        raise ValueError(f"items are counted from 1; got at_item={at_item}")
    return Fault(slot=slot, at_item=at_item, hangs=True)


class Killed(BaseException):
    """Raised through user code and framework alike, where a process would have died."""


class Hung(BaseException):
    """The same where user code would never return."""


def chaos(slots: Iterable[str], random: Random) -> list[Fault]:
    """Up to two deaths of each slot at an item, and one at some time of every third slot."""
    faults = []
    for slot in slots:
        at_item = 0
        for _ in range(random.randint(0, 2)):
            at_item += 1 + int(random.expovariate(1 / EARLY_ITEMS))
            faults.append(Fault(slot=slot, at_item=at_item, after=random.random() < 0.5))
        if random.random() < 1 / 3:
            faults.append(Fault(slot=slot, at_s=random.random() * SOON_S))
    return faults


class Fates:
    """What is to happen at which item of each slot. Counts items over all incarnations."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._due: dict[str, list[Fault]] = {}
        self._begun: dict[str, int] = {}
        for fault in faults:
            if fault.at_item:
                self._due.setdefault(fault.slot, []).append(fault)
        for due in self._due.values():
            due.sort(key=lambda fault: fault.at_item)

    def begins(self, slot: str, items: int) -> bool:
        """User code is to be called with so many items; raises Killed or Hung, or returns True if
        it is to die behind the call."""
        begun = self._begun[slot] = self._begun.get(slot, 0) + items
        due = self._due.get(slot)
        if not due or due[0].at_item > begun:
            return False
        fault = due.pop(0)
        if fault.hangs:
            raise Hung
        if not fault.after:
            raise Killed
        return True

"""What a stage with limits waits for besides items: its deadline, its rate, its breaker.

Decides which units may run now. Those that may not, although they have left the inbox, wait here:
of keys that have had their share, and behind a breaker. They are open like units that run; nothing
of them is lost with the process, since their senders still have them.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from zflow.clock import Clock
from zflow.limits import Limits
from zflow.net.addresses import parse_tcp
from zflow.protocol.core import Core
from zflow.protocol.inbox import Portion
from zflow.replica.pacing import ANY_NUMBER, Circuit, Pace, PerKey, Stand
from zflow.wire.data import DEADLINE, EXPIRED
from zflow.wire.run import SUSPECT, cut_runs, item_span

WAITING_ROOM = 1024  # items that wait for the turn of their key
FAILED_ROOM = 8  # items that a half open breaker tries by turns, before it takes new ones

FromInbox = Callable[[int, int], Portion | None]
Fail = Callable[[Portion, int, BaseException], None]


def part_of(portion: Portion, begin: int, end: int) -> Portion:
    """Some units of a portion, as a portion of their own."""
    first, last = item_span(portion.runs, begin, end)
    runs = cut_runs(portion.runs, begin, end)
    return Portion(
        portion.link, portion.first + begin, end - begin, runs, portion.items[first:last]
    )


def shorten(portion: Portion, n: int) -> None:
    """Leave only the first `n` units in it."""
    rest = part_of(portion, 0, n)
    portion.n, portion.runs, portion.items = n, rest.runs, rest.items


def attempt_of(portion: Portion, position: int) -> int:
    """How often a unit has failed before."""
    for run in portion.runs:
        if position < run.n:
            return run.attempt
        position -= run.n
    raise IndexError(f"the portion has no unit {position}")


class Gates:
    """Of one replica. The data thread owns it; `alarm` may be asked by the other, under the lock.

    slots: how many the stage has now, which share its rate. due_s, blocked: as the last `take` has
    left them; when something may go that could not, and whether it was that which it waited for.
    """

    def __init__(
        self,
        limits: Limits,
        core: Core,
        clock: Clock,
        *,
        retries: int,
        slots: Callable[[], int],
        logger: logging.Logger,
    ) -> None:
        self._core = core
        self._clock = clock
        self._slots = slots
        self._logger = logger
        self._deadline_s = limits.deadline_s
        self._expired = EXPIRED if limits.on_deadline == "drop" else DEADLINE
        self._limit_per_s = limits.rate_limit_per_s
        self._rate_key = limits.rate_key
        self._pace: Pace | None = None
        self._keyed: PerKey[Portion] | None = None
        self._circuit: Circuit | None = None
        if limits.rate_limit_per_s is not None:
            rate_per_s = limits.rate_limit_per_s / max(1, slots())
            if limits.rate_key is None:
                self._pace = Pace(rate_per_s, clock.now_s(), least=max(1, limits.batch))
            else:
                self._keyed = PerKey(rate_per_s, room=WAITING_ROOM)
        if limits.breaker is not None:
            self._circuit = Circuit(limits.breaker, retries=retries)
        self._ready: deque[Portion] = deque()  # these may go as soon as anything may
        self._failed: deque[Portion] = deque()  # ... and have been tried while the breaker was open
        self.due_s = float("inf")
        self.blocked = False

    @property
    def waiting(self) -> int:
        """Units that wait here for nothing but a breaker or a rate for all."""
        return sum(portion.n for portion in self._ready) + len(self._failed)

    @property
    def begins_with_suspect(self) -> bool:
        """True if the first of those runs alone."""
        queue = self._failed or self._ready
        return bool(queue) and bool(queue[0].runs[0].flags & SUSPECT)

    def tries_one(self, now_s: float) -> bool:
        """True while a single item tells whether the breaker closes: nothing goes beside it."""
        return self._is_trying(now_s)

    def alarm(self, now_s: float) -> str:
        """What people should know, a sentence; mostly empty."""
        return self._circuit.alarm(now_s) if self._circuit is not None else ""

    def paced_s(self, items: int, seconds: float) -> float:
        """How long so many take that took user code so many seconds: what credit goes by."""
        if self._pace is None:
            return seconds
        return max(seconds, items * self._pace.interval_s)

    # -- before the call ---------------------------------------------------------------------

    def rest(self) -> None:
        """Nothing is taken now, for another reason."""
        self.due_s = float("inf")
        self.blocked = False

    def allowed(self, now_s: float, wanted: int = 1) -> int:
        """How many may go now; 0 if not even `wanted`, as many as a bucket can hold of them."""
        self.rest()
        if self._limit_per_s is not None:
            self._share(self._limit_per_s / max(1, self._slots()), now_s)
        most = ANY_NUMBER
        if self._circuit is not None:
            most = self._circuit.allowed(now_s)
            if not most:
                return self._blocked_until(self._circuit.due_s())
        if self._pace is not None:
            allowed = self._pace.allowed(now_s)
            due_s = self._pace.due_s(min(wanted, most))
            if due_s > now_s or not allowed:
                return self._blocked_until(due_s)
            most = min(most, allowed)
        return most

    def _share(self, rate_per_s: float, now_s: float) -> None:
        if self._pace is not None:
            self._pace.change(rate_per_s, now_s)
        elif self._keyed is not None:
            self._keyed.change(rate_per_s, now_s)

    def _blocked_until(self, due_s: float) -> int:
        self.due_s = due_s
        self.blocked = True
        return 0

    def take(self, now_ns: int, from_inbox: FromInbox, most: int) -> tuple[Portion | None, bool]:
        """Under the lock: the next units that may go, at most so many, and whether they must still
        be asked for their keys, with `admit`."""
        now_s = now_ns / 1e9
        while True:
            n = min(most, self.allowed(now_s))
            portion = self._again(n, now_s) if n else None
            fresh = n > 0 and portion is None
            if fresh:
                portion = self._new(now_ns, n, from_inbox)
            if portion is None:
                self._settle_for_nothing()
                return None, False
            portion = self._alive(portion, now_ns)
            if portion is not None:
                if self._pace is not None:
                    self._pace.take(portion.n)
                return portion, fresh and self._keyed is not None

    def _again(self, most: int, now_s: float) -> Portion | None:
        """Of what has left the inbox already."""
        queue = self._failed or self._ready
        if self._is_trying(now_s):
            queue = self._ready or self._failed
            # Another item tells more of the dependency than one that has failed there.
            if queue is self._failed and len(queue) < FAILED_ROOM and self._core.inbox.parcels:
                return None
        if not queue:
            return self._keyed.pop(now_s) if self._keyed is not None else None
        portion = queue.popleft()
        if portion.n > most:
            queue.appendleft(part_of(portion, most, portion.n))
            portion = part_of(portion, 0, most)
        return portion

    def _is_trying(self, now_s: float) -> bool:
        return self._circuit is not None and self._circuit.stand(now_s) is Stand.HALF_OPEN

    def _new(self, now_ns: int, most: int, from_inbox: FromInbox) -> Portion | None:
        if self._keyed is not None:
            most = min(most, WAITING_ROOM - self._keyed.waiting)
        return from_inbox(now_ns, most) if most > 0 else None

    def _settle_for_nothing(self) -> None:
        """What it waits for now that nothing could be taken."""
        if self._keyed is not None and self._keyed.waiting and not self.blocked:
            self._blocked_until(self._keyed.due_s())
        elif self.blocked and not (self._core.inbox.parcels or self._ready or self._failed):
            self.rest()  # there is nothing that could go

    def _alive(self, portion: Portion, now_ns: int) -> Portion | None:
        """Those that are not too old: the first of them in a row, the others wait here."""
        if self._deadline_s is None:
            return portion
        before_ns = now_ns - int(self._deadline_s * 1e9)
        if all(run.born_ns >= before_ns or not run.born_ns for run in portion.runs):
            return portion
        alive: list[Portion] = []
        at = 0
        for run in portion.runs:
            end = at + run.n
            if 0 < run.born_ns < before_ns:
                age_s = (now_ns - run.born_ns) / 1e9
                why = f"{age_s:.3f} s old when it was taken, deadline_s={self._deadline_s:g}"
                self._core.expired(portion, at, end, self._expired, why)
            elif alive and alive[-1].first + alive[-1].n == portion.first + at:
                alive[-1] = part_of(portion, alive[-1].first - portion.first, end)
            else:
                alive.append(part_of(portion, at, end))
            at = end
        self._ready.extendleft(reversed(alive[1:]))
        return alive[0] if alive else None

    def admit(self, portion: Portion, now_ns: int, fail: Fail) -> Portion | None:
        """Without the lock, since it asks `rate_key`: the first in a row whose keys have not had
        their share; the others wait here. None if it is none of them."""
        keyed, rate_key, now_s = self._keyed, self._rate_key, now_ns / 1e9
        assert keyed is not None, "only where there is a rate for each key"
        assert rate_key is not None, "which has a key"
        admitted: list[Portion] = []
        begin = 0
        for position, item in enumerate(portion.items):
            try:
                key = rate_key(item)
                goes = keyed.admit(key, now_s)
                if not goes:
                    keyed.wait(key, part_of(portion, position, position + 1))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
                fail(portion, position, error)
                goes = False
            if not goes:
                if begin < position:
                    admitted.append(part_of(portion, begin, position))
                begin = position + 1
        if begin == 0:
            return portion
        if begin < portion.n:
            admitted.append(part_of(portion, begin, portion.n))
        self._ready.extend(admitted[1:])
        return admitted[0] if admitted else None

    # -- after the call ----------------------------------------------------------------------

    def called_again(self, items: int) -> None:
        """So many are called once more, each alone: they count twice, and others wait longer."""
        if self._pace is not None:
            self._pace.take(items)

    def hold(self, portions: list[Portion]) -> None:
        """These were taken and wait behind the breaker that has just opened."""
        for portion in reversed(portions):
            self._untake(portion.n)
            self._ready.appendleft(portion)

    def forget(self) -> None:
        """This process makes room for another, which is sent what waits here."""
        waiting = [*self._ready, *self._failed]
        if self._keyed is not None:
            waiting += self._keyed.drain()
        self._ready.clear()
        self._failed.clear()
        for portion in waiting:
            self._core.forget(portion)

    def heard(
        self, portion: Portion, begin: int, reached: int, error: BaseException | None
    ) -> bool:
        """Units [begin, reached) have returned, and the next one has raised `error`.

        True if a breaker is open now: that unit and those behind it wait here, and the portion
        has become shorter.
        """
        circuit = self._circuit
        if circuit is None:
            return False
        if reached > begin and circuit.succeeded():
            self._logger.info("the breaker is closed")
        if error is None:
            return False
        now_s = self._clock.now_s()
        was_open = circuit.stand(now_s) is not Stand.CLOSED
        if not circuit.failed(error, attempt_of(portion, reached), now_s):
            return False
        level = logging.DEBUG if was_open else logging.WARNING
        self._logger.log(level, "%s: %r", circuit.alarm(now_s), error)
        self._failed.append(part_of(portion, reached, reached + 1))
        if reached + 1 < portion.n:
            self.hold([part_of(portion, reached + 1, portion.n)])
        shorten(portion, reached)
        return True

    def _untake(self, units: int) -> None:
        if self._pace is not None:
            self._pace.take(-units)


def make_gates(
    limits: Limits,
    core: Core,
    clock: Clock,
    *,
    retries: int,
    slots: Callable[[], int],
    logger: logging.Logger,
    into: str,
) -> Gates | None:
    """What a stage waits for besides items; None if nothing is declared. into: where it takes
    messages."""
    if limits.deadline_s is not None and not is_on_one_machine(into):
        limits = replace(limits, deadline_s=None)
        logger.warning(
            "deadline_s= is not kept: the age of an item is known on the machine of its source "
            "only, and this run may be on several"
        )
    if limits.deadline_s is None and limits.rate_limit_per_s is None and limits.breaker is None:
        return None
    return Gates(limits, core, clock, retries=retries, slots=slots, logger=logger)


def is_on_one_machine(into: str) -> bool:
    """True if nobody on another machine can send to that address, as far as it tells."""
    return not into.startswith("tcp://") or parse_tcp(into).is_loopback

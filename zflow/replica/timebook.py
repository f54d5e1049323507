"""What the data thread of a replica did with its time: busy, starved, blocked, overhead.

Decides what counts as which. The four add up to the time since `begin`:
- busy: in user code, with what is done at once with its results (`when=`, `key=`).
- starved: asleep although it could take work, because there is none; and a source inside its own
  generator while that waits for something (a file, a socket, a sleep), so that a paced source is
  starved and not busy.
- blocked: asleep because an outbox or an origin is full, or because its rate or its breaker lets
  nothing go that is there.
- overhead: everything else, the wait of a durable stage for its own disk included.
"""

from zflow.clock import Clock
from zflow.metrics import STATES

BUSY, STARVED, BLOCKED, PULLING, OPEN = range(5)
NAMES = tuple(f"{state}_ns" for state in STATES)

# (what it does, since when, CPU time then) and what is closed: busy, starved, blocked
Now = tuple[int, int, int, int, int, int]


class TimeBook:
    """Written by the data thread; `row` may be read from the other, under the reactor's lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cpu_ns = clock.cpu_of_this_thread()
        self._began_ns = 0
        # One tuple, replaced as a whole: the other thread never sees half of a change.
        self._now: Now = (OPEN, 0, 0, 0, 0, 0)
        self._told = [0, 0, 0, 0]

    def begin(self) -> None:
        """The replica runs from now on; by the data thread."""
        self._began_ns = self._clock.now_ns()
        self._now = (OPEN, 0, 0, 0, 0, 0)

    def enter(self, state: int) -> None:
        """BUSY, STARVED or BLOCKED from now on; PULLING: in the generator of a source."""
        cpu_ns = self._clock.thread_ns() if state == PULLING else 0
        self._now = (state, self._clock.now_ns(), cpu_ns, *self._now[3:])

    def leave(self, *, waited: bool = True) -> int:
        """The same is over; how many nanoseconds it was.

        waited: whether a generator that was PULLING has waited for something; one that has not was
        at most preempted, and busy all the time.
        """
        now_ns = self._clock.now_ns()
        state, since_ns, cpu_ns, busy, starved, blocked = self._now
        spent = now_ns - since_ns
        if state == PULLING:
            used = min(spent, self._clock.thread_ns() - cpu_ns) if waited else spent
            busy += used
            starved += spent - used
        elif state == BUSY:
            busy += spent
        elif state == STARVED:
            starved += spent
        else:
            blocked += spent
        self._now = (OPEN, 0, 0, busy, starved, blocked)
        return spent

    def row(self) -> list[int]:
        """Nanoseconds in the order of NAMES, what is going on included. None ever falls."""
        if not self._began_ns:
            return [0, 0, 0, 0]
        # What it does is read before the time: it began before that.
        state, since_ns, cpu_ns, busy, starved, blocked = self._now
        now_ns = self._clock.now_ns()
        spent = max(0, now_ns - since_ns)
        if state == PULLING:
            used = min(spent, max(0, self._cpu_ns() - cpu_ns))
            busy += used
            starved += spent - used
        elif state == BUSY:
            busy += spent
        elif state == STARVED:
            starved += spent
        elif state == BLOCKED:
            blocked += spent
        rest = max(0, now_ns - self._began_ns - busy - starved - blocked)
        self._told = list(map(max, self._told, (busy, starved, blocked, rest)))
        return self._told

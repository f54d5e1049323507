"""Runs user code for several items at once: what tasks of an event loop and threads share.

Decides how many items are in hand, and in which pieces the results go to the core: whatever has
ended since the last look, in stretches of neighbours, in any order. Bookkeeping is per message and
per stretch. What a thread does is here too, tasks are in `asynchronous`.

Rules: every item in hand is named in the black box before any code sees it; a suspect is in hand
alone, so nothing is taken before it until all others have ended, and nothing beside it. A thread
cannot be killed: an item that runs there longer than `timeout_s` ends the process, as anywhere.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Protocol

from zflow.net.poll import Waiter
from zflow.protocol.inbox import Portion
from zflow.replica.gates import part_of
from zflow.replica.timebook import BUSY
from zflow.replica.worker import Bench, StageWorker
from zflow.wire.run import SUSPECT, Run, cut_runs


class Waits(Protocol):
    """What the data thread sleeps on: a `Waiter`, or a loop around one."""

    def wait(self, timeout_s: float) -> list[tuple[Any, int]]:
        """Until something arrives, `wake` is called, or the time is up."""


class Flight:
    """A portion of which some items are in hand."""

    __slots__ = ("_named", "open", "portion")

    def __init__(self, portion: Portion) -> None:
        self.portion = portion
        self.open = set(range(portion.n))
        self._named: list[Run] | None = portion.runs

    def over(self, calls: "list[Call]") -> None:
        """These items have ended."""
        self.open.difference_update(call.position for call in calls)
        self._named = None

    def runs(self) -> list[Run]:
        """Exactly the units in hand: a unit that is settled must not be accused of a death."""
        if self._named is None:
            runs = self.portion.runs
            stretches = stretches_of(sorted(self.open))
            self._named = [run for begin, end in stretches for run in cut_runs(runs, begin, end)]
        return self._named


class Call:
    """One item in hand. made: its result, alone; of a generator what it has yielded and still has.

    More of a task than of a thread is in `asynchronous.TaskCall`.
    """

    __slots__ = ("began_ns", "error", "flight", "held", "item", "made", "position")

    def __init__(self, flight: Flight, position: int, began_ns: int) -> None:
        self.flight = flight
        self.position = position
        self.item = flight.portion.items[position]
        self.began_ns = began_ns
        self.made: list[Any] = []
        self.error: BaseException | None = None
        self.held = False  # it has failed, and waits behind a breaker


def stretches_of(positions: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted positions as (begin, end) of neighbours."""
    if not positions:
        return
    begin = positions[0]
    for before, here in pairwise(positions):
        if here != before + 1:
            yield begin, before + 1
            begin = here
    yield begin, positions[-1] + 1


class ConcurrentWorker(StageWorker):
    """What is common; `attach` comes before the first slice.

    concurrency: how many items may be in hand.
    """

    call_type: type[Call] = Call

    def __init__(
        self,
        bench: Bench,
        call: Callable[..., Any],
        *,
        concurrency: int,
        **settings: Any,
    ) -> None:
        super().__init__(bench, call, **settings)
        self._limit = concurrency
        self._flights: dict[Flight, None] = {}  # in the order of their start, as are the calls
        self._calls: dict[Call, None] = {}
        self._ended: deque[Call] = deque()  # from any thread
        self._alone = False  # what is in hand is a suspect
        self._held = False  # what has to be alone waits until nothing is in hand
        bench.reactor.core.inbox.window.at_least(concurrency)

    # -- what a kind of worker does ----------------------------------------------------------

    def attach(self, waiter: Waiter) -> Waits:
        """What the data thread sleeps on from now on."""
        raise NotImplementedError

    def _begin(self, call: Call) -> None:
        """Start user code on one item."""
        raise NotImplementedError

    def _have_begun(self) -> None:
        """Several were started."""

    def _started_ns(self) -> int:
        """Since when user code that may be stuck has been running; 0 if none can be."""
        raise NotImplementedError

    def complete(self, made: Any) -> None:
        """What `open()` or `close()` has given: to be awaited, if it is a coroutine."""

    def close(self) -> None:
        """The replica ends; whatever still runs is given up."""

    # -- for the data thread -----------------------------------------------------------------

    def settled(self) -> bool:
        """Nothing is in hand."""
        return not self._calls

    def has_room(self) -> bool:
        """Another item may be taken."""
        return len(self._calls) < self._limit and not self._alone and not self._held

    def waits_as(self) -> int | None:
        """BUSY while as many are in hand as may be."""
        return super().waits_as() if self.has_room() else BUSY

    def slice(self) -> bool:
        """Take what there is room for, let it begin, and hand over what has ended.

        In this order: what waits for something else may as well do so while results are sent.
        """
        ended = self._collect()
        changed = bool(ended)
        if self.gates is not None and ended:  # a breaker hears of them before more are taken
            self._hand_over(ended)
            ended = {}
        begun = self._take_calls()
        if changed or begun:
            self._name()
        for call in begun:
            self._begin(call)
        if begun:
            self._have_begun()
        if ended:
            self._hand_over(ended)
        return bool(self._ended)  # nobody wakes for those

    # -- in ----------------------------------------------------------------------------------

    def _take_calls(self) -> list[Call]:
        bench, begun = self.bench, list[Call]()
        core = bench.reactor.core
        now_ns = bench.clock.now_ns()
        self._held = False
        while self.has_room():
            portion = self._next_portion(now_ns)
            if portion is None:
                break
            begun += self._in_hand(portion, now_ns)
            self._alone = bool(portion.runs[0].flags & SUSPECT)
        # For whoever sends to it: it is stuck if it is full, and nothing ends for long.
        if self.has_room():
            core.inbox.executing_since_s = None
        elif begun:
            core.inbox.executing_since_s = now_ns / 1e9
        return begun

    def _next_portion(self, now_ns: int) -> Portion | None:
        """Units that may be in hand too; None if there are none now."""
        gates = self.gates
        if gates is None:
            with self.bench.reactor.lock:
                full = self.bench.reactor.core.full()
                return None if full else self._from_inbox(now_ns, self._limit)
        if self._calls and (gates.begins_with_suspect or gates.tries_one(now_ns / 1e9)):
            self._held = True
            return None
        return self._take_through(gates, now_ns)

    def _from_inbox(self, now_ns: int, most: int) -> Portion | None:
        core = self.bench.reactor.core
        parcel = core.next_parcel(now_ns / 1e9)
        if parcel is None:
            return None
        if parcel.suspect and self._calls:
            self._held = True
            return None
        room = self._limit - len(self._calls)
        portion = core.take(parcel, min(most, room), now_ns / 1e9)
        self.bench.counters.took(portion, parcel, now_ns)
        return portion

    def _in_hand(self, portion: Portion, now_ns: int) -> list[Call]:
        flight = Flight(portion)
        self._flights[flight] = None
        calls = [self.call_type(flight, position, now_ns) for position in range(portion.n)]
        self._calls.update(dict.fromkeys(calls))
        return calls

    def _name(self) -> None:
        """In the black box, what is in hand now."""
        if not self._calls:
            self.bench.black_box.leave()
            return
        runs = [run for flight in self._flights for run in flight.runs()]
        self.bench.black_box.enter(runs, alone=self._alone, now_ns=self._started_ns())

    # -- out ---------------------------------------------------------------------------------

    def _collect(self) -> dict[Flight, list[Call]]:
        """What has ended, which is in hand no more."""
        ended: dict[Flight, list[Call]] = {}
        for _ in range(len(self._ended)):  # threads may add to it meanwhile
            call = self._ended.popleft()
            del self._calls[call]
            ended.setdefault(call.flight, []).append(call)
        for flight, calls in ended.items():
            flight.over(calls)
            if not flight.open:
                del self._flights[flight]
        self._alone = self._alone and bool(self._calls)
        return ended

    def _hand_over(self, ended: dict[Flight, list[Call]]) -> None:
        for flight, calls in ended.items():
            calls.sort(key=lambda call: call.position)
            self._settle(flight.portion, calls)
        self._account_for([call for calls in ended.values() for call in calls])

    def _settle(self, portion: Portion, calls: list[Call]) -> None:
        """Calls of one portion, in its order: results in stretches, failures one by one."""
        by_position = {call.position: call for call in calls}
        for call in calls:
            call.held = self.gates is not None and self._is_behind(portion, call)
            if call.error is not None and not call.held:
                self._fail(portion, call.position, call.error)
        done = [call.position for call in calls if call.error is None]
        for begin, end in stretches_of(done):
            self._give_stretch(portion, begin, [by_position[at] for at in range(begin, end)])

    def _is_behind(self, portion: Portion, call: Call) -> bool:
        """Tell the breaker; True if the item, which has failed, waits behind it."""
        one = part_of(portion, call.position, call.position + 1)
        return self._is_held(one, 0, int(call.error is None), call.error)

    def _give_stretch(self, portion: Portion, begin: int, calls: list[Call]) -> None:
        self._give(portion, begin, [call.made[0] for call in calls])

    def _account_for(self, calls: list[Call]) -> None:
        bench = self.bench
        counters = bench.counters
        now_ns = bench.clock.now_ns()
        spent_ns = 0
        with bench.reactor.lock:
            bench.reactor.flush()
            calls = [call for call in calls if not call.held]
            for call in calls:
                spent_ns += now_ns - call.began_ns
                counters.worked(1, now_ns - call.began_ns)
                if self._is_sink:
                    counters.reached_sink(_alone_in(call), now_ns)
            counters.received += len(calls)
            # Of many at once each takes its full time, and as many end together.
            if calls:
                self._measured(len(calls), spent_ns / 1e9 / self._limit)

    # -- results -----------------------------------------------------------------------------

    def _keep(self, call: Call, made: Any) -> None:
        """The result of user code, before it runs again: it may use its buffer for the next."""
        if self._is_sink:
            call.made.append(None)
        else:
            self.bench.emitter.gather((made,), call.made.append)


def _alone_in(call: Call) -> Portion:
    portion, at = call.flight.portion, call.position
    return Portion(portion.link, portion.first + at, 1, cut_runs(portion.runs, at, at + 1), [])


class ThreadWorker(ConcurrentWorker):
    """Plain functions and methods in threads. A `Future` that one returns is waited for.

    The threads are daemons: those of `concurrent.futures` would keep a process that must end.
    """

    _wake: Callable[[], None]

    def attach(self, waiter: Waiter) -> Waits:
        """Threads wake it."""
        self._wake = waiter.wake
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()
        self._threads = 0
        return waiter

    def close(self) -> None:
        """Idle threads end; the others are daemons."""
        for _ in range(self._threads):
            self._waiting.put(None)

    def _started_ns(self) -> int:
        return next(iter(self._calls)).began_ns

    def _begin(self, call: Call) -> None:
        if self._threads < min(len(self._calls), self._limit):
            self._threads += 1
            threading.Thread(
                target=self._serve, name=f"zflow-item-{self._threads}", daemon=True
            ).start()
        self._waiting.put(call)

    # -- in a thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        while (call := self._waiting.get()) is not None:
            self._execute(call)

    def _execute(self, call: Call) -> None:
        try:
            if self._positioned:
                self.bench.context.at(call.flight.portion, call.position)
            made = self._call(call.item)
            if isinstance(made, Future):
                made.add_done_callback(partial(self._resolved, call))
                return
            self._keep(call, made)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            call.error = error
        self._over(call)

    def _resolved(self, call: Call, future: "Future[Any]") -> None:
        try:
            self._keep(call, future.result())
        except (Exception, SystemExit, CancelledError) as error:  # noqa: BLE001 - the user's
            call.error = error
        self._over(call)

    def _over(self, call: Call) -> None:
        self._ended.append(call)
        self._wake()

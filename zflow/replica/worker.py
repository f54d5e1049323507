"""Runs the user's stage and sink code, slice by slice, and tells the core what became of it.

Decides how long a slice is and whose fault an exception is. User code runs outside the lock;
everything told to the core happens under it.
"""

import itertools
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zflow.clock import Clock
from zflow.errors import StageError
from zflow.protocol.inbox import Portion
from zflow.protocol.outputs import Output
from zflow.replica.context import Context
from zflow.replica.counters import Counters
from zflow.replica.emit import Emitter, WhenError
from zflow.replica.gates import Gates
from zflow.replica.reactor import Reactor
from zflow.replica.timebook import BLOCKED, STARVED
from zflow.state.blackbox import BlackBox

SLICE_NS = 2_000_000
MAX_SLICE_ITEMS = 8192
MAX_RUNS_PER_SLICE = 512  # what the black box can name
MAX_TRACEBACK_CHARS = 4000


class Worker(ABC):
    """What the data thread drives."""

    bench: "Bench"

    @abstractmethod
    def slice(self) -> bool:
        """Run user code for about 2 ms; False if nothing is left to run."""

    def due_s(self) -> float:
        """When it has something to do even if nothing arrives; infinite if never."""
        return float("inf")

    def settled(self) -> bool:
        """True if nothing is open here that the core does not know of."""
        return True

    def waits_as(self) -> int | None:
        """What its time is while it takes nothing of what is there: BLOCKED, STARVED or BUSY.

        None: it would take it.
        """
        return None

    def idles_as(self) -> int:
        """What the time is called in which the data thread sleeps now."""
        if self.bench.reactor.core.full():
            return BLOCKED
        waits = self.waits_as()
        return STARVED if waits is None else waits

    def alarm(self) -> str:
        """What people should know of it, a sentence; mostly empty."""
        return ""

    def forget(self) -> None:
        """Leave to its senders what was taken and not begun with. Under the lock."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every worker works with.

    unmarked: no watermark comes over these edges, by which the names of units could be forgotten;
    and nobody sends their units again.
    """

    reactor: Reactor
    black_box: BlackBox
    counters: Counters
    emitter: Emitter
    context: Context
    clock: Clock
    entered: Callable[[bool], None]  # tells the control thread that user code begins or ends
    unmarked: frozenset[int] = frozenset()


def describe(error: BaseException) -> tuple[str, str]:
    """(class name, traceback from the user's own frames on; all of it if there are none)."""
    frames = error.__traceback__
    while frames is not None and "/zflow/replica/" in frames.tb_frame.f_code.co_filename:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    return type(error).__name__, text[-MAX_TRACEBACK_CHARS:]


class StageWorker(Worker):
    """Functions and `process` methods that return one item or None, and function sinks.

    call: takes an item. positioned: the code reads `self.context`, so it must know each item.
    gates: what it waits for besides items, where that is declared.
    """

    portion_ns = SLICE_NS  # one call of user code into the next, without a look at the sockets

    def __init__(
        self,
        bench: Bench,
        call: Callable[..., Any],
        *,
        retry_on: tuple[type[Exception], ...],
        positioned: bool,
        is_sink: bool,
        gates: Gates | None = None,
    ) -> None:
        self.bench = bench
        self._call = call
        self._retry_on = retry_on
        self._positioned = positioned
        self._is_sink = is_sink
        self.gates = gates

    def due_s(self) -> float:
        """Nothing happens here unless something arrives, or may go that could not before."""
        return self.gates.due_s if self.gates is not None else float("inf")

    def waits_as(self) -> int | None:
        """BLOCKED while nothing of what is there may go."""
        return BLOCKED if self.gates is not None and self.gates.blocked else None

    def alarm(self) -> str:
        """That of a breaker."""
        return self.gates.alarm(self.bench.clock.now_s()) if self.gates is not None else ""

    def forget(self) -> None:
        """What waits behind the gates."""
        if self.gates is not None:
            self.gates.forget()

    # -- one slice ---------------------------------------------------------------------------

    def slice(self) -> bool:
        """Portions until 2 ms are used up or nothing is left."""
        clock = self.bench.clock
        began_ns = clock.now_ns()
        now_ns = began_ns
        while now_ns - began_ns < SLICE_NS:
            portion = self._take(now_ns)
            if portion is None:
                return False
            self.bench.entered(True)
            self._run(portion)
            self.bench.entered(False)
            ended_ns = clock.now_ns()
            self._account(portion, now_ns, ended_ns)
            now_ns = ended_ns
        return True

    def _take(self, now_ns: int) -> Portion | None:
        """The next units to run, named in the black box before any code sees them."""
        bench = self.bench
        core = bench.reactor.core
        if self.gates is not None:
            portion = self._take_through(self.gates, now_ns)
        else:
            with bench.reactor.lock:
                portion = None if core.full() else self._from_inbox(now_ns, MAX_SLICE_ITEMS)
        if portion is None:
            return None
        core.inbox.executing_since_s = now_ns / 1e9
        bench.black_box.enter(portion.runs, alone=portion.n == 1, now_ns=now_ns)
        return portion

    def _from_inbox(self, now_ns: int, most: int) -> Portion | None:
        """Units for one call of `_run`, at most so many; None if none waits. Under the lock."""
        bench = self.bench
        core = bench.reactor.core
        parcel = core.next_parcel(now_ns / 1e9)
        if parcel is None:
            return None
        service_s = core.inbox.window.service_s
        items = int(self.portion_ns / 1e9 / service_s) if service_s else 1
        if len(parcel.runs) > MAX_RUNS_PER_SLICE:
            items = min(items, MAX_RUNS_PER_SLICE)
        portion = core.take(parcel, max(1, min(items, most)), now_ns / 1e9)
        bench.counters.took(portion, parcel, now_ns)
        return portion

    def _take_through(self, gates: Gates, now_ns: int) -> Portion | None:
        """The next units that may run now."""
        bench = self.bench
        while True:
            with bench.reactor.lock:
                if bench.reactor.core.full():
                    gates.rest()
                    return None
                portion, fresh = gates.take(now_ns, self._from_inbox, MAX_SLICE_ITEMS)
            if portion is None or not fresh:
                return portion
            portion = gates.admit(portion, now_ns, self._fail)
            if portion is not None:
                return portion

    def _account(self, portion: Portion, began_ns: int, ended_ns: int) -> None:
        bench = self.bench
        with bench.reactor.lock:
            bench.reactor.flush()  # before the books: somebody waits for it
            bench.black_box.leave()
            core = bench.reactor.core
            core.inbox.executing_since_s = None
            if not portion.n:  # all of it waits behind a breaker
                return
            self._measured(portion.n, (ended_ns - began_ns) / 1e9)
            counters = bench.counters
            counters.received += portion.n
            counters.worked(portion.n, ended_ns - began_ns)
            if self._is_sink:
                counters.reached_sink(portion, ended_ns)

    def _measured(self, items: int, seconds: float) -> None:
        if self.gates is not None:
            seconds = self.gates.paced_s(items, seconds)
        self.bench.reactor.core.inbox.window.measured(items, seconds)

    # -- user code ---------------------------------------------------------------------------

    def _run(self, portion: Portion) -> None:
        begin = 0
        while begin < portion.n:
            results: list[Any] = []
            error = self._call_all(portion, begin, results)
            self._give(portion, begin, results)
            if self.gates is not None and self._is_held(portion, begin, len(results), error):
                return
            begin += len(results)
            if error is not None:
                self._fail(portion, begin, error)
                begin += 1

    def _call_all(self, portion: Portion, begin: int, results: list[Any]) -> BaseException | None:
        """Append one result per input until the end or the first error, which is returned."""
        items = portion.items if begin == 0 else itertools.islice(portion.items, begin, None)
        try:
            made = self._positioned_calls(portion, begin) if self._positioned else None
            if self._is_sink:
                results.extend(made or map(self._call, items))
            else:  # with care from the first: no function is called again only to be careful
                self.bench.emitter.gather(made or map(self._call, items), results.append)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            return error
        if begin + len(results) < portion.n:  # `map` takes it for its own end
            return RuntimeError("the function raised StopIteration: give next() a default")
        return None

    def _positioned_calls(self, portion: Portion, begin: int) -> Iterator[Any]:
        at = self.bench.context.at
        for position in range(begin, portion.n):
            at(portion, position)
            yield self._call(portion.items[position])

    def _give(self, portion: Portion, begin: int, results: list[Any]) -> None:
        """Hand results to the core, around those whose `when=` or `key=` raised."""
        bench = self.bench
        core = bench.reactor.core
        while results:
            outputs: Sequence[Output] = ()
            nothing = 0
            try:
                if core.outboxes and not self._is_sink:
                    outputs = bench.emitter.route(results)
                    nothing = bench.emitter.nothing
            except (WhenError, StageError) as error:
                at = self._give_up(portion, begin, results, error)
                begin, results = begin + at + 1, results[at + 1 :]
                continue
            with bench.reactor.lock:
                core.returned(portion, begin, begin + len(results), outputs)
                bench.counters.processed += len(results)
                bench.counters.filtered += nothing
            return

    def _give_up(
        self, portion: Portion, begin: int, results: list[Any], error: WhenError | StageError
    ) -> int:
        """Fail the input of one result, and hand over those before it; where it is."""
        if isinstance(error, WhenError):
            at, cause, code = error.position, error.__cause__ or error, "error"
        else:
            generators = [k for k, item in enumerate(results) if isinstance(item, Iterator)]
            at, cause, code = generators[0], error, "final"
        self._give(portion, begin, results[:at])  # another edge may still object
        self._fail(portion, begin + at, cause, code)
        return at

    def _is_held(
        self, portion: Portion, begin: int, done: int, error: BaseException | None
    ) -> bool:
        """Tell the breaker; True if the rest of the portion waits behind it."""
        if self.gates is None or not self.gates.heard(portion, begin, begin + done, error):
            return False
        if error is not None:
            self.bench.counters.failed(error)
        return True

    def _fail(
        self, portion: Portion, position: int, error: BaseException, code: str | None = None
    ) -> None:
        if code is None:
            code = "error" if isinstance(error, self._retry_on) else "final"
        name, text = describe(error)
        self.bench.counters.failed(error)
        with self.bench.reactor.lock:
            self.bench.reactor.core.failed(portion, position, code, name, text)

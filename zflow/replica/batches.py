"""Runs functions and `process` methods that take a list of items: `@stage(batch=32)`.

Decides when a batch is complete: enough items wait, the first of them has waited long enough, or
no more can come. Until then they stay in the inbox, so that nothing is ever half taken. Whose fault
a failure is, the single calls tell that follow one.
"""

from collections.abc import Callable
from typing import Any

from zflow.errors import StageError
from zflow.limits import Limits
from zflow.protocol.inbox import Portion
from zflow.replica.timebook import STARVED
from zflow.replica.worker import MAX_RUNS_PER_SLICE, SLICE_NS, Bench, StageWorker
from zflow.wire.run import SUSPECT


def _is_suspect(portion: Portion) -> bool:
    return bool(portion.runs[0].flags & SUSPECT)


class BatchWorker(StageWorker):
    """A batch is a list of portions: its items may have come in several messages.

    call: takes a list, and gives one of the same length; of a sink, anything.
    """

    def __init__(
        self,
        bench: Bench,
        call: Callable[..., Any],
        limits: Limits,
        **settings: Any,
    ) -> None:
        super().__init__(bench, call, **settings)
        self._batch = limits.batch
        self._timeout_s = limits.batch_timeout_s
        self._complete_s = float("inf")  # when what waits will be a batch, if it is none now
        # Else the credit of a link would end before there are enough.
        bench.reactor.core.inbox.window.floor_items = limits.batch

    def due_s(self) -> float:
        """When the items that wait have waited for long enough, or may go at last."""
        return min(super().due_s(), self._complete_s)

    def waits_as(self) -> int | None:
        """STARVED while a batch is not complete."""
        return STARVED if self._complete_s < float("inf") else super().waits_as()

    # -- one slice ---------------------------------------------------------------------------

    def slice(self) -> bool:
        """Batches until 2 ms are used up or none is complete."""
        clock = self.bench.clock
        began_ns = now_ns = clock.now_ns()
        while now_ns - began_ns < SLICE_NS:
            portions = self._take_batch(now_ns)
            if not portions:
                return False
            self.bench.entered(True)
            self._run_batch(portions)
            self.bench.entered(False)
            ended_ns = clock.now_ns()
            self._account_batch(portions, now_ns, ended_ns)
            now_ns = ended_ns
        return True

    def _take_batch(self, now_ns: int) -> list[Portion]:
        """The items of the next batch, named in the black box; none while it is not complete."""
        bench = self.bench
        core = bench.reactor.core
        portions: list[Portion] = []
        with bench.reactor.lock:
            left = self._size(now_ns / 1e9)
            runs = 0
            while left > 0 and runs < MAX_RUNS_PER_SLICE:
                if portions and self._next_is_suspect():
                    break
                portion = self._next(now_ns, min(left, MAX_RUNS_PER_SLICE - runs))
                if portion is None:
                    break
                portions.append(portion)
                left -= portion.n
                runs += len(portion.runs)
                if _is_suspect(portion):
                    break
            if not portions:
                return []
            core.inbox.executing_since_s = now_ns / 1e9
        named = [run for portion in portions for run in portion.runs]
        alone = len(portions) == 1 and portions[0].n == 1
        bench.black_box.enter(named, alone=alone, now_ns=now_ns)
        return portions

    def _next(self, now_ns: int, most: int) -> Portion | None:
        if self.gates is None:
            return self._from_inbox(now_ns, most)
        return self.gates.take(now_ns, self._from_inbox, most)[0]

    def _from_inbox(self, now_ns: int, most: int) -> Portion | None:
        core = self.bench.reactor.core
        parcel = core.next_parcel(now_ns / 1e9)
        if parcel is None:
            return None
        portion = core.take(parcel, most, now_ns / 1e9)
        self.bench.counters.took(portion, parcel, now_ns)
        return portion

    def _size(self, now_s: float) -> int:
        """How many items the batch that may run now has at most; 0 if none may."""
        self._complete_s = float("inf")
        if self.gates is not None:
            self.gates.rest()
        core, gates = self.bench.reactor.core, self.gates
        if core.full():
            return 0
        held = gates.waiting if gates is not None else 0
        n = min(self._batch, held + self._in_inbox())
        if n == 0:
            return 0
        if n < self._batch and not held and not self._cannot_grow():
            complete_s = core.inbox.parcels[0].arrived_s + self._timeout_s
            if now_s < complete_s:
                self._complete_s = complete_s
                return 0
        return n if gates is None else min(n, gates.allowed(now_s, wanted=n))

    def _in_inbox(self) -> int:
        n = 0
        for parcel in self.bench.reactor.core.inbox.parcels:
            n += parcel.n - parcel.taken
            if n >= self._batch:
                break
        return n

    def _cannot_grow(self) -> bool:
        """No more comes, or what is first runs alone."""
        inbox = self.bench.reactor.core.inbox
        return inbox.parcels[0].suspect or inbox.complete()

    def _next_is_suspect(self) -> bool:
        if self.gates is not None and self.gates.waiting:
            return self.gates.begins_with_suspect
        parcels = self.bench.reactor.core.inbox.parcels
        return bool(parcels) and parcels[0].suspect

    def _account_batch(self, portions: list[Portion], began_ns: int, ended_ns: int) -> None:
        bench, counters = self.bench, self.bench.counters
        n = sum(portion.n for portion in portions)
        with bench.reactor.lock:
            bench.reactor.flush()
            bench.black_box.leave()
            bench.reactor.core.inbox.executing_since_s = None
            if not n:
                return
            self._measured(n, (ended_ns - began_ns) / 1e9)
            counters.received += n
            counters.worked(n, ended_ns - began_ns)
            for portion in portions if self._is_sink else ():
                counters.reached_sink(portion, ended_ns)

    # -- user code ---------------------------------------------------------------------------

    def _run_batch(self, portions: list[Portion]) -> None:
        """All items in one call; one by one if that fails."""
        items = [item for portion in portions for item in portion.items]
        if len(items) > 1:
            results: list[Any] = []
            self.bench.context.at(None, 0)
            error = self._call_with(items, results)
            if error is None:
                self._give_all(portions, results)
                return
            self.bench.context.logger.info(
                "a batch of %d failed, item by item: %s", len(items), error
            )
            if self.gates is not None:
                self.gates.called_again(len(items))
        for number, portion in enumerate(portions):
            n = portion.n
            self._run(portion)
            if portion.n < n and self.gates is not None:  # a breaker has opened
                self.gates.hold(portions[number + 1 :])
                del portions[number + 1 :]
                return

    def _give_all(self, portions: list[Portion], results: list[Any]) -> None:
        at = 0
        for portion in portions:
            self._give(portion, 0, results[at : at + portion.n])
            at += portion.n
            if self.gates is not None:
                self._is_held(portion, 0, portion.n, None)

    def _call_all(self, portion: Portion, begin: int, results: list[Any]) -> BaseException | None:
        """Each item in a list of its own."""
        for position in range(begin, portion.n):
            self.bench.context.at(portion, position)
            error = self._call_with([portion.items[position]], results)
            if error is not None:
                return error
        return None

    def _call_with(self, items: list[Any], results: list[Any]) -> BaseException | None:
        """Append one result per item, or return what was raised, or is wrong with the results."""
        n = len(items)  # the list is the user's, who may change it
        made: list[Any] = []
        try:
            given = self._call(items)
            if self._is_sink:
                made = [None] * n
            elif not isinstance(given, list | tuple):
                return StageError(
                    f"batch= wants a list of {n} results, one for each item, with None for "
                    f"nothing; got a {type(given).__name__}"
                )
            elif len(given) != n:
                return StageError(
                    f"batch= wants {n} results, one for each item, with None for nothing; "
                    f"got {len(given)}"
                )
            else:
                self.bench.emitter.gather(given, made.append)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            return error
        results.extend(made)
        return None

    def _fail(
        self, portion: Portion, position: int, error: BaseException, code: str | None = None
    ) -> None:
        """A list of another length is not tried again: it would be as long."""
        wrong = code is None and isinstance(error, StageError)
        super()._fail(portion, position, error, "final" if wrong else code)

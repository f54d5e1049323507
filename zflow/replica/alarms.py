"""Fires the timers of a durable stage: `on_timer(key)`, in the transaction that deletes the timer.

Decides when one fires and what becomes of one that fails. It is tried again with backoff like an
item, and then given up by the stage's policy. None fires once everything has come that will come:
`finish` is next, or a drain, which keeps the timers.
"""

from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from zflow.protocol.actions import Fail
from zflow.replica.partitions import Owned, Partitions
from zflow.replica.worker import SLICE_NS, Bench, describe
from zflow.stages import StageOptions
from zflow.windowing.calls import Failed
from zflow.wire.codec import pack

MAX_BACKOFF_S = 30.0
NEVER_S = 1e18


class Alarms:
    """Of one replica. opened: told of a partition that has something to commit."""

    def __init__(
        self,
        bench: Bench,
        instance: Any,
        partitions: Partitions,
        opened: Callable[[Owned], None],
        *,
        stage: str,
        options: StageOptions,
    ) -> None:
        self._bench = bench
        self._instance = instance
        self._partitions = partitions
        self._stage = stage
        self._options = options
        self._opened = opened
        self._call = getattr(instance, "on_timer", None)
        self._failing: dict[int, tuple[int, float]] = {}  # partition -> failures, not before

    def fire(self) -> bool:
        """Those that are due, for about 2 ms; False if there was none."""
        bench = self._bench
        if self._call is None:
            return False
        worked = False
        end_ns = bench.clock.now_ns() + SLICE_NS
        for owned, due_s in list(self._waiting()):
            while due_s <= bench.clock.wall_s() and bench.clock.now_ns() < end_ns:
                bench.black_box.enter([], alone=False, now_ns=bench.clock.now_ns())
                bench.entered(True)
                self._fire(owned)
                bench.entered(False)
                bench.black_box.leave()
                worked = True
                due_s = self._due_s(owned)
        return worked

    def _waiting(self) -> Iterator[tuple[Owned, float]]:
        core = self._bench.reactor.core
        if core.full() or core.inbox.ended():
            return
        for owned in self._partitions.all():
            due_s = self._due_s(owned)
            # Behind a unit that failed it waits like the units there.
            stays = self._partitions.is_mine(owned.number)
            if due_s < NEVER_S and stays and not owned.held and not owned.logic.done:
                yield owned, due_s

    def _due_s(self, owned: Owned) -> float:
        """When the first one of a partition may fire, by the wall clock."""
        timer = owned.state.timers.first()
        if timer is None:
            return NEVER_S
        _, not_before_s = self._failing.get(owned.number, (0, 0.0))
        return max(timer[1], not_before_s)

    def due_s(self) -> float:
        """When the next one will be due, by the monotonic clock."""
        if self._call is None:
            return NEVER_S
        first_s = min((due_s for _, due_s in self._waiting()), default=NEVER_S)
        clock = self._bench.clock
        return clock.now_s() + first_s - clock.wall_s() if first_s < NEVER_S else NEVER_S

    def _fire(self, owned: Owned) -> None:
        timers = owned.state.timers
        timer = timers.first()
        assert timer is not None, "one is due"
        key, _ = timer
        self._instance.state = owned.state
        self._bench.context.at(None, 0)
        try:
            del timers[key]  # first: it may set another one
            outputs = list(map(pack, self._made(key)))
            owned.state.seal()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's method
            owned.state.undo()
            if self._waits(owned, error):
                return
            outputs = self._given_up(owned, key, error)
        self._failing.pop(owned.number, None)
        owned.logic.fired(outputs)
        self._opened(owned)

    def _made(self, key: Any) -> list[Any]:
        assert self._call is not None, "only a stage with on_timer has timers that fire"
        result = self._call(key)
        if isinstance(result, GeneratorType):
            return [output for output in result if output is not None]
        return [] if result is None else [result]

    def _waits(self, owned: Owned, error: BaseException) -> bool:
        """True if it stays as it is: for another try, or because the run fails of it."""
        self._bench.counters.failed(error)
        options, reactor = self._options, self._bench.reactor
        failures, _ = self._failing.get(owned.number, (0, 0.0))
        if isinstance(error, options.retry_on) and failures < options.retries:
            wait_s = min(MAX_BACKOFF_S, options.backoff_s * 2.0**failures)
            self._bench.counters.retried += 1
            self._failing[owned.number] = (failures + 1, self._bench.clock.wall_s() + wait_s)
            return True
        if options.on_error == "fail":
            self._failing[owned.number] = (failures, NEVER_S)
            with reactor.lock:
                reactor.core.actions.append(Fail(self._stage, *describe(error)))
                reactor.perform()
            return True
        return False

    def _given_up(self, owned: Owned, key: Any, error: BaseException) -> list[bytes]:
        del owned.state.timers[key]
        owned.state.seal()
        if self._options.on_error == "drop":
            return []
        return [pack(Failed({"timer": key}, *describe(error)))]

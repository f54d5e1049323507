"""Runs `async def` stages: each item in hand is a task of one event loop in the data thread.

Decides when a task is cancelled: after `timeout_s`, and when the process ends. The loop runs where
the data thread sleeps (`net.loop`), so `slice` only hands over and takes.

An item that takes too long fails and is tried again like any other; the process goes on. It is
killed as stuck only if callbacks keep the loop for longer than `timeout_s`, or if a task takes
that long to end after it was cancelled.
"""

import asyncio
import contextvars
from contextlib import aclosing
from functools import partial
from typing import Any

from zflow.errors import StageError
from zflow.net.loop import LoopWaiter
from zflow.net.poll import Waiter
from zflow.protocol.inbox import Portion
from zflow.protocol.outputs import Output
from zflow.replica.concurrent import Call, ConcurrentWorker, Flight, Waits
from zflow.replica.emit import WhenError
from zflow.replica.timebook import STARVED
from zflow.replica.worker import Bench
from zflow.replica.yields import STREAM_ITEMS, GivesYields, Stream

CLOSE_S = 1.0  # for cancelled tasks to clean up


class TaskCall(Call):
    """An item in a task. late_ns: when it was cancelled for that; waited_ns: how long its outputs
    have waited for room, which is not its time; stream: if some of them have left."""

    __slots__ = ("late_ns", "stream", "task", "waited_ns", "waits")

    def __init__(self, flight: Flight, position: int, began_ns: int) -> None:
        super().__init__(flight, position, began_ns)
        self.late_ns = 0
        self.waits = False
        self.waited_ns = 0
        self.task: asyncio.Task[None] | None = None
        self.stream: Stream | None = None


class AsyncWorker(ConcurrentWorker):
    """Coroutine functions and methods; sinks among them.

    timeout_s: for one item, infinite for none.
    """

    call_type = TaskCall
    _waiter: LoopWaiter

    def __init__(self, bench: Bench, call: Any, *, timeout_s: float, **settings: Any) -> None:
        super().__init__(bench, call, **settings)
        self._timeout_s = timeout_s
        self._timeout_ns = int(timeout_s * 1e9) if timeout_s < float("inf") else 0  # 0: none
        self._timed = False  # `_judge` will be called
        self._late: dict[Call, int] = {}  # of those in hand, when they were cancelled

    def attach(self, waiter: Waiter) -> Waits:
        """The loop, which runs while the data thread waits."""
        bench = self.bench
        self._waiter = LoopWaiter(
            waiter, bench.reactor.lock, bench.clock, awake=self._awake, asleep=self._asleep
        )
        return self._waiter

    def complete(self, made: Any) -> None:
        """Await it."""
        if asyncio.iscoroutine(made):
            self._waiter.complete(made)

    def close(self) -> None:
        """Cancel every task, the user's own included, let them clean up, close the loop."""
        loop = self._waiter.loop
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._waiter.complete(asyncio.wait(tasks, timeout=CLOSE_S))
        self._waiter.complete(loop.shutdown_asyncgens())
        self._waiter.close()

    # -- what user code is doing -------------------------------------------------------------

    def _awake(self) -> None:
        """Callbacks of the loop begin."""
        bench = self.bench
        bench.counters.time.leave()
        bench.entered(True)
        if self._calls:
            bench.black_box.renew(self._stubborn_ns() or bench.clock.now_ns())

    def _asleep(self) -> None:
        """They have ended, and nothing can be stuck but what was cancelled and goes on."""
        bench = self.bench
        bench.entered(False)
        bench.counters.time.enter(self.idles_as())
        if self._calls:
            bench.black_box.renew(self._stubborn_ns())

    def _started_ns(self) -> int:
        return self._stubborn_ns()

    def _stubborn_ns(self) -> int:
        """Since when some task goes on although it was cancelled; 0 if none does."""
        return min(self._late.values()) if self._late else 0

    # -- tasks -------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        assert isinstance(call, TaskCall), "made by `call_type`"
        loop, context = self._waiter.loop, None
        if self._positioned:
            context = contextvars.copy_context()
            context.run(self.bench.context.at, call.flight.portion, call.position)
        call.task = loop.create_task(self._attend(call), context=context)
        call.task.add_done_callback(partial(self._over, call))
        if self._timeout_ns and not self._timed:
            self._timed = True
            loop.call_at((call.began_ns + self._timeout_ns) / 1e9, self._judge)

    def _have_begun(self) -> None:
        """Up to where they wait for something."""
        self.bench.counters.time.enter(STARVED)
        self._waiter.turn()
        self.bench.counters.time.leave()

    def _judge(self) -> None:
        """Cancel what is late, and come back when the next may be: one timer for all of them."""
        now_ns = self.bench.clock.now_ns()
        next_ns = now_ns + self._timeout_ns
        for call in self._calls:
            assert isinstance(call, TaskCall), "made by `call_type`"
            due_ns = call.began_ns + self._timeout_ns
            if due_ns > now_ns:  # as it is for all behind it
                next_ns = min(next_ns, due_ns)
                break
            due_ns += call.waited_ns
            if due_ns > now_ns:
                next_ns = min(next_ns, due_ns)
            elif not call.waits and not call.late_ns and call.task and call.task.cancel():
                call.late_ns = self._late[call] = now_ns
        self._timed = bool(self._calls)
        if self._timed:
            self._waiter.loop.call_at(next_ns / 1e9, self._judge)

    async def _attend(self, call: TaskCall) -> None:
        try:
            await self._work(call)
        except asyncio.CancelledError as error:
            call.error = self._too_late(error) if call.late_ns else error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's function
            call.error = error

    async def _work(self, call: TaskCall) -> None:
        """User code on one item, to its end."""
        self._keep(call, await self._call(call.item))

    def _too_late(self, error: asyncio.CancelledError) -> TimeoutError:
        """What an item fails with that took too long; the cause says where it was."""
        late = TimeoutError(f"the item took longer than timeout_s={self._timeout_s:g}")
        late.__cause__ = error
        return late

    def _over(self, call: TaskCall, task: "asyncio.Task[None]") -> None:
        if task.cancelled():  # before it began
            error = asyncio.CancelledError()
            call.error = self._too_late(error) if call.late_ns else error
        if call.late_ns:
            del self._late[call]
        self._ended.append(call)
        self._waiter.stop()


class AsyncYieldWorker(AsyncWorker, GivesYields):
    """Async generators: what one yields leaves at its end, or in parts if it is very much.

    A part leaves when there is room for it; meanwhile the generator waits, and its time with it.
    """

    def __init__(self, bench: Bench, call: Any, **settings: Any) -> None:
        super().__init__(bench, call, **settings)
        self._gate: list[asyncio.Future[None]] = []  # tasks that wait for room

    def slice(self) -> bool:
        """Let go on who waited for room, too."""
        more = super().slice()
        if self._gate and not self.bench.reactor.core.full():
            gate, self._gate = self._gate, []
            for waiting in gate:
                if not waiting.done():
                    waiting.set_result(None)
        return more

    async def _work(self, call: TaskCall) -> None:
        append = call.made.append
        async with aclosing(self._call(call.item)) as made:
            async for item in made:
                self.bench.emitter.gather((item,), append)
                if len(call.made) >= STREAM_ITEMS:
                    await self._part(call)

    async def _part(self, call: TaskCall) -> None:
        portion, position, made = call.flight.portion, call.position, call.made[:]
        call.made.clear()
        outputs = self.bench.emitter.route(made)
        reactor = self.bench.reactor
        if call.stream is None:
            with reactor.lock:
                call.stream = Stream(reactor.core.open_task(portion, position))
        self._send_part(call.stream, portion, position, outputs, len(made), ended=False)
        with reactor.lock:
            reactor.flush()
        await self._room(call)

    async def _room(self, call: TaskCall) -> None:
        clock = self.bench.clock
        while self.bench.reactor.core.full():
            began_ns, call.waits = clock.now_ns(), True
            waiting = self._waiter.loop.create_future()
            self._gate.append(waiting)
            await waiting
            call.waits = False
            call.waited_ns += clock.now_ns() - began_ns

    # -- results -----------------------------------------------------------------------------

    def _settle(self, portion: Portion, calls: list[Call]) -> None:
        plain: list[Call] = []
        for call in calls:
            assert isinstance(call, TaskCall), "made by `call_type`"
            if call.stream is None:
                plain.append(call)
            else:
                self._end_stream(call, call.stream)
        super()._settle(portion, plain)

    def _end_stream(self, call: TaskCall, stream: Stream) -> None:
        error = call.error
        outputs: list[Output] = []
        if error is None:
            try:
                outputs = self.bench.emitter.route(call.made)
            except (WhenError, StageError) as raised:
                error = raised
        if error is not None:
            self._fail_part(stream, error)
        else:
            portion, n = call.flight.portion, len(call.made)
            self._send_part(stream, portion, call.position, outputs, n, ended=True)

    def _give_stretch(self, portion: Portion, begin: int, calls: list[Call]) -> None:
        """In one task, around those that cannot be routed."""
        done: list[list[Output]] = []
        for call in calls:
            try:
                done.append(self.bench.emitter.route(call.made))
                self._nothing += not call.made
            except (WhenError, StageError) as error:
                self._leave(portion, begin, done)
                cause = error.__cause__ if isinstance(error, WhenError) else None
                self._fail(portion, call.position, cause or error)
                begin, done = call.position + 1, []
        self._leave(portion, begin, done)

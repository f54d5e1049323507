"""Runs a durable stage: applies units to the partitions that this replica owns.

Decides what becomes of a unit that fails: it is tried again in its place, later units of its
partition wait, those of others do not. What is a duplicate and when a unit may be acknowledged is
decided in `protocol.anchor`; when everything is committed, in `rounds`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from zflow.errors import Unavailable
from zflow.log import Repeating
from zflow.protocol.actions import Bury, Fail
from zflow.protocol.inbox import Portion
from zflow.protocol.outbox import MAX_MESSAGE_ITEMS
from zflow.replica.alarms import Alarms
from zflow.replica.applying import Applier, Work
from zflow.replica.committer import Committer
from zflow.replica.moving import Moving
from zflow.replica.partitions import Owned, Partitions
from zflow.replica.rounds import Rounds
from zflow.replica.worker import SLICE_NS, Bench, Worker, describe
from zflow.stages import StageOptions
from zflow.wire.codec import pack

_LOG = logging.getLogger("zflow.durable")
PORTION_UNITS = MAX_MESSAGE_ITEMS  # taken at once, however fast they are
MAX_UNCOMMITTED = 65_536  # units applied and not yet durable; then nothing more is taken
MAX_BACKOFF_S = 30.0
OPEN_AGAIN_S = 0.5
MAX_HELD = 8192  # units that wait behind one that failed


class DurableWorker(Worker):
    """See the module. call: takes an item; `instance.state` is what it works on."""

    def __init__(
        self,
        bench: Bench,
        instance: Any,
        call: Callable[[Any], Any],
        partitions: Partitions,
        committer: Committer[Owned],
        *,
        stage: str,
        options: StageOptions,
        yields: bool,
    ) -> None:
        self.bench = bench
        self.partitions = partitions
        self.concluding = False
        self._instance = instance
        self._applier = Applier(bench, instance, call, yields=yields)
        self.rounds = Rounds(bench, partitions, committer)
        self._stage = stage
        self._options = options
        self._held = 0
        self._holding: dict[int, Owned] = {}
        self._unopened: dict[int, list[Work]] = {}  # for partitions that cannot be opened now
        self._open_due_s = 0.0
        self._complain = Repeating(_LOG, bench.clock)
        self._finish_failures = 0
        self._finish_due_s = 0.0
        self.moving = Moving(bench, partitions, self.rounds, self._send_waiting, self._has_left)
        self._alarms = Alarms(
            bench, instance, partitions, self.rounds.opened, stage=stage, options=options
        )

    def open_existing(self) -> None:
        """The partitions that have files; raises Unavailable if somebody else holds one."""
        for number in self.partitions.closed():
            self.partitions.owned(number)
        self._send_waiting()

    # -- one slice ---------------------------------------------------------------------------

    def slice(self) -> bool:
        """Commits that are done, units that wait, then portions until 2 ms are used up."""
        bench = self.bench
        self.rounds.settle()
        self._move()
        began_ns = now_ns = bench.clock.now_ns()
        worked = self._try_again(now_ns / 1e9)
        while now_ns - began_ns < SLICE_NS:
            portion = self._take(now_ns)
            if portion is None:
                break
            worked = True
            bench.entered(True)
            self._run(portion)
            bench.entered(False)
            ended_ns = bench.clock.now_ns()
            self._account(portion, now_ns, ended_ns)
            now_ns = ended_ns
        worked |= self._alarms.fire()
        if self.concluding and not worked:
            worked = self._conclude(now_ns)
        self.rounds.begin_if_due(now_ns, idle=not worked)
        return worked

    def _take(self, now_ns: int) -> Portion | None:
        bench = self.bench
        core = bench.reactor.core
        with bench.reactor.lock:
            if core.full() or self._full():
                return None
            parcel = core.next_parcel(now_ns / 1e9)
            if parcel is None:
                return None
            service_s = core.inbox.window.service_s
            units = int(SLICE_NS / 1e9 / service_s) if service_s else 1
            if service_s and parcel.n - parcel.taken <= 2 * units:
                units *= 2  # rather the whole message than to cut its runs
            portion = core.take(parcel, max(1, min(units, PORTION_UNITS)), now_ns / 1e9)
            bench.counters.took(portion, parcel, now_ns)
            core.inbox.executing_since_s = now_ns / 1e9
        bench.black_box.enter(portion.runs, alone=portion.n == 1, now_ns=now_ns)
        return portion

    def _full(self) -> bool:
        """Enough is open here: not durable yet, behind a unit that fails, or in one partition."""
        if self.rounds.uncommitted >= MAX_UNCOMMITTED or self._held >= MAX_HELD:
            return True
        return any(owned.origin.full() for owned in self.partitions.all())

    def _account(self, portion: Portion, began_ns: int, ended_ns: int) -> None:
        bench = self.bench
        with bench.reactor.lock:
            bench.reactor.flush()
            bench.black_box.leave()
            core = bench.reactor.core
            core.inbox.executing_since_s = None
            core.inbox.window.measured(portion.n, (ended_ns - began_ns) / 1e9)
            bench.counters.received += portion.n
            bench.counters.worked(portion.n, ended_ns - began_ns)

    # -- units -------------------------------------------------------------------------------

    def _run(self, portion: Portion) -> None:
        at = item_at = 0
        for run in portion.runs:
            end = item_at + run.items
            work = Work(portion, at, run, portion.items[item_at:end])
            at, item_at = at + run.n, end
            number = max(run.partition, 0)
            if not self._belongs_here(work, number):
                self._give_back(work)
                continue
            owned = self._opened_partition(number)
            if owned is None:
                self._unopened.setdefault(number, []).append(work)
                self._held += run.n
            elif owned.held:
                self._hold(owned, work)
            else:
                self._work(owned, work)

    def _belongs_here(self, work: Work, number: int) -> bool:
        stray = bool(work.link.strays) and work.link.is_stray(number, work.first)
        return self.partitions.is_mine(number) and not stray

    def _give_back(self, work: Work) -> None:
        """To whoever owns its partition now."""
        with self.bench.reactor.lock:
            number = max(work.run.partition, 0)
            self.bench.reactor.core.given_back(work.link, number, work.first, work.run.n)

    def _move(self) -> None:
        """What waits for a partition that has to leave goes back; then it may."""
        for owned in self.moving.hear():
            self._give_back_all(owned.held)
            self._holding.pop(owned.number, None)
        for number in [n for n in self._unopened if not self.partitions.is_mine(n)]:
            self._give_back_all(deque(self._unopened.pop(number)))
        self.moving.turn()

    def _give_back_all(self, works: deque[Work]) -> None:
        while works:
            work = works.popleft()
            self._held -= work.run.n
            self._give_back(work)

    def _send_waiting(self) -> None:
        """Partitions were opened: what their last owner had not sent goes out."""
        waiting = self.partitions.waiting
        while waiting:
            self.rounds.produce(*waiting.popleft())

    def _has_left(self, owned: Owned) -> None:
        self._instance.state = owned.state
        self._instance._partition_left()

    def _opened_partition(self, number: int) -> Owned | None:
        """The partition; None while the disk does not let it be opened."""
        if number in self._unopened:
            return None
        try:
            owned = self.partitions.owned(number)
        except Unavailable as error:
            self._complain.warning(
                "cannot open a partition: %s; nothing is lost, its units wait", error
            )
            self._open_due_s = self.bench.clock.now_s() + OPEN_AGAIN_S
            return None
        self._send_waiting()
        return owned

    def _open_again(self, now_s: float) -> None:
        """What waits for partitions that could not be opened."""
        if not self._unopened or now_s < self._open_due_s:
            return
        waiting, self._unopened = self._unopened, {}
        for number, works in waiting.items():
            owned = self._opened_partition(number)
            if owned is None:
                self._unopened[number] = works
                continue
            for work in works:
                self._held -= work.run.n
                self._hold(owned, work)

    def _work(self, owned: Owned, work: Work) -> None:
        """Apply what was never applied; hold the rest if a unit fails."""
        run = work.run
        applied = 0
        known = owned.logic.dedupe
        for begin, end in known.fresh(run) if self._remembers(work) else [(0, run.n)]:
            reached = self._apply(owned, work, begin, end)
            applied += reached - begin
            if reached < end:
                self._through(owned, work, reached)
                self._failed(owned, work.rest(reached))
                return
        self.bench.counters.duplicates += run.n - applied
        self._through(owned, work, run.n)

    def _remembers(self, work: Work) -> bool:
        return work.link.key[0] not in self.bench.unmarked

    def _apply(self, owned: Owned, work: Work, begin: int, end: int) -> int:
        """User code for the units [begin, end); where it stopped."""
        run = work.run
        outputs: list[bytes] = []
        reached = self._applier.apply(owned.state, work, begin, end, outputs)
        if reached > begin:
            whole = begin == 0 and reached == run.n
            through = run if whole else run.cut(begin, reached)
            owned.logic.applied(through, outputs, remembered=self._remembers(work))
            self.bench.counters.processed += reached - begin
            self.bench.counters.were_late(work.link.key[0], self.bench.context.late)
            self.rounds.opened(owned, reached - begin)
        return reached

    def _through(self, owned: Owned, work: Work, n: int) -> None:
        """The first `n` units need nothing more from user code."""
        if n == 0:
            return
        if owned.logic.owes(work.link, work.first, n):
            self.rounds.opened(owned)  # duplicates behind a commit under way: no other may follow
        else:
            with self.bench.reactor.lock:
                self.bench.reactor.core.committed(work.link, work.first, n)

    # -- units that fail ---------------------------------------------------------------------

    def _hold(self, owned: Owned, work: Work, *, first: bool = False) -> None:
        (owned.held.appendleft if first else owned.held.append)(work)
        self._held += work.run.n
        self._holding[owned.number] = owned

    def _failed(self, owned: Owned, work: Work) -> None:
        """The first unit of `work` has failed: again later, or the declared policy."""
        item, error = self._applier.take_failure()
        counters, options = self.bench.counters, self._options
        counters.failed(error)
        self._hold(owned, work, first=True)
        now_s = self.bench.clock.now_s()
        if isinstance(error, options.retry_on) and work.attempt < options.retries:
            wait_s = min(MAX_BACKOFF_S, options.backoff_s * 2.0**work.attempt)
            work.attempt += 1
            counters.retried += 1
            work.due_s = now_s + wait_s
            return
        attempts, work.attempt = work.attempt + 1, 0
        work.due_s = float("inf")
        name, text = describe(error)
        if options.on_error == "drop":
            self._give_up(work, item)
            return
        core = self.bench.reactor.core
        with self.bench.reactor.lock:
            if options.on_error == "fail":
                core.actions.append(Fail(self._stage, name, text))
            unit = work.run.cut(0, 1)
            edge = self.bench.context.label(work.link.key[0])
            said = (attempts, "error", name, text, False)
            letter = Bury(0, self._stage, edge, unit, [work.items[item]], *said, (item,))
            core.bury(letter, lambda: self._give_up(work, item))
            self.bench.reactor.perform()

    @staticmethod
    def _give_up(work: Work, item: int) -> None:
        work.dead.add(item)
        work.due_s = 0.0

    def _try_again(self, now_s: float) -> bool:
        """Units whose time has come, and those of their partitions that waited behind them."""
        self._open_again(now_s)
        worked = False
        for number, owned in list(self._holding.items()):
            while owned.held and owned.held[0].due_s <= now_s:
                work = owned.held.popleft()
                self._held -= work.run.n
                self.bench.black_box.enter(
                    [work.run], alone=work.run.n == 1, now_ns=int(now_s * 1e9)
                )
                self.bench.entered(True)
                self._work(owned, work)
                self.bench.entered(False)
                self.bench.black_box.leave()
                worked = True
            if not owned.held:
                del self._holding[number]
        return worked

    def due_s(self) -> float:
        """When something here has to be done although nothing arrives."""
        due_s = min((owned.held[0].due_s for owned in self._holding.values()), default=1e18)
        if self._unopened:
            due_s = min(due_s, self._open_due_s)
        if self.concluding and self._finish_due_s:
            due_s = min(due_s, self._finish_due_s)
        return min(due_s, self.rounds.due_s(), self._alarms.due_s(), self.moving.due_s())

    # -- the end -----------------------------------------------------------------------------

    def settled(self) -> bool:
        """Nothing is open here: committed, sent, and no `finish` left that was asked for."""
        if not self.rounds.settled() or self._holding or self._unopened:
            return False
        if not self.moving.settled():
            return False
        return not self.concluding or all(owned.done for owned in self.partitions.all())

    def _conclude(self, now_ns: int) -> bool:
        """Run `finish` of one partition that has not had its own; False if there is none."""
        finish = getattr(self._instance, "finish", None)
        if now_ns / 1e9 < self._finish_due_s or self.bench.reactor.core.full():
            return False
        if not self.moving.settled():  # of one that nobody has opened, too
            return False
        for owned in self.partitions.all():
            if not owned.logic.done and not owned.held and not owned.logic.under_way:
                self.bench.black_box.enter([], alone=False, now_ns=now_ns)
                self.bench.entered(True)
                try:
                    outputs = self._finish(owned, finish) if finish is not None else []
                except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's method
                    self._finish_failed(owned, error)
                    return True
                finally:
                    self.bench.entered(False)
                    self.bench.black_box.leave()
                owned.logic.finished(outputs)
                self.rounds.opened(owned)
                return True
        return False

    def _finish(self, owned: Owned, finish: Callable[[], Any]) -> list[bytes]:
        self._instance.state = owned.state
        self.bench.context.at(None, 0)
        result = finish()
        if result is None:
            made: Iterator[Any] = iter(())
        else:
            made = result if isinstance(result, GeneratorType) else iter((result,))
        outputs = [pack(output) for output in made if output is not None]
        owned.state.seal()
        return outputs

    def _finish_failed(self, owned: Owned, error: BaseException) -> None:
        owned.state.undo()
        self.bench.counters.failed(error)
        if self._finish_failures < self._options.retries:
            wait_s = min(MAX_BACKOFF_S, self._options.backoff_s * 2.0**self._finish_failures)
            self._finish_failures += 1
            self.bench.counters.retried += 1
            self._finish_due_s = self.bench.clock.now_s() + wait_s
            return
        self._finish_due_s = float("inf")
        with self.bench.reactor.lock:
            self.bench.reactor.core.actions.append(Fail(self._stage, *describe(error)))
            self.bench.reactor.perform()

    def close(self) -> None:
        """Let the next owners have the partitions; blocks for commits under way."""
        self.rounds.close()
        self.partitions.close()

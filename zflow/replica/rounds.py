"""The rounds of commits of a durable replica: what is open, what is under way, what is durable.

Decides when a round begins. One is under way at a time, and it is acknowledged as a whole: what
came in one message is then acknowledged as one range, and not partition by partition.
"""

import itertools
from typing import Any

from zflow.replica.committer import Committer
from zflow.replica.emit import WhenError
from zflow.replica.partitions import Owned, Partitions, pack_outputs
from zflow.replica.worker import Bench, describe
from zflow.state.partition import Batch, OutboxRow, SeenRow, encode_numbers
from zflow.windowing.calls import Failed
from zflow.wire.codec import load_item

GROUP_NS = 20_000_000  # a round waits that long for company, and not at all in an idle stage
MAX_GROUP_NS = 200_000_000  # longer than GROUP_NS only where rounds take long, see `_is_time`
GROUP_UNITS = 1000  # of each partition in a round, on average: then it does not wait
LOW_EVERY_NS = 250_000_000  # settled outputs are deleted with the next commit, or that much later


class Rounds:
    """Of one replica; the data thread owns it. uncommitted: units applied and not yet durable."""

    def __init__(self, bench: Bench, partitions: Partitions, committer: Committer[Owned]) -> None:
        self.bench = bench
        self.partitions = partitions
        self.uncommitted = 0
        self._committer = committer
        self._open: dict[int, Owned] = {}  # with something to commit
        self._opened_ns = 0  # when the first of it was applied
        self._round: list[Owned] = []  # under way
        self._round_began_ns = 0
        self._round_ns = 0  # how long the last one took
        self._applied = 0  # units, since the last round began
        self._low_due_ns = 0

    def opened(self, owned: Owned, applied: int = 0) -> None:
        """The partition has something to commit; `applied` more units of it among that."""
        if not self._open:
            self._opened_ns = self.bench.clock.now_ns()
        self._open[owned.number] = owned
        self._applied += applied
        self.uncommitted += applied

    def begin_if_due(self, now_ns: int, *, idle: bool) -> None:
        """Begin the next round, if it is time: everything that is open, in all partitions.

        One at a time, and acknowledged as a whole: what came in one message is then acknowledged
        as one range, and not partition by partition.
        """
        if self._round:
            return
        core = self.bench.reactor.core
        if idle and (now_ns >= self._low_due_ns or core.quiet()):
            self._low_due_ns = now_ns + LOW_EVERY_NS
            for owned in self.partitions.all():
                if owned.origin.low > owned.low:
                    self._open[owned.number] = owned
        if self._open and self._is_time(now_ns, idle):
            self._round_began_ns = now_ns
            self._round = list(self._open.values())
            self._open.clear()
            self._applied = 0
            for owned in self._round:
                self._submit(owned)

    def _is_time(self, now_ns: int, idle: bool) -> bool:
        """A stage with nothing else to do begins a round at once, a busy one when something is
        GROUP_NS old, or there is much.

        A round costs a commit in every open partition, about the same for one unit as for many.
        So rounds are under way for half of the time at most: on a slow disk, and in stages with
        many partitions, they are fewer and larger.
        """
        spacing_ns = self._spacing_ns()
        if idle:
            return now_ns - self._round_began_ns >= spacing_ns
        aged = now_ns - self._opened_ns >= max(GROUP_NS, spacing_ns)
        return aged or self._applied >= GROUP_UNITS * len(self._open)

    def _spacing_ns(self) -> int:
        """From the beginning of the last round to that of the next, at least."""
        return min(MAX_GROUP_NS, 2 * self._round_ns)

    def _submit(self, owned: Owned) -> None:
        """Everything that is open, to the disk in one transaction."""
        watermarks = self.bench.reactor.core.inbox.watermarks
        commit = owned.logic.take(watermarks, owned.origin.low)
        outbox = []
        if commit.outputs:
            raw = pack_outputs(commit.outputs)
            outbox = [OutboxRow(first=commit.first, n=len(commit.outputs), raw=raw)]
        batch = Batch(
            seen=[
                SeenRow(
                    origin=one.origin,
                    path=one.path,
                    axis=one.axis,
                    fixed=one.fixed,
                    numbers=encode_numbers(one.ranges),
                    top=one.top,
                )
                for one in commit.applied
            ],
            watermarks=commit.watermarks,
            state=owned.state.take(),
            timers=owned.state.timers.take(),
            outbox=outbox,
            outbox_low=commit.low,
            next_oseq=owned.logic.next,
            done=commit.done,
        )
        self._committer.submit(owned, batch)

    def settle(self) -> None:
        """Acknowledge a round that is durable, and send what was made of it.

        Raises what made a commit impossible for ever: another owner, or a fault of ours.
        """
        if self._committer.failure is not None:
            raise self._committer.failure
        if not self._round or len(self._committer.done) < len(self._round):
            return
        self._committer.done.clear()
        self._round_ns = self.bench.clock.now_ns() - self._round_began_ns
        self.bench.counters.commits.add(self._round_ns)
        finished, self._round = self._round, []
        for owned in finished:
            commit = owned.logic.stored()
            owned.state.committed()
            owned.low = commit.low
            owned.done = owned.done or commit.done
            self.uncommitted -= commit.n
            core = self.bench.reactor.core
            with self.bench.reactor.lock:
                for link, first, n in commit.units:
                    core.committed(link, first, n)
            if commit.outputs:
                self.produce(owned, list(map(load_item, commit.outputs)))

    def due_s(self) -> float:
        """When a round may begin although nothing arrives."""
        if not self._open or self._round:
            return float("inf")
        return (self._round_began_ns + self._spacing_ns()) / 1e9

    def has(self, owned: Owned) -> bool:
        """Something of the partition is open or under way."""
        return owned.number in self._open or owned in self._round

    def idle(self) -> bool:
        """Nothing is open and nothing under way."""
        return not self._open and not self._round

    def settled(self) -> bool:
        """The same, and every output that is settled downstream is gone from the disk."""
        return self.idle() and not any(o.origin.low > o.low for o in self.partitions.all())

    def close(self) -> None:
        """End the threads; blocks for commits under way."""
        self._committer.close()

    # -- what is durable goes on -------------------------------------------------------------

    def produce(self, owned: Owned, items: list[Any]) -> None:
        """Outputs that are committed go on their way, around those that no edge takes."""
        if Failed in set(map(type, items)):
            self._produce_failed(owned, items)
            return
        bench = self.bench
        core = bench.reactor.core
        while items:
            try:
                good, bad, rest = items, None, []
                outputs = bench.emitter.route(good)
            except WhenError as error:
                at = error.position
                good, bad, rest = items[:at], error.__cause__ or error, items[at + 1 :]
                outputs = bench.emitter.route(good) if good else []
            with bench.reactor.lock:
                if good:
                    now_ns = bench.clock.now_ns()
                    core.produced_at(owned.origin, outputs, len(good), now_ns, None)
                if bad is not None:
                    core.produced_bad("final", *describe(bad), None, owned.origin)
                bench.reactor.flush()
            items = rest

    def _produce_failed(self, owned: Owned, items: list[Any]) -> None:
        """Outputs among which are windows that were given up."""
        for is_failed, some in itertools.groupby(items, lambda item: type(item) is Failed):
            if not is_failed:
                self.produce(owned, list(some))
                continue
            with self.bench.reactor.lock:
                for lost in some:
                    why = ("error", lost.error_class, lost.error)
                    self.bench.reactor.core.produced_bad(*why, None, owned.origin, [lost.item])
                self.bench.reactor.perform()

"""Which numbers a replica keeps, by name.

Decides names and order only: the black box stores them, the run's books are made from them.
"""

from zflow.protocol.core import Core
from zflow.protocol.ledger import COLUMNS
from zflow.state.latency import BUCKETS

STAGE_COUNTERS = ("received", "processed", "errors", "duplicates", "late", "busy_ns")
GAUGES = (
    "inbox",
    "queued",
    "unacked",
    "retrying",
    "next",
    "low",
    "dead_at_source",
    "suspects",
    "finished",  # 1 once the process has done everything it was told to do
)


class Counters:
    """The numbers of one replica. Owned by the data thread, under the reactor's lock."""

    def __init__(self, core: Core, *, is_sink: bool) -> None:
        self._core = core
        self.received = 0
        self.processed = 0
        self.errors = 0
        self.duplicates = 0
        self.late = 0  # items whose windows had fired
        self.busy_ns = 0
        self.finished = False
        self.latency = [0] * (BUCKETS if is_sink else 0)

    def names(self) -> list[str]:
        """In the order of `values`."""
        edges = [
            f"{column}:{outbox.settings.label}"
            for outbox in self._core.outboxes.values()
            for column in COLUMNS
        ]
        buckets = [f"latency:{k}" for k in range(len(self.latency))]
        return [*STAGE_COUNTERS, *GAUGES, *edges, *buckets]

    def values(self) -> list[int]:
        """Everything, now."""
        core = self._core
        outboxes = core.outboxes.values()
        origin = core.origin
        numbers = [
            self.received,
            self.processed,
            self.errors,
            self.duplicates,
            self.late,
            self.busy_ns,
            sum(link.held for link in core.inbox.links.values()) + core.running,
            sum(outbox.queued for outbox in outboxes),
            sum(link.unacked_items for outbox in outboxes for link in outbox.links),
            sum(len(outbox.retrying) for outbox in outboxes),
            origin.next if origin else 0,
            origin.low if origin else 0,
            origin.dead_lettered if origin else 0,
            sum(len(outbox.suspects) for outbox in outboxes),
            int(self.finished),
        ]
        for outbox in outboxes:
            numbers += outbox.ledger.row()
        numbers += self.latency
        return numbers

"""Which numbers a replica keeps, by name, and where.

Decides names and order only: the black box stores them, books and metrics are made from them.
What is kept elsewhere anyway (ledgers, links) is written down after each turn, with `values`; the
rest is added to cells of the black box in place, per portion and not per item.

| name                                      | what                                              |
|-------------------------------------------|---------------------------------------------------|
| `processed`, `errors`, ...                | of the stage, see `STAGE_COUNTERS`                |
| `inbox`, `low`, `credit:EDGE`, ...        | as they are now, see `books.GAUGES`               |
| `sent:EDGE`, `retries:EDGE`, ...          | the ledger of an edge that it sends on            |
| `items_in:EDGE`, `bytes_in:EDGE`          | what it has taken of an edge                      |
| `late:EDGE`                               | items of an edge whose window had fired           |
| `queue_wait:EDGE:K`, `latency:EDGE:K`     | units by bucket, `queue_wait_ns:EDGE` their sum   |
| `processing:K`, `commit:K`                | items and rounds by bucket, `processing_ns`       |
| `error:CLASS`, `dead:STAGE:CODE`          | exceptions; dead letters once they are stored     |
| `user:[NAME,{LABEL:VALUE}]`               | what the stage counts itself                      |
"""

from collections.abc import Mapping

from zflow.clock import Clock
from zflow.metrics import MAX_ERROR_CLASSES, MAX_USER_SERIES, OTHER
from zflow.protocol.core import Core
from zflow.protocol.inbox import Parcel, Portion
from zflow.protocol.ledger import COLUMNS
from zflow.protocol.outbox import Outbox
from zflow.protocol.sender import SenderLink
from zflow.replica.timebook import NAMES as TIMES
from zflow.replica.timebook import TimeBook
from zflow.state.blackbox import BlackBox, Cells, Names
from zflow.state.latency import BUCKETS, EXPORTED, bucket_of, exported_bucket_of_ns

STAGE_COUNTERS = (
    "received",
    "processed",
    "ok",  # of those, what gave something
    "filtered",  # ... or nothing
    "errors",
    "retried",  # attempts in place, and new starts of a source
    "duplicates",
    "late",  # items whose windows had fired
    "cpu_ns",
    *TIMES,
)
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
EDGE_GAUGES = ("queue", "credit", "unacked_items", "unacked_bytes", "oldest_ns")
DEAD_CODES = ("error", "final", "crash", "decode", "encode", "deadline", OTHER)
MAX_CLASS_CHARACTERS = 80
LOOK_NS = 100_000_000  # at what is only shown: not in every turn
MARK_NS = 250_000_000  # how exact the age of the oldest message is


class Histogram:
    """Units by bucket, in cells of the black box; the last cell is the sum in nanoseconds."""

    CELLS = EXPORTED + 1
    __slots__ = ("_at", "_cells")

    def __init__(self, cells: Cells, at: int) -> None:
        self._cells = cells
        self._at = at

    def add(self, ns: int, n: int = 1) -> None:
        """`n` units that took so long each."""
        cells, at = self._cells, self._at
        cells[at + exported_bucket_of_ns(ns)] += n
        cells[at + EXPORTED] += max(1, n) * ns


class _Incoming:
    """Where the numbers of one edge into this stage begin in the cells."""

    __slots__ = ("at", "latency_at", "wait")

    def __init__(self, at: int, cells: Cells, *, is_sink: bool) -> None:
        self.at = at  # items, bytes, late
        self.wait = Histogram(cells, at + 3)
        self.latency_at = at + 3 + Histogram.CELLS if is_sink else -1


class _Ages:
    """How long the oldest message of a link has been on its way, to MARK_NS."""

    __slots__ = ("_marks", "_token")

    def __init__(self) -> None:
        self._token = 0
        self._marks: list[tuple[int, int]] = []  # (next of the link, when it was first seen)

    def oldest_ns(self, link: SenderLink, now_ns: int) -> int:
        """0 if nothing is unacknowledged."""
        if link.token != self._token:
            self._token = link.token
            self._marks.clear()
        marks = self._marks
        if not link.unacked_items:
            marks.clear()
            return 0
        oldest = next((sent.first for sent in link.unacked if sent.left), link.next)
        while marks and marks[0][0] <= oldest:
            marks.pop(0)
        known = marks[-1] if marks else (0, 0)
        if link.next > known[0] and now_ns - known[1] >= MARK_NS:
            marks.append((link.next, now_ns))
        return now_ns - marks[0][1]


class Counters:
    """The numbers of one replica. Owned by the data thread, under the reactor's lock.

    edges: the labels of those into this stage. Cells are in a list until `attach`.
    """

    def __init__(
        self, core: Core, *, stage: str, is_sink: bool, edges: Mapping[int, str], clock: Clock
    ) -> None:
        self._core = core
        self._clock = clock
        self._is_sink = is_sink
        self._labels = sorted(set(edges.values()))
        self._edges = dict(edges)
        self._stages = list(
            dict.fromkeys([stage, *(one.settings.stage for one in core.outboxes.values())])
        )
        self.time = TimeBook(clock)
        self.received = 0
        self.processed = 0
        self.filtered = 0
        self.errors = 0
        self.retried = 0
        self.duplicates = 0
        self.late = 0
        self.finished = False
        self._ages: dict[SenderLink, _Ages] = {}
        self._looked: list[int] = [0] * (len(EDGE_GAUGES) * len(core.outboxes))
        self._look_due_ns = 0
        self._cpu_ns = 0
        self._black_box: BlackBox | None = None
        self._classes: dict[str, int] = {}
        blocks = self._blocks()
        self._lay_out([0] * sum(count for _, count in blocks))

    # -- names -------------------------------------------------------------------------------

    def names(self) -> Names:
        """In the order of `values`, and of the cells."""
        edges = [
            f"{column}:{outbox.settings.label}"
            for outbox in self._core.outboxes.values()
            for column in (*COLUMNS, *EDGE_GAUGES)
        ]
        return Names(
            counters=[*STAGE_COUNTERS, *GAUGES, *edges],
            cells=self._blocks(),
            spare=MAX_ERROR_CLASSES + MAX_USER_SERIES,
        )

    def _blocks(self) -> list[tuple[str, int]]:
        blocks = [("processing", EXPORTED), ("processing_ns", 1)]
        blocks += [("commit", EXPORTED), ("commit_ns", 1), (f"error:{OTHER}", 1)]
        for stage in self._stages:
            blocks += [(f"dead:{stage}:{code}", 1) for code in DEAD_CODES]
        for label in self._labels:
            blocks += [(f"{name}:{label}", 1) for name in ("items_in", "bytes_in", "late")]
            blocks += [(f"queue_wait:{label}", EXPORTED), (f"queue_wait_ns:{label}", 1)]
            if self._is_sink:
                blocks += [(f"latency:{label}", BUCKETS), (f"latency_ns:{label}", 1)]
        return blocks

    def attach(self, black_box: BlackBox) -> None:
        """Count in this black box, which was made with `names`, from now on."""
        self._black_box = black_box
        self._lay_out(black_box.cells)

    def _lay_out(self, cells: Cells) -> None:
        self._cells = cells
        self._processing = Histogram(cells, 0)
        self.commits = Histogram(cells, Histogram.CELLS)
        self._other_at = 2 * Histogram.CELLS
        at = self._other_at + 1
        self._dead_at: dict[tuple[str, str], int] = {}
        for stage in self._stages:
            for code in DEAD_CODES:
                self._dead_at[stage, code] = at
                at += 1
        by_label = {}
        for label in self._labels:
            by_label[label] = _Incoming(at, cells, is_sink=self._is_sink)
            at += 3 + Histogram.CELLS + (BUCKETS + 1 if self._is_sink else 0)
        assert at == len(cells), "the cells are those of `_blocks`"
        self._incoming = {edge: by_label[label] for edge, label in self._edges.items()}

    # -- what happens ------------------------------------------------------------------------

    def took(self, portion: Portion, parcel: Parcel, now_ns: int) -> None:
        """A portion of a message has left the inbox."""
        incoming = self._incoming[portion.link.key[0]]
        end, whole, size_bytes = parcel.taken, parcel.n, parcel.size_bytes
        begin = end - portion.n
        cells, at = self._cells, incoming.at
        cells[at] += portion.n
        cells[at + 1] += size_bytes * end // whole - size_bytes * begin // whole
        incoming.wait.add(now_ns - int(parcel.arrived_s * 1e9), portion.n)

    def worked(self, items: int, ns: int) -> None:
        """User code has taken so long for so many items; 0: for what was counted before."""
        self._processing.add(ns // max(1, items), items)

    def reached_sink(self, portion: Portion, now_ns: int) -> None:
        """A sink has returned for these."""
        cells, at = self._cells, self._incoming[portion.link.key[0]].latency_at
        for run in portion.runs:
            ns = now_ns - run.born_ns
            cells[at + bucket_of(ns / 1e9)] += run.n
            cells[at + BUCKETS] += ns * run.n

    def were_late(self, edge: int, total: int) -> None:
        """total: of all edges, so far."""
        if total != self.late:
            self._cells[self._incoming[edge].at + 2] += total - self.late
            self.late = total

    def failed(self, error: BaseException) -> None:
        """User code has raised."""
        self.errors += 1
        name = type(error).__name__[:MAX_CLASS_CHARACTERS]
        at = self._classes.get(name)
        if at is None and self._black_box is not None and len(self._classes) < MAX_ERROR_CLASSES:
            at = self._black_box.call(f"error:{name}")
            if at is not None:
                self._classes[name] = at
        if at is None or self._black_box is None:
            self._cells[self._other_at] += 1
        else:
            self._black_box.spare[at] += 1

    def buried(self, stage: str, code: str, letters: int) -> None:
        """Dead letters of a stage are stored."""
        stage = stage if stage in self._stages else self._stages[0]
        self._cells[self._dead_at[stage, code if code in DEAD_CODES else OTHER]] += letters

    # -- how it is ---------------------------------------------------------------------------

    def values(self) -> list[int]:
        """Everything that is not in cells, now."""
        core = self._core
        outboxes = core.outboxes.values()
        origin = core.origin
        now_ns = self._clock.now_ns()
        if now_ns >= self._look_due_ns or self.finished:
            self._look_due_ns = now_ns + LOOK_NS
            self._look(now_ns)
        numbers = [
            self.received,
            self.processed,
            self.processed - self.filtered,
            self.filtered,
            self.errors,
            self.retried,
            self.duplicates,
            self.late,
            self._cpu_ns,
            *self.time.row(),
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
        at, step = 0, len(EDGE_GAUGES)
        for outbox in outboxes:
            numbers += outbox.ledger.row()
            numbers += self._looked[at : at + step]
            at += step
        return numbers

    def _look(self, now_ns: int) -> None:
        self._cpu_ns = self._clock.process_ns()
        outboxes = self._core.outboxes.values()
        links = [link for outbox in outboxes for link in outbox.links]  # they come and go
        self._ages = {link: self._ages.get(link) or _Ages() for link in links}
        self._looked = [number for outbox in outboxes for number in self._look_at(outbox, now_ns)]

    def _look_at(self, outbox: Outbox, now_ns: int) -> tuple[int, ...]:
        """In the order of EDGE_GAUGES."""
        links = outbox.links
        return (
            outbox.queued + len(outbox.retrying),
            sum(max(0, link.room()) for link in links),
            sum(link.unacked_items for link in links),
            sum(link.unacked_bytes for link in links),
            max((self._ages[link].oldest_ns(link, now_ns) for link in links), default=0),
        )

"""The books of a whole run: what every incarnation counted, added up, and whether it balances.

Decides what a hole is. Counts nothing itself: the numbers come out of black boxes, whose last
state is what their process had done when it died.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zflow.protocol.ledger import COLUMNS, LedgerSnapshot, snapshot_of
from zflow.state.latency import quantile_s
from zflow.wire.picture import Census

GAUGES = frozenset(
    {
        *("inbox", "queued", "unacked", "retrying", "suspects", "next", "low", "finished"),
        *("queue", "credit", "unacked_items", "unacked_bytes", "oldest_ns"),  # of an edge
    }
)


def is_gauge(name: str) -> bool:
    """True for what says how something is now, and not how often it has happened."""
    return name.partition(":")[0] in GAUGES


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeBooks:
    """One edge at the end: `open_units` is 0 unless there is a hole."""

    label: str
    ledger: LedgerSnapshot

    @property
    def open_units(self) -> int:
        """Units that were sent and never settled."""
        return self.ledger.sent - self.ledger.settled


class Books:
    """Adds up the counters of dead and living incarnations, by slot."""

    def __init__(self, edges: Iterable[tuple[str, str]]) -> None:
        self._edges: dict[str, list[str]] = {}  # label -> stages that send over it
        for label, source in edges:
            self._edges.setdefault(label, []).append(source)
        self._dead: dict[str, dict[str, int]] = {}  # slot -> totals of the dead
        self._living: dict[str, dict[str, int]] = {}

    def living(self, slot: str, counters: Mapping[str, int]) -> None:
        """What the slot's present process has counted so far."""
        self._living[slot] = dict(counters)

    def died(self, slot: str, counters: Mapping[str, int]) -> None:
        """Close the books of a process: what it had sent and not seen settled is sent again."""
        self._living.pop(slot, None)
        totals = self._dead.setdefault(slot, {})
        for name, value in counters.items():
            if not is_gauge(name):
                totals[name] = totals.get(name, 0) + value
        for name in ("next", "low"):
            totals[name] = max(totals.get(name, 0), counters.get(name, 0))
        for label in self._edges:
            sent = _ledger(counters, label)
            if sent is not None and sent.sent != sent.settled:
                column = f"replayed_sender_died:{label}"
                totals[column] = totals.get(column, 0) + sent.sent - sent.settled

    def retired(self, slot: str) -> dict[str, int]:
        """What the dead processes of one slot have counted."""
        return dict(self._dead.get(slot, {}))

    def take(self, census: Census) -> None:
        """What a supervisor says of all its slots, instead of what it said before."""
        for one in census.slots:
            self._dead[one.slot] = dict(one.retired)
            if one.replica is None:
                self._living.pop(one.slot, None)
            else:
                self._living[one.slot] = dict(one.replica.counters)

    def slot(self, slot: str) -> dict[str, int]:
        """All that the processes of one slot have counted."""
        totals = dict(self._dead.get(slot, {}))
        for name, value in self._living.get(slot, {}).items():
            known = totals.get(name, 0)
            totals[name] = value if is_gauge(name) else known + value
        return totals

    def stage(self, stage: str) -> dict[str, int]:
        """All slots of a stage together."""
        totals: dict[str, int] = {}
        for slot in self._dead.keys() | self._living.keys():
            if slot.rpartition("/")[0] == stage:
                for name, value in self.slot(slot).items():
                    totals[name] = totals.get(name, 0) + value
        return totals

    def edge(self, label: str) -> EdgeBooks:
        """One edge, over all its senders."""
        totals: dict[str, int] = {}
        for source in self._edges[label]:  # two, where dead letters are sent again
            for name, value in self.stage(source).items():
                totals[name] = totals.get(name, 0) + value
        books = _ledger(totals, label)
        return EdgeBooks(label=label, ledger=books or snapshot_of([0] * len(COLUMNS)))

    def edges(self) -> list[EdgeBooks]:
        """Every edge."""
        return [self.edge(label) for label in self._edges]

    def latency_s(self, stages: list[str], quantile: float) -> float | None:
        """From the source's yield to the sinks' return, over these stages."""
        totals: dict[str, int] = {}
        for stage in stages:
            for name, value in self.stage(stage).items():
                if name.startswith("latency:"):
                    totals[name] = totals.get(name, 0) + value
        return quantile_s(totals, quantile)

    def holes(self, sources: list[str]) -> list[str]:
        """Sentences about what does not balance after the end; empty if all is well."""
        found = []
        for edge in self.edges():
            if edge.open_units:
                found.append(
                    f"edge {edge.label}: sent {edge.ledger.sent}, settled {edge.ledger.settled}"
                )
        for stage in sources:
            totals = self.stage(stage)
            if totals.get("next", 0) != totals.get("low", 0):
                found.append(f"source {stage}: yielded {totals['next']}, settled {totals['low']}")
        return found


def _ledger(counters: Mapping[str, int], label: str) -> LedgerSnapshot | None:
    row = [counters.get(f"{column}:{label}") for column in COLUMNS]
    if all(value is None for value in row):
        return None
    return snapshot_of([value or 0 for value in row])

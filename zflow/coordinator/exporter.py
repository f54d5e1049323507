"""Prometheus metrics, made from the newest picture of a run by one collector.

Decides which counters make which series; names and meanings are in `metrics`. A living replica has
its gauges; what its slot has counted, dead processes included, is a counter that goes on; what
slots that are gone have counted stays in their stage (`metrics.GONE`), so that no sum falls.
"""

import json
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from zflow import metrics
from zflow.protocol.ledger import DROP_REASONS, REPLAY_REASONS
from zflow.state.latency import BUCKETS, EXPORTED, exported_bucket
from zflow.wire.picture import (
    EdgePicture,
    Picture,
    SlotCensus,
    StagePicture,
    Totals,
    added,
    restarts_of,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEAD_REASONS = ("error", "final", "crash", "decode", "encode", "deadline", metrics.OTHER)
RESTART_REASONS = ("exit", "signal", "stuck", "oom", "rollout")
SHOWN_STATE = {
    **dict.fromkeys(("starting", "registered", "bound", "connected"), "starting"),
    **{state: state for state in ("running", "draining", "lost")},
}
_NS = 1e-9
_BOUNDS = (*map(floatToGoString, metrics.BOUNDS_S), "+Inf")
_LOG = logging.getLogger("zflow.metrics")

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Histogram:
    """counts: of each exported bucket, not added up."""

    counts: list[int] = field(default_factory=lambda: [0] * EXPORTED)
    ns: int = 0


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of a picture, added up. slots: what each slot has counted, by its index."""

    picture: StagePicture
    slots: list[tuple[str, Totals]]
    total: Totals
    incoming: list[str]  # labels of edges
    outgoing: list[str]


class _Admitted:
    """The first so many names of each stage; they stay, so that a series never changes meaning."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, set[str]] = {}

    def admits(self, stage: str, name: str) -> bool:
        """True for a name that has a series of its own."""
        names = self._names.setdefault(stage, set())
        if name not in names and len(names) < self._most:
            names.add(name)
        return name in names


class PictureCollector(Collector):
    """See the module. `show` from one thread, `collect` from any."""

    def __init__(self) -> None:
        self._picture: Picture | None = None
        self._errors = _Admitted(metrics.MAX_ERROR_CLASSES)
        self._user_names = _Admitted(metrics.MAX_USER_NAMES)
        self._user_series = _Admitted(metrics.MAX_USER_SERIES)
        self._warned = False

    def show(self, picture: Picture) -> None:
        """Everything is made from this one from now on."""
        self._picture = picture

    def describe(self) -> Iterable[Family]:
        """Nothing: names cannot clash, since this is the only collector."""
        return ()

    def collect(self) -> Iterator[Family]:
        """All families that have a series."""
        picture = self._picture
        if picture is None:
            return
        stages = [_stage_of(stage, picture.edges) for stage in picture.stages]
        series = _Series(picture.topology)
        for stage in stages:
            _replica_counters(series, stage)
            _replica_gauges(series, stage)
            _stage_counters(series, stage)
            _sent(series, stage, picture.edges)
            _histograms(series, stage, picture)
            self._errors_of(series, stage)
        _of_the_run(series, picture)
        yield from series.families()
        yield from self._user_families(picture.topology, stages)

    def _errors_of(self, series: "_Series", stage: _Stage) -> None:
        name = stage.picture.name
        other = 0
        for key, count in stage.total.items():
            kind, _, error = key.partition(":")
            if kind != "error":
                continue
            if error != metrics.OTHER and self._errors.admits(name, error):
                series.add(metrics.ERRORS, (name, error), count)
            else:
                other += count
        series.add(metrics.ERRORS, (name, metrics.OTHER), other)

    def _user_families(self, topology: str, stages: list[_Stage]) -> list[Family]:
        found: dict[str, Family] = {}
        for stage in stages:
            for key, count in stage.total.items():
                if not key.startswith(metrics.USER_KEY):
                    continue
                name, labels = json.loads(key.removeprefix(metrics.USER_KEY))
                if self._keeps(stage.picture.name, name, key):
                    full = f"{metrics.USER_PREFIX}{name}"
                    text = f"Counted by stages of the topology as {name}."
                    family = found.setdefault(full, Family(full, text, metrics.COUNTER))
                    own = {"topology": topology, "stage": stage.picture.name, **labels}
                    family.add_sample(f"{full}_total", own, count)
        return list(found.values())

    def _keeps(self, stage: str, name: str, key: str) -> bool:
        if self._user_names.admits(stage, name) and self._user_series.admits(stage, key):
            return True
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "counters of stage %s are left out: a stage may have %d names, and %d with labels",
                stage,
                metrics.MAX_USER_NAMES,
                metrics.MAX_USER_SERIES,
            )
        return False


class Exposition:
    """The text of the newest picture, made once for each and only when somebody asks."""

    def __init__(self) -> None:
        self._collector = PictureCollector()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._collector)
        self._of: Picture | None = None
        self._text = b""

    def text(self, picture: Picture | None) -> bytes:
        """In the text format 0.0.4; empty before there is a picture."""
        if picture is not None and picture is not self._of:
            self._collector.show(picture)
            self._text = generate_latest(self._registry)
            self._of = picture
        return self._text


class _Series:
    """Samples by metric, until all are known."""

    def __init__(self, topology: str) -> None:
        self._topology = topology
        self._numbers: dict[str, dict[Labels, float]] = {one.name: {} for one in metrics.METRICS}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {
            one.name: {} for one in metrics.METRICS
        }

    def add(self, metric: metrics.Metric, labels: Labels, value: float) -> None:
        """More of a series; labels in the order of the metric's own."""
        series = self._numbers[metric.name]
        series[labels] = series.get(labels, 0) + value

    def histogram(self, metric: metrics.Metric, labels: Labels) -> _Histogram:
        """A series to add to."""
        return self._histograms[metric.name].setdefault(labels, _Histogram())

    def families(self) -> Iterator[Family]:
        """In the order of `metrics.METRICS`."""
        for metric in metrics.METRICS:
            names = ("topology", *metric.labels)
            if metric.kind == metrics.HISTOGRAM:
                yield self._histogram_family(metric, names)
                continue
            kind = CounterMetricFamily if metric.kind == metrics.COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=names)
            for labels, value in self._numbers[metric.name].items():
                family.add_metric((self._topology, *labels), value)
            if family.samples:
                yield family

    def _histogram_family(self, metric: metrics.Metric, names: Labels) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help, labels=names)
        for labels, one in self._histograms[metric.name].items():
            seen, buckets = 0, []
            for bound, count in zip(_BOUNDS, one.counts, strict=True):
                seen += count
                buckets.append((bound, seen))
            family.add_metric((self._topology, *labels), buckets, one.ns * _NS)
        return family


# --- one stage --------------------------------------------------------------------------------


def _stage_of(stage: StagePicture, edges: list[EdgePicture]) -> _Stage:
    slots = [(slot.slot.rpartition("/")[2], _counted(slot)) for slot in stage.slots]
    return _Stage(
        picture=stage,
        slots=slots,
        total=added(stage.gone, *(totals for _, totals in slots)),
        incoming=list(dict.fromkeys(e.label for e in edges if e.target == stage.name)),
        outgoing=list(dict.fromkeys(e.label for e in edges if e.source == stage.name)),
    )


def _counted(slot: SlotCensus) -> Totals:
    """By all processes of a slot, and how often one was replaced."""
    living = slot.replica.counters if slot.replica is not None else {}
    return added(slot.retired, living, restarts_of(slot))


def _replica_counters(series: _Series, stage: _Stage) -> None:
    name = stage.picture.name
    gone = [(metrics.GONE, stage.picture.gone)] if stage.picture.gone else []
    for replica, totals in (*stage.slots, *gone):
        own = (name, replica)
        for label in stage.incoming:
            series.add(metrics.ITEMS_IN, (*own, label), totals.get(f"items_in:{label}", 0))
            series.add(metrics.BYTES_IN, (*own, label), totals.get(f"bytes_in:{label}", 0))
        for label in stage.outgoing:
            series.add(metrics.ITEMS_OUT, (*own, label), totals.get(f"sent:{label}", 0))
            series.add(metrics.BYTES_OUT, (*own, label), totals.get(f"sent_bytes:{label}", 0))
        for outcome, key in zip(metrics.OUTCOMES, ("ok", "errors", "filtered"), strict=True):
            series.add(metrics.ITEMS_PROCESSED, (*own, outcome), totals.get(key, 0))
        for state in metrics.STATES:
            spent_s = totals.get(f"{state}_ns", 0) * _NS
            series.add(metrics.STAGE_TIME, (*own, state), spent_s)
        series.add(metrics.REPLICA_CPU, own, totals.get("cpu_ns", 0) * _NS)


def _replica_gauges(series: _Series, stage: _Stage) -> None:
    """Of those that live: the others have none."""
    windows = dict.fromkeys(stage.outgoing, 0)
    states = dict.fromkeys(metrics.REPLICA_STATES, 0)
    states["desired"] = stage.picture.desired
    for slot in stage.picture.slots:
        living = slot.replica
        if living is None:
            continue
        own = (stage.picture.name, slot.slot.rpartition("/")[2])
        shown = SHOWN_STATE.get(living.state)
        if shown is not None:
            states[shown] += 1
        now = living.counters
        series.add(metrics.REPLICA_MEMORY, own, living.memory_bytes)
        series.add(metrics.REPLICA_FDS, own, living.open_fds)
        process = (living.host, str(living.pid), str(living.incarnation))
        series.add(metrics.REPLICA_INFO, (*own, *process), 1)
        series.add(metrics.INBOX_ITEMS, own, now.get("inbox", 0))
        if stage.picture.kind == "source":
            series.add(metrics.SOURCE_LAG, own, now.get("next", 0) - now.get("low", 0))
        for label in windows:
            there = (*own, label)
            series.add(metrics.QUEUE_ITEMS, there, now.get(f"queue:{label}", 0))
            series.add(metrics.CREDIT, there, now.get(f"credit:{label}", 0))
            series.add(metrics.UNACKED_ITEMS, there, now.get(f"unacked_items:{label}", 0))
            series.add(metrics.UNACKED_BYTES, there, now.get(f"unacked_bytes:{label}", 0))
            series.add(metrics.OLDEST_UNACKED, there, now.get(f"oldest_ns:{label}", 0) * _NS)
    for state, count in states.items():
        series.add(metrics.REPLICAS, (stage.picture.name, state), count)


def _stage_counters(series: _Series, stage: _Stage) -> None:
    name, total = stage.picture.name, stage.total
    series.add(metrics.DUPLICATES, (name,), total.get("duplicates", 0))
    series.add(metrics.RETRIES, (name,), total.get("retried", 0))
    for label in stage.incoming:
        series.add(metrics.DROPPED, (label, "late"), total.get(f"late:{label}", 0))
    for reason in RESTART_REASONS:
        series.add(metrics.RESTARTS, (name, reason), total.get(f"restarts:{reason}", 0))
    for reason in DEAD_REASONS:
        series.add(metrics.DEAD_LETTERS, (name, reason), 0)
    for key, count in total.items():  # of this stage, or of one that it sends to
        if key.startswith("dead:"):
            where, _, reason = key.removeprefix("dead:").rpartition(":")
            series.add(metrics.DEAD_LETTERS, (where, reason), count)


def _sent(series: _Series, stage: _Stage, edges: list[EdgePicture]) -> None:
    """What this stage knows of the edges that it sends on."""
    total = stage.total
    for edge in edges:
        if edge.source != stage.picture.name:
            continue
        label = edge.label
        series.add(metrics.RETRIES, (edge.target,), total.get(f"retries:{label}", 0))
        for reason in REPLAY_REASONS:
            sent_again = total.get(f"replayed_{reason}:{label}", 0)
            series.add(metrics.REPLAYS, (label, reason), sent_again)
        for reason in DROP_REASONS:
            dropped = total.get(f"dropped_{reason}:{label}", 0)
            series.add(metrics.DROPPED, (label, reason), dropped)
        for slot in stage.picture.slots:
            if slot.replica is not None:
                own = (stage.picture.name, slot.slot.rpartition("/")[2], label)
                series.add(metrics.QUEUE_CAPACITY, own, edge.window_items)


def _histograms(series: _Series, stage: _Stage, picture: Picture) -> None:
    name, total = stage.picture.name, stage.total
    one = series.histogram(metrics.PROCESSING, (name,))
    _fill(one, total, "processing", "processing_ns", EXPORTED, _same)
    if stage.picture.partitions:
        one = series.histogram(metrics.COMMIT, (name,))
        _fill(one, total, "commit", "commit_ns", EXPORTED, _same)
    for label in stage.incoming:
        one = series.histogram(metrics.QUEUE_WAIT, (label,))
        _fill(one, total, f"queue_wait:{label}", f"queue_wait_ns:{label}", EXPORTED, _same)
        if stage.picture.kind == "sink":
            origins = ",".join(sorted(_origins(picture, label, name)))
            one = series.histogram(metrics.END_TO_END, (origins, name))
            _fill(one, total, f"latency:{label}", f"latency_ns:{label}", BUCKETS, exported_bucket)


def _same(bucket: int) -> int:
    return bucket


def _fill(
    one: _Histogram,
    totals: Mapping[str, int],
    key: str,
    sum_key: str,
    buckets: int,
    exported: Callable[[int], int],
) -> None:
    for bucket in range(buckets):
        count = totals.get(f"{key}:{bucket}", 0)
        if count:
            one.counts[exported(bucket)] += count
    one.ns += totals.get(sum_key, 0)


def _origins(picture: Picture, label: str, target: str) -> set[str]:
    """Where the clock of what comes over an edge was started: sources and durable stages."""
    found: set[str] = set()
    for edge in picture.edges:
        if edge.label == label and edge.target == target:
            stage = picture.stage(edge.source)
            if stage.kind == "source" or stage.partitions:
                found.add(stage.name)
                continue
            for before in picture.edges:
                if before.target == stage.name:
                    found |= _origins(picture, before.label, stage.name)
    return found


# --- the run ----------------------------------------------------------------------------------


def _of_the_run(series: _Series, picture: Picture) -> None:
    versions = (_version("zflow-pipelines"), platform.python_version(), _version("pyzmq"))
    series.add(metrics.BUILD_INFO, versions, 1)
    about = (str(picture.generation), picture.digest, picture.run_id, picture.phase)
    series.add(metrics.TOPOLOGY_INFO, about, 1)
    series.add(metrics.GENERATION, (), picture.generation)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source, never installed
        return "unknown"

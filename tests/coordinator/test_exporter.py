"""What a picture becomes for Prometheus: bounded, and no sum ever falls, whoever dies."""

import random
import shutil
import subprocess
import time
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zflow import metrics
from zflow.books import Books
from zflow.coordinator.exporter import Exposition
from zflow.metrics import MAX_ERROR_CLASSES, MAX_USER_SERIES, METRICS
from zflow.protocol.ledger import COLUMNS
from zflow.wire.picture import (
    EdgePicture,
    Picture,
    Replica,
    SlotCensus,
    StagePicture,
    added,
    restarts_of,
    totals_of,
)

COUNTERS = {m.name for m in METRICS if m.kind == metrics.COUNTER}
PROMTOOL = shutil.which("promtool")


def replica(counters, incarnation=1):
    return Replica(
        incarnation=incarnation,
        pid=4711,
        host="here",
        state="running",
        started_at_s=0.0,
        cpu_s=1.5,
        memory_bytes=1000,
        open_fds=3,
        counters=counters,
    )


def slot(name, living=None, retired=None, restarts=None):
    return SlotCensus(slot=name, replica=living, retired=retired or {}, restarts=restarts or {})


def stage(name, slots, *, kind="stage", gone=None, partitions=0):
    return StagePicture(
        name=name,
        kind=kind,
        desired=len(slots),
        partitions=partitions,
        durability="power",
        timeout_s=300.0,
        slots=slots,
        gone=gone or {},
    )


def edge(source, target):
    return EdgePicture(
        label=f"{source}->{target}",
        source=source,
        target=target,
        output=None,
        delivery="at_least_once",
        keyed=False,
        window_items=65_536,
    )


def picture(stages, edges=()):
    return Picture(
        topology="flow",
        run_id="run",
        generation=1,
        digest="d",
        phase="run",
        paused=False,
        at_s=1.0,
        elapsed_s=1.0,
        stages=list(stages),
        edges=list(edges),
        events=[],
    )


def samples_of(text):
    """(name, labels as a sorted tuple) -> value; none is there twice."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def rendered(*pictures):
    exposition = Exposition()
    text = b""
    for one in pictures:
        text = exposition.text(one)
    return samples_of(text)


def value(samples, name, **labels):
    (found,) = [v for (n, own), v in samples.items() if n == name and labels.items() <= set(own)]
    return found


# --- which series -----------------------------------------------------------------------------


def full_counters(label_in="read->parse", label_out="parse->show", n=1):
    """What the black box of a busy replica may hold."""
    numbers = dict.fromkeys(("ok", "errors", "filtered", "retried", "duplicates", "inbox"), n)
    numbers |= {f"{state}_ns": n * 10**9 for state in metrics.STATES}
    numbers |= {"cpu_ns": n * 10**9, "next": 9, "low": 4, "error:ValueError": n, "error:other": n}
    numbers |= {f"{column}:{label_out}": n for column in COLUMNS}
    for name in ("queue", "credit", "unacked_items", "unacked_bytes", "oldest_ns"):
        numbers[f"{name}:{label_out}"] = n
    numbers |= {f"items_in:{label_in}": n, f"bytes_in:{label_in}": 100 * n, f"late:{label_in}": n}
    for key in ("processing", "commit", f"queue_wait:{label_in}"):
        numbers |= {f"{key}:{k}": n for k in range(19)}
    numbers |= {f"latency:{label_in}:{k}": n for k in range(96)}
    numbers |= {"dead:parse:error": n, 'user:["orders",{"kind":"new"}]': n}
    return numbers


def small():
    """Every family has a series in it."""
    slots = [
        slot("parse/0", replica(full_counters(n=2)), full_counters(n=3), {"signal": 2}),
        slot("parse/1", replica(full_counters(n=5))),
    ]
    stages = [
        stage("read", [slot("read/0", replica({"next": 9, "low": 4}))], kind="source"),
        stage("parse", slots, gone=full_counters(n=7), partitions=4),
        stage("show", [slot("show/0", replica(full_counters("parse->show")))], kind="sink"),
    ]
    return picture(stages, [edge("read", "parse"), edge("parse", "show")])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_a_series_with_exactly_its_labels(metric):
    names = [metric.name]
    if metric.kind == metrics.HISTOGRAM:
        names = [f"{metric.name}_count", f"{metric.name}_sum", f"{metric.name}_bucket"]
    samples = rendered(small())
    for name in names:
        wanted = {"topology", *metric.labels} | ({"le"} if name.endswith("_bucket") else set())
        labels = [{label for label, _ in own} for found, own in samples if found == name]
        assert labels
        assert all(own == wanted for own in labels)


def test_the_dead_of_a_slot_count_on_in_its_series_and_gone_slots_in_their_stage():
    samples = rendered(small())
    name = "zflow_items_processed_total"
    own = {"stage": "parse", "outcome": "ok"}
    assert value(samples, name, **own, replica="0") == 2 + 3
    assert value(samples, name, **own, replica="1") == 5
    assert value(samples, name, **own, replica="gone") == 7


def test_a_slot_without_a_process_has_no_gauge_and_keeps_its_counters():
    dead = stage("parse", [slot("parse/0", None, full_counters(n=3))])
    samples = rendered(picture([dead], [edge("parse", "show")]))
    gauges = {m.name for m in METRICS if m.kind == metrics.GAUGE and "replica" in m.labels}
    assert not [name for name, _ in samples if name in gauges]
    assert value(samples, "zflow_items_out_total", replica="0") == 3


def test_a_histogram_counts_up_to_its_bounds_and_all_in_infinity():
    counters = {
        "processing:0": 3,
        "processing:1": 2,
        "processing:18": 1,
        "processing_ns": 5 * 10**9,
    }
    samples = rendered(picture([stage("parse", [slot("parse/0", replica(counters))])]))
    name = "zflow_processing_seconds"
    assert value(samples, f"{name}_bucket", le="0.0005") == 3
    assert value(samples, f"{name}_bucket", le="0.001") == 5
    assert value(samples, f"{name}_bucket", le="65.536") == 5
    assert value(samples, f"{name}_bucket", le="+Inf") == 6
    assert value(samples, f"{name}_count") == 6
    assert value(samples, f"{name}_sum") == 5.0


def test_the_clock_of_end_to_end_starts_at_the_nearest_sources_and_durable_stages():
    stages = [
        stage("a", [slot("a/0")], kind="source"),
        stage("b", [slot("b/0")], kind="source"),
        stage("mix", [slot("mix/0")]),
        stage("keep", [slot("keep/0")], partitions=8),
        stage("show", [slot("show/0", replica({"latency:mix->show:0": 4}))], kind="sink"),
    ]
    edges = [edge("a", "mix"), edge("b", "mix"), edge("mix", "show")]
    edges += [edge("b", "keep"), edge("keep", "show")]
    samples = rendered(picture(stages, edges))
    name = "zflow_end_to_end_seconds_count"
    assert value(samples, name, source="a,b", sink="show") == 4
    assert value(samples, name, source="keep", sink="show") == 0


def test_dead_letters_belong_to_the_stage_that_failed_whoever_stored_them():
    reader = slot("read/0", replica({"dead:parse:crash": 2, "dead:read:encode": 1}))
    samples = rendered(picture([stage("read", [reader], kind="source"), stage("parse", [])]))
    name = "zflow_dead_letters_total"
    assert value(samples, name, stage="parse", reason="crash") == 2
    assert value(samples, name, stage="read", reason="encode") == 1


# --- bounds -----------------------------------------------------------------------------------


def test_error_classes_beyond_the_cap_are_other_and_one_that_has_a_series_keeps_it():
    first = {f"error:Error{k}": 1 for k in range(15)}
    more = first | {f"error:A{k}": 2 for k in range(200)}
    pictures = [
        picture([stage("parse", [slot("parse/0", replica(counters))])])
        for counters in (first, more)
    ]
    samples = rendered(*pictures)
    series = {dict(own)["error"]: v for (n, own), v in samples.items() if n == "zflow_errors_total"}
    assert len(series) == MAX_ERROR_CLASSES + 1
    assert set(first) <= {f"error:{name}" for name in series}
    assert sum(series.values()) == 15 + 400


def test_user_counters_are_capped_over_all_processes_of_a_stage_with_one_warning(caplog):
    slots = [
        slot(f"parse/{k}", replica({f'user:["seen",{{"id":"{k}-{j}"}}]': 1 for j in range(50)}))
        for k in range(5)
    ]
    samples = rendered(picture([stage("parse", slots)]))
    assert sum(name == "zflow_user_seen_total" for name, _ in samples) == MAX_USER_SERIES
    assert len(caplog.records) == 1


def test_values_of_users_cannot_break_the_text():
    nasty = 'a"b\\c\nd'
    key = 'user:["seen",{"kind":"a\\"b\\\\c\\nd"}]'
    samples = rendered(picture([stage("parse", [slot("parse/0", replica({key: 3}))])]))
    assert value(samples, "zflow_user_seen_total", kind=nasty) == 3


# --- nothing falls ----------------------------------------------------------------------------


class Fleet:
    """Slots that are born, count, die, and are scaled, as supervisor and coordinator keep them."""

    def __init__(self, chance):
        self.chance = chance
        self.books = Books([("parse->show", "parse")])
        self.restarts: dict[str, Counter] = {}
        self.living: dict[str, dict] = {}
        self.replicas = 2

    def step(self):
        act = self.chance.choice(["birth", "count", "count", "death", "scale", "pause"])
        name = f"parse/{self.chance.randrange(4)}"
        if act == "birth":
            self.living.setdefault(name, full_counters(n=0))
        elif act == "count" and name in self.living:
            self.count(self.living[name])
            self.books.living(name, self.living[name])
        elif act == "death" and name in self.living:
            self.books.died(name, self.living.pop(name))
            self.restarts.setdefault(name, Counter())[self.chance.choice(["exit", "oom"])] += 1
        elif act == "scale":
            self.replicas = self.chance.randrange(1, 5)

    def count(self, counters):
        ledger = {f"{column}:parse->show" for column in COLUMNS}
        for key in self.chance.sample(sorted(counters.keys() - ledger), 40):
            counters[key] += self.chance.randrange(5)
        error = f"error:E{self.chance.randrange(40)}"
        counters[error] = counters.get(error, 0) + 1
        counters["sent:parse->show"] += 3  # more than is settled: a death adds the difference
        for column in ("processed", "dead_lettered", "replayed_nack"):
            counters[f"{column}:parse->show"] += self.chance.randrange(2)

    def picture(self):
        censuses = [
            slot(
                name,
                replica(dict(self.living[name])) if name in self.living else None,
                self.books.retired(name),
                dict(self.restarts.get(name, {})),
            )
            for name in (f"parse/{k}" for k in range(4))
        ]
        here, gone = censuses[: self.replicas], censuses[self.replicas :]
        left = added(*(added(totals_of(one), restarts_of(one)) for one in gone))
        stages = [stage("parse", here, gone=left), stage("show", [slot("show/0")], kind="sink")]
        return picture(stages, [edge("parse", "show")])


def sums_by_stage(samples):
    """Every counter without its replica, `sum without (replica)`; and all of a stage together."""
    sums = Counter()
    for (name, own), number in samples.items():
        if name in COUNTERS or name.endswith(("_count", "_sum", "_bucket")):
            rest = tuple(pair for pair in own if pair[0] != "replica")
            sums[name, rest] += number
            sums[name, "by stage", dict(own).get("stage")] += number
    return sums


@pytest.mark.parametrize("seed", range(12))
def test_no_sum_of_a_stage_falls_in_any_sequence_of_births_counts_deaths_and_rescales(seed):
    fleet = Fleet(random.Random(seed))
    exposition = Exposition()
    before = Counter()
    for step in range(40):
        fleet.step()
        sums = sums_by_stage(samples_of(exposition.text(fleet.picture())))
        fallen = [key for key, number in before.items() if sums[key] < number - 1e-9]
        assert not fallen, (seed, step, fallen[:3])
        before = sums


# --- size, time, and what Prometheus says -----------------------------------------------------


def large(stages=30, replicas=100):
    """That many replicas together, each with everything it may count."""
    names = [f"stage{k:02}" for k in range(stages)]
    edges = [edge(a, b) for a, b in zip(names, names[1:], strict=False)]
    made = []
    for number, name in enumerate(names):
        before, after = f"{names[number - 1]}->{name}", f"{name}->{names[(number + 1) % stages]}"
        share = range(number, replicas, stages)
        slots = [
            slot(f"{name}/{k}", replica(full_counters(before, after)), full_counters(before, after))
            for k, _ in enumerate(share)
        ]
        made.append(stage(name, slots))
    return picture(made, edges)


def test_a_hundred_replicas_are_rendered_quickly_and_once_per_picture():
    one, exposition = large(), Exposition()
    began_s = time.process_time()
    text = exposition.text(one)
    assert time.process_time() - began_s < 2.0  # a tenth of that where nothing else runs
    assert exposition.text(one) is text


def test_before_there_is_a_picture_there_is_no_series():
    assert Exposition().text(None) == b""


@pytest.mark.skipif(PROMTOOL is None, reason="Debian package prometheus is not installed")
@pytest.mark.parametrize("make", [small, large])
def test_promtool_has_nothing_to_say(make):
    text = Exposition().text(make())
    done = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

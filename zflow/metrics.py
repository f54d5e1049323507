"""Every metric that zflow exports: name, type, labels and help, once. Names only.

Decides what a number means and is called. What is counted is decided in `replica.counters`; the
coordinator's exporter fills these families, dashboards and rules are made from them.

Labels, in this order: topology; then stage, replica (the index of the slot), edge
(`parse->enrich`). They are bounded and never values of users, but for the labels that a stage
gives its own counters, which are capped.

A counter with the label `replica` goes on over the deaths of its slot's processes. What slots that
were scaled away have counted is the series with replica="gone", so that a sum never falls; it jumps
when a slot goes, so rates are asked for with replica!="gone".
"""

from dataclasses import dataclass

PREFIX = "zflow_"
USER_PREFIX = "zflow_user_"  # before the names that stages give their own counters
USER_KEY = "user:"  # before the same names, where a replica counts them
GONE = "gone"  # the replica of what slots that are no longer there have counted
OTHER = "other"  # the label value of all that is beyond a cap

MAX_ERROR_CLASSES = 20  # per stage, then OTHER
MAX_USER_NAMES = 64  # per stage
MAX_USER_SERIES = 128  # names with their labels, per stage

STATES = ("busy", "starved", "blocked", "overhead")  # of a replica's time
OUTCOMES = ("ok", "error", "filtered")
REPLICA_STATES = ("desired", "starting", "running", "draining", "lost")

BOUNDS_S = tuple(0.0005 * 2.0**k for k in range(18))  # of every histogram: 0.5 ms to 65.536 s

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One family. name: as Prometheus stores it; unit: seconds, bytes, items, or "" for a number
    without one. labels: without `topology`, which comes first everywhere."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str


def _metric(kind: str, name: str, unit: str, labels: str, help_text: str) -> Metric:
    return Metric(
        name=PREFIX + name, kind=kind, unit=unit, labels=tuple(labels.split()), help=help_text
    )


def _counter(name: str, unit: str, labels: str, help_text: str) -> Metric:
    return _metric(COUNTER, name, unit, labels, help_text)


def _gauge(name: str, unit: str, labels: str, help_text: str) -> Metric:
    return _metric(GAUGE, name, unit, labels, help_text)


def _histogram(name: str, labels: str, help_text: str) -> Metric:
    return _metric(HISTOGRAM, name, "seconds", labels, help_text)


ITEMS_IN = _counter(
    "items_in_total", "items", "stage replica edge", "Units that a replica took out of its inbox."
)
ITEMS_OUT = _counter(
    "items_out_total",
    "items",
    "stage replica edge",
    "Units that a replica sent over an edge, those that were sent again included.",
)
BYTES_IN = _counter(
    "bytes_in_total", "bytes", "stage replica edge", "Encoded bytes of the units taken."
)
BYTES_OUT = _counter(
    "bytes_out_total", "bytes", "stage replica edge", "Encoded bytes of the units sent."
)
ITEMS_PROCESSED = _counter(
    "items_processed_total",
    "items",
    "stage replica outcome",
    "Calls of user code: ok gave or kept something, filtered gave nothing, error raised. "
    "ok and filtered together are what the ledger calls processed.",
)
ERRORS = _counter(
    "errors_total",
    "",
    "stage error",
    "Exceptions out of user code by class: the first 20 of a stage, then other.",
)
RETRIES = _counter(
    "retries_total", "items", "stage", "Attempts after the first, and new starts of a source."
)
REPLAYS = _counter(
    "replays_total",
    "items",
    "edge reason",
    "Units that a sender had to send again: reset, peer_lost, nack, sender_died, not_owner.",
)
DEAD_LETTERS = _counter(
    "dead_letters_total",
    "items",
    "stage reason",
    "Items of a stage that were given up and stored: error, final, crash, decode, "
    "encode, deadline.",
)
DROPPED = _counter(
    "dropped_total",
    "items",
    "edge reason",
    "Units given up by declared policy: lost (at_most_once), error (on_error=drop), "
    "expired (deadline_s), late (their window had fired).",
)
DUPLICATES = _counter(
    "duplicates_total", "items", "stage", "Units that came again and were not applied again."
)
PROCESSING = _histogram(
    "processing_seconds",
    "stage",
    "User code per item: the time of a call or a portion of calls, divided by its items.",
)
QUEUE_WAIT = _histogram(
    "queue_wait_seconds",
    "edge",
    "From the arrival of a message at the receiver until user code takes its units. What waits at "
    "the sender is queue_items.",
)
END_TO_END = _histogram(
    "end_to_end_seconds",
    "source sink",
    "From the yield of the source, or the commit of the durable stage, to the return of the sink.",
)
STAGE_TIME = _counter(
    "stage_time_seconds_total",
    "seconds",
    "stage replica state",
    "What the data thread of a replica did: busy in user code, starved of input, blocked by full "
    "outputs, overhead. The rates of one replica add up to 1.",
)
QUEUE_ITEMS = _gauge(
    "queue_items",
    "items",
    "stage replica edge",
    "Units that wait at a sender to be sent, or sent again.",
)
QUEUE_CAPACITY = _gauge(
    "queue_capacity_items",
    "items",
    "stage replica edge",
    "Units that a sender keeps for an edge, waiting and unacknowledged, before its stage stops.",
)
INBOX_ITEMS = _gauge(
    "inbox_items", "items", "stage replica", "Units in the inbox or the hands of a replica."
)
CREDIT = _gauge(
    "credit_items", "items", "stage replica edge", "Units that the receivers let a sender send now."
)
UNACKED_ITEMS = _gauge(
    "unacked_items", "items", "stage replica edge", "Units sent and not yet acknowledged."
)
UNACKED_BYTES = _gauge(
    "unacked_bytes",
    "bytes",
    "stage replica edge",
    "Encoded bytes kept until acknowledged.",
)
OLDEST_UNACKED = _gauge(
    "oldest_unacked_seconds",
    "seconds",
    "stage replica edge",
    "Age of the oldest message that is not acknowledged, to a quarter of a second.",
)
SOURCE_LAG = _gauge(
    "source_position_lag_items",
    "items",
    "stage replica",
    "Items that a source has yielded and that are not settled: what a restart repeats.",
)
REPLICAS = _gauge(
    "replicas",
    "",
    "stage state",
    "Replicas by state: desired, starting, running, draining, lost.",
)
RESTARTS = _counter(
    "restarts_total",
    "",
    "stage reason",
    "Deaths of replicas that were replaced: exit, signal, stuck, oom, rollout.",
)
REPLICA_CPU = _counter(
    "replica_cpu_seconds_total", "seconds", "stage replica", "CPU time of a replica's processes."
)
REPLICA_MEMORY = _gauge(
    "replica_resident_memory_bytes", "bytes", "stage replica", "Resident memory of a replica."
)
REPLICA_FDS = _gauge("replica_open_fds", "", "stage replica", "Open descriptors of a replica.")
REPLICA_INFO = _gauge(
    "replica_info", "", "stage replica host pid incarnation", "1 for every process that lives."
)
BUILD_INFO = _gauge("build_info", "", "version python pyzmq", "1, with the versions in use.")
TOPOLOGY_INFO = _gauge(
    "topology_info", "", "generation digest run phase", "1, with what is running."
)
GENERATION = _gauge(
    "coordinator_generation", "", "", "Generation of the configuration that is in force."
)
COMMIT = _histogram(
    "commit_seconds",
    "stage",
    "A round of commits of a durable stage, until all of it is on the disk.",
)

METRICS: tuple[Metric, ...] = (
    *(ITEMS_IN, ITEMS_OUT, BYTES_IN, BYTES_OUT, ITEMS_PROCESSED, ERRORS, RETRIES, REPLAYS),
    *(DEAD_LETTERS, DROPPED, DUPLICATES, PROCESSING, QUEUE_WAIT, END_TO_END, STAGE_TIME),
    *(QUEUE_ITEMS, QUEUE_CAPACITY, INBOX_ITEMS, CREDIT, UNACKED_ITEMS, UNACKED_BYTES),
    *(OLDEST_UNACKED, SOURCE_LAG, REPLICAS, RESTARTS, REPLICA_CPU, REPLICA_MEMORY, REPLICA_FDS),
    *(REPLICA_INFO, BUILD_INFO, TOPOLOGY_INFO, GENERATION, COMMIT),
)

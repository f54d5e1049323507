"""Pictures made by hand: a chain of stages whose shares of time and rates are given."""

from dataclasses import dataclass, field

from zflow.wire.picture import EdgePicture, Picture, Replica, SlotCensus, StagePicture

HOST = "here"
WINDOW_ITEMS = 100


@dataclass
class Made:
    """A stage as a test wants it. times: of each replica, (busy, starved, blocked, overhead);
    rates: items/s of each. What has begun before the first picture has counted for 100 s."""

    name: str
    times: list[tuple[float, float, float, float]]
    rates: list[float]
    kind: str = "stage"
    partitions: int = 0
    keyed: bool = False
    most_replicas: int = 0
    cpu: float = 0.0  # cores, of each replica
    inbox: int = 0
    unacked: int = 0
    filling_per_s: float = 0.0  # how fast what it has sent piles up
    dead_per_s: float = 0.0  # of what it sends
    deaths_per_s: float = 0.0
    last_error: str = "exit code 3\nValueError: no"
    states: dict[int, str] = field(default_factory=dict)  # of slots; `down` has no process


def busy(name, share=1.0, rate=100.0, n=1, **more):
    return Made(name, [(share, 1 - share, 0.0, 0.0)] * n, [rate / n] * n, **more)


def blocked(name, share=0.9, rate=100.0, **more):
    return Made(name, [(1 - share, 0.0, share, 0.0)], [rate], **more)


def starved(name, share=0.9, rate=100.0, **more):
    return Made(name, [(1 - share, share, 0.0, 0.0)], [rate], **more)


def hot(name="Count", partitions=8):
    times = [(0.05, 0.95, 0.0, 0.0), (0.98, 0.02, 0.0, 0.0), (0.1, 0.9, 0.0, 0.0)]
    return Made(name, times, [5.0, 90.0, 5.0], partitions=partitions, keyed=True)


def picture(stages, at_s, *, phase="run", paused=False, run_id="one"):
    """The chain `at_s` seconds after its beginning."""
    stages[0].kind = stages[0].kind if stages[0].kind != "stage" else "source"
    edges = list(zip(stages, stages[1:], strict=False))
    return Picture(
        topology="flow",
        run_id=run_id,
        generation=1,
        digest="d",
        phase=phase,
        paused=paused,
        at_s=1000.0 + at_s,
        elapsed_s=at_s,
        stages=[_stage(one, edges, at_s) for one in stages],
        edges=[
            EdgePicture(
                label=_label(a, b),
                source=a.name,
                target=b.name,
                output=None,
                delivery="at_least_once",
                keyed=b.keyed,
                window_items=WINDOW_ITEMS,
            )
            for a, b in edges
        ],
        events=[],
    )


def _label(a, b):
    return f"{a.name}->{b.name}"


def _stage(made, edges, at_s):
    out = [_label(a, b) for a, b in edges if a is made]
    slots = [_slot(made, k, out, at_s) for k in range(len(made.times))]
    return StagePicture(
        name=made.name,
        kind=made.kind,
        desired=len(slots),
        partitions=made.partitions,
        durability="power",
        timeout_s=300.0,
        slots=slots,
        gone={},
        owners=[p % len(slots) for p in range(made.partitions)],
        most_replicas=made.most_replicas,
    )


def _slot(made, index, out, at_s):
    names = ("busy_ns", "starved_ns", "blocked_ns", "overhead_ns")
    counters = {
        name: int(share * at_s * 1e9) for name, share in zip(names, made.times[index], strict=True)
    }
    done = int(made.rates[index] * at_s)
    counters |= {"processed": done, "inbox": made.inbox, "errors": 0}
    for label in out:
        counters |= {f"sent:{label}": done, f"sent_bytes:{label}": 10 * done}
        counters[f"processed:{label}"] = done - int(made.filling_per_s * at_s)
        counters[f"unacked_items:{label}"] = made.unacked + int(made.filling_per_s * at_s)
        counters[f"dead_lettered:{label}"] = int(made.dead_per_s * at_s)
    if made.kind == "sink":
        counters["latency:40"] = done
    state = made.states.get(index, "running")
    deaths = int(made.deaths_per_s * at_s)
    return SlotCensus(
        slot=f"{made.name}/{index}",
        replica=None if state == "down" else _replica(made, counters, state, at_s, deaths),
        retired=counters if state == "down" else {},
        restarts={"exit": deaths} if deaths else {},
        last_error=made.last_error if deaths else "",
    )


def _replica(made, counters, state, at_s, deaths):
    return Replica(
        incarnation=1 + deaths,
        pid=4711,
        host=HOST,
        state=state,
        started_at_s=1000.0,
        cpu_s=made.cpu * at_s,
        memory_bytes=1 << 20,
        open_fds=9,
        counters=counters,
    )

"""A whole topology in this process: virtual time, seeded faults, no sockets, no threads.

    from zflow.testing import kill, run

    def test_every_order_is_charged_once():
        result = run(flow, inputs={"orders": ORDERS}, seed=7, faults=[kill("charge/0", at_item=10)])
        assert sorted(result["notify"]) == CHARGED

The same core, workers and files as in production. One seed gives one run, always the same. What is
different: user code of all replicas shares this interpreter and its globals; `time.time()` and
`time.sleep()` in it are the real ones (the virtual wall clock begins at the real time); it takes
a microsecond of virtual time for each item; and a killed replica's `close()` is called, so that
nothing it had open stays so.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from random import Random
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any, Literal

from msgspec.structs import replace

from zflow.clock import Clock
from zflow.config import parse_replicas
from zflow.declared.model import Declared
from zflow.errors import ConfigError
from zflow.local.plan import config_of
from zflow.testing.conductor import Conductor
from zflow.testing.kills import Fates, Fault, chaos
from zflow.testing.life import Stagehands
from zflow.testing.pipes import Post
from zflow.testing.results import Dead, NotEnding, RunFailed, RunResult, dead_in
from zflow.testing.usercode import Supply, UserSide, check_names, parameters_of
from zflow.testing.virtual import Timeline
from zflow.topology import Topology
from zflow.wire.control import RunConfig, TargetConfig

LIMIT_S = 3600.0  # of virtual time, until a run has to be over
LIMIT_STEPS = 1_000_000
MEMORY = Path("/dev/shm")  # the files of a run are gone with it: they need no disk
ROOM_BYTES = 1 << 30  # for which they need some memory

Faults = Iterable[Fault] | Literal["kills"]
Recorded = Literal["run", "record"] | Collection[str]


def run(
    flow: Topology,
    *,
    inputs: Mapping[str, Iterable[Any]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    replicas: Mapping[str, int] | None = None,
    sinks: Recorded = "run",
    faults: Faults = (),
    seed: int = 0,
    limit_s: float = LIMIT_S,
) -> RunResult:
    """Run a topology to its end.

    inputs: items in the place of those that a source's own code yields, by stage. parameters: by
    "STAGE.NAME". sinks: "record", or the names of some, and their code does not run. faults:
    see `kill`, or "kills" for deaths that the seed chooses. limit_s: of virtual time.

    **raises** ConfigError for a topology or arguments that are wrong, RunFailed when the run fails
    as one of processes would, NotEnding (a RunFailed) with what is open when it does not end.
    """
    with Running(
        flow,
        inputs=inputs,
        parameters=parameters,
        replicas=replicas,
        sinks=sinks,
        faults=faults,
        seed=seed,
        limit_s=limit_s,
    ) as running:
        return running.finish()


class Running:
    """A run whose clock a test moves by hand; `run` says what the arguments mean.

    with Running(flow, inputs={"orders": [1, 2]}) as running:
        running.advance(60.0)
        running.put("orders", [3])
        result = running.finish()

    Sources of `inputs` wait for more until `finish`. sinks: what each has taken so far.
    """

    def __init__(
        self,
        flow: Topology,
        *,
        inputs: Mapping[str, Iterable[Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        replicas: Mapping[str, int] | None = None,
        sinks: Recorded = "run",
        faults: Faults = (),
        seed: int = 0,
        limit_s: float = LIMIT_S,
    ) -> None:
        problems = flow.problems()
        if problems:
            raise ConfigError(problems)
        declared = flow.declared()
        self._seed = seed
        self._limit_s = limit_s
        self._timeline = Timeline()
        random = Random(f"zflow {seed}")
        self._supplies = _supplies(declared, inputs or {})
        recorded = _recorded(declared, sinks)
        config = _config(declared, replicas or {})
        slots = [f"{s.name}/{index}" for s in config.stages for index in range(s.replicas)]
        planned = _planned(faults, slots, random)
        unused = self._supplies.keys() | recorded
        given = parameters_of(declared, parameters or {}, unused)
        user = UserSide(declared, given, self._supplies, recorded, Fates(planned))
        self._user = user
        self._wall_s = Clock().wall_s()
        hands = Stagehands(
            timeline=self._timeline,
            post=Post(self._timeline, random),
            user=user,
            random=random,
            wall_s=self._wall_s,
        )
        self.sinks: Mapping[str, list[Any]] = user.taken
        self._folder = TemporaryDirectory(prefix="zflow-", dir=_quick_folder())
        self._conductor = Conductor(config, Path(self._folder.name), hands)
        self._faults = planned

    def __enter__(self) -> "Running":
        try:
            self._conductor.start(self._faults)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._conductor.close()
        finally:
            self._user.close()
            self._folder.cleanup()

    # -- time --------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the beginning."""
        return self._timeline.elapsed_s

    def wall_s(self) -> float:
        """The virtual wall clock, by which timers fire: in the place of `time.time` for user code
        that has to see it."""
        return self._wall_s + self.elapsed_s

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass. raises: RunFailed."""
        timeline = self._timeline
        until_ns = timeline.now_ns + int(seconds * 1e9)
        limit = timeline.steps + LIMIT_STEPS
        while (due_ns := timeline.due_ns()) is not None and due_ns <= until_ns:
            self._step(limit)
        timeline.now_ns = max(timeline.now_ns, until_ns)

    def _step(self, limit: int) -> None:
        if self._timeline.steps >= limit:
            raise self._not_ending(f"{LIMIT_STEPS} steps")
        self._timeline.step()
        if self._conductor.failure:
            raise RunFailed(f"seed {self._seed}: {self._conductor.failure}")

    # -- what a test does meanwhile ----------------------------------------------------------

    def put(self, source: str, items: Iterable[Any]) -> None:
        """More items for a source that `inputs` names."""
        check_names("put", [source], self._supplies)
        self._supplies[source].put(items)
        self._wake()

    def kill(self, slot: str) -> None:
        """The replica dies now."""
        check_names("kill", [slot], self._conductor.seats)
        self._conductor.kill(slot)

    @property
    def dead(self) -> list[Dead]:
        """The dead letters so far."""
        return dead_in(self._conductor.state_directory.dead_folder)

    def _wake(self) -> None:
        for seat in self._conductor.seats.values():
            if seat.life is not None:
                seat.life.wake()

    # -- the end -----------------------------------------------------------------------------

    def finish(self) -> RunResult:
        """Nothing more comes from `inputs`: run to the end. raises: RunFailed, NotEnding."""
        for supply in self._supplies.values():
            supply.closed = True
        self._wake()
        timeline, conductor = self._timeline, self._conductor
        until_ns = timeline.now_ns + int(self._limit_s * 1e9)
        limit = timeline.steps + LIMIT_STEPS
        while not conductor.is_over():
            due_ns = timeline.due_ns()
            if due_ns is None or due_ns > until_ns:
                raise self._not_ending(f"{self._limit_s:g} s of virtual time")
            self._step(limit)
        return self._result()

    def _not_ending(self, after: str) -> NotEnding:
        lines = self._conductor.open_work() or ["nothing; the run does not go on all the same"]
        found = "\n  ".join(lines)
        return NotEnding(
            f"seed {self._seed}: not ended after {after}, in phase {self._conductor.state.phase}."
            f" Open:\n  {found}"
        )

    def _result(self) -> RunResult:
        conductor = self._conductor
        books = conductor.books
        sources = [stage.name for stage in conductor.config.stages if stage.kind == "source"]
        holes = books.holes(sources)
        if holes:
            raise RunFailed(f"seed {self._seed}: the books do not balance: {'; '.join(holes)}")
        return RunResult(
            seed=self._seed,
            sinks={name: list(items) for name, items in self.sinks.items()},
            dead=self.dead,
            ledger={edge.label: edge.ledger for edge in books.edges()},
            stages={stage.name: books.stage(stage.name) for stage in conductor.config.stages},
            restarts={
                name: seat.incarnation - 1
                for name, seat in conductor.seats.items()
                if seat.incarnation > 1
            },
            elapsed_s=self.elapsed_s,
        )


def _quick_folder() -> Path | None:
    """Where files cost least; None for the usual place."""
    has_room = MEMORY.is_dir() and disk_usage(MEMORY).free >= ROOM_BYTES
    return MEMORY if has_room else None


def _planned(faults: Faults, slots: list[str], random: Random) -> list[Fault]:
    if faults == "kills":
        return chaos(slots, random)
    planned = [*faults]
    if not all(isinstance(fault, Fault) for fault in planned):
        raise TypeError(f"faults are those of kill, kill_at and hang, or 'kills'; got {faults!r}")
    check_names("faults", [fault.slot for fault in planned], slots)
    return planned


def _supplies(declared: Declared, inputs: Mapping[str, Iterable[Any]]) -> dict[str, Supply]:
    sources = [stage.name for stage in declared.stages if stage.kind == "source"]
    check_names("inputs", inputs, sources)
    return {name: Supply(items, closed=False) for name, items in inputs.items()}


def _recorded(declared: Declared, sinks: Recorded) -> frozenset[str]:
    names = [stage.name for stage in declared.stages if stage.kind == "sink"]
    if sinks == "run":
        return frozenset()
    if sinks == "record":
        return frozenset(names)
    chosen = [sinks] if isinstance(sinks, str) else sinks
    check_names("sinks", chosen, names)
    return frozenset(chosen)


def _config(declared: Declared, replicas: Mapping[str, int]) -> RunConfig:
    counts = parse_replicas(declared, [f"{name}={count}" for name, count in replicas.items()])
    target = TargetConfig(target=declared.name, attribute=None, path=None)
    config = config_of(declared, counts, "test", target)
    # Nobody takes the power away from a test.
    stages = [replace(stage, durability="process") for stage in config.stages]
    return replace(config, stages=stages)

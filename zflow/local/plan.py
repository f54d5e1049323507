"""What a run is made of, worked out before anything starts: its configuration and its folders.

Decides names, numbers and snapshots. Starts no process and opens no socket.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as renewed

from zflow.clock import Clock
from zflow.config import parse_parameters
from zflow.declared.changes import Changes, changes
from zflow.declared.model import Declared, EdgeDecl
from zflow.errors import ConfigError, Problem, Unavailable
from zflow.hashing import text_hash64
from zflow.loader import Loaded, load, load_source
from zflow.paths import RunDirectory, StateDirectory, run_directory, runs_folder
from zflow.stages import StageDecl
from zflow.state.runs import (
    RunRecord,
    StoredRun,
    find_run,
    read_run,
    remove_run,
    superseded,
    write_private,
    write_record,
)
from zflow.wire.control import REDRIVE, EdgeConfig, RunConfig, StageConfig, TargetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that may begin. resumed: it continues one that was stopped."""

    declared: Declared
    config: RunConfig
    run: RunDirectory
    state: StateDirectory
    stored: StoredRun
    resumed: bool
    epoch: int = 1  # of the process that coordinates it
    stores: dict[str, str] = field(default_factory=dict)  # by stage; see `coordinator.duties`


def new_plan(
    loaded: Loaded,
    *,
    parameters: Sequence[str],
    replicas: Mapping[str, int],
    base: Path,
    state: Path | None,
    environment: Mapping[str, str],
    clock: Clock,
) -> Plan:
    """A new run of a topology that has been checked; raises ConfigError for its parameters."""
    declared = loaded.topology.declared()
    parse_parameters(declared, parameters)
    run_id = f"{clock.stamp()}-{secrets.token_hex(2)}"
    folder = runs_folder(base, declared.name)
    for old in list(superseded(folder)):
        remove_run(old)
    root = state if state is not None else folder / run_id
    record = RunRecord(
        run_id=run_id,
        topology=declared.name,
        target=loaded.target,
        attribute=loaded.attr,
        path=str(loaded.path) if loaded.path else None,
        digest=loaded.digest,
        parameters=list(parameters),
        replicas=[f"{name}={count}" for name, count in replicas.items()],
        started_at_s=clock.wall_s(),
    )
    directory = StateDirectory(root.absolute())
    if directory.record.exists():
        raise _refused(
            f"--state {root}",
            "there is a run in this folder already",
            "continue it with --resume, or name another folder",
        )
    directory.make()
    write_private(directory.code, loaded.source)
    write_record(directory, record)
    stored = StoredRun(record=record, state=directory)
    return _plan(declared, stored, replicas, environment, resumed=False)


def resumed_plan(
    loaded: Loaded,
    name: str,
    *,
    base: Path,
    state: Path | None,
    environment: Mapping[str, str],
) -> Plan:
    """The run of that id (or `last`), with the code and parameters it began with."""
    declared = loaded.topology.declared()
    stored = _stored(name, declared.name, base, state)
    record = stored.record
    if record.digest != loaded.digest:
        raise _refused(
            f"--resume {name}",
            f"the topology has changed since run {record.run_id} began",
            f"restore the file (its text is in {stored.state.code}), or start a new run",
        )
    replicas = dict(_counts(record.replicas))
    resumed = StoredRun(record=replace(record, outcome="", exit_code=None), state=stored.state)
    write_record(stored.state, resumed.record)
    return _plan(declared, resumed, replicas, environment, resumed=True)


def _stored(name: str, topology: str, base: Path, state: Path | None) -> StoredRun:
    """The run that `--resume NAME` means; a folder given with --state holds one run only."""
    if state is None:
        return find_run(runs_folder(base, topology), name)
    try:
        stored = read_run(state.absolute())
    except Unavailable as error:
        fix = "name the folder that the run was started with"
        raise _refused(f"--state {state}", str(error), fix) from error
    if name not in ("last", stored.record.run_id):
        message = f"the run in this folder is {stored.record.run_id}, not {name}"
        raise _refused(f"--state {state}", message, "give --resume last")
    return stored


def coordinated(plan: Plan) -> Plan:
    """The same plan for a process of its own that coordinates it: its words outrank those of any
    before it. Raises Unavailable if that cannot be written down."""
    path, stores = plan.state.epoch, plan.state.stores
    try:
        epoch = int(path.read_text()) + 1 if path.exists() else 1
        known = json.loads(stores.read_text()) if stores.exists() else {}
    except (OSError, ValueError) as error:
        raise Unavailable(f"{plan.state.root}: {error}") from error
    write_private(path, str(epoch).encode())
    return replace(plan, epoch=epoch, stores=known)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextVersion:
    """What a running run would become. changes: to its stages; config: of generation 1."""

    changes: Changes
    config: RunConfig


def with_codec(plan: Plan, codec: str) -> Plan:
    """The same plan, whose items travel by another codec."""
    return replace(plan, config=renewed(plan.config, codec=codec))


def next_version(
    stored: StoredRun,
    loaded: Loaded,
    parameters: Sequence[str],
    environment: Mapping[str, str],
) -> NextVersion:
    """Of a run, with another version of its topology, which has been checked.

    parameters: that take the place of those it has; raises ConfigError if they do not fit.
    """
    old, new = load_stored(stored).topology.declared(), loaded.topology.declared()
    texts = [*stored.record.parameters, *parameters]
    before = parse_parameters(old, stored.record.parameters)
    after = parse_parameters(new, texts)
    stages = [stage.name for stage in new.stages]
    changed = frozenset(name for name in stages if before.get(name, {}) != after.get(name, {}))
    record = replace(stored.record, parameters=texts)
    counts = dict(_counts(record.replicas))
    for stage in old.stages:  # its partitions were spread over so many
        counts.setdefault(stage.name, stage.options.replicas)
    renamed = StoredRun(record=record, state=stored.state)
    plan = _plan(new, renamed, counts, environment, resumed=True)
    return NextVersion(changes=changes(old, new, changed), config=plan.config)


def redrive_plan(
    stored: StoredRun,
    letters: Mapping[str, Sequence[str]],
    *,
    environment: Mapping[str, str],
    rate_per_s: float = 0.0,
) -> Plan:
    """A run of what lies behind the edges of some dead letters, fed with those letters.

    letters: by edge label. rate_per_s: at most so many over all edges together, 0 for any number.
    Raises ConfigError for an edge that the topology no longer has.
    """
    loaded = load_stored(stored)
    declared = loaded.topology.declared()
    edges = {edge.label: edge for edge in declared.edges}
    unknown = sorted(letters.keys() - edges.keys())
    if unknown:
        raise _refused(
            f"run {stored.record.run_id}",
            f"its dead letters cannot be sent again over {', '.join(unknown)}",
            "only letters that were on an edge of the topology can",
        )
    plan = _plan(declared, stored, dict(_counts(stored.record.replicas)), environment, resumed=True)
    chosen = {label: edges[label] for label in letters}
    config = _redriven(plan.config, chosen, letters, rate_per_s)
    for stage in config.stages:
        if stage.name.startswith(REDRIVE):
            for old in (stored.state.root / "positions").glob(f"{stage.name}-0.sqlite*"):
                old.unlink()
    return replace(plan, config=config)


def load_stored(stored: StoredRun) -> Loaded:
    """The topology of a run as it was when the run began; raises ConfigError."""
    record = stored.record
    if record.path is None:
        return load(record.target)
    source = stored.state.code.read_bytes()
    return load_source(source, Path(record.path), record.attribute, target=record.target)


def redrive_name(label: str) -> str:
    """The stage that sends dead letters over an edge; part of the ids of what fails again."""
    return REDRIVE + label.replace("->", ":")  # a shell would take `>` for itself


def _redriven(
    config: RunConfig,
    edges: Mapping[str, EdgeDecl],
    letters: Mapping[str, Sequence[str]],
    rate_per_s: float,
) -> RunConfig:
    """The part of the run behind these edges, each fed by a source of dead letters."""
    behind = {edge.target for edge in edges.values()}
    kept: list[EdgeConfig] = []
    for _ in config.stages:  # a path is no longer than the number of stages
        kept = [edge for edge in config.edges if edge.source in behind]
        behind |= {edge.target for edge in kept}
    by_label = {edge.label: edge for edge in config.edges}
    stages = [stage for stage in config.stages if stage.name in behind]
    for number, label in enumerate(edges, len(config.stages)):
        stages.append(_letter_source(redrive_name(label), number))
    kept += [_letter_edge(by_label[label], redrive_name(label)) for label in edges]
    return renewed(
        config,
        stages=stages,
        # Letters are few, and may come over a way that loses nothing: all of them are remembered.
        edges=[renewed(edge, unmarked=False) for edge in kept],
        redrive={redrive_name(label): list(ids) for label, ids in letters.items()},
        redrive_rate_per_s=rate_per_s,
    )


def _letter_source(name: str, number: int) -> StageConfig:
    return StageConfig(
        name=name,
        number=number,
        kind="source",
        replicas=1,
        retries=0,
        backoff_s=0.1,
        timeout_s=0.0,
        max_crashes=3,
        on_error="dead_letter",
    )


def _letter_edge(edge: EdgeConfig, source: str) -> EdgeConfig:
    """From a source of dead letters to where they were going."""
    number = text_hash64(source, edge.target, edge.output or "")
    return renewed(edge, edge=number, source=source, output=None)


def _plan(
    declared: Declared,
    stored: StoredRun,
    replicas: Mapping[str, int],
    environment: Mapping[str, str],
    *,
    resumed: bool,
) -> Plan:
    record, state = stored.record, stored.state
    run = run_directory(state.root, environment)
    target = TargetConfig(target=record.target, attribute=record.attribute, path=record.path)
    config = config_of(declared, replicas, record.run_id, target, record.parameters)
    return Plan(
        declared=declared, config=config, run=run, state=state, stored=stored, resumed=resumed
    )


def config_of(
    declared: Declared,
    replicas: Mapping[str, int],
    run_id: str,
    target: TargetConfig,
    parameters: Sequence[str] = (),
) -> RunConfig:
    """What every replica of a run of this topology is told."""
    return RunConfig(
        run_id=run_id,
        generation=1,
        topology=declared.name,
        target=target,
        stages=_stage_configs(declared, replicas),
        edges=_edge_configs(declared),
        parameters=list(parameters),
    )


def _stage_configs(declared: Declared, replicas: Mapping[str, int]) -> list[StageConfig]:
    return [
        StageConfig(
            name=decl.name,
            number=number,
            kind=decl.kind,
            replicas=replicas.get(decl.name, decl.options.replicas),
            retries=decl.options.retries,
            backoff_s=decl.options.backoff_s,
            timeout_s=decl.options.timeout_s,
            max_crashes=decl.options.max_crashes,
            on_error=decl.options.on_error,
            partitions=declared.partitions(decl.name),
            durability=decl.options.durability,
            **_most_replicas(declared, decl),
        )
        for number, decl in enumerate(declared.stages)
    ]


def _most_replicas(declared: Declared, decl: StageDecl) -> dict[str, Any]:
    """How far the stage can be scaled, where there is a limit."""
    if decl.kind == "sink" and hasattr(decl.target, "commit"):
        return {"most_replicas": 1, "why_most": "commit() has one writer"}
    edges = declared.edges_into(decl.name)
    if declared.partitions(decl.name) and any(edge.key is None for edge in edges):
        return {"most_replicas": 1, "why_most": "no key= says which replica has which item"}
    return {}


def _edge_configs(declared: Declared) -> list[EdgeConfig]:
    return [
        EdgeConfig(
            edge=text_hash64(edge.source, edge.target, edge.output or ""),
            label=edge.label,
            source=edge.source,
            target=edge.target,
            output=edge.output,
            delivery=edge.delivery,
            partitions=declared.partitions(edge.target),
            unmarked=declared.is_unmarked(edge),
            window_items=edge.window,
            lanes=edge.priority is not None,
            fair_ratio=edge.fair,
            on_full=edge.on_full,
        )
        for edge in declared.edges
    ]


def _counts(texts: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, int(count)) for name, _, count in (text.rpartition("=") for text in texts)]


def _refused(where: str, message: str, fix: str) -> ConfigError:
    return ConfigError([Problem(where=where, file="", line=0, message=message, fix=fix)])

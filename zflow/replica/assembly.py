"""Puts one replica together from its configuration: core, sockets, user code, worker.

Decides which part gets which setting. Starts nothing and opens no socket.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from zflow.config import parse_parameters
from zflow.declared.model import Declared
from zflow.errors import InternalError
from zflow.hashing import text_hash64
from zflow.ids import new_token
from zflow.loader import Loaded, load, load_source
from zflow.paths import StateDirectory
from zflow.protocol.core import Core, CoreSettings, OriginSettings
from zflow.protocol.inbox import InboxSettings
from zflow.protocol.outbox import EdgeSettings
from zflow.protocol.sender import Identity
from zflow.replica.batches import BatchWorker
from zflow.replica.committer import Committer
from zflow.replica.concurrent import ConcurrentWorker, ThreadWorker
from zflow.replica.context import Context, SharedContext
from zflow.replica.durable import DurableWorker
from zflow.replica.emit import Emitter, Keying, Route
from zflow.replica.gates import make_gates
from zflow.replica.journaled import journaled
from zflow.replica.partitions import Owned, Partitions
from zflow.replica.place import Place
from zflow.replica.redrive import redrive_begin
from zflow.replica.sinks import BatchSinkWorker, CommitSinkWorker, UpsertSinkWorker
from zflow.replica.source import SourceWorker
from zflow.replica.userside import UserCode, build, source_begin
from zflow.replica.worker import Bench, StageWorker, Worker
from zflow.replica.yields import YieldWorker
from zflow.shapes import entry_name
from zflow.stages import StageDecl
from zflow.state.journal import Journal
from zflow.state.positions import Position
from zflow.wire.codec import CODECS
from zflow.wire.control import REDRIVE, Ownership, RunConfig

VERSION_CHARACTERS = 12  # of the digest of the topology's code: for people to compare


SINKS: dict[str, type[StageWorker]] = {
    "write": BatchSinkWorker,
    "upsert": UpsertSinkWorker,
    "commit": CommitSinkWorker,
}


def load_topology(config: RunConfig, state: StateDirectory) -> Loaded:
    """The user's topology, from the snapshot of its file if there is one."""
    target = config.target
    if target.path is None:
        return load(target.target)
    source = state.code.read_bytes()
    return load_source(source, Path(target.path), target.attribute, target=target.target)


def make_core(
    place: Place,
    position: Position | None,
    *,
    random: Random | None = None,
    token: Callable[[], int] = new_token,
) -> Core:
    """The core of this replica, knowing all its neighbours.

    random, token: seeded ones, for a run that has to be the same every time.
    """
    config, me = place.config, str(place.slot)
    incoming = [edge for edge in config.edges if edge.target == place.slot.stage]
    identity = Identity(
        run_id=config.run_id,
        slot=me,
        incarnation=place.incarnation,
        ack_endpoint=place.ack,
        generation=config.generation,
        codec=config.codec,
    )
    inbox = InboxSettings(
        run_id=config.run_id,
        slot=me,
        incarnation=place.incarnation,
        generation=config.generation,
        codec=config.codec,
        edges=frozenset(edge.edge for edge in incoming),
        window_items=min((edge.window_items for edge in incoming), default=1),
        window_bytes=min((edge.window_bytes for edge in incoming), default=1),
        crashes=place.crashes,
        fair_ratio=max((edge.fair_ratio for edge in incoming if edge.lanes), default=None),
    )
    settings = CoreSettings(
        identity=identity,
        inbox=inbox,
        edges=tuple(_edges_out(place)),
        upstream=frozenset(
            (edge.edge, slot) for edge in incoming for slot in place.rosters[edge.source].names()
        ),
        generations={roster.stage: roster.generation for roster in place.rosters.values()},
        anchor=bool(place.stage.partitions),
    )
    origin = None
    if position is not None:
        number = text_hash64(place.slot.stage, str(place.slot.index), str(position.birth))
        origin = OriginSettings(origin=number, stage=place.slot.stage, low=first_low(position))
    return Core(
        settings,
        codec=CODECS[config.codec](),
        new_token=token,
        random=random or Random(),
        origin=origin,
    )


def first_low(position: Position) -> int:
    """Where a source begins: a source with places of its own begins at one of them."""
    mark = position.mark
    if mark is not None and mark.place is not None and not position.ended:
        return mark.end
    return position.low


def _edges_out(place: Place) -> Iterator[EdgeSettings]:
    config = place.config
    for edge in config.edges:
        if edge.source == place.slot.stage:
            target = config.stage(edge.target)
            yield EdgeSettings(
                edge=edge.edge,
                label=edge.label,
                stage=edge.target,
                targets=tuple(place.rosters[edge.target].names()),
                at_most_once=edge.delivery == "at_most_once",
                window_items=edge.window_items,
                window_bytes=edge.window_bytes,
                retries=target.retries,
                backoff_s=target.backoff_s,
                max_crashes=target.max_crashes,
                on_error=target.on_error,
                partitions=edge.partitions,
                lanes=edge.lanes,
                fair_ratio=edge.fair_ratio,
                on_full=edge.on_full,
                declared=target.replicas,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The user's side of this replica; nothing of it for a source of dead letters.

    version: the beginning of the digest of the code that this process has loaded.
    """

    declared: Declared
    decl: StageDecl | None
    code: UserCode | None
    parameters: dict[str, Any]
    context: Context
    version: str


def load_user(place: Place) -> User:
    """Import the topology and make the stage's instance; whatever the user's code raises."""
    name, config = place.slot.stage, place.config
    labels = {edge.edge: edge.label for edge in config.edges}
    # For dead letters too: its classes, and the keys of its edges.
    loaded = load_topology(config, place.state)
    declared = loaded.topology.declared()
    version = loaded.digest[:VERSION_CHARACTERS]
    if name.startswith(REDRIVE):
        context = Context(name, place.slot.index, {}, labels)
        return User(
            declared=declared,
            decl=None,
            code=None,
            parameters={},
            context=context,
            version=version,
        )
    parameters = parse_parameters(declared, config.parameters).get(name, {})
    return make_user(place, declared, parameters, version)


def make_user(
    place: Place, declared: Declared, parameters: dict[str, Any], version: str = ""
) -> User:
    """The user's side of a declared stage, its instance made; whatever the user's code raises."""
    name = place.slot.stage
    decl = declared.stage(name)
    labels = {edge.edge: edge.label for edge in place.config.edges}
    keys = {edge.label: edge.key for edge in declared.edges_into(name)}
    kind = SharedContext if decl.concurrency else Context
    context = kind(name, place.slot.index, parameters, labels, keys)
    code = build(decl, parameters, context)
    return User(
        declared=declared,
        decl=decl,
        code=code,
        parameters=parameters,
        context=context,
        version=version,
    )


def make_emitter(place: Place, user: User) -> Emitter:
    """The outgoing edges with the user's own `when=` and `key=`.

    A dead letter passed its `when=` before it failed; it is sent by its key like any other.
    """
    declared = {edge.label: edge for edge in user.declared.edges}
    resent = place.slot.stage.startswith(REDRIVE)
    routes = []
    for edge in place.config.edges:
        if edge.source == place.slot.stage:
            own = declared[edge.label]
            routes.append(
                Route(
                    edge=edge.edge,
                    output=edge.output,
                    when=None if resent else own.when,
                    keyed=Keying(own.key, edge.partitions) if edge.partitions else None,
                    priority=own.priority,
                )
            )
    return Emitter(routes)


def make_worker(
    place: Place,
    user: User,
    bench: Bench,
    position: Position | None,
    stored_low: Callable[[], int],
    failed: Callable[[BaseException], None],
) -> Worker:
    """What runs the user's code: a source, a generator, a plain function, or a sink."""
    if position is not None:
        return _source_worker(place, user, bench, position, stored_low, failed)
    decl, code = user.decl, user.code
    if decl is None or code is None:
        raise InternalError(f"{place.slot} has neither a position nor user code")
    gates = make_gates(
        decl.options,
        bench.reactor.core,
        bench.clock,
        retries=place.stage.retries,
        slots=lambda: len(place.rosters[place.slot.stage].slots),
        logger=bench.context.logger,
        into=place.into,
    )
    settings: dict[str, Any] = {
        "retry_on": decl.options.retry_on,
        "positioned": decl.is_class,
        "is_sink": decl.kind == "sink",
        "gates": gates,
    }
    if decl.options.batch:
        return BatchWorker(bench, code.call, decl.options, **settings)
    if decl.concurrency:
        return _concurrent_worker(place, decl, bench, code, settings)
    kind: type[StageWorker] = StageWorker
    if decl.kind == "sink" and decl.is_class:
        kind = SINKS[entry_name(decl.target, "sink")]
    elif decl.is_generator:
        kind = YieldWorker
    return kind(bench, code.call, **settings)


def _concurrent_worker(
    place: Place, decl: StageDecl, bench: Bench, code: UserCode, settings: dict[str, Any]
) -> ConcurrentWorker:
    settings["concurrency"] = decl.concurrency
    if not decl.is_async:
        return ThreadWorker(bench, code.call, **settings)
    # asyncio takes as long to import as all of a plain replica's own code.
    from zflow.replica.asynchronous import AsyncWorker, AsyncYieldWorker

    kind = AsyncYieldWorker if decl.is_generator else AsyncWorker
    return kind(bench, code.call, timeout_s=place.stage.timeout_s, **settings)


def make_durable(
    place: Place,
    user: User,
    bench: Bench,
    wake: Callable[[], None],
    owners: Ownership | None,
    *,
    committer: Committer[Owned] | None = None,
    birth: int | None = None,
) -> DurableWorker:
    """What runs a durable stage, with its partitions acquired and their outputs on their way.

    owners: who owns which partitions, if some of them have moved. committer: one without threads.
    birth: see `Partitions`.
    """
    decl, code = user.decl, user.code
    assert decl is not None, "a durable stage is declared"
    assert code is not None, "a durable stage has user code"
    reactor = bench.reactor
    partitions = Partitions(reactor.core, reactor.lock, place.stage, place.slot, place.state, birth)
    worker = DurableWorker(
        bench,
        code.instance,
        code.call,
        partitions,
        committer or Committer(bench.clock, wake),
        stage=place.slot.stage,
        options=decl.options,
        yields=decl.is_generator or decl.runtime is not None,
    )
    if owners is not None:  # the last owner of what has moved here may still hold it
        worker.moving.assign(owners.generation, owners.slots)
    else:
        worker.open_existing()
    return worker


def _source_worker(
    place: Place,
    user: User,
    bench: Bench,
    position: Position,
    stored_low: Callable[[], int],
    failed: Callable[[BaseException], None],
) -> SourceWorker:
    stage = place.stage
    begin = redrive_begin(place, bench.clock)
    skips, where = False, None
    if user.decl is not None and user.code is not None:
        instance = user.code.instance
        where = getattr(instance, "position", None)
        skips = not user.decl.takes_resume
        begin = source_begin(
            user.decl, user.code, partition=place.slot.index, partitions=stage.replicas
        )
        if user.decl.options.journaled:
            skips = False
            journal = Journal(place.state.journal(place.slot), low=position.low)
            begin = journaled(begin, journal, stored_low, bench.clock)
    return SourceWorker(
        bench,
        begin,
        position=position,
        skips=skips,
        place=where,
        retries=stage.retries,
        backoff_s=stage.backoff_s,
        failed=failed,
    )

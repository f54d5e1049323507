"""What is wrong with a declared graph, each problem with its file, line and fix.

Decides which graphs are valid. Never raises for a user's mistake.
"""

import typing
from collections.abc import Generator, Iterable, Iterator
from types import NoneType, UnionType
from typing import Any

from zflow.declared.model import Declared, EdgeDecl, neighbours_of, reach
from zflow.errors import Problem
from zflow.shapes import annotations_of, arguments_of, is_async
from zflow.stages import Emit, StageDecl, problem_at

STREAMS = (Iterator, Iterable, Generator)
WIDENS = {(int, float), (int, complex), (float, complex)}  # PEP 484, the numeric tower


def refused_edges(declared: Declared, excused: set[str]) -> Iterator[Problem]:
    """Edges into a source, out of a sink, or twice; who is on them is added to `excused`."""
    first: dict[str, EdgeDecl] = {}
    for edge in declared.edges:
        site = (edge.file, edge.line)
        if declared.stage(edge.target).kind == "source":
            fix = f"a source has no input: let {edge.target} be a @stage"
            yield problem_at(edge.label, site, f"an edge into the source '{edge.target}'", fix)
            excused |= {edge.source, edge.target}
        if declared.stage(edge.source).kind == "sink":
            fix = f"a sink has no output: let {edge.source} be a @stage"
            yield problem_at(edge.label, site, f"an edge out of the sink '{edge.source}'", fix)
            excused |= {edge.source, edge.target}
        if (other := first.setdefault(edge.label, edge)) is not edge:
            message = f"the same edge twice; the other is at {other.file}:{other.line}"
            yield problem_at(edge.label, site, message, "remove one of them, or give output=")


def keyed_edges(declared: Declared) -> Iterator[Problem]:
    """Functions of edges that would have to be awaited, keys that lead nowhere, durable stages that
    are not keyed as a whole, or by nothing."""
    for edge in declared.edges:
        for option, function in (("when", edge.when), ("key", edge.key)):
            if is_async(function):
                message = f"{option}= is async: it gives a coroutine, not an answer"
                fix = "write it without async; await in the stage before it"
                yield problem_at(edge.label, (edge.file, edge.line), message, fix)
        if edge.key is not None and not declared.stage(edge.target).is_durable:
            fix = "derive the stage from DurableStage, or remove key="
            message = f"key= leads to '{edge.target}', which has no state to keep by key"
            yield problem_at(edge.label, (edge.file, edge.line), message, fix)
    for stage in declared.stages:
        inward = declared.edges_into(stage.name)
        if not stage.is_durable or stage.kind != "stage" or not inward:
            continue
        free = [edge for edge in inward if edge.key is None]
        site = (stage.file, stage.line)
        if free and len(free) < len(inward):
            message = f"{free[0].label} has no key=, other edges into '{stage.name}' have"
            fix = "give key= to every edge into a durable stage, or to none"
            yield problem_at(free[0].label, (free[0].file, free[0].line), message, fix)
        elif free and stage.options.replicas > 1:
            message = f"replicas={stage.options.replicas}, and no key= says which of them has what"
            fix = "give key= to the edges into it, or replicas=1"
            yield problem_at(stage.name, site, message, fix)


def queued_edges(declared: Declared) -> Iterator[Problem]:
    """Ways to wait that would break the order, or the exactness, of a stage with state."""
    for edge in declared.edges:
        target = declared.stage(edge.target)
        site = (edge.file, edge.line)
        if not target.is_durable:
            continue
        if edge.priority is not None:
            message = f"priority= leads to '{target.name}', which keeps the order of its items"
            fix = "remove priority=, or give it to an edge before that stage"
            yield problem_at(edge.label, site, message, fix)
        if edge.on_full != "block":
            message = f"on_full='{edge.on_full}' leads to '{target.name}', which counts each item"
            fix = "remove on_full=, or give it to an edge before that stage"
            yield problem_at(edge.label, site, message, fix)


def inputs(declared: Declared) -> Iterator[Problem]:
    """Stages that need a certain number of edges and have another."""
    for stage in declared.stages:
        inward = declared.edges_into(stage.name)
        if stage.runtime is None or not stage.runtime.inputs or not inward:
            continue  # without any edge it is a loose end, which is another problem
        if len(inward) != stage.runtime.inputs:
            edges = "1 edge leads" if len(inward) == 1 else f"{len(inward)} edges lead"
            message = f"{stage.runtime.what} has a left and a right edge, but {edges} into it"
            fix = "connect the left stage to it, then the right one, and nothing else"
            yield problem_at(stage.name, (stage.file, stage.line), message, fix)


def writers(declared: Declared) -> Iterator[Problem]:
    """Sinks with `commit()` in several processes: each would store the progress of all."""
    for stage in declared.stages:
        if stage.kind == "sink" and hasattr(stage.target, "commit") and stage.options.replicas > 1:
            message = f"replicas={stage.options.replicas}, but commit() has one writer"
            fix = "give replicas=1, or write upsert(items, ids)"
            yield problem_at(stage.name, (stage.file, stage.line), message, fix)


def cycles(declared: Declared) -> Iterator[Problem]:
    """Each cycle once, at the edge that was declared last."""
    neighbours, reported = neighbours_of(declared), set[frozenset[str]]()
    order = list(neighbours)
    for edge in reversed(declared.edges):  # the edge declared last is the likely mistake
        reached = reach([edge.target], neighbours)
        if edge.source not in reached:
            continue
        path, before = [edge.source], reached[edge.source]
        while before is not None:
            path.insert(0, before)
            before = reached[before]
        # Through a source or a sink it has a refused edge, which is reported already.
        if frozenset(path) in reported or any(declared.stage(n).kind != "stage" for n in path):
            continue
        reported.add(frozenset(path))
        start = path.index(min(path, key=order.index))
        path = [*path[start:], *path[:start], path[start]]
        message = f"the edges form a cycle: {' -> '.join(path)}"
        yield problem_at(edge.label, (edge.file, edge.line), message, "remove one of these edges")


def loose_ends(declared: Declared, excused: set[str], *, has_cycle: bool) -> Iterator[Problem]:
    """Stages without edges, without a source above them, or whose items go nowhere."""
    sources = [stage.name for stage in declared.stages if stage.kind == "source"]
    reached = reach([*sources, *excused], neighbours_of(declared))
    for stage in declared.stages:
        if stage.name in excused:
            continue
        site = (stage.file, stage.line)
        inward, outward = declared.edges_into(stage.name), declared.edges_from(stage.name)
        if not inward and not outward:
            fix = "connect it, or remove its declaration"
            yield problem_at(stage.name, site, "is not connected to anything", fix)
            continue
        # Behind a cycle nothing is reachable, and without sources nothing at all is.
        if stage.name not in reached and sources and not has_cycle:
            fix = "connect a source to it, or to a stage before it"
            yield problem_at(stage.name, site, "no source reaches it", fix)
        if stage.kind != "sink" and not outward:
            fix = "connect it to a next stage, or declare it with @sink"
            yield problem_at(stage.name, site, "its items go nowhere", fix)


def mismatches(declared: Declared) -> Iterator[Problem]:
    """Edges across which the annotations cannot match."""
    for edge in declared.edges:
        gives, wants = _given(declared.stage(edge.source)), _wanted(declared.stage(edge.target))
        if edge.output is not None or gives is None or wants is None:
            continue
        try:
            related = issubclass(gives, wants) or issubclass(wants, gives)
        except TypeError:  # a class that cannot be asked, such as a Protocol or a TypedDict
            continue
        if not related and (gives, wants) not in WIDENS:
            message = f"{edge.source} gives {gives.__name__}, {edge.target} takes {wants.__name__}"
            site = (edge.file, edge.line)
            yield problem_at(edge.label, site, message, "change one of the two annotations")


def _given(stage: StageDecl) -> type | None:
    """The class of what a stage gives to an edge without output=; None where that is not plain."""
    hint = annotations_of(stage.entry).get("return")
    if stage.kind == "source" or stage.is_generator:
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) in STREAMS else None
    elif stage.options.batch:  # -> list[X | None]
        hint = next(iter(typing.get_args(hint)), None)
    return _plain(hint)


def _wanted(stage: StageDecl) -> type | None:
    """The class of the item that a stage takes; None where that is not plain."""
    if stage.entry is None or stage.kind == "source" or stage.runtime is not None:
        return None
    arguments = (arguments_of(stage.entry) or [])[1 if stage.is_class else 0 :]
    hint = annotations_of(stage.entry).get(arguments[0].name) if arguments else None
    if stage.options.batch or (stage.is_class and stage.kind == "sink"):  # items: list[X]
        hint = next(iter(typing.get_args(hint)), None)
    return _plain(hint)


def _plain(hint: Any) -> type | None:
    """The one class of an annotation; None (not sent) and Emit (sent elsewhere) do not count."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        options = [one for one in typing.get_args(hint) if one not in (NoneType, Emit)]
        hint = options[0] if len(options) == 1 else None
    return hint if isinstance(hint, type) and hint not in (Any, Emit, NoneType) else None

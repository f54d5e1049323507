"""The declared graph: `Topology` collects stages and edges, `Declared` is the frozen result.

Decides which graphs are valid and what each sink may expect. Never raises for a user's mistake:
each is kept as a problem with its file and line, so that `zflow check` shows all of them at once.
Never starts, loads or sends anything.
"""

import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypedDict, Unpack, overload

from zflow import stages as api
from zflow.errors import Problem, suggest
from zflow.stages import Emit, Kind, Site, StageDecl, problem_at

Delivery = Literal["at_least_once", "at_most_once"]
Predicate = Callable[[Any], object]

DELIVERIES = typing.get_args(Delivery)
EDGE_OPTIONS = ("output", "when", "delivery")
STREAMS = (Iterator, Iterable, Generator)
WIDENS = {(int, float), (int, complex), (float, complex)}  # PEP 484, the numeric tower


class LinkKeywords(TypedDict, total=False):
    """The options of every edge of a chain."""

    when: Predicate | None
    delivery: Delivery | None


class EdgeKeywords(LinkKeywords, total=False):
    """The options of a single edge."""

    output: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeDecl:
    """One declared edge. source and target are names of stages; `when` runs at the sender."""

    source: str
    target: str
    output: str | None
    when: Predicate | None
    delivery: Delivery
    file: str
    line: int

    @property
    def label(self) -> str:
        """How people and metrics name it: `parse->enrich` or `parse->enrich:output`."""
        return f"{self.source}->{self.target}" + (f":{self.output}" if self.output else "")

    @property
    def text(self) -> str:
        """How the command line names it: `parse:enrich` or `parse:enrich:output`."""
        return self.label.replace("->", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A topology as data: stages in topological order, edges in the order of declaration."""

    name: str
    delivery: Delivery
    stages: tuple[StageDecl, ...]
    edges: tuple[EdgeDecl, ...]

    def stage(self, name: str) -> StageDecl:
        """The stage of that name. raises: KeyError."""
        return {stage.name: stage for stage in self.stages}[name]

    def edges_from(self, name: str) -> tuple[EdgeDecl, ...]:
        """The edges out of a stage."""
        return tuple(edge for edge in self.edges if edge.source == name)

    def edges_into(self, name: str) -> tuple[EdgeDecl, ...]:
        """The edges into a stage."""
        return tuple(edge for edge in self.edges if edge.target == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What one sink may expect, and why."""

    sink: str
    delivery: Delivery
    why: str


class Topology:
    """The graph that a user declares: who sends to whom, in separate processes."""

    def __init__(self, name: str, *, delivery: Delivery = "at_least_once", **unknown: Any) -> None:
        self.name = str(name)
        self.file, self.line = call_site = api.call_site(1)
        self._problems: list[Problem] = []
        self._stages: dict[str, StageDecl] = {}
        self._seen: list[StageDecl] = []  # also those whose name was taken already
        self._edges: list[EdgeDecl] = []
        # What a refused edge or unknown stage touches: calling it unconnected would hide the cause.
        self._excused: set[str] = set()
        self._guesses = False  # whether something refused may have been the source
        if not api.NAME.fullmatch(self.name):
            self._refuse(self.name, call_site, "cannot name a topology", f"give {api.NAME_WANTED}")
        for option in unknown:
            self._refuse(self.name, call_site, f"unknown option '{option}'", "give delivery= only")
        self.delivery = self._delivery(delivery, self.name, call_site) or "at_least_once"

    @overload
    def connect(self, a: object, b: object, /, **options: Unpack[EdgeKeywords]) -> None: ...
    @overload
    def connect(
        self, a: object, b: object, c: object, /, *more: object, **options: Unpack[LinkKeywords]
    ) -> None: ...
    def connect(self, *stages: object, **options: Any) -> None:
        """Let items flow from each stage to the next one; options apply to every edge.

        Two calls from one stage fan out: each consumer gets every item.
        """
        site = api.call_site(1)
        names = [self._resolve(stage, site) for stage in stages]
        where = "->".join(name or "?" for name in names) or "connect"
        if len(names) < 2:
            self._refuse(where, site, "connects fewer than two stages", "connect(a, b)")
        if len(names) > 2 and options.get("output") is not None:
            fix = "give output= to connect(a, b, output=...)"
            self._refuse(where, site, "output= in a chain of edges is ambiguous", fix)
            options["output"] = None
        options = self._edge_options(options, where, site)
        for source, target in pairwise(names):
            if source is None or target is None:
                self._excused |= {name for name in (source, target) if name}
                continue
            edge = EdgeDecl(source=source, target=target, file=site[0], line=site[1], **options)
            self._edges.append(edge)

    def source(self, target: object, /, **options: Unpack[api.SourceKeywords]) -> StageDecl:
        """Declare an undecorated source, or one twice; the result goes into `connect`."""
        return self._declare(target, "source", options)

    def stage(self, target: object, /, **options: Unpack[api.StageKeywords]) -> StageDecl:
        """Declare an undecorated stage, or one stage twice; the result goes into `connect`."""
        return self._declare(target, "stage", options)

    def sink(self, target: object, /, **options: Unpack[api.StageKeywords]) -> StageDecl:
        """Declare an undecorated sink, or one sink twice; the result goes into `connect`."""
        return self._declare(target, "sink", options)

    def declared(self) -> Declared:
        """The graph so far, frozen. Meaningful only when `problems()` is empty."""
        return Declared(
            name=self.name,
            delivery=self.delivery,
            stages=tuple(_ordered(self._stages, self._edges)),
            edges=tuple(self._edges),
        )

    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, in the order of files and lines."""
        found = [*self._problems]
        found.extend(problem for stage in self._seen for problem in stage.problems)
        declared, excused = self.declared(), set(self._excused)
        found.extend(_refused_edges(declared, excused))
        cycles = list(_cycles(declared))
        found.extend(cycles)
        found.extend(_loose_ends(declared, excused, has_cycle=bool(cycles)))
        if not self._guesses and all(stage.kind != "source" for stage in declared.stages):
            fix = "declare a generator function with @source and connect it"
            found.append(problem_at(self.name, (self.file, self.line), "has no source", fix))
        return tuple(sorted(dict.fromkeys(found), key=lambda problem: (problem.file, problem.line)))

    def warnings(self) -> tuple[Problem, ...]:
        """Edges across which the annotations cannot match."""
        return tuple(_mismatches(self.declared()))

    def _refuse(self, where: str, site: Site, message: str, fix: str) -> None:
        self._problems.append(problem_at(where, site, message, fix))

    def _declare(self, target: Any, kind: Kind, options: Mapping[str, object]) -> StageDecl:
        site = api.call_site(2)  # the user called `source`, `stage` or `sink`
        before = target if isinstance(target, StageDecl) else api.declaration_of(target)
        target = before.target if before else target
        base = before if before and before.kind == kind else None
        decl = api.declare(target, kind, options, site=site, base=base.options if base else None)
        if base:
            known = {problem.message for problem in base.problems}
            fresh = [problem for problem in decl.problems if problem.message not in known]
            decl = replace(decl, problems=(*base.problems, *fresh))
        self._register(decl)
        return decl

    def _register(self, decl: StageDecl) -> str | None:
        """The name of a stage; None, and a problem, if another one has that name already."""
        first = self._stages.setdefault(decl.name, decl)
        if not any(decl is seen for seen in self._seen):
            self._seen.append(decl)
            if first is not decl:
                message = f"two stages of one name; the other is at {first.file}:{first.line}"
                fix = f"give this one a name of its own: @{decl.kind}(name=...)"
                self._refuse(decl.name, (decl.file, decl.line), message, fix)
                self._guesses = True
        return decl.name if first is decl else None

    def _resolve(self, stage: object, site: Site) -> str | None:
        """The name of what was given to `connect`; None, and a problem, if it is not a stage."""
        decl = stage if isinstance(stage, StageDecl) else api.declaration_of(stage)
        if decl is not None:
            return self._register(decl)
        self._guesses = True
        name = getattr(stage, "__name__", repr(stage))
        message = "is not a stage"
        fix = "decorate it with @source, @stage or @sink, or declare it with flow.stage(f)"
        if api.declaration_of(type(stage)) is not None:
            name, message = type(stage).__name__, "is an instance of a stage class"
            fix = f"connect {name} itself"
        elif isinstance(getattr(stage, api.DECLARATION, None), StageDecl):
            message = "only wraps or inherits from a declared stage"
            fix = f"decorate {name} itself, with the decorator of zflow outermost"
        self._refuse(name, site, message, fix)
        return None

    def _delivery(self, value: object, where: str, site: Site) -> Delivery | None:
        if value is None or value in DELIVERIES:
            return typing.cast("Delivery | None", value)
        message, fix = f"delivery={value!r} is not valid", suggest(str(value), DELIVERIES)
        if value == "exactly_once":
            message = "delivery='exactly_once' needs durable stages: not in this version yet"
            fix = "use 'at_least_once'"
        self._refuse(where, site, message, fix)
        return None

    def _edge_options(self, given: dict[str, Any], where: str, site: Site) -> dict[str, Any]:
        for option in [one for one in given if one not in EDGE_OPTIONS]:
            self._refuse(where, site, f"unknown option '{option}'", suggest(option, EDGE_OPTIONS))
        output, when = given.get("output"), given.get("when")
        if output is not None and not (isinstance(output, str) and api.NAME.fullmatch(output)):
            self._refuse(where, site, f"output={output!r} is not valid", f"give {api.NAME_WANTED}")
            output = None
        if when is not None and not callable(when):
            fix = "give a function that takes the item and says whether to send it"
            self._refuse(where, site, f"when={when!r} is not valid", fix)
            when = None
        delivery = self._delivery(given.get("delivery"), where, site)
        return {"output": output, "when": when, "delivery": delivery or self.delivery}


def explain_delivery(declared: Declared) -> tuple[Guarantee, ...]:
    """What each sink may expect, and why."""
    return tuple(_guarantee(declared, one) for one in declared.stages if one.kind == "sink")


def _guarantee(declared: Declared, sink: StageDecl) -> Guarantee:
    above = _reach([sink.name], _neighbours(declared, backwards=True))
    lossy = [e.label for e in declared.edges if e.target in above and e.delivery != DELIVERIES[0]]
    delivery: Delivery = "at_most_once" if lossy else "at_least_once"
    why = "every edge on its ways is at_least_once; after a crash an item may come twice"
    if lossy:
        why = f"{', '.join(lossy)}: what a crash loses there is counted, not sent again"
    for stage in declared.stages:
        if stage.name in above and stage.options.on_error == "drop":
            why += f"; {stage.name} drops, and counts, the items that it fails on"
    return Guarantee(sink=sink.name, delivery=delivery, why=why)


def _ordered(stages: Mapping[str, StageDecl], edges: Iterable[EdgeDecl]) -> Iterator[StageDecl]:
    """Topological order, ties in the order of declaration; a cycle is entered at its first."""
    waiting = {name: {e.source for e in edges if e.target == name} for name in stages}
    while waiting:
        free = next((name for name in waiting if not waiting[name] & waiting.keys()), None)
        name = free if free is not None else next(iter(waiting))
        del waiting[name]
        yield stages[name]


def _neighbours(declared: Declared, *, backwards: bool = False) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {stage.name: [] for stage in declared.stages}
    for edge in declared.edges:
        start, end = (edge.target, edge.source) if backwards else (edge.source, edge.target)
        found[start].append(end)
    return found


def _reach(starts: Iterable[str], neighbours: Mapping[str, list[str]]) -> dict[str, str | None]:
    """Everything reachable, breadth first, each with the one it was reached from."""
    reached: dict[str, str | None] = dict.fromkeys(starts)
    queue = list(reached)
    for name in queue:
        for neighbour in neighbours[name]:
            if neighbour not in reached:
                reached[neighbour] = name
                queue.append(neighbour)
    return reached


def _refused_edges(declared: Declared, excused: set[str]) -> Iterator[Problem]:
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


def _cycles(declared: Declared) -> Iterator[Problem]:
    neighbours, reported = _neighbours(declared), set[frozenset[str]]()
    order = list(neighbours)
    for edge in reversed(declared.edges):  # the edge declared last is the likely mistake
        reached = _reach([edge.target], neighbours)
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


def _loose_ends(declared: Declared, excused: set[str], *, has_cycle: bool) -> Iterator[Problem]:
    """Stages without edges, without a source above them, or whose items go nowhere."""
    sources = [stage.name for stage in declared.stages if stage.kind == "source"]
    reached = _reach([*sources, *excused], _neighbours(declared))
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


def _mismatches(declared: Declared) -> Iterator[Problem]:
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
    hint = api.annotations_of(stage.entry).get("return")
    if stage.kind == "source" or stage.is_generator:
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) in STREAMS else None
    return _plain(hint)


def _wanted(stage: StageDecl) -> type | None:
    """The class of the item that a stage takes; None where that is not plain."""
    if stage.entry is None or stage.kind == "source":
        return None
    arguments = (api.arguments_of(stage.entry) or [])[1 if stage.is_class else 0 :]
    hint = api.annotations_of(stage.entry).get(arguments[0].name) if arguments else None
    if stage.is_class and stage.kind == "sink":  # write(items: list[X])
        hint = next(iter(typing.get_args(hint)), None)
    return _plain(hint)


def _plain(hint: Any) -> type | None:
    """The one class of an annotation; None (not sent) and Emit (sent elsewhere) do not count."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        options = [one for one in typing.get_args(hint) if one not in (NoneType, Emit)]
        hint = options[0] if len(options) == 1 else None
    return hint if isinstance(hint, type) and hint not in (Any, Emit, NoneType) else None

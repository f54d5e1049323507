"""`Topology`: collects the stages and edges that a user declares.

Never raises for a user's mistake: each is kept as a problem with its file and line, so that
`zflow check` shows all of them at once. Never starts, loads or sends anything.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypedDict, TypeVar, Unpack, overload

from zflow import stages as api
from zflow.declared import checks
from zflow.declared.guarantees import weaker_sinks
from zflow.declared.model import (
    DELIVERIES,
    ON_FULL,
    PROMISES,
    Declared,
    Delivery,
    EdgeDecl,
    KeyOf,
    OnFull,
    Predicate,
    Priority,
    Promise,
    ordered,
)
from zflow.errors import Problem, suggest
from zflow.occasions import Failure, Letter, Run
from zflow.shapes import Kind
from zflow.stages import Site, StageDecl, problem_at
from zflow.wire.run import LANES

T = TypeVar("T")
H = TypeVar("H")

EDGE_OPTIONS = (
    *("output", "when", "delivery", "key"),
    *("priority", "fair", "window", "on_full"),
)
ALONE = ("output", "key")  # options of one edge, not of a chain
QUEUE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "priority": (
        lambda value: callable(value) or (api.is_whole(value, 0) and value < LANES),
        f"a whole number from 0, the most urgent, to {LANES - 1}, or a function of the item",
    ),
    "fair": (lambda value: api.is_number(value) and 0 < value < 1, "a share between 0 and 1"),
    "window": (lambda value: api.is_whole(value, 1), "a whole number of items, at least 1"),
    "on_full": (lambda value: value in ON_FULL, f"one of {', '.join(ON_FULL)}"),
}


class LinkKeywords(TypedDict, total=False):
    """The options of every edge of a chain."""

    when: Predicate | None
    delivery: Delivery | None
    priority: int | Priority | None
    fair: float
    window: int
    on_full: OnFull


class EdgeKeywords(LinkKeywords, total=False):
    """The options of a single edge."""

    output: str | None
    key: KeyOf | None


class Topology:
    """The graph that a user declares: who sends to whom, in separate processes."""

    def __init__(self, name: str, *, delivery: Promise = "at_least_once", **unknown: Any) -> None:
        self.name = str(name)
        self.file, self.line = call_site = api.call_site(1)
        self._problems: list[Problem] = []
        self._stages: dict[str, StageDecl] = {}
        self._seen: list[StageDecl] = []  # also those whose name was taken already
        self._edges: list[EdgeDecl] = []
        self._hooks: dict[str, list[Callable[[Any], object]]] = {}
        # What a refused edge or unknown stage touches: calling it unconnected would hide the cause.
        self._excused: set[str] = set()
        self._guesses = False  # whether something refused may have been the source
        if not api.NAME.fullmatch(self.name):
            self._refuse(self.name, call_site, "cannot name a topology", f"give {api.NAME_WANTED}")
        for option in unknown:
            self._refuse(self.name, call_site, f"unknown option '{option}'", "give delivery= only")
        promise = self._delivery(delivery, self.name, call_site, PROMISES) or "at_least_once"
        self.delivery = typing.cast("Promise", promise)

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
        for option in ALONE if len(names) > 2 else ():
            if options.get(option) is not None:
                fix = f"give {option}= to connect(a, b, {option}=...)"
                self._refuse(where, site, f"{option}= in a chain of edges is ambiguous", fix)
                options[option] = None
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

    def on_start(self, hook: Callable[[Run], H]) -> Callable[[Run], H]:
        """Call this function with the `Run` once all replicas run.

        Hooks run one after the other in a process of their own, beside whoever leads the run: they
        hold up no item, and what one raises is shown and forgotten.
        """
        return self._hook("on_start", hook)

    def on_finish(self, hook: Callable[[Run], H]) -> Callable[[Run], H]:
        """Call this function with the `Run` when it is over, however it ended."""
        return self._hook("on_finish", hook)

    def on_error(self, hook: Callable[[Failure], H]) -> Callable[[Failure], H]:
        """Call this function with a `Failure` whenever a replica dies, and if the run fails."""
        return self._hook("on_error", hook)

    def on_dead_letter(self, hook: Callable[[Letter], H]) -> Callable[[Letter], H]:
        """Call this function with each `Letter` of an item that was given up, once it is stored.

        At least once: twice if the process of the hooks is killed right behind the call.
        """
        return self._hook("on_dead_letter", hook)

    def _hook(self, name: str, hook: Callable[[T], H]) -> Callable[[T], H]:
        site = api.call_site(2)
        fix = "give a plain function of one argument"
        given: Any = hook
        if not callable(given):
            self._refuse(name, site, f"{given!r} cannot be a hook", fix)
        elif inspect.iscoroutinefunction(given):
            self._refuse(name, site, f"{given.__name__} is async, and nobody would await it", fix)
        else:
            self._hooks.setdefault(name, []).append(hook)
        return hook

    def declared(self) -> Declared:
        """The graph so far, frozen. Meaningful only when `problems()` is empty."""
        return Declared(
            name=self.name,
            delivery=self.delivery,
            stages=tuple(ordered(self._stages, self._edges)),
            edges=tuple(self._edges),
            hooks={name: tuple(hooks) for name, hooks in self._hooks.items()},
        )

    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, in the order of files and lines."""
        found = [*self._problems]
        found.extend(problem for stage in self._seen for problem in stage.problems)
        declared, excused = self.declared(), set(self._excused)
        found.extend(checks.refused_edges(declared, excused))
        cycles = list(checks.cycles(declared))
        found.extend(cycles)
        found.extend(checks.keyed_edges(declared))
        found.extend(checks.queued_edges(declared))
        found.extend(checks.inputs(declared))
        found.extend(checks.writers(declared))
        if not self._seen or not cycles:
            found.extend(weaker_sinks(declared))
        found.extend(checks.loose_ends(declared, excused, has_cycle=bool(cycles)))
        if not self._guesses and all(stage.kind != "source" for stage in declared.stages):
            fix = "declare a generator function with @source and connect it"
            found.append(problem_at(self.name, (self.file, self.line), "has no source", fix))
        return tuple(sorted(dict.fromkeys(found), key=lambda problem: (problem.file, problem.line)))

    def warnings(self) -> tuple[Problem, ...]:
        """Edges across which the annotations cannot match."""
        return tuple(checks.mismatches(self.declared()))

    def _refuse(self, where: str, site: Site, message: str, fix: str) -> None:
        self._problems.append(problem_at(where, site, message, fix))

    def _declare(self, target: Any, kind: Kind, options: Mapping[str, object]) -> StageDecl:
        site = api.call_site(2)  # the user called `source`, `stage` or `sink`
        before = target if isinstance(target, StageDecl) else api.declaration_of(target)
        target = before.target if before else target
        base = before if before and before.kind == kind else None
        decl = api.declare(
            target,
            kind,
            options,
            site=site,
            base=base.options if base else None,
            runtime=base.runtime if base else None,
        )
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

    def _delivery(
        self, value: Any, where: str, site: Site, known: tuple[str, ...] = DELIVERIES
    ) -> str | None:
        if value is None or value in known:
            return typing.cast("str | None", value)
        message, fix = f"delivery={value!r} is not valid", suggest(str(value), known)
        if value == "exactly_once":
            message = "delivery='exactly_once' is a promise of sinks, not of an edge"
            fix = "give it to the topology: Topology(name, delivery='exactly_once')"
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
        key = given.get("key")
        if key is not None and not callable(key):
            fix = "give a function that takes the item and returns its key"
            self._refuse(where, site, f"key={key!r} is not valid", fix)
            key = None
        delivery = self._delivery(given.get("delivery"), where, site)
        if delivery is None:
            delivery = "at_most_once" if self.delivery == "at_most_once" else "at_least_once"
        wanted = {"output": output, "when": when, "key": key, "delivery": delivery}
        return wanted | self._queue_options(given, where, site)

    def _queue_options(self, given: dict[str, Any], where: str, site: Site) -> dict[str, Any]:
        """How items wait on an edge, as far as it is said and valid."""
        valid: dict[str, Any] = {}
        for option, (is_valid, wanted) in QUEUE_RULES.items():
            value = given.get(option)
            if value is not None and is_valid(value):
                valid[option] = value
            elif value is not None:
                self._refuse(where, site, f"{option}={value!r} is not valid", f"give {wanted}")
        if "fair" in valid and given.get("priority") is None:
            fix = "give priority= too, or remove fair="
            self._refuse(where, site, "fair= without priority=: nothing overtakes", fix)
        return valid

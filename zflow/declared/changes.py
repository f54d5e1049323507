"""What has to happen to a running pipeline so that it becomes another version of itself.

Decides which stages are replaced and what cannot be changed while data flows. Compares two declared
topologies; does nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from zflow.declared.fingerprints import fingerprint
from zflow.declared.model import Declared, EdgeDecl
from zflow.stages import StageDecl

SENDER_OPTIONS = ("retries", "backoff_s", "max_crashes", "on_error")  # applied by who sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """reasons: of each stage that is replaced, in topological order, why. refusals: sentences."""

    reasons: dict[str, list[str]]
    refusals: list[str]


def changes(old: Declared, new: Declared, parameters: frozenset[str] = frozenset()) -> Changes:
    """From one version to the next. parameters: stages whose parameters have other values."""
    refusals = list(_structure(old, new))
    if refusals:
        return Changes(reasons={}, refusals=refusals)
    reasons: dict[str, list[str]] = {stage.name: [] for stage in new.stages}
    for stage in new.stages:
        for reason, replaced in _stage(old.stage(stage.name), stage, new):
            for name in replaced:
                reasons[name].append(reason)
        if stage.name in parameters:
            reasons[stage.name].append("its parameters have changed")
    before = {edge.label: edge for edge in old.edges}
    for edge in new.edges:
        if fingerprint(before[edge.label].when) != fingerprint(edge.when):
            reasons[edge.source].append(f"when= of {edge.label} has changed")
        for option, value in _waiting(before[edge.label]).items():
            if value != _waiting(edge)[option]:
                for name in (edge.source, edge.target):
                    reasons[name].append(f"{option}= of {edge.label} has changed")
    return Changes(
        reasons={name: why for name, why in reasons.items() if why},
        refusals=[],
    )


def _waiting(edge: EdgeDecl) -> dict[str, object]:
    """How items wait on an edge: both of its ends know."""
    return {
        "priority": fingerprint(edge.priority),
        "fair": edge.fair,
        "window": edge.window,
        "on_full": edge.on_full,
    }


def _structure(old: Declared, new: Declared) -> Iterator[str]:
    """What the processes of a run have agreed on when it began."""
    if old.name != new.name:
        yield f"the topology is called {new.name}, the run is of {old.name}"
    names = {stage.name for stage in old.stages}
    for stage in new.stages:
        if stage.name not in names:
            yield f"stage {stage.name} is new"
        else:
            yield from _kind(old.stage(stage.name), stage)
    for name in sorted(names - {stage.name for stage in new.stages}):
        yield f"stage {name} is gone"
    before = {edge.label: edge for edge in old.edges}
    after = {edge.label: edge for edge in new.edges}
    for label in after.keys() - before.keys():
        yield f"edge {label} is new"
    for label in before.keys() - after.keys():
        yield f"edge {label} is gone"
    for label in sorted(before.keys() & after.keys()):
        yield from _edge(before[label], after[label])


def _kind(old: StageDecl, new: StageDecl) -> Iterator[str]:
    if old.kind != new.kind:
        yield f"{new.name} was a {old.kind} and is a {new.kind}"
    if old.is_durable != new.is_durable:
        yield f"{new.name} {'keeps' if new.is_durable else 'no longer keeps'} state"
    if old.options.journaled != new.options.journaled:
        yield f"journaled= of {new.name} has changed"
    if old.options.durability != new.options.durability:
        yield f"durability= of {new.name} has changed"


def _edge(old: EdgeDecl, new: EdgeDecl) -> Iterator[str]:
    if old.delivery != new.delivery:
        yield f"delivery= of {new.label} has changed"
    if (old.key is None) != (new.key is None) or fingerprint(old.key) != fingerprint(new.key):
        yield f"key= of {new.label} has changed: by it is decided who has which state"


def _stage(old: StageDecl, new: StageDecl, declared: Declared) -> Iterator[tuple[str, list[str]]]:
    """Reasons, each with the stages that are replaced for it."""
    if fingerprint(old.target) != fingerprint(new.target):
        yield "its code has changed", [new.name]
    above = [edge.source for edge in declared.edges_into(new.name)]
    for field in fields(new.options):
        before, after = getattr(old.options, field.name), getattr(new.options, field.name)
        if before == after or field.name == "replicas":
            continue
        if _is_same(field.name, before, after):
            continue  # what the file itself defines is another one in each version
        yield f"{field.name}= has changed", [new.name]
        if field.name in SENDER_OPTIONS:
            yield f"{field.name}= of {new.name} has changed", above


def _is_same(option: str, before: Any, after: Any) -> bool:
    if before is None or after is None:
        return False
    if option == "rate_key":
        return fingerprint(before) == fingerprint(after)
    if option == "breaker":
        numbers = (before.failures, before.reset_s) == (after.failures, after.reset_s)
        return numbers and _names(before.on) == _names(after.on)
    return option == "retry_on" and _names(before) == _names(after)


def _names(kinds: tuple[type[Exception], ...]) -> list[str]:
    return [kind.__name__ for kind in kinds]

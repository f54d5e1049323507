"""What each sink may expect of a declared graph, and why, in one sentence.

Decides the promise. Two things make effects exactly-once: a sink that keeps what it has applied
beside its data (`commit`) or replaces by id (`upsert`), and stages on the way to it that make the
same again of the same item, or keep what they made (durable stages).
"""

from collections.abc import Iterator

from zflow.declared.model import DELIVERIES, Declared, Guarantee, Promise, neighbours_of, reach
from zflow.errors import Problem
from zflow.shapes import entry_name
from zflow.stages import StageDecl, problem_at

EXACT = {
    "commit": "commit() stores what was applied beside the data",
    "upsert": "upsert() replaces by id, so that writing twice is writing once",
}


def explain_delivery(declared: Declared) -> tuple[Guarantee, ...]:
    """What each sink may expect, and why."""
    return tuple(_guarantee(declared, one) for one in declared.stages if one.kind == "sink")


def weaker_sinks(declared: Declared) -> Iterator[Problem]:
    """Sinks that get less than the exactly-once that the topology asks for."""
    if declared.delivery != "exactly_once":
        return
    for found in explain_delivery(declared):
        if found.delivery != "exactly_once":
            sink = declared.stage(found.sink)
            message = f"gets {found.delivery}, the topology asks for exactly_once: {found.why}"
            yield problem_at(sink.name, (sink.file, sink.line), message, _fix(declared, sink))


def _guarantee(declared: Declared, sink: StageDecl) -> Guarantee:
    above = _above(declared, sink)
    lossy = [e.label for e in declared.edges if e.target in above and e.delivery != DELIVERIES[0]]
    entry = entry_name(sink.target, "sink")
    loose = _undetermined(above)
    delivery: Promise = "at_least_once"
    if lossy:
        delivery = "at_most_once"
        why = f"{', '.join(lossy)}: what a crash loses there is counted, not sent again"
    elif entry not in EXACT:
        why = "every edge on its ways is at_least_once; after a crash an item may come twice"
    elif loose:
        why = f"{', '.join(loose)} may give something else when called again with the same item"
    else:
        delivery = "exactly_once"
        why = EXACT[entry]
    for stage in above.values():
        if stage.options.on_error == "drop":
            why += f"; {stage.name} drops, and counts, the items that it fails on"
    for edge in declared.edges:
        if edge.target in above and edge.on_full != "block":
            why += f"; {edge.label} drops, and counts, items while it is full"
    return Guarantee(sink=sink.name, delivery=delivery, why=why)


def _above(declared: Declared, sink: StageDecl) -> dict[str, StageDecl]:
    names = reach([sink.name], neighbours_of(declared, backwards=True))
    return {stage.name: stage for stage in declared.stages if stage.name in names}


def _undetermined(above: dict[str, StageDecl]) -> list[str]:
    return [
        stage.name
        for stage in above.values()
        if stage.kind == "stage" and not stage.is_durable and not stage.options.deterministic
    ]


def _fix(declared: Declared, sink: StageDecl) -> str:
    loose = _undetermined(_above(declared, sink))
    if loose:
        return f"make {loose[0]} a DurableStage, or declare deterministic=True if it is"
    return "write commit(items, ids, progress) or upsert(items, ids), over at_least_once edges"

"""The declared graph as text: ascii for a terminal, Mermaid, Graphviz dot and JSON.

Decides only how a graph reads. Never draws what is running, and never checks what is declared.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from zflow.declared.model import Declared, EdgeDecl
from zflow.shapes import EMPTY
from zflow.stages import StageDecl

MERMAID_SHAPES = {"source": ('(["', '"])'), "stage": ('["', '"]'), "sink": ('[("', '")]')}
DOT_SHAPES = {"source": "ellipse", "stage": "box", "sink": "cylinder"}


def ascii_graph(declared: Declared) -> str:
    """An indented tree; a stage with several edges into it is spelled out once, then named.

    shape: one stage per line, then a column that says what it is.
    """
    lines = [(f"{declared.name} ({declared.delivery})", ""), ("", "")]
    shown: set[str] = set()
    fed = {edge.target for edge in declared.edges}
    for stage in declared.stages:
        if stage.name not in fed:
            lines.append((stage.name, _described(stage)))
            lines.extend(_branches(declared, stage.name, "", shown))
    width = max((len(text) for text, note in lines if note), default=0)
    return "\n".join(f"{text:<{width}}  {note}".rstrip() for text, note in lines)


def mermaid_graph(declared: Declared) -> str:
    """A flowchart for Markdown pages."""
    # Numbered, since words such as `end` cannot be the id of a node.
    ids = {stage.name: f"s{index}" for index, stage in enumerate(declared.stages)}
    lines = ["flowchart LR"]
    for stage in declared.stages:
        begin, end = MERMAID_SHAPES[stage.kind]
        lines.append(f"    {ids[stage.name]}{begin}{_titled(stage)}{end}")
    for edge in declared.edges:
        note = f'|"{_edge_note(edge)}"|' if _edge_note(edge) else ""
        lines.append(f"    {ids[edge.source]} -->{note} {ids[edge.target]}")
    return "\n".join(lines)


def dot_graph(declared: Declared) -> str:
    """A digraph for Graphviz."""
    lines = [f"digraph {json.dumps(declared.name, ensure_ascii=False)} {{", "    rankdir=LR;"]
    for stage in declared.stages:
        label, shape = _titled(stage), DOT_SHAPES[stage.kind]
        lines.append(f'    "{stage.name}" [shape={shape}, label="{label}"];')
    for edge in declared.edges:
        note = f' [label="{_edge_note(edge)}"]' if _edge_note(edge) else ""
        lines.append(f'    "{edge.source}" -> "{edge.target}"{note};')
    return "\n".join([*lines, "}"])


def json_graph(declared: Declared) -> str:
    """One object, for programs."""
    return json.dumps(as_data(declared), indent=2, ensure_ascii=False)


def as_data(declared: Declared) -> dict[str, Any]:
    """The graph as plain data."""
    return {
        "name": declared.name,
        "delivery": declared.delivery,
        "stages": [_stage_data(stage) for stage in declared.stages],
        "edges": [_edge_data(edge) for edge in declared.edges],
    }


FORMATS: dict[str, Callable[[Declared], str]] = {
    "ascii": ascii_graph,
    "mermaid": mermaid_graph,
    "dot": dot_graph,
    "json": json_graph,
}


def _branches(
    declared: Declared, name: str, indent: str, shown: set[str]
) -> Iterator[tuple[str, str]]:
    """The lines below a stage: (tree, note)."""
    shown.add(name)
    edges = declared.edges_from(name)
    for edge in edges:
        is_last = edge is edges[-1]
        note = _edge_note(edge)
        arrow = f"{'`' if is_last else '|'}-{f'[{note}]-' if note else ''}> "
        target = declared.stage(edge.target)
        text = f"{indent}{arrow}{target.name}"
        if target.name in shown:
            yield text, "as above"
            continue
        yield text, _described(target)
        deeper = indent + ("    " if is_last else "|   ")
        yield from _branches(declared, target.name, deeper, shown)


def _described(stage: StageDecl) -> str:
    replicas = stage.options.replicas
    return stage.kind + (f" x{replicas}" if replicas > 1 else "")


def _titled(stage: StageDecl) -> str:
    replicas = stage.options.replicas
    return stage.name + (f" x{replicas}" if replicas > 1 else "")


def _edge_note(edge: EdgeDecl) -> str:
    notes = [edge.output or ""]
    if edge.when is not None:
        name = getattr(edge.when, "__name__", "")
        notes.append(f"when {name}" if name.isidentifier() else "when ...")
    if edge.delivery == "at_most_once":
        notes.append(edge.delivery)
    if edge.priority is not None:
        notes.append(f"priority {_shown(edge.priority)}")
    if edge.on_full != "block":
        notes.append(f"{edge.on_full} at {edge.window:,}")
    return ", ".join(filter(None, notes))


def _stage_data(stage: StageDecl) -> dict[str, Any]:
    options = stage.options
    return {
        "name": stage.name,
        "kind": stage.kind,
        "replicas": options.replicas,
        "retries": options.retries,
        "backoff_s": options.backoff_s,
        # JSON has no infinity: null is "no limit", as for every source.
        "timeout_s": options.timeout_s if math.isfinite(options.timeout_s) else None,
        "on_error": options.on_error,
        "parameters": {
            name: {
                "type": getattr(one.annotation, "__name__", None) or str(one.annotation or "str"),
                "required": one.required,
                "default": None if one.default is EMPTY else repr(one.default),
            }
            for name, one in stage.parameters.items()
        },
        "file": stage.file,
        "line": stage.line,
    }


def _shown(priority: object) -> object:
    return getattr(priority, "__name__", repr(priority)) if callable(priority) else priority


def _edge_data(edge: EdgeDecl) -> dict[str, Any]:
    return {
        "edge": edge.text,
        "source": edge.source,
        "target": edge.target,
        "output": edge.output,
        "when": getattr(edge.when, "__name__", repr(edge.when)) if edge.when else None,
        "delivery": edge.delivery,
        "priority": _shown(edge.priority),
        "fair": edge.fair if edge.priority is not None else None,
        "window": edge.window,
        "on_full": edge.on_full,
        "file": edge.file,
        "line": edge.line,
    }

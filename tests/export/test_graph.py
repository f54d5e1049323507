"""What a drawn graph promises: each stage and edge, in four languages."""

import json

import pytest

from zflow import Topology, sink, source, stage
from zflow.export.graph import FORMATS, as_data, ascii_graph, dot_graph, mermaid_graph


@source
def read(folder: str, limit: int = 3):
    yield 1


@stage(replicas=2)
def parse(item): ...


@stage
def enrich(item): ...


@stage
def end(item): ...


@sink
def show(item): ...


def is_big(item): ...


def chain() -> Topology:
    flow = Topology("chain")
    flow.connect(read, parse, show)
    return flow


def diamond() -> Topology:
    flow = Topology("diamond")
    flow.connect(read, parse, end, show)
    flow.connect(parse, enrich, end)
    flow.connect(read, show, when=is_big, delivery="at_most_once")
    flow.connect(parse, show, output="invalid", when=lambda item: item)
    return flow


def fan_in() -> Topology:
    flow = Topology("fan")
    flow.connect(read, end, show)
    flow.connect(flow.source(read, name="other"), end)
    return flow


DRAWN = [
    (
        chain,
        """\
chain (at_least_once)

read          source
`-> parse     stage x2
    `-> show  sink""",
    ),
    (
        diamond,
        """\
diamond (at_least_once)

read                                  source
|-> parse                             stage x2
|   |-> end                           stage
|   |   `-> show                      sink
|   |-> enrich                        stage
|   |   `-> end                       as above
|   `-[invalid, when ...]-> show      as above
`-[when is_big, at_most_once]-> show  as above""",
    ),
    (
        fan_in,
        """\
fan (at_least_once)

read          source
`-> end       stage
    `-> show  sink
other         source
`-> end       as above""",
    ),
]


@pytest.mark.parametrize(("flow", "text"), DRAWN, ids=["chain", "diamond", "fan_in"])
def test_a_graph_is_drawn_as_a_tree_of_plain_characters(flow, text):
    assert ascii_graph(flow().declared()) == text
    assert text.isascii()


def test_mermaid_shows_kinds_replicas_and_notes_and_avoids_its_reserved_words():
    lines = mermaid_graph(diamond().declared()).splitlines()
    assert lines[0] == "flowchart LR"
    assert '    s0(["read"])' in lines
    assert '    s1["parse x2"]' in lines
    assert '    s4[("show")]' in lines
    assert '    s1 -->|"invalid, when ..."| s4' in lines
    assert not any(line.split()[0].startswith("end") for line in lines)


def test_dot_quotes_every_name():
    lines = dot_graph(diamond().declared()).splitlines()
    assert (lines[0], lines[-1]) == ('digraph "diamond" {', "}")
    assert '    "parse" [shape=box, label="parse x2"];' in lines
    assert '    "read" -> "show" [label="when is_big, at_most_once"];' in lines


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("flow", [chain, diamond, fan_in])
def test_every_format_names_every_stage(name, flow):
    declared = flow().declared()
    text = FORMATS[name](declared)
    assert all(stage.name in text for stage in declared.stages)


def test_json_holds_the_whole_declaration():
    declared = diamond().declared()
    data = json.loads(FORMATS["json"](declared))
    assert data == as_data(declared)
    assert [edge["edge"] for edge in data["edges"]][-1] == "parse:show:invalid"
    first = data["stages"][0]
    assert (first["kind"], first["timeout_s"], first["file"]) == ("source", None, __file__)
    assert first["parameters"]["folder"] == {"type": "str", "required": True, "default": None}
    assert first["parameters"]["limit"] == {"type": "int", "required": False, "default": "3"}

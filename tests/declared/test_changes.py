"""What a new version of a topology means for a run of the old one."""

from pathlib import Path

import pytest

from zflow.declared.changes import changes
from zflow.loader import load_source

FLOW = """
from zflow import DurableStage, Topology, sink, source, stage

@source
def read(n: int = 3):
    yield from range(n)

@stage(replicas=2, retries=3)
def parse(x: int):
    return x + 1

@stage
class Count(DurableStage):
    def process(self, x):
        self.state[x] = x
        return x

@sink
def write(x):
    print(x)

flow = Topology("flow")
flow.connect(read, parse)
flow.connect(parse, Count, key=lambda x: x % 7)
flow.connect(Count, write, when=lambda x: x > 3)
"""


def declared(text):
    return load_source(text.encode(), Path("/nowhere/flow.py"), "flow").topology.declared()


OLD = declared(FLOW)


def compared(old, new, **others):
    assert old in FLOW
    return changes(OLD, declared(FLOW.replace(old, new)), **others)


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        ("return x + 1", "return x + 2", {"parse": ["its code has changed"]}),
        ("self.state[x] = x", "self.state[x] = 1", {"Count": ["its code has changed"]}),
        (
            "when=lambda x: x > 3",
            "when=lambda x: x > 4",
            {"Count": ["when= of Count->write has changed"]},
        ),
        (
            "flow.connect(read, parse)",
            "flow.connect(read, parse, priority=2, window=9)",
            {
                name: [f"{option}= of read->parse has changed" for option in ("priority", "window")]
                for name in ("read", "parse")
            },
        ),
        ("replicas=2, ", "replicas=5, ", {}),
        ("print(x)", "print(x)  # loudly", {}),
        (
            "retries=3",
            "retries=4",
            {"read": ["retries= of parse has changed"], "parse": ["retries= has changed"]},
        ),
        ("retries=3", "timeout_s=4.0", {"parse": ["timeout_s= has changed"]}),
        ("retries=3", "retry_on=(ValueError,)", {"parse": ["retry_on= has changed"]}),
        ("retries=3", "batch=3", {"parse": ["batch= has changed"]}),
        ("retries=3", "rate_limit_per_s=9", {"parse": ["rate_limit_per_s= has changed"]}),
    ],
)
def test_who_is_replaced_and_why(old, new, replaced):
    found = compared(old, new)
    assert (found.reasons, found.refusals) == (replaced, [])


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ('Topology("flow")', 'Topology("other")', "the topology is called other"),
        (
            "flow.connect(read, parse)",
            "flow.connect(read, Count, key=str)",
            "edge read->parse is gone",
        ),
        ("x % 7", "x % 8", "key= of parse->Count has changed"),
        (", key=lambda x: x % 7", "", "key= of parse->Count has changed"),
        (
            "flow.connect(read, parse)",
            'flow.connect(read, parse, delivery="at_most_once")',
            "delivery=",
        ),
        ("@stage\nclass", '@stage(durability="process")\nclass', "durability= of Count"),
        ("@source\n", "@source(journaled=True)\n", "journaled= of read has changed"),
    ],
)
def test_what_cannot_change_while_data_flows(old, new, refusal):
    found = compared(old, new)
    assert found.reasons == {}
    assert any(refusal in one for one in found.refusals), found.refusals


def test_a_stage_with_other_parameters_is_replaced():
    found = compared("print(x)", "print(x)", parameters=frozenset({"read"}))
    assert found.reasons == {"read": ["its parameters have changed"]}


LIMITED = (
    FLOW.replace("import DurableStage", "import Breaker, DurableStage")
    .replace(
        "retries=3",
        "rate_limit_per_s=9, rate_key=lambda x: x % 3, breaker=Breaker(failures=4, on=(Down,))",
    )
    .replace("@source", "class Down(Exception): ...\n\n@source")
)


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("", "", {}),
        ("x % 3", "x % 4", {"parse": ["rate_key= has changed"]}),
        ("failures=4", "failures=5", {"parse": ["breaker= has changed"]}),
        ("failures=4", "reset_s=5", {"parse": ["breaker= has changed"]}),
        ("on=(Down,)", "on=(OSError,)", {"parse": ["breaker= has changed"]}),
        (", breaker=Breaker(failures=4, on=(Down,))", "", {"parse": ["breaker= has changed"]}),
    ],
)
def test_functions_and_breakers_of_the_file_are_compared_by_what_they_do(old, new, reasons):
    changed = changes(declared(LIMITED), declared(LIMITED.replace(old, new)))
    assert changed.reasons == reasons

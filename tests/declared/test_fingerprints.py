"""Two versions of a function are the same if their code is, whatever stands around it."""

import sys
import textwrap
from types import ModuleType

import pytest

from zflow.declared.fingerprints import fingerprint

FILE = """
import math
from dataclasses import dataclass

LIMIT = 3
TABLE = {"a": [1, 2], "b": {1, 2, 3}}

def helper(x):
    return x + 1

def other(x):
    return x - 1

def stage(x, scale=2):
    '''What it does.'''
    if x > LIMIT:
        return helper(x) * scale
    return math.sqrt(x)

class Base:
    step = 1
    def up(self, x):
        return x + self.step

class Counting(Base):
    def process(self, x):
        return self.up(x), TABLE["a"]
    @property
    def size(self):
        return helper(3)

def closed(n):
    return lambda x: x + n

key = closed(7)
"""


def parts(text, name="zflow_topology_one"):
    module = ModuleType(name)
    exec(compile(textwrap.dedent(text), "flow.py", "exec"), vars(module))
    sys.modules[name] = module
    try:
        return {n: fingerprint(getattr(module, n)) for n in ("stage", "Counting", "key")}
    finally:
        del sys.modules[name]


BEFORE = parts(FILE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "# a comment\n\n\nLIMIT = 3"),
        ("return x - 1", "return x - 2"),
        ("    if x > LIMIT:", "    # why\n    if x > LIMIT:"),
    ],
)
def test_comments_places_and_what_nobody_uses_do_not_count(old, new):
    assert parts(FILE.replace(old, new), "zflow_topology_two") == BEFORE


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("LIMIT = 3", "LIMIT = 4", {"stage"}),
        ("return x + 1", "return x + 2", {"stage", "Counting"}),
        ("scale=2", "scale=3", {"stage"}),
        ("math.sqrt(x)", "math.exp(x)", {"stage"}),
        ("step = 1", "step = 2", {"Counting"}),
        ("return x + self.step", "return x - self.step", {"Counting"}),
        ('"a": [1, 2]', '"a": [2, 1]', {"Counting"}),
        ("return helper(3)", "return helper(4)", {"Counting"}),
        ("lambda x: x + n", "lambda x: x * n", {"key"}),
        ("closed(7)", "closed(8)", {"key"}),
        ("class Counting(Base)", "class Counting", {"Counting"}),
    ],
)
def test_what_a_thing_reaches_in_its_own_file_counts(old, new, changed):
    after = parts(FILE.replace(old, new))
    assert {name for name in BEFORE if BEFORE[name] != after[name]} == changed


def test_the_order_in_which_a_set_happens_to_be_does_not_count():
    after = parts(FILE.replace("{1, 2, 3}", "{3, 2, 1}"))
    assert after == BEFORE


def test_functions_that_call_each_other_come_to_an_end():
    text = "def stage(x):\n    return again(x)\ndef again(x):\n    return stage(x)\nkey = stage\n"
    found = parts(text + "class Counting:\n    pass\n")
    assert found["stage"] == found["key"]

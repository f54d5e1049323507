"""What `-p` and `-r` promise: typed values, or every mistake at once."""

import sys
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from zflow import Topology, sink, source
from zflow.config import convert, parse_parameters, parse_replicas
from zflow.errors import ConfigError
from zflow.shapes import EMPTY, Parameter


class Colour(Enum):
    RED = 1
    BLUE = 2


LINE = sys._getframe().f_lineno + 3


@source
def files(folder: Path, limit: int = 3):
    yield folder


@sink
def show(item, prefix=""): ...


flow = Topology("settings")
flow.connect(files, show)
DECLARED = flow.declared()

CONVERSIONS = [
    (str, "a,b", "a,b"),
    (int, "-3", -3),
    (float, "1e-3", 0.001),
    (bool, "Yes", True),
    (bool, "0", False),
    (Path, "docs/x", Path("docs/x")),
    (Colour, "BLUE", Colour.BLUE),
    (Literal["fast", 2], "2", 2),
    (int | None, "3", 3),
    (int | None, "none", None),
    (str | None, "none", "none"),
    (str | int, "3", 3),
    (str | int, "x", "x"),
    (list[int], "1, 2,3", [1, 2, 3]),
    (list[str], "", []),
    (list, "a,b", ["a", "b"]),
    (None, "3", "3"),
]


@pytest.mark.parametrize(("annotation", "text", "value"), CONVERSIONS)
def test_a_text_becomes_a_value_of_the_annotation(annotation, text, value):
    converted = convert(text, Parameter(annotation, EMPTY, True))
    assert converted == value
    assert type(converted) is type(value)


GUESSES = [
    (3, "4", 4),
    (0.5, "4", 4.0),
    (False, "true", True),
    (Path(), "x", Path("x")),
    (Colour.RED, "BLUE", Colour.BLUE),
    ([], "a,b", ["a", "b"]),
    (None, "4", "4"),
    ({}, "4", "4"),
]


@pytest.mark.parametrize(("default", "text", "value"), GUESSES)
def test_without_annotation_the_default_tells_the_type(default, text, value):
    assert convert(text, Parameter(None, default, False)) == value


WRONG_VALUES = [
    (int, "x", "limit='x' from the command line is not a whole number"),
    (float, "x", "is not a number"),
    (bool, "perhaps", "is not one of true, false, yes, no, 1, 0"),
    (Colour, "GREEN", "is not one of RED, BLUE"),
    (Literal["a", "b"], "c", "is not one of a, b"),
    (int | None, "x", "is not a whole number"),
    (int | Colour, "x", "is not a whole number or one of RED, BLUE"),
    (list[int], "1,x", "is not a whole number"),
    (dict, "x", "is not possible: a dict cannot be written on a command line"),
]


@pytest.mark.parametrize(("annotation", "text", "message"), WRONG_VALUES)
def test_a_text_that_does_not_fit_names_the_stage_with_file_and_line(annotation, text, message):
    def function(item, limit): ...

    function.__annotations__["limit"] = annotation
    flow = Topology("wrong")
    line = sys._getframe().f_lineno + 1
    flow.connect(files, flow.sink(function))
    with pytest.raises(ConfigError) as error:
        parse_parameters(flow.declared(), ["files.folder=x", f"function.limit={text}"])
    assert str(error.value).startswith(f"{__file__}:{line}: function: limit={text!r} from the")
    assert message in str(error.value)


def test_parameters_come_by_stage_and_name_and_the_last_one_wins():
    texts = ["files.folder=a=b", "files.folder=docs", "show.prefix=> "]
    assert parse_parameters(DECLARED, texts) == {
        "files": {"folder": Path("docs")},
        "show": {"prefix": "> "},
    }


def test_all_wrong_parameters_come_in_one_error():
    texts = ["nonsense", "file.folder=x", "show.prefi=x", "files.limit=many"]
    with pytest.raises(ConfigError) as error:
        parse_parameters(DECLARED, texts)
    unshaped, unknown_stage, unknown_name, bad_value, missing = map(str, error.value.problems)
    assert unshaped == "-p nonsense: is not a parameter; write -p STAGE.NAME=VALUE"
    assert unknown_stage == ("-p file.folder=x: there is no stage 'file'; did you mean 'files'?")
    assert unknown_name == (
        f"{__file__}:{LINE + 5}: show: has no parameter 'prefi'; did you mean 'prefix'?"
    )
    assert bad_value.startswith(f"{__file__}:{LINE}: files: limit='many' from the command line")
    assert missing == (
        f"{__file__}:{LINE}: files: the parameter 'folder' has no value; "
        "give it: -p files.folder=VALUE"
    )


def test_replicas_come_by_stage():
    assert parse_replicas(DECLARED, ["show=8"]) == {"show": 8}


def test_all_wrong_replicas_come_in_one_error():
    with pytest.raises(ConfigError) as error:
        parse_replicas(DECLARED, ["show", "show=0", "show=x", "shaw=2", "files=2"])
    texts = [str(problem) for problem in error.value.problems]
    assert texts[:3] == [
        f"-r {text}: is not a number of replicas; write -r STAGE=N with N at least 1"
        for text in ("show", "show=0", "show=x")
    ]
    assert texts[3] == "-r shaw=2: there is no stage 'shaw'; did you mean 'show'?"
    assert texts[4].startswith(f"{__file__}:{LINE}: files: cannot have 2 replicas: each would")

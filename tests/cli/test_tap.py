"""What `zflow tap` shows, counts and refuses, from messages made by hand."""

import pytest

from zflow.cli.tap import _compiled, _Shown, json_of
from zflow.wire.codec import PickleCodec
from zflow.wire.tap import Mirrored


def shown(where=None, most=None, form=repr):
    return _Shown(None, _compiled(where), form, most)


def message(items, seen, *, slot="read/0", incarnation=1):
    payload = PickleCodec().encode(items) if items else None
    return Mirrored(slot, incarnation, len(items), seen, seen), payload


def test_what_was_sent_between_two_messages_is_left_out(capsys):
    see = shown()
    for header, payload in (message([1, 2], 102), message([3], 200), message([], 250)):
        assert see.take(header, payload)
    assert capsys.readouterr().out == "1\n2\n3\n"
    assert see.summary() == "3 items shown, 147 left out"  # what was before the first is not


def test_every_incarnation_is_counted_from_its_own_beginning():
    see = shown()
    for header, payload in (
        message([1], 1000),
        message([2], 1010),
        message([3], 5, incarnation=2),
        message([4], 7, slot="read/1"),
    ):
        see.take(header, payload)
    assert see.summary() == "4 items shown, 9 left out"


def test_enough_is_enough(capsys):
    see = shown(most=2)
    assert not see.take(*message([1, 2, 3], 3))
    assert capsys.readouterr().out == "1\n2\n"
    assert see.summary() == "2 items shown, 1 left out"


def test_where_chooses_and_what_it_raises_is_told_once(capsys):
    see = shown(where="10 // item > 3")
    see.take(*message([0, 1, 2, 5, "x"], 5))
    assert capsys.readouterr().out == "1\n2\n"
    assert see.summary() == (
        "2 items shown, 0 left out, 1 not as --where wants, "
        "for 2 --where has raised ZeroDivisionError: integer division or modulo by zero"
    )


def test_a_rate_holds_items_back(capsys):
    see = shown()
    see.clock = type("Stopped", (), {"now_s": staticmethod(lambda: 5.0)})()
    see.limit(3.0)
    see.take(*message(list(range(10)), 10))
    assert capsys.readouterr().out == "0\n1\n2\n"
    assert see.summary() == "3 items shown, 7 left out"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        (
            {
                "a": {
                    1,
                }
            },
            '{"a": "{1}"}',
        ),
        ({(1, 2): 3}, '"{(1, 2): 3}"'),
        (b"x", "\"b'x'\""),
    ],
)
def test_what_json_does_not_know_is_given_as_its_repr(item, text):
    assert json_of(item) == text

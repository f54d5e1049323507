import random

import pytest

from zflow.protocol.task import Task


class Owner:
    """Writes down what it hears: ("settle", first, n) or ("fail", first, code)."""

    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def settle(self, first: int, n: int) -> None:
        self.heard.append(("settle", first, n))

    def fail(
        self, first: int, code: str, error_class: str, error: str, *, partial: bool = False
    ) -> None:
        self.heard.append(("fail", first, code))


@pytest.fixture
def owner():
    return Owner()


def test_inputs_that_made_nothing_are_done_when_they_return(owner):
    Task(owner, 10, 3).returned()
    assert owner.heard == [("settle", 10, 3)]


def test_an_input_waits_for_everything_made_from_it(owner):
    task = Task(owner, 10, 3)
    task.made(4)
    task.returned()
    task.settled(3)
    assert owner.heard == []
    assert task.open == 1
    task.settled(1)
    assert owner.heard == [("settle", 10, 3)]


def test_outputs_that_are_settled_early_do_not_end_an_input_that_still_runs(owner):
    task = Task(owner, 10, 1)
    task.made(2)
    task.settled(2)
    assert owner.heard == []
    task.made(1)
    task.returned()
    assert owner.heard == []
    task.settled(1)
    assert owner.heard == [("settle", 10, 1)]


def test_an_input_that_has_returned_makes_nothing_more(owner):
    task = Task(owner, 10, 1)
    task.made(1)
    task.returned()
    with pytest.raises(ValueError, match="has returned"):
        task.made(1)
    assert task.open == 1


def test_more_outputs_cannot_be_settled_than_were_made(owner):
    task = Task(owner, 10, 1)
    task.made(1)
    with pytest.raises(AssertionError):
        task.settled(2)


def test_a_failure_is_told_when_nothing_is_under_way_any_more(owner):
    task = Task(owner, 10, 1)
    task.made(2)
    task.failed(0, "error", "ValueError", "no")
    task.returned()
    task.settled(1)
    assert owner.heard == []
    task.settled(1)
    assert owner.heard == [("fail", 10, "error")]


def test_the_first_of_several_failures_of_one_input_is_the_one_told(owner):
    task = Task(owner, 10, 1)
    task.failed(0, "encode", "TypeError", "first")
    task.failed(0, "error", "ValueError", "second")
    task.returned()
    assert owner.heard == [("fail", 10, "encode")]


def test_the_neighbours_of_failed_inputs_are_settled(owner):
    task = Task(owner, 10, 6)
    for position in (4, 1, 0):
        task.failed(position, "error", "ValueError", "no")
    task.returned()
    assert owner.heard == [
        ("fail", 10, "error"),
        ("fail", 11, "error"),
        ("settle", 12, 2),
        ("fail", 14, "error"),
        ("settle", 15, 1),
    ]


@pytest.mark.parametrize("seed", range(50))
def test_every_input_is_told_exactly_once_and_never_early(seed):
    chance = random.Random(seed)
    for _ in range(10):
        owner = Owner()
        task = Task(owner, 100, n := chance.randrange(1, 8))
        failed: set[int] = set()
        made = settled = 0
        returned = False
        while not returned or settled < made:
            assert owner.heard == [], f"seed {seed}"
            event = chance.randrange(4)
            if event == 0 and not returned:
                task.made(more := chance.randrange(1, 5))
                made += more
            elif event == 1 and settled < made:
                part = chance.randint(1, made - settled)
                settled += part
                task.settled(part)
            elif event == 2 and (not returned or settled < made):
                failed.add(position := chance.randrange(n))
                task.failed(position, "error", "E", "")
            elif event == 3 and not returned:
                returned = True
                task.returned()
        told = [
            (kind == "fail", first + k)
            for kind, first, rest in owner.heard
            for k in range(rest if kind == "settle" else 1)
        ]
        expected = [(k in failed, 100 + k) for k in range(n)]
        assert told == expected, f"seed {seed}"

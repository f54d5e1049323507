"""Which of the options for batches, rates, deadlines and breakers a stage may have."""

import doctest

import pytest

from zflow import Breaker, DurableStage, Topology, limits, sink, source, stage, tumbling, window
from zflow.stages import StageDecl, StageOptions, declaration_of


def declared(target: object) -> StageDecl:
    decl = declaration_of(target)
    assert decl is not None
    return decl


def said(target: object) -> list[str]:
    return [f"{one.message}; {one.fix}" for one in declared(target).problems]


def by_length(item):
    return len(item)


EVERYTHING = {
    "batch_timeout_s": 0.5,
    "batch": 8,
    "deadline_s": 3,
    "on_deadline": "dead_letter",
    "rate_limit_per_s": 0.5,
    "breaker": Breaker(),
}


@pytest.mark.parametrize("decorator", [stage, sink])
def test_what_fits_together_is_kept(decorator):
    @decorator(**EVERYTHING)
    def function(items): ...

    assert said(function) == []
    assert declared(function).options == StageOptions(**EVERYTHING)


def test_a_process_method_may_take_batches():
    @stage(batch=2)
    class Pairs:
        def process(self, items):
            return items

    assert said(Pairs) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "batch=0 is not valid; give a whole number, at least 1"),
        ({"batch": True}, "batch=True is not valid; give a whole number, at least 1"),
        ({"batch": 2, "batch_timeout_s": 0}, "batch_timeout_s=0 is not valid; give seconds"),
        ({"batch_timeout_s": 1}, "batch_timeout_s= without batch=; give batch=, or remove"),
        ({"deadline_s": float("inf")}, "deadline_s=inf is not valid; give seconds, more than 0"),
        ({"on_deadline": "drop"}, "on_deadline= without deadline_s=; give deadline_s=, or"),
        ({"deadline_s": 1, "on_deadline": "fail"}, "is not valid; give one of drop, dead_letter"),
        ({"rate_limit_per_s": 0}, "is not valid; give items per second, more than 0"),
        ({"rate_limit_per_s": -1}, "is not valid; give items per second, more than 0"),
        ({"rate_key": by_length}, "rate_key= without rate_limit_per_s=; give rate_limit_per_s=,"),
        ({"rate_limit_per_s": 1, "rate_key": "x"}, "is not valid; give a function of the item"),
        ({"breaker": 5}, "breaker=5 is not valid; give Breaker(failures=..., reset_s=...)"),
        ({"breaker": Breaker}, "is not valid; give Breaker(failures=..., reset_s=...)"),
        (
            {"batch": 2, "rate_limit_per_s": 1, "rate_key": by_length},
            "batch= and rate_key=: a batch holds items of many keys; remove rate_key=, or batch=",
        ),
    ],
)
def test_what_makes_no_sense_is_a_problem_with_its_fix(options, text):
    @stage(**options)
    def function(item): ...

    (problem,) = said(function)
    assert text in problem


@pytest.mark.parametrize("option", sorted(limits.LIMIT_RULES))
def test_a_source_has_none_of_them(option):
    @source(**{option: 3})
    def items():
        yield 1

    assert said(items) == [f"{option}= is for stages and sinks; remove {option}="]


def test_a_generator_takes_one_item_at_a_time():
    @stage(batch=4)
    def function(item):
        yield item

    assert said(function) == ["batch=4, but a generator takes one item at a time; remove batch="]


def test_a_sink_class_gets_lists_anyway():
    @sink(batch=4)
    class Keep:
        def write(self, items): ...

    assert said(Keep) == ["batch=4, but a sink class gets lists of items anyway; remove batch="]


def test_a_stage_with_state_has_none_of_them():
    @stage(batch=4, deadline_s=1, rate_limit_per_s=1, breaker=Breaker())
    class Count(DurableStage):
        def process(self, item): ...

    found = said(Count)
    assert found[0] == "batch=4, but a stage with state takes its items one by one; remove batch="
    assert found[1:] == [
        f"{option}= is for stages without state on disk; give {option}= to a stage before it"
        for option in ("deadline_s", "rate_limit_per_s", "breaker")
    ]


def test_a_window_has_none_of_them():
    @window(tumbling(60), time=by_length, batch=4, rate_limit_per_s=3)
    def total(key, pane, items): ...

    assert said(total) == [
        "batch=4, but a stage with state takes its items one by one; remove batch=",
        "rate_limit_per_s= is for stages without state on disk; "
        "give rate_limit_per_s= to a stage before it",
    ]


def test_a_stage_that_is_declared_once_more_is_looked_at_anew():
    def double(items):
        return items

    flow = Topology("twice")
    stage(batch=4)(double)
    again = flow.stage(double, name="again", batch_timeout_s=1.0)
    assert (again.problems, again.options.batch, again.options.batch_timeout_s) == ((), 4, 1.0)


def test_the_annotations_of_a_batch_are_those_of_lists():
    @source
    def read():
        yield from range(3)

    @stage(batch=4)
    def halve(items: list[int]) -> list[float | None]:
        return [item / 2 for item in items]

    @sink
    def keep(item: str): ...

    flow = Topology("typed")
    flow.connect(read, halve, keep)
    found = [problem.message for problem in flow.warnings()]
    assert found == ["halve gives float, keep takes str"]


def test_the_examples_are_true():
    assert doctest.testmod(limits).failed == 0

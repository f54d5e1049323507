"""What a topology promises: one frozen graph, and every mistake at once with file and line."""

import dataclasses
import random
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import networkx
import pytest

from zflow import DurableStage, Topology, sink, source, stage
from zflow.declared.guarantees import explain_delivery
from zflow.declared.model import EdgeDecl
from zflow.errors import Problem


@source
def read():
    yield 1


@stage
def parse(item):
    return item


@stage
def enrich(item):
    return item


@sink
def show(item): ...


@sink
def reject(item): ...


@stage
class Count(DurableStage):
    def process(self, item): ...


@sink
class Keep:
    def load_progress(self):
        return []

    def commit(self, items, ids, progress): ...


def here() -> int:
    return sys._getframe(1).f_lineno


async def awaits(item):
    return item


def said(flow: Topology) -> list[str]:
    return [str(problem) for problem in flow.problems()]


def labels(flow: Topology) -> list[str]:
    return [edge.label for edge in flow.declared().edges]


def test_a_chain_connects_each_stage_to_the_next():
    flow = Topology("chain")
    flow.connect(read, parse, enrich, show)
    assert labels(flow) == ["read->parse", "parse->enrich", "enrich->show"]
    assert flow.problems() == ()
    assert flow.warnings() == ()


def test_fan_out_fan_in_and_a_diamond_are_valid():
    flow = Topology("diamond")
    flow.connect(read, parse, show)
    flow.connect(read, enrich, show)
    flow.connect(parse, reject, output="invalid")
    assert flow.problems() == ()


def test_two_edges_between_the_same_stages_may_differ_by_output():
    flow = Topology("parallel")
    flow.connect(read, parse, show)
    flow.connect(parse, show, output="large")
    assert flow.problems() == ()
    assert labels(flow)[-1] == "parse->show:large"
    assert flow.declared().edges[-1].text == "parse:show:large"


def test_what_is_declared_is_frozen_and_later_calls_do_not_change_it():
    flow = Topology("frozen")
    flow.connect(read, show)
    before = flow.declared()
    flow.connect(read, parse, show)
    assert [stage.name for stage in before.stages] == ["read", "show"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.name = "other"


def test_an_edge_keeps_its_options_and_inherits_the_delivery_of_the_topology():
    flow = Topology("options", delivery="at_most_once")
    flow.connect(read, parse)
    line = here() + 1
    flow.connect(parse, show, when=bool, delivery="at_least_once")
    first, second = flow.declared().edges
    assert first.delivery == "at_most_once"
    assert second == EdgeDecl(
        source="parse",
        target="show",
        output=None,
        when=bool,
        key=None,
        delivery="at_least_once",
        file=__file__,
        line=line,
    )


def random_graph(seed: int) -> tuple[Topology, networkx.DiGraph]:
    rng = random.Random(seed)
    flow, oracle = Topology("random"), networkx.DiGraph()
    stages = [flow.stage(lambda item: item, name=f"s{index}") for index in range(7)]
    for a in range(7):
        for b in rng.sample(range(7), 2):
            if a != b:
                flow.connect(stages[a], stages[b], output=f"o{len(oracle.edges)}")
                oracle.add_edge(f"s{a}", f"s{b}")
    return flow, oracle


@pytest.mark.parametrize("seed", range(20))
def test_a_cycle_is_found_exactly_when_there_is_one(seed):
    flow, oracle = random_graph(seed)
    has_cycle = not networkx.is_directed_acyclic_graph(oracle)
    assert any("form a cycle" in text for text in said(flow)) == has_cycle, f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_stages_come_in_topological_order(seed):
    rng = random.Random(seed)
    flow = Topology("random")
    stages = [flow.stage(lambda item: item, name=f"s{index}") for index in range(8)]
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8) if rng.random() < 0.4]
    rng.shuffle(pairs)
    relabel = rng.sample(range(8), 8)
    for a, b in pairs:
        flow.connect(stages[relabel[a]], stages[relabel[b]])
    place = {stage.name: index for index, stage in enumerate(flow.declared().stages)}
    assert all(place[e.source] < place[e.target] for e in flow.declared().edges), f"seed {seed}"


# --- every mistake, with its file and line -------------------------------------------------------


def cycle(flow: Topology) -> int:
    flow.connect(read, parse, enrich, show)
    flow.connect(enrich, parse)
    return here() - 1


def cycle_of_one(flow: Topology) -> int:
    flow.connect(read, parse, show)
    flow.connect(parse, parse)
    return here() - 1


def into_a_source(flow: Topology) -> int:
    flow.connect(read, parse, show)
    flow.connect(parse, read)
    return here() - 1


def out_of_a_sink(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(show, parse, reject)
    return here() - 1


def same_edge_twice(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(read, show, when=bool)
    return here() - 1


def one_name_twice(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(read, flow.sink(print, name="show"))
    return here() - 1


def unconnected(flow: Topology) -> int:
    flow.connect(read, show)
    flow.stage(abs, name="alone")
    return here() - 1


def unreachable(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(flow.stage(abs, name="orphan"), show)
    return here() - 1


def leaf(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(read, flow.stage(abs, name="leaf"))
    return here() - 1


def replicas(flow: Topology) -> int:
    flow.connect(read, flow.sink(print, replicas=0))
    return here() - 1


def unknown_edge_option(flow: Topology) -> int:
    flow.connect(read, show, colour=3)
    return here() - 1


def mistyped_edge_option(flow: Topology) -> int:
    flow.connect(read, show, outputs="x")
    return here() - 1


def chain_with_output(flow: Topology) -> int:
    flow.connect(read, parse, show, output="x")
    return here() - 1


def lonely_connect(flow: Topology) -> int:
    flow.connect(read, show)
    flow.connect(read)
    return here() - 1


def exactly_once_edge(flow: Topology) -> int:
    flow.connect(read, show, delivery="exactly_once")
    return here() - 1


def key_to_a_plain_stage(flow: Topology) -> int:
    flow.connect(read, parse, key=str)
    flow.connect(parse, show)
    return here() - 2


def wrong_key(flow: Topology) -> int:
    flow.connect(read, Count, key="word")
    flow.connect(Count, show)
    return here() - 2


def half_keyed(flow: Topology) -> int:
    flow.connect(read, Count, key=str)
    flow.connect(parse, Count)
    flow.connect(read, parse)
    flow.connect(Count, show)
    return here() - 3


def durable_without_key(flow: Topology) -> int:
    many = flow.stage(Count, name="many", replicas=2)
    flow.connect(read, many, show)
    return here() - 2


def two_committers(flow: Topology) -> int:
    keep = flow.sink(Keep, name="keep", replicas=2)
    flow.connect(read, keep)
    return here() - 2


def chain_with_key(flow: Topology) -> int:
    flow.connect(read, Count, show, key=str)
    return here() - 1


def wrong_delivery(flow: Topology) -> int:
    flow.connect(read, show, delivery="at_least_one")
    return here() - 1


def wrong_priority(flow: Topology) -> int:
    flow.connect(read, show, priority=8)
    return here() - 1


def wrong_fair(flow: Topology) -> int:
    flow.connect(read, show, priority=1, fair=1.0)
    return here() - 1


def fair_to_nobody(flow: Topology) -> int:
    flow.connect(read, show, fair=0.2)
    return here() - 1


def wrong_window(flow: Topology) -> int:
    flow.connect(read, show, window=0)
    return here() - 1


def wrong_on_full(flow: Topology) -> int:
    flow.connect(read, show, on_full="drop_old")
    return here() - 1


def urgent_to_a_keeper(flow: Topology) -> int:
    flow.connect(read, Count, key=str, priority=0)
    flow.connect(Count, show)
    return here() - 2


def dropped_before_a_keeper(flow: Topology) -> int:
    flow.connect(read, Count, on_full="drop_newest")
    flow.connect(Count, show)
    return here() - 2


def wrong_output(flow: Topology) -> int:
    flow.connect(read, show, output="a b")
    return here() - 1


def wrong_when(flow: Topology) -> int:
    flow.connect(read, show, when="x > 3")
    return here() - 1


def not_a_stage(flow: Topology) -> int:
    flow.connect(read, abs, show)
    return here() - 1


def a_name_instead(flow: Topology) -> int:
    flow.connect("read", show)
    return here() - 1


def an_instance_instead(flow: Topology) -> int:
    @stage
    class Add:
        def process(self, item): ...

    flow.connect(read, Add(), show)
    return here() - 1


def a_child_instead(flow: Topology) -> int:
    @stage
    class Base:
        def process(self, item): ...

    class Child(Base): ...

    flow.connect(read, Child, show)
    return here() - 1


def not_callable(flow: Topology) -> int:
    flow.connect(read, flow.sink(3, name="three"))
    return here() - 1


MISTAKES = [
    (cycle, "enrich->parse: the edges form a cycle: parse -> enrich -> parse; remove one of"),
    (cycle_of_one, "parse->parse: the edges form a cycle: parse -> parse"),
    (into_a_source, "parse->read: an edge into the source 'read'; a source has no input"),
    (out_of_a_sink, "show->parse: an edge out of the sink 'show'; a sink has no output"),
    (same_edge_twice, "read->show: the same edge twice; the other is at"),
    (one_name_twice, "show: two stages of one name; the other is at"),
    (unconnected, "alone: is not connected to anything; connect it"),
    (unreachable, "orphan: no source reaches it; connect a source"),
    (leaf, "leaf: its items go nowhere; connect it to a next stage, or declare it with @sink"),
    (replicas, "print: replicas=0 is not valid; give a whole number, at least 1"),
    (unknown_edge_option, "read->show: unknown option 'colour'; choose one of: delivery,"),
    (mistyped_edge_option, "read->show: unknown option 'outputs'; did you mean 'output'?"),
    (chain_with_output, "read->parse->show: output= in a chain of edges is ambiguous; give"),
    (lonely_connect, "read: connects fewer than two stages"),
    (
        exactly_once_edge,
        "delivery='exactly_once' is a promise of sinks, not of an edge; give it to",
    ),
    (key_to_a_plain_stage, "read->parse: key= leads to 'parse', which has no state to keep by key"),
    (wrong_key, "read->Count: key='word' is not valid; give a function that takes the item"),
    (half_keyed, "parse->Count: parse->Count has no key=, other edges into 'Count' have"),
    (durable_without_key, "many: replicas=2, and no key= says which of them has what; give key="),
    (two_committers, "keep: replicas=2, but commit() has one writer; give replicas=1"),
    (chain_with_key, "read->Count->show: key= in a chain of edges is ambiguous; give key= to"),
    (wrong_delivery, "delivery='at_least_one' is not valid; did you mean 'at_least_once'?"),
    (wrong_priority, "read->show: priority=8 is not valid; give a whole number from 0, the most"),
    (wrong_fair, "read->show: fair=1.0 is not valid; give a share between 0 and 1"),
    (fair_to_nobody, "read->show: fair= without priority=: nothing overtakes; give priority= too"),
    (wrong_window, "read->show: window=0 is not valid; give a whole number of items, at least 1"),
    (wrong_on_full, "read->show: on_full='drop_old' is not valid; give one of block, drop_oldest"),
    (urgent_to_a_keeper, "read->Count: priority= leads to 'Count', which keeps the order of its"),
    (dropped_before_a_keeper, "read->Count: on_full='drop_newest' leads to 'Count', which counts"),
    (wrong_output, "read->show: output='a b' is not valid; give a name of letters"),
    (wrong_when, "read->show: when='x > 3' is not valid; give a function that takes the item"),
    (not_a_stage, "abs: is not a stage; decorate it with @source, @stage or @sink"),
    (a_name_instead, "'read': is not a stage; decorate it"),
    (an_instance_instead, "Add: is an instance of a stage class; connect Add itself"),
    (a_child_instead, "Child: only wraps or inherits from a declared stage; decorate Child"),
    (not_callable, "three: 3 is neither a function nor a class"),
]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES, ids=[row[0].__name__ for row in MISTAKES])
def test_a_mistake_is_one_problem_with_the_users_file_and_line(mistake, text):
    flow = Topology("wrong")
    line = mistake(flow)
    (problem,) = said(flow)
    assert problem.startswith(f"{__file__}:{line}: ")
    assert text in problem


def test_a_topology_without_a_source_says_where_it_was_made():
    line = here() + 1
    flow = Topology("dry")
    flow.connect(parse, show)
    (problem,) = said(flow)
    assert problem.startswith(f"{__file__}:{line}: dry: has no source; declare a generator")


WRONG_TOPOLOGIES = [
    ("a/b", {}, "a/b: cannot name a topology; give a name of letters"),
    ("x", {"delivery": "exactly"}, "x: delivery='exactly' is not valid; "),
    ("x", {"delivry": "at_least_once"}, "x: unknown option 'delivry'; give delivery= only"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG_TOPOLOGIES)
def test_a_wrong_argument_of_a_topology_is_a_problem_too(name, options, text):
    line = here() + 1
    flow = Topology(name, **options)
    flow.connect(read, show)
    (problem,) = said(flow)
    assert problem.startswith(f"{__file__}:{line}: {text}")


def test_all_problems_come_at_once_in_the_order_of_lines():
    flow = Topology("wrong")
    for mistake in (cycle, same_edge_twice, wrong_when, leaf):
        mistake(flow)
    found: tuple[Problem, ...] = flow.problems()
    assert len({problem.message for problem in found}) >= 4
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)


def test_one_function_runs_under_two_names_with_the_options_of_its_decorator():
    @stage(replicas=3)
    def work(item): ...

    flow = Topology("twice")
    again = flow.stage(work, name="again", retries=7)
    flow.connect(read, work, again, show)
    assert flow.problems() == ()
    options = flow.declared().stage("again").options
    assert (options.replicas, options.retries) == (3, 7)


def test_a_wrong_option_of_the_decorator_is_told_also_when_only_the_second_name_is_used():
    @stage(replica=3)
    def work(item): ...

    flow = Topology("twice")
    flow.connect(read, flow.stage(work, name="again"), show)
    (problem,) = said(flow)
    assert "unknown option 'replica'" in problem


# --- annotations across an edge ------------------------------------------------------------------


class Animal: ...


class Dog(Animal): ...


class Speaks(Protocol):
    def speak(self) -> str: ...


def gives_str(item: int) -> str: ...
def gives_dog(item: int) -> Dog: ...
def gives_maybe_str(item: int) -> str | None: ...
def gives_ints(item: int) -> Iterator[int]:
    yield item


def takes_int(item: int) -> None: ...
def takes_float(item: float) -> None: ...
def takes_animal(item: Animal) -> None: ...
def takes_any(item: Any) -> None: ...
def takes_list(item: list[int]) -> None: ...
def takes_protocol(item: Speaks) -> None: ...


class WritesInts:
    def write(self, items: list[int]) -> None: ...


EDGES = [
    (gives_str, takes_int, "gives_str gives str, takes_int takes int"),
    (gives_maybe_str, takes_int, "gives_maybe_str gives str, takes_int takes int"),
    (gives_ints, takes_animal, "gives_ints gives int, takes_animal takes Animal"),
    (gives_str, WritesInts, "gives_str gives str, WritesInts takes int"),
    (gives_ints, WritesInts, None),
    (gives_ints, takes_float, None),
    (gives_dog, takes_animal, None),
    (gives_str, takes_any, None),
    (gives_str, takes_list, None),
    (gives_str, takes_protocol, None),
]


@pytest.mark.parametrize(("before", "after", "text"), EDGES)
def test_annotations_that_cannot_match_are_a_warning_and_never_a_problem(before, after, text):
    flow = Topology("typed")
    line = here() + 1
    flow.connect(read, flow.stage(before), flow.sink(after))
    assert flow.problems() == ()
    expected = f"{__file__}:{line}: {before.__name__}->{after.__name__}: {text}; change one"
    found = [str(warning) for warning in flow.warnings()]
    assert found == ([] if text is None else [f"{expected} of the two annotations"])


# --- what a sink gets ----------------------------------------------------------------------------


def test_each_sink_is_told_what_it_gets_and_why():
    flow = Topology("guarantees")
    careless = flow.stage(abs, name="careless", on_error="drop")
    flow.connect(read, parse, careless, show)
    flow.connect(read, enrich, reject, delivery="at_most_once")
    shown, rejected = explain_delivery(flow.declared())
    assert (shown.sink, shown.delivery) == ("show", "at_least_once")
    assert shown.why.endswith("careless drops, and counts, the items that it fails on")
    assert (rejected.sink, rejected.delivery) == ("reject", "at_most_once")
    assert rejected.why.startswith("read->enrich, enrich->reject: what a crash loses there")


def guarantee(flow: Topology) -> tuple[str, str]:
    (found,) = explain_delivery(flow.declared())
    return found.delivery, found.why


def test_a_sink_that_commits_behind_deterministic_stages_is_exactly_once():
    flow = Topology("exact", delivery="exactly_once")
    flow.connect(read, parse)
    flow.connect(parse, Count, key=str)
    flow.connect(Count, Keep)
    assert flow.problems() == ()
    assert guarantee(flow) == (
        "exactly_once",
        "commit() stores what was applied beside the data",
    )


def test_a_stage_that_is_not_deterministic_voids_exactly_once():
    flow = Topology("loose", delivery="exactly_once")
    flow.connect(read, flow.stage(lambda item: item, name="ask", deterministic=False), Keep)
    delivery, why = guarantee(flow)
    assert delivery == "at_least_once"
    assert "ask may give something else" in why
    assert "make ask a DurableStage" in said(flow)[0]


def unmarked(flow: Topology) -> set[str]:
    declared = flow.declared()
    return {edge.label for edge in declared.edges if declared.is_unmarked(edge)}


def test_edges_behind_nothing_but_lossy_ones_are_unmarked_up_to_the_next_origin():
    flow = Topology("flow")
    flow.connect(read, parse, delivery="at_most_once")
    flow.connect(parse, show)
    flow.connect(parse, Count)
    flow.connect(Count, Keep)
    assert unmarked(flow) == {"read->parse", "parse->show", "parse->Count"}


def test_an_edge_with_a_way_that_loses_nothing_is_marked():
    flow = Topology("flow")
    flow.connect(read, parse, delivery="at_most_once")
    flow.connect(read, enrich, parse)
    flow.connect(parse, show)
    assert unmarked(flow) == {"read->parse"}


def test_one_lossy_edge_anywhere_above_makes_a_sink_at_most_once():
    flow = Topology("lossy")
    flow.connect(read, Count, delivery="at_most_once")
    flow.connect(Count, Keep)
    assert guarantee(flow)[0] == "at_most_once"


def test_functions_of_edges_are_not_async():
    flow = Topology("awaited")
    flow.connect(read, parse)
    flow.connect(parse, Count, key=awaits)
    flow.connect(Count, show, when=awaits)
    problems = said(flow)
    assert any("key= is async: it gives a coroutine, not an answer" in one for one in problems)
    assert any("when= is async: it gives a coroutine, not an answer" in one for one in problems)
    assert len(problems) == 2

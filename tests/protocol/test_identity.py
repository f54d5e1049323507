"""Names of units: the same whatever happened, and never two items under one name.

A slip here shows seldom when processes are killed at random, so it is looked for by enumeration:
every small graph is walked item by item and every name in it is compared with every other.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from zflow.hashing import mix64, text_hash64
from zflow.protocol import identity
from zflow.protocol.identity import PART_UNITS, Branch, Brancher, Place, place_output
from zflow.wire.run import INDEX, OSEQ, Run, cut_runs

SEEDS = range(50)

# -- the rule, written down a second time: what is mixed into the path, field by field ------------

MIXED = {  # (keyed, yields, multi)
    (False, False, False): ("edge",),
    (False, False, True): ("edge", "index"),
    (False, True, False): ("edge", "index"),
    (False, True, True): ("edge", "index", "place"),
    (True, False, False): ("edge", "partition", "part"),
    (True, False, True): ("edge", "partition", "part"),
    (True, True, False): ("edge", "partition", "part"),
    (True, True, True): ("edge", "partition", "place", "part"),
}
FIELDS = sorted({field for fields in MIXED.values() for field in fields})


def rule_without(left_out: str) -> Callable[..., Place]:
    """The rule; `left_out` is a field that it forgets to mix in, "" for none."""

    def rule(branch, path, index, *, place=0, ordinal=0, partition=0):
        part, inside = divmod(ordinal, identity.PART_UNITS) if branch.yields else (0, place)
        known = {"edge": branch.edge, "index": index, "place": place}
        known |= {"partition": partition, "part": part}
        fields = MIXED[branch.keyed, branch.yields, branch.multi]
        path = mix64(path, *(known[field] for field in fields if field != left_out))
        if branch.keyed:
            return Place(path, index, inside)
        if branch.yields:
            return Place(path, ordinal, 0)
        return Place(path, place if branch.multi else index, 0)

    return rule


@pytest.mark.parametrize("seed", SEEDS)
def test_an_output_is_named_by_the_table_of_the_rule(seed):
    chance = random.Random(seed)
    rule = rule_without("")
    for keyed, yields, multi in MIXED:
        branch = Branch(edge=chance.getrandbits(64), keyed=keyed, yields=yields, multi=multi)
        for _ in range(20):
            path, index = chance.getrandbits(64), chance.randrange(1 << 40)
            numbers = {
                "place": chance.randrange(PART_UNITS),
                "ordinal": chance.choice([0, 255, 256, chance.randrange(100_000)]),
                "partition": chance.randrange(64),
            }
            expected = rule(branch, path, index, **numbers)
            assert place_output(branch, path, index, **numbers) == expected, f"seed {seed}"


def test_the_first_edge_of_an_origin_is_mixed_too():
    edge = text_hash64("read", "resize")
    assert place_output(Branch(edge=edge), 0, 0) == Place(mix64(0, edge), 0, 0)
    keyed = place_output(Branch(edge=edge, keyed=True), 0, 0, partition=5)
    assert keyed == Place(mix64(0, edge, 5, 0), 0, 0)


GOLDEN = [
    Place(0x790FD4E2A886681A, 3, 0),
    Place(0x7FE7901245B2E775, 4, 0),
    Place(0x7FE7901245B2E775, 600, 0),
    Place(0x8AE021CB4FA8FA8D, 600, 0),
    Place(0x9E630190FA52CF88, 3, 4),
    Place(0x9E630190FA52CF88, 3, 4),
    Place(0xEF98176331D7926E, 3, 88),
    Place(0x79B48E20D0CF363B, 3, 88),
]


def test_the_name_of_an_output_never_changes_from_version_to_version():
    path = 0x0123456789ABCDEF
    branches = [Branch(edge=7, keyed=k, yields=y, multi=m) for k, y, m in MIXED]
    found = [place_output(b, path, 3, place=4, ordinal=600, partition=5) for b in branches]
    assert found == GOLDEN


# -- small graphs, walked item by item ------------------------------------------------------------

SOURCE = 0
PARTITIONS = 2


@dataclass(frozen=True)
class Edge:
    name: int
    begin: int
    end: int
    keyed: bool


@dataclass(frozen=True)
class Graph:
    """Stages are numbered in the order of the flow; `yields` says how many items each yields."""

    edges: tuple[Edge, ...]
    yields: tuple[int, ...]  # by stage; 0: it returns

    def out(self, stage: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.begin == stage]

    def multi(self, stage: int) -> bool:
        return any(edge.keyed for edge in self.edges if edge.end == stage)


@dataclass(frozen=True)
class Item:
    """One item at the end of an edge; `lineage` says what it is, whatever it is called."""

    lineage: tuple
    edge: Edge | None
    partition: int
    place: Place


ROOT = Item((), None, 0, Place(0, 0, 0))


def made_of(graph: Graph, rule: Callable[..., Place], item: Item) -> Iterator[Item]:
    """What the item becomes at the stage it has come to."""
    stage = item.edge.end if item.edge else SOURCE
    n = graph.yields[stage]
    for edge in graph.out(stage):
        branch = Branch(edge=edge.name, keyed=edge.keyed, yields=bool(n), multi=graph.multi(stage))
        counted: dict[int, int] = defaultdict(int)
        for k in range(n or 1):
            lineage = (*item.lineage, (edge.name, k))
            # Neighbours go to both partitions, and for some inputs all to one.
            turn = k if len(lineage) % 2 else sum(number for _, number in lineage) // 2
            partition = turn % PARTITIONS if edge.keyed else 0
            ordinal = counted[partition] if edge.keyed else k
            counted[partition] += 1
            place = rule(
                branch,
                item.place.path,
                item.place.index,
                place=item.place.place,
                ordinal=ordinal,
                partition=partition,
            )
            yield Item(lineage, edge, partition, place)


def walked(graph: Graph, rule: Callable[..., Place] = place_output) -> list[Item]:
    """Every item that one root becomes, on every edge."""
    found, waiting = [], [ROOT]
    while waiting:
        made = list(made_of(graph, rule, waiting.pop()))
        found += made
        waiting += made
    return found


def faults(items: list[Item]) -> list[str]:
    """What is wrong with the names of one root's items."""
    names: dict[Place, Item] = {}
    homes: dict[tuple[int, int], tuple[Edge | None, int]] = {}
    found = []
    for item in items:
        twin = names.setdefault(item.place, item)
        if twin is not item:
            found.append(f"{twin} and {item} have one name")
        unit = (item.place.path, item.place.index)
        if homes.setdefault(unit, (item.edge, item.partition)) != (item.edge, item.partition):
            found.append(f"the unit {unit} lies at {homes[unit]} and at {item}")
        most = identity.PART_UNITS if item.edge and item.edge.keyed else 1
        if not 0 <= item.place.place < most:
            found.append(f"{item} has a place beyond {most}")
    return found


PARALLEL = [(), (False,), (True,), (False, True), (False, False), (True, True)]
SIMPLE = [(), (False,), (True,)]
MIXED_PAIRS = [*SIMPLE, (False, True)]


def graphs(stages: int, choices: list[tuple[bool, ...]], *, n: int = 3) -> Iterator[Graph]:
    """All graphs of so many stages, with one of the choices (edges, keyed or not) at each pair."""
    pairs = [(a, b) for b in range(1, stages) for a in range(b)]
    names = [text_hash64("edge", str(k)) for k in range(2 * len(pairs))]
    for chosen in product(choices, repeat=len(pairs)):
        edges = [
            Edge(names[2 * p + k], *pairs[p], keyed)
            for p, some in enumerate(chosen)
            for k, keyed in enumerate(some)
        ]
        if {edge.end for edge in edges} != set(range(1, stages)):
            continue  # a stage without an input is another, smaller graph
        talking = {edge.begin for edge in edges}
        options = [(0, n) if stage in talking and stage else (0,) for stage in range(stages)]
        for yields in product(*options):
            yield Graph(tuple(edges), yields)


def chains(stages: int, *, n: int = 3) -> Iterator[Graph]:
    names = [text_hash64("edge", str(k)) for k in range(stages)]
    for keyed in product((False, True), repeat=stages - 1):
        edges = [Edge(names[k], k, k + 1, keyed[k]) for k in range(stages - 1)]
        for yields in product((0, n), repeat=stages - 2):
            yield Graph(tuple(edges), (0, *yields, 0))


@pytest.mark.parametrize("stages", [2, 3])
def test_no_two_items_have_one_name_in_any_graph_with_parallel_edges(stages):
    for graph in graphs(stages, PARALLEL):
        assert not faults(walked(graph)), graph


@pytest.mark.slow
def test_no_two_items_have_one_name_in_any_graph_of_three_stages_and_a_source():
    for graph in graphs(4, MIXED_PAIRS):
        assert not faults(walked(graph)), graph


@pytest.mark.slow
def test_no_two_items_have_one_name_in_any_chain_of_four_stages():
    for graph in chains(5):
        assert not faults(walked(graph)), graph


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_no_two_items_have_one_name_in_deeper_graphs_drawn_at_random(seed):
    chance = random.Random(seed)
    for _ in range(20):
        pairs = [(a, b) for b in range(1, 6) for a in range(b)]
        drawn = [pair for pair in pairs for _ in range(chance.choice([0, 0, 1, 1, 2]))]
        edges = tuple(Edge(chance.getrandbits(64), a, b, chance.random() < 0.5) for a, b in drawn)
        graph = Graph(edges, tuple(chance.choice([0, 2, 3]) if k else 0 for k in range(6)))
        found = walked(graph)
        assert not faults(found), f"seed {seed}: {graph}"


def many_yields(*keyed: bool, yields: tuple[int, ...]) -> Graph:
    edges = [Edge(text_hash64("many", str(k)), k, k + 1, keyed[k]) for k in range(len(keyed))]
    return Graph(tuple(edges), yields)


MANY = {
    "straight to a sink": many_yields(False, True, yields=(0, 1200, 0)),
    "then a stage that returns": many_yields(False, True, True, yields=(0, 1200, 0, 0)),
    "then a stage that yields": many_yields(False, True, True, yields=(0, 700, 2, 0)),
    "then spread again": many_yields(False, True, False, yields=(0, 1200, 0, 0)),
    "from inputs that hold many": many_yields(True, True, True, yields=(0, 3, 700, 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("graph", MANY.values(), ids=MANY)
def test_a_keyed_unit_never_holds_more_than_256_items_however_many_are_yielded(graph):
    found = walked(graph)
    assert not faults(found)
    held: dict[tuple[int, int], int] = defaultdict(int)
    for item in found:
        held[item.place.path, item.place.index] += 1
    assert max(held.values()) == PART_UNITS


@pytest.fixture
def small_parts(monkeypatch):
    """Units of 2 items, so that small graphs have several parts of everything."""
    monkeypatch.setattr(identity, "PART_UNITS", 2)


@pytest.mark.usefixtures("small_parts")
def test_no_two_items_have_one_name_in_any_small_graph_whose_yields_make_several_parts():
    for graph in [*graphs(3, PARALLEL, n=5), *chains(4, n=5)]:
        assert not faults(walked(graph)), graph


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_no_two_items_have_one_name_in_any_chain_of_yields_of_yields_of_parts():
    for graph in chains(5, n=5):
        assert not faults(walked(graph)), graph


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("field", ["partition", "part", "place", "edge", "index"])
def test_small_parts_need_every_field_too(field):
    rule = rule_without(field)
    family = [*graphs(3, PARALLEL, n=5), *chains(4, n=5)]
    assert any(faults(walked(graph, rule)) for graph in family)


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_rule_is_needed(field):
    """The check of the checks above: each notices when one field is not mixed in."""
    rule = rule_without(field)
    family = [*graphs(3, PARALLEL), *chains(4), *MANY.values()]
    assert any(faults(walked(graph, rule)) for graph in family)


def test_the_second_writing_of_the_rule_finds_no_fault_either():
    rule = rule_without("")
    for graph in chains(4):
        assert walked(graph, rule) == walked(graph)


@pytest.mark.parametrize("seed", SEEDS)
def test_survivors_have_the_names_that_they_have_if_nothing_is_lost(seed):
    """Any order of work, items dead-lettered anywhere, others tried again: names stay."""
    chance = random.Random(seed)
    family = list(graphs(3, SIMPLE))
    for graph in chance.sample(family, 5):
        everything = {item.lineage: item for item in walked(graph)}
        waiting = [ROOT]
        while waiting:
            item = waiting.pop(chance.randrange(len(waiting)))
            if item is not ROOT and chance.random() < 0.2:
                continue  # dead-lettered
            made = list(made_of(graph, place_output, item))
            if chance.random() < 0.3:
                waiting.append(item)  # and once more
            for output in made:
                assert everything[output.lineage] == output, f"seed {seed}"
                if chance.random() < 0.9:
                    waiting.append(output)


# -- the fast forms -------------------------------------------------------------------------------


def random_run(chance: random.Random) -> Run:
    n = chance.randrange(1, 20)
    start = chance.randrange(1000)
    column = None
    if chance.random() < 0.5:
        column = sorted(chance.sample(range(start, start + 3 * n), n))
        start = column[0]
    axis = chance.choice([OSEQ, INDEX])
    return Run(chance.getrandbits(64), chance.getrandbits(64), axis, 9, start, n, 5, 2, 3, column)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_returns_is_named_like_its_units_one_by_one(seed):
    chance = random.Random(seed)
    branch = Branch(edge=chance.getrandbits(64))
    brancher = Brancher(branch.edge)
    for _ in range(20):
        run = random_run(chance)
        positions = None
        if chance.random() < 0.7:
            positions = sorted(chance.sample(range(run.n), chance.randrange(1, run.n + 1)))
        made = brancher.returned(run, positions)
        expected = []
        for position in range(run.n) if positions is None else positions:
            origin, oseq, path, index = run.unit(position)
            place = place_output(branch, path, index)
            expected.append((origin, oseq, place.path, place.index))
        assert list(made.units()) == expected, f"seed {seed}: {run} {positions}"
        assert (made.born_ns, made.attempt, made.flags) == (5, 0, 0), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_unit_yields_is_named_item_by_item(seed):
    chance = random.Random(seed)
    branch = Branch(edge=chance.getrandbits(64), yields=True)
    brancher = Brancher(branch.edge)
    for _ in range(20):
        run = random_run(chance)
        position = chance.randrange(run.n)
        first, n = chance.randrange(5000), chance.randrange(1, 30)
        ordinals: range | list[int] = range(first, first + n)
        if chance.random() < 0.5:
            ordinals = sorted(chance.sample(range(first, first + 2 * n), n))
        made = brancher.yielded(run, position, ordinals)
        origin, oseq, path, index = run.unit(position)
        places = [place_output(branch, path, index, ordinal=ordinal) for ordinal in ordinals]
        expected = [(origin, oseq, place.path, place.index) for place in places]
        assert list(made.units()) == expected, f"seed {seed}: {run} {position} {ordinals}"
        assert (made.born_ns, made.attempt, made.flags) == (5, 0, 0), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_inputs_return_to_a_partition_is_named_item_by_item(seed):
    chance = random.Random(seed)
    branch = Branch(edge=chance.getrandbits(64), keyed=True)
    brancher = Brancher(branch.edge)
    for _ in range(20):
        run = random_run(chance)
        partition = chance.randrange(64)
        positions = sorted(chance.sample(range(run.n), chance.randrange(1, run.n + 1)))
        made = brancher.keyed(run, positions, partition)
        expected = []
        for position in positions:
            origin, oseq, path, index = run.unit(position)
            place = place_output(branch, path, index, partition=partition)
            expected.append((origin, oseq, place.path, place.index))
        assert list(made.units()) == expected, f"seed {seed}: {run} {positions}"
        assert (made.partition, made.counts, made.items) == (partition, None, made.n)
        assert (made.born_ns, made.attempt, made.flags) == (5, 0, 0), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_inputs_yield_to_a_partition_is_named_item_by_item(seed):
    chance = random.Random(seed)
    branch = Branch(edge=chance.getrandbits(64), keyed=True, yields=True)
    brancher = Brancher(branch.edge)
    for _ in range(3):
        run = random_run(chance)
        partition = chance.randrange(64)
        yielded = [chance.choice([0, 0, 1, 255, 256, 257, 600]) for _ in range(run.n)]
        expected, found = Counter(), Counter()
        for position, n in enumerate(yielded):
            origin, oseq, path, index = run.unit(position)
            for ordinal in range(n):
                place = place_output(branch, path, index, ordinal=ordinal, partition=partition)
                expected[origin, oseq, place.path, place.index, place.place] += 1
        for part in range(max(yielded) // PART_UNITS + 1):
            counts = [min(max(n - PART_UNITS * part, 0), PART_UNITS) for n in yielded]
            positions = [position for position, n in enumerate(counts) if n]
            if not positions:
                continue
            counts = [counts[position] for position in positions]
            made = brancher.keyed(run, positions, partition, part=part, counts=counts)
            assert made.items == sum(counts), f"seed {seed}"
            for unit, n in zip(made.units(), counts, strict=True):
                found.update((*unit, place) for place in range(n))
        assert found == expected, f"seed {seed}: {run} {yielded}"


@pytest.mark.parametrize("seed", SEEDS)
def test_keyed_units_have_the_same_names_however_their_inputs_are_cut_or_left_out(seed):
    """A part of the inputs, cut anywhere, others filtered or dead-lettered, some once more."""
    chance = random.Random(seed)
    brancher, other = Brancher(7), Brancher(7)
    run = random_run(chance)
    part = chance.randrange(3)
    whole = brancher.keyed(run, list(range(run.n)), 5, part=part, counts=[2] * run.n)
    names = dict(zip(run.units(), whole.units(), strict=True))
    for _ in range(20):
        begin = chance.randrange(run.n)
        cut = run.cut(begin, chance.randrange(begin + 1, run.n + 1))
        cut = cut.marked(attempt=chance.randrange(3), flags=chance.randrange(8))
        alive = sorted(chance.sample(range(cut.n), chance.randrange(1, cut.n + 1)))
        counts = chance.choice([None, [chance.randint(1, 9) for _ in alive]])
        made = chance.choice([brancher, other]).keyed(cut, alive, 5, part=part, counts=counts)
        expected = [names[cut.unit(position)] for position in alive]
        assert list(made.units()) == expected, f"seed {seed}: {cut} {alive}"
        assert made.counts == counts


def test_partitions_and_parts_of_one_input_are_different_units():
    brancher, run = Brancher(7), Run(1, 5, OSEQ, 0, 3, 1)
    paths = {brancher.keyed(run, [0], p, part=part).path for p in range(64) for part in range(64)}
    assert len(paths) == 64 * 64


def test_a_brancher_that_has_forgotten_a_keyed_path_names_it_as_before():
    brancher, run = Brancher(7), Run(1, 5, OSEQ, 0, 0, 1)
    before = brancher.keyed(run, [0], 3, part=1)
    for path in range(10_000):
        brancher.keyed(Run(1, path, OSEQ, 0, 0, 1), [0], 3)
    assert len(brancher._keyed) <= Brancher._REMEMBERED
    assert brancher.keyed(run, [0], 3, part=1) == before


def test_a_brancher_that_has_forgotten_a_path_names_it_as_before():
    brancher = Brancher(7)
    before = brancher.returned(Run(1, 5, OSEQ, 0, 0, 1), None)
    for path in range(10_000):
        brancher.returned(Run(1, path, OSEQ, 0, 0, 1), None)
    assert len(brancher._paths) <= Brancher._REMEMBERED
    assert brancher.returned(Run(1, 5, OSEQ, 0, 0, 1), None) == before


def test_consecutive_numbers_need_no_column():
    made = Brancher(7).yielded(Run(1, 5, OSEQ, 0, 3, 2), 1, range(1024, 2048))
    assert (made.start, made.n, made.numbers, made.axis, made.fixed) == (1024, 1024, None, INDEX, 4)


# -- the fast forms in a flow of messages ---------------------------------------------------------


class Flow:
    """Stages with free edges, fed message by message; remembers how every item was named."""

    def __init__(self, graph: Graph, chance: random.Random | None) -> None:
        self.names: dict[tuple, tuple] = {}
        self._graph = graph
        self._chance = chance  # None: everything whole, in order, nothing lost
        self._branchers = {edge.name: Brancher(edge.name) for edge in graph.edges}

    def feed(self, runs: list[Run], lineages: list[tuple]) -> None:
        self._pass_on(SOURCE, runs, lineages)

    def _luck(self, odds: float) -> bool:
        return self._chance is not None and self._chance.random() < odds

    def _pass_on(self, stage: int, runs: list[Run], lineages: list[tuple]) -> None:
        if len(lineages) > 1 and self._luck(0.6):
            at = self._chance.randrange(1, len(lineages))
            halves = [(0, at), (at, len(lineages))]
            self._chance.shuffle(halves)
            for begin, end in halves:
                self._pass_on(stage, cut_runs(runs, begin, end), lineages[begin:end])
            return
        for _ in range(2 if self._luck(0.2) else 1):
            self._execute(stage, runs, lineages)

    def _execute(self, stage: int, runs: list[Run], lineages: list[tuple]) -> None:
        n = self._graph.yields[stage]
        for edge in self._graph.out(stage):
            at = 0
            made, named = [], []
            for run in runs:
                own = lineages[at : at + run.n]
                at += run.n
                alive = [p for p, lineage in enumerate(own) if self._wanted(edge, lineage)]
                made_now = self._yielded(edge, run, own, n) if n else None
                if made_now is not None:
                    for part, names in made_now:
                        made.append(part)
                        named += names
                elif alive:
                    made.append(self._branchers[edge.name].returned(run, alive))
                    named += [(*own[p], (edge.name, 0)) for p in alive]
            self._arrive(edge, made, named)

    def _wanted(self, edge: Edge, lineage: tuple) -> bool:
        declared = hash((edge.name, lineage)) % 4 != 0  # a filter: the same in every flow
        return declared and not self._luck(0.1)

    def _yielded(self, edge: Edge, run: Run, own: list[tuple], n: int) -> list:
        found = []
        for position, lineage in enumerate(own):
            names = [(*lineage, (edge.name, k)) for k in range(n)]
            ordinals = [k for k in range(n) if self._wanted(edge, names[k])]
            if ordinals:
                made = self._branchers[edge.name].yielded(run, position, ordinals)
                found.append((made, [names[k] for k in ordinals]))
        return found

    def _arrive(self, edge: Edge, runs: list[Run], lineages: list[tuple]) -> None:
        units = [unit for run in runs for unit in run.units()]
        for unit, lineage in zip(units, lineages, strict=True):
            assert self.names.setdefault(lineage, unit) == unit
        if runs:
            self._pass_on(edge.end, runs, lineages)


@pytest.mark.parametrize("seed", SEEDS)
def test_units_have_the_same_names_however_messages_are_cut_lost_and_sent_again(seed):
    chance = random.Random(seed)
    free = [(), (False,), (False, False)]
    graph = chance.choice([g for g in graphs(4, free) if len(g.edges) < 6])
    runs = [Run(1, 0, OSEQ, 0, 100, 6), Run(2, 0, OSEQ, 0, 0, 4)]
    lineages = [(k,) for k in range(10)]
    whole = Flow(graph, None)
    whole.feed(runs, lineages)
    assert len(set(whole.names.values())) == len(whole.names), f"seed {seed}"
    broken = Flow(graph, chance)
    broken.feed(runs, lineages)
    assert broken.names.items() <= whole.names.items(), f"seed {seed}: {graph}"

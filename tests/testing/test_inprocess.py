"""A whole topology in one process: what `zflow.testing.run` promises to those who test theirs."""

import asyncio
import doctest
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from zflow import DurableStage, Topology, emit, join, sink, source, stage, tumbling, window
from zflow.connectors.sqlite import SqliteTable
from zflow.errors import ConfigError, Unavailable
from zflow.replica.durable import DurableWorker
from zflow.testing import NotEnding, RunFailed, Running, hang, kill, kill_at, kills, run

ROOT = Path(__file__).parents[2]
QUICK_S = 20.0  # of real time, on a machine that does something else too


class Refused(Exception):
    """By a stage of this file."""


@source
def numbers(n: int = 100):
    yield from range(n)


@stage
def double(number):
    return 2 * number


@sink
def shown(number):
    """Takes anything."""


def flow_of(*stages, **options) -> Topology:
    flow = Topology("tested", **options)
    flow.connect(*stages)
    return flow


def keyed(kept, key=str) -> Topology:
    """numbers -> kept, by key -> shown."""
    flow = Topology("keyed")
    flow.connect(numbers, kept, key=key)
    flow.connect(kept, shown)
    return flow


PLAIN = flow_of(numbers, double, shown)


# -- items ----------------------------------------------------------------------------------------


def test_a_sink_has_taken_what_the_topology_makes_of_the_inputs():
    result = run(PLAIN, inputs={"numbers": [3, 1, 2]})
    assert result["shown"] == [6, 2, 4]
    assert result.dead == []
    assert result.ledger["numbers->double"].processed == 3
    assert result.ledger["double->shown"].sent == 3
    assert result.stages["double"]["processed"] == 3
    assert result.restarts == {}


def test_without_inputs_the_source_runs_with_its_parameters():
    assert run(PLAIN, parameters={"numbers.n": 3})["shown"] == [0, 2, 4]
    assert run(PLAIN, parameters={"numbers.n": "2"})["shown"] == [0, 2], "a text, as with -p"


def test_functions_of_the_test_itself_are_stages():
    seen = []

    @stage
    def local(number):
        seen.append(number)
        return number

    result = run(flow_of(numbers, local, shown), inputs={"numbers": "ab"})
    assert result["shown"] == seen == ["a", "b"]


def test_the_replicas_of_a_fed_source_share_its_items():
    @source
    def shared(partition, partitions):
        yield from ()

    result = run(flow_of(shared, shown), inputs={"shared": range(10)}, replicas={"shared": 3})
    assert sorted(result["shown"]) == list(range(10))


def test_a_thousand_items_take_little_time():
    began_s = time.monotonic()
    result = run(PLAIN, inputs={"numbers": range(1000)})
    assert time.monotonic() - began_s < QUICK_S
    assert len(result["shown"]) == 1000
    assert 0 < result.elapsed_s < 1


@sink
class Loud:
    def __init__(self, path: Path):
        self.path = path

    def write(self, items):
        with self.path.open("a") as file:
            file.writelines(f"{item}\n" for item in items)


def test_a_sink_runs_unless_it_is_only_recorded(tmp_path):
    flow, path = flow_of(numbers, Loud), tmp_path / "written"
    result = run(flow, inputs={"numbers": range(5)}, parameters={"Loud.path": path})
    assert result["Loud"] == [0, 1, 2, 3, 4]
    assert path.read_text().split() == ["0", "1", "2", "3", "4"]

    path.unlink()
    for sinks in ("record", ["Loud"]):
        assert run(flow, inputs={"numbers": range(5)}, sinks=sinks)["Loud"] == [0, 1, 2, 3, 4]
    assert not path.exists()


def test_what_is_wrong_with_the_arguments_is_said_before_anything_runs():
    for arguments, wanted in [
        ({"inputs": {"number": []}}, "did you mean 'numbers'"),
        ({"parameters": {"numbers.m": 1}}, "has no parameter 'm'"),
        ({"parameters": {"numbers.n": "x"}}, "not a whole number"),
        ({"sinks": ["show"]}, "did you mean 'shown'"),
        ({"sinks": "recorded"}, "there is no 'recorded'"),
        ({"faults": [kill("double/1", at_item=1)]}, "there is no 'double/1'"),
        ({"replicas": {"dubble": 2}}, "did you mean 'double'"),
    ]:
        with pytest.raises(ConfigError, match=wanted):
            run(PLAIN, **arguments)
    with pytest.raises(ConfigError, match="'path' has no value"):
        run(flow_of(numbers, Loud))
    with pytest.raises(ConfigError, match="has no source"):
        run(Topology("empty"))
    with pytest.raises(KeyError, match="there is shown"):
        run(PLAIN, inputs={"numbers": []})["show"]
    with pytest.raises(TypeError, match="or 'kills'; got 'kill'"):
        run(PLAIN, faults="kill")
    with pytest.raises(ValueError, match="counted from 1"):
        kill("double/0", at_item=0)


# -- what fails -----------------------------------------------------------------------------------


@stage(retries=6, backoff_s=100.0, retry_on=Refused)
class Stubborn:
    def process(self, number):
        if number == 3 and self.context.attempt < 5:
            raise Refused(number)
        return number


def test_backoffs_of_many_minutes_take_no_real_time():
    began_s = time.monotonic()
    result = run(flow_of(numbers, Stubborn, shown), inputs={"numbers": range(6)})
    assert time.monotonic() - began_s < QUICK_S
    assert sorted(result["shown"]) == list(range(6))
    assert result["shown"][-1] == 3
    assert result.elapsed_s > 60
    assert result.ledger["numbers->Stubborn"].processed == 6


@stage(retries=1, backoff_s=0.5)
def picky(number):
    if number % 4 == 0:
        raise Refused(f"not {number}")
    return number


def test_an_item_that_fails_too_often_is_a_dead_letter():
    result = run(flow_of(numbers, picky, shown), inputs={"numbers": range(1, 10)})
    assert sorted(result["shown"]) == [1, 2, 3, 5, 6, 7, 9]
    assert [(dead.item, dead.stage, dead.attempts) for dead in result.dead] == [
        (4, "picky", 2),
        (8, "picky", 2),
    ]
    assert {dead.error_class for dead in result.dead} == {"Refused"}
    assert "raise Refused" in result.dead[0].error
    assert "/zflow/" not in result.dead[0].error, "frames of the user only"
    assert result.ledger["numbers->picky"].dead_lettered == 2


@stage(retries=0, on_error="fail")
def strict(number):
    raise Refused(number)


@stage(retries=0, on_error="drop")
def careless(number):
    raise Refused(number)


def test_a_policy_that_fails_the_run_raises_and_one_that_drops_does_not():
    with pytest.raises(RunFailed, match=r"seed 4.*strict failed on an item.*(?s:.*)Refused"):
        run(flow_of(numbers, strict, shown), seed=4)
    result = run(flow_of(numbers, careless, shown), inputs={"numbers": [1, 2]})
    assert result["shown"] == result.dead == []
    assert result.ledger["numbers->careless"].dropped["error"] == 2


@source(retries=2, backoff_s=5.0)
def shaky():
    yield 1
    raise Refused("nothing more")


def test_a_source_that_goes_on_failing_fails_the_run():
    with pytest.raises(RunFailed, match="Refused: nothing more"):
        run(flow_of(shaky, shown))


@stage
class Unopened:
    def open(self):
        raise Refused("no database")

    def process(self, item):
        return item


def test_a_stage_that_cannot_be_opened_is_a_crash_loop_with_its_traceback():
    with pytest.raises(RunFailed, match=r"Unopened/0 dies again and again(?s:.*)no database"):
        run(flow_of(numbers, Unopened, shown))


def test_a_database_that_is_away_for_a_minute_costs_only_that_minute():
    with Running(flow_of(numbers, Away), inputs={"numbers": [1, 2]}) as running:
        Away.until_s = running.wall_s() + 60.0
        Away.wall_s = running.wall_s
        result = running.finish()
    assert result["Away"] == [1, 2]
    assert 60 <= result.elapsed_s < 90
    assert result.restarts["Away/0"] > 10


@sink
class Away:
    def open(self):
        if self.wall_s() < self.until_s:
            raise Unavailable("the database is away")

    def write(self, items):
        """Takes anything."""


@source
def resumed(resume):
    yield from range(resume, 60)


@source
class Placed:
    def open(self, resume):
        self.next = resume or 0

    def position(self):
        return self.next

    def __iter__(self):
        while self.next < 60:
            self.next += 1
            yield self.next - 1


ARRIVING: list[int] = []


@source(journaled=True)
def arriving():
    while ARRIVING:
        yield ARRIVING.pop(0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("read", [resumed, Placed, arriving], ids=lambda one: one.__name__)
def test_every_kind_of_source_goes_on_where_it_was(read, seed):
    ARRIVING[:] = range(60)
    name = read.__name__
    faults = [kill(f"{name}/0", at_item=1 + 9 * seed), kill("shown/0", at_item=5)]
    faults += [kill_at(f"{name}/0", at_s=0.5)]
    result = run(flow_of(read, shown), faults=faults, seed=seed)
    # An item that a source has taken from elsewhere and not yet yielded is lost with its process.
    unread = {9 * seed} if read is arriving else set()
    assert set(result["shown"]) == set(range(60)) - unread


# -- faults ---------------------------------------------------------------------------------------


def test_a_replica_that_is_killed_costs_nothing_and_repeats_what_was_not_acknowledged():
    calls = []

    @stage
    def called(number):
        calls.append(number)
        return number

    flow = flow_of(numbers, called, shown)
    result = run(flow, faults=[kill("called/0", at_item=10)])
    assert set(result["shown"]) == set(range(100))
    assert result.restarts == {"called/0": 1}
    assert len(calls) > 100, "those before the tenth were not acknowledged and came again"


def test_a_sink_that_dies_behind_its_call_is_given_the_item_again():
    flow = flow_of(numbers, shown)
    result = run(flow, inputs={"numbers": [7]}, faults=[kill("shown/0", at_item=1, after=True)])
    assert result["shown"] == [7, 7]
    result = run(flow, inputs={"numbers": [7]}, faults=[kill("shown/0", at_item=1)])
    assert result["shown"] == [7]


def test_a_source_that_is_killed_goes_on_where_it_was():
    result = run(PLAIN, faults=[kill("numbers/0", at_item=30), kill_at("numbers/0", at_s=0.2)])
    assert set(result["shown"]) == {2 * number for number in range(100)}
    assert result.restarts["numbers/0"] >= 1


def test_what_hangs_is_killed_after_its_timeout_and_at_last_a_dead_letter():
    @stage(timeout_s=30.0, max_crashes=2)
    def hung(number):
        return number

    flow = flow_of(numbers, hung, shown)
    once = [hang("hung/0", at_item=2)]
    result = run(flow, inputs={"numbers": [1, 2, 3]}, faults=once)
    assert set(result["shown"]) == {1, 2, 3}
    assert result.elapsed_s > 30
    assert result.restarts == {"hung/0": 1}

    # The first two of the items that its successor takes are those that were executing.
    always = [hang("hung/0", at_item=1), hang("hung/0", at_item=2)]
    result = run(flow, inputs={"numbers": [1]}, faults=always)
    assert result["shown"] == []
    assert [dead.item for dead in result.dead] == [1]
    assert "timeout_s=30" in result.dead[0].error
    assert result.elapsed_s > 60


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_whatever_dies(seed):
    flow = flow_of(numbers, double, shown)
    result = run(flow, seed=seed, faults="kills", replicas={"double": 3, "shown": 2})
    assert set(result["shown"]) == {2 * number for number in range(100)}, f"seed {seed}"


def test_a_seed_gives_the_same_run_and_another_one_another():
    runs = [
        run(PLAIN, seed=seed, faults="kills", replicas={"double": 3, "shown": 2})
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1]
    assert runs[0]["shown"] != runs[2]["shown"]
    assert runs[0].elapsed_s != runs[2].elapsed_s


# -- state ----------------------------------------------------------------------------------------


@stage
def letters(text):
    yield from text


@stage(replicas=2)
class Count(DurableStage):
    def process(self, letter):
        self.state[letter] = self.state.get(letter, 0) + 1

    def finish(self):
        yield from self.state.items()


@sink
class Counts(SqliteTable):
    def __init__(self, path: str = ""):
        super().__init__(path, table="counts", columns=("letter", "n"))


def counting() -> Topology:
    flow = Topology("counting", delivery="exactly_once")
    flow.connect(numbers, letters)
    flow.connect(letters, Count, key=str)
    flow.connect(Count, Counts)
    return flow


TEXTS = ["abracadabra", "banana", "cabbage"] * 20


@pytest.mark.parametrize("seed", range(6))
def test_state_and_a_transactional_sink_are_exact_whatever_dies(seed, tmp_path):
    result = run(
        counting(),
        inputs={"numbers": TEXTS},
        parameters={"Counts.path": str(tmp_path / "counts.db")},
        faults="kills",
        seed=seed,
    )
    assert Counter(dict(result["Counts"])) == Counter("".join(TEXTS)), f"seed {seed}"
    assert len(result["Counts"]) == len(set("".join(TEXTS)))


def test_a_recorded_transactional_sink_is_exact_and_the_seed_decides_all():
    first, again = (
        run(counting(), inputs={"numbers": TEXTS}, sinks="record", faults="kills", seed=3)
        for _ in range(2)
    )
    assert Counter(dict(first["Counts"])) == Counter("".join(TEXTS))
    assert first == again
    assert first.restarts


def test_a_framework_that_forgets_what_it_has_applied_is_found_out(monkeypatch):
    monkeypatch.setattr(DurableWorker, "_remembers", lambda _, work: False)
    results = [
        run(counting(), inputs={"numbers": TEXTS}, sinks="record", faults="kills", seed=seed)
        for seed in range(4)
    ]
    assert any(Counter(dict(r["Counts"])) != Counter("".join(TEXTS)) for r in results)


def test_names_of_items_are_the_same_in_every_run():
    @sink
    class Named:
        def write(self, items):
            for _ in items:
                names[-1].append(self.context.item_id)

    names: list[list[str]] = []
    flow = flow_of(numbers, letters)
    flow.connect(letters, Count, key=str)
    flow.connect(Count, Named)
    for _ in range(2):
        names.append([])
        run(flow, inputs={"numbers": ["a"]})
    assert names[0] == names[1] != []


@sink
class Upserted:
    def upsert(self, items, ids):
        """Takes anything."""


@stage(replicas=2, retries=2, backoff_s=0.5)
class Split:
    def process(self, number):
        if number % 50 == 7:
            raise Refused(number)
        if number % 10 == 3 and self.context.attempt == 0:
            raise Refused("this time")
        return emit("odd", number) if number % 25 == 0 else number


@stage(replicas=3)
def thrice(number):
    for copy in range(3):
        yield number, copy


@stage(replicas=2, retries=1, backoff_s=0.2)
class Tally(DurableStage):
    def process(self, copied):
        number, _ = copied
        if number % 60 == 9:
            raise Refused(number)
        self.state[number % 20] = self.state.get(number % 20, 0) + 1

    def finish(self):
        yield from self.state.items()


@stage(replicas=2)
class Same(DurableStage):
    def process(self, copied):
        return copied


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_everything_at_once_is_exact_whatever_dies(seed):
    """Retries, dead letters, outputs, fan-out, state, and sinks of two kinds."""
    flow = Topology("everything")
    flow.connect(numbers, Split, thrice)
    flow.connect(Split, shown, output="odd")
    flow.connect(thrice, Tally, key=lambda copied: copied[0] % 20)
    flow.connect(Tally, Counts)
    flow.connect(thrice, Same, key=lambda copied: copied[0])
    flow.connect(Same, Upserted)
    inputs = {"numbers": range(200)}
    result = run(flow, inputs=inputs, sinks="record", faults="kills", seed=seed)

    refused = {number for number in range(200) if number % 50 == 7}
    odd = set(range(0, 200, 25))
    good = set(range(200)) - refused - odd
    assert set(result["shown"]) == odd, f"seed {seed}"
    assert {dead.item for dead in result.dead if dead.stage == "Split"} == refused
    assert dict(result["Counts"]) == Counter(n % 20 for n in good if n % 60 != 9 for _ in range(3))
    assert set(result["Upserted"]) == {(number, copy) for number in good for copy in range(3)}
    lost = {dead.item for dead in result.dead if dead.stage == "Tally"}
    assert lost == {(n, copy) for n in good if n % 60 == 9 for copy in range(3)}


# -- time -----------------------------------------------------------------------------------------


@stage
class Reminder(DurableStage):
    def process(self, name):
        self.timers[name] = time.time() + 600.0

    def on_timer(self, name):
        return f"{name}: time is up"


def test_a_timer_fires_when_the_clock_is_moved_by_hand():
    with Running(keyed(Reminder), inputs={"numbers": ["tea"]}) as running:
        running.advance(500.0)
        assert running.sinks["shown"] == []
        running.advance(200.0)
        assert running.sinks["shown"] == ["tea: time is up"]
        result = running.finish()
    assert result["shown"] == ["tea: time is up"]
    assert result.elapsed_s >= 700


@window(tumbling(10), time=lambda event: event[1], idle_s=60.0)
def sums(key, window, events):
    return key, window.start, len(events)


def windowed() -> Topology:
    return keyed(sums, key=lambda event: event[0])


def test_windows_fire_by_their_items_and_at_the_end():
    events = [("a", 1), ("a", 5), ("a", 12), ("a", 27)]
    result = run(windowed(), inputs={"numbers": events})
    assert result["shown"] == [("a", 0.0, 2), ("a", 10.0, 1), ("a", 20.0, 1)]


def test_a_window_that_hears_nothing_fires_when_the_clock_has_moved():
    # An idle partition goes on to the highest time of its replica.
    with Running(windowed(), inputs={"numbers": [("a", 1)]}) as running:
        running.advance(30.0)
        running.put("numbers", [(f"other {k}", 100) for k in range(40)])
        running.advance(20.0)
        assert ("a", 0.0, 1) not in running.sinks["shown"]
        running.advance(60.0)
        assert ("a", 0.0, 1) in running.sinks["shown"]


def test_a_join_pairs_what_comes_on_two_edges():
    @source
    def left():
        yield from ()

    @source
    def right():
        yield from ()

    @join(within_s=10, time=lambda event: event["time"])
    def pair(key, one, other):
        return key, one["side"], other["side"]

    flow = Topology("joined")
    flow.connect(left, pair, key=lambda event: event["key"])
    flow.connect(right, pair, key=lambda event: event["key"])
    flow.connect(pair, shown)
    inputs = {
        "left": [{"key": 1, "time": 1, "side": "l"}, {"key": 2, "time": 2, "side": "l"}],
        "right": [{"key": 1, "time": 3, "side": "r"}, {"key": 3, "time": 2, "side": "r"}],
    }
    assert run(flow, inputs=inputs, faults="kills", seed=2)["shown"] == [(1, "l", "r")]


def test_items_can_be_put_and_replicas_killed_while_a_run_is_going_on():
    with Running(PLAIN, inputs={"numbers": [1]}) as running:
        running.advance(1.0)
        assert running.sinks["shown"] == [2]
        running.kill("double/0")
        running.put("numbers", [5])
        running.advance(1.0)
        assert running.sinks["shown"] == [2, 10]
        assert running.elapsed_s == 2.0
        result = running.finish()
    assert result["shown"] == [2, 10]
    assert result.restarts == {"double/0": 1}


def test_a_run_that_does_not_end_says_what_is_open():
    @stage(retries=1_000_000, backoff_s=10.0)
    def never(number):
        raise Refused(number)

    with pytest.raises(NotEnding, match=r"numbers/0: .*1 waiting for another try"):
        run(flow_of(numbers, never, shown), inputs={"numbers": [1]}, limit_s=600)


def test_a_source_without_an_end_stops_after_a_number_of_steps(monkeypatch):
    @source
    def endless():
        while True:
            yield 1

    monkeypatch.setattr("zflow.testing.inprocess.LIMIT_STEPS", 500)
    with pytest.raises(NotEnding, match="endless/0: .*the source has not ended"):
        run(flow_of(endless, shown))


def test_the_wall_clock_of_a_run_can_be_shown_to_user_code(monkeypatch):
    with Running(keyed(Reminder), inputs={"numbers": []}) as running:
        monkeypatch.setattr(f"{__name__}.time", SimpleNamespace(time=running.wall_s))
        running.advance(1200.0)
        running.put("numbers", ["tea"])
        running.advance(500.0)
        assert running.sinks["shown"] == []
        running.advance(200.0)
        assert running.sinks["shown"] == ["tea: time is up"]


# -- the documents --------------------------------------------------------------------------------


def test_the_example_of_the_readme_passes():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Testing a topology")[2]
    block = re.search(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    names: dict = {"__name__": "example"}
    exec(compile(block[1], "README.md", "exec"), names)  # noqa: S102
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_example_of_a_docstring_is_true():
    assert doctest.testmod(kills) == (0, 1)


# -- weight ---------------------------------------------------------------------------------------


def test_importing_the_door_loads_no_sockets():
    program = "import sys, zflow.testing; print(sorted({'zmq', 'sqlite3'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.replace("'", '"')) == []
    with pytest.raises(AttributeError, match="walk"):
        __import__("zflow.testing").testing.walk  # noqa: B018


# -- options that ask for more than one item at a time ---------------------------------------------


def test_what_is_asynchronous_threaded_or_batched_gives_the_same_in_one_process():
    opened = []

    @source
    def numbers():
        yield from range(40)

    @stage(concurrency=8, retries=2, backoff_s=5.0)
    class Add:
        async def open(self):
            opened.append(self)

        async def process(self, x):
            await asyncio.sleep(0)
            if x % 10 == 3 and self.context.attempt == 0:
                raise TimeoutError("once")
            return x + 1

        async def close(self):
            opened.remove(self)

    @stage
    async def twice(x):
        for _ in range(2):
            await asyncio.sleep(0)
            yield x

    @stage(concurrency=4)
    def later(x):
        future = Future()
        future.set_result(x)
        return future

    @stage(batch=7)
    def batched(items):
        return [10 * x for x in items]

    @sink
    def keep(x): ...

    flow = Topology("several")
    flow.connect(numbers, Add, twice, later, batched, keep)
    result = run(flow, seed=5, faults=[kill("Add/0", at_item=9), kill("batched/0", at_item=20)])
    assert set(result["keep"]) == {10 * (x + 1) for x in range(40)}
    assert len(result["keep"]) >= 80
    assert (result.dead, opened) == ([], [])
    assert result.elapsed_s > 2.5, "a backoff of at least half of 5 s"


def test_limits_and_priorities_keep_virtual_time():
    @source
    def orders():
        yield from range(100)

    @stage(rate_limit_per_s=10)
    def slowly(x):
        return x

    @sink
    def keep(x): ...

    flow = Topology("limited")
    flow.connect(orders, slowly, priority=lambda x: 0 if x >= 90 else 7)
    flow.connect(slowly, keep)
    result = run(flow, seed=1)
    assert sorted(result["keep"]) == list(range(100))
    assert result.elapsed_s == pytest.approx(10.0, rel=0.1)
    urgent = [place for place, x in enumerate(result["keep"]) if x >= 90]
    assert max(urgent) < 40, "they overtake all but what was in a window"

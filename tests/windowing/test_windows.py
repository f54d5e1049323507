"""What `@window` and `@join` take, what check refuses, and each rule of their semantics by hand."""

import math

import pytest

from zflow import Topology, Window, join, session, sink, sliding, source, stage, tumbling, window
from zflow.errors import StageError
from zflow.stages import declaration_of


def event_time(event):
    return event[1]


def declared(windows, **options):
    """A function of its own under @window."""

    def counts(key, window, items):
        return key, window.start, window.end, [number for _, _, number in items]

    return window(windows, **({"time": event_time} | options))(counts)


# --- declarations -------------------------------------------------------------------------------


def test_a_decorated_function_stays_a_plain_function():
    @window(tumbling(60), time=event_time)
    def size(key, window, items):
        return key, window.start, len(items)

    @join(within_s=10, time=event_time)
    def pair(key, left, right):
        return key, left, right

    assert size("a", Window(0, 60), [1, 2]) == ("a", 0, 2)
    assert pair("a", 1, 2) == ("a", 1, 2)


def test_parameters_are_the_arguments_behind_those_that_come_with_each_call():
    @window(tumbling(60), time=event_time)
    def size(key, window, items, least: int = 3, *, title: str):
        return title

    @join(within_s=10, time=event_time)
    def pair(key, left, right, scale: float = 1.0):
        return scale

    assert list(declaration_of(size).parameters) == ["least", "title"]
    assert declaration_of(size).parameters["title"].required
    assert list(declaration_of(pair).parameters) == ["scale"]


def test_a_parameter_reaches_the_function(trial):
    @window(tumbling(count=1))
    def size(key, window, items, least: int = 3):
        return least

    made = trial(size, least=7)
    made.feed(("a", 0, 0))
    made.commit()
    assert made.outputs == [7]


def test_stage_options_are_those_of_every_stage():
    made = declared(tumbling(60), name="minutes", replicas=3, durability="process", retries=0)
    decl = declaration_of(made)
    assert (decl.name, decl.options.replicas, decl.options.retries) == ("minutes", 3, 0)
    assert decl.options.durability == "process"
    assert decl.is_durable
    assert not decl.problems


def test_a_window_can_be_declared_once_more_under_another_name():
    flow = Topology("twice")
    first = declared(tumbling(60))
    again = flow.stage(first, name="again")
    assert again.runtime is declaration_of(first).runtime
    assert again.is_durable
    assert not again.problems


def messages(function):
    return [problem.message for problem in declaration_of(function).problems]


WRONG_WINDOWS = [
    (tumbling(0), "a size of 0 is not valid"),
    (tumbling(-1), "a size of -1 is not valid"),
    (tumbling(math.nan), "a size of nan is not valid"),
    (tumbling("60"), "a size of '60' is not valid"),
    (tumbling(True), "a size of True is not valid"),
    (tumbling(), "tumbling() takes a size or a count"),
    (tumbling(60, count=3), "tumbling() takes a size or a count"),
    (tumbling(count=0), "a window of count=0, hop=0 is not valid"),
    (tumbling(count=1.5), "a window of count=1.5, hop=1.5 is not valid"),
    (sliding(60, 0), "a hop of 0 is not valid"),
    (sliding(10, 60), "a hop of 60 leaves out what lies between windows of 10"),
    (sliding(60), "sliding() takes a size and a hop, both in seconds or both in items"),
    (sliding(60, count=3), "sliding() takes a size and a hop, both in seconds or both in items"),
    (sliding(count=2, hop=3), "a hop of 3 leaves out what lies between windows of 2"),
    (session(0), "a gap of 0 is not valid"),
    (session(math.inf), "a gap of inf is not valid"),
    (60, "60 is no window"),
]


@pytest.mark.parametrize(("windows", "message"), WRONG_WINDOWS)
def test_a_window_of_a_wrong_size_is_refused(windows, message):
    assert messages(declared(windows)) == [message]


WRONG_OPTIONS = [
    ({"time": None}, "time= is missing"),
    ({"time": 3}, "time=3 is not valid"),
    ({"lateness_s": -1}, "lateness_s=-1 is not valid"),
    ({"lateness_s": "1"}, "lateness_s='1' is not valid"),
    ({"latenes_s": 1}, "unknown option 'latenes_s'"),
    ({"replicas": 0}, "replicas=0 is not valid"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_a_wrong_option_of_a_window_is_refused(options, message):
    assert messages(declared(tumbling(60), **options)) == [message]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_a_wrong_option_of_a_join_is_refused(options, message):
    def pair(key, left, right):
        return left

    made = join(**({"within_s": 1, "time": event_time} | options))(pair)
    assert messages(made) == [message]


@pytest.mark.parametrize("within_s", [-1, math.nan, "1", None])
def test_a_wrong_distance_of_a_join_is_refused(within_s):
    @join(within_s=within_s, time=event_time)
    def pair(key, left, right):
        return left

    assert messages(pair) == [f"within_s={within_s!r} is not valid"]


def test_windows_of_counts_need_no_time_and_wait_for_nothing():
    assert messages(declared(tumbling(count=3), time=None)) == []
    assert messages(declared(tumbling(count=3), time=4)) == ["time=4 is not valid"]
    late = declared(tumbling(count=3), lateness_s=1)
    assert messages(late) == ["a window of counts waits for nothing: lateness_s= has no use"]


def test_a_function_that_cannot_be_called_with_a_window_is_refused():
    @window(tumbling(60), time=event_time)
    def takes_two(key, items):
        return items

    @join(within_s=1, time=event_time)
    def takes_all(*everything):
        return everything

    assert messages(takes_two) == ["cannot be called with (key, window, items)"]
    assert messages(takes_all) == []


# --- in a topology --------------------------------------------------------------------------------


@source
def read():
    yield "a", 0, 0


@source
def read_more():
    yield "a", 0, 0


@sink
def keep(x):
    pass


def topology(function, *sources, key=None):
    flow = Topology("windows")
    for one in sources:
        flow.connect(one, function, key=key)
    flow.connect(function, keep)
    return [problem.message for problem in flow.problems()]


def test_a_window_in_several_processes_needs_keys():
    refused = "replicas=2, and no key= says which of them has what"
    assert topology(declared(tumbling(60), replicas=2), read) == [refused]
    assert topology(declared(tumbling(60), replicas=2), read, key=str) == []
    assert topology(declared(tumbling(60)), read) == []


@pytest.mark.parametrize(("n", "said"), [(1, "1 edge leads"), (3, "3 edges lead")])
def test_a_join_has_two_edges(n, said):
    @join(within_s=1, time=event_time)
    def pair(key, left, right):
        return left

    @stage
    def third(x):
        return x

    flow = Topology("joins")
    flow.connect(read, third)
    for one in (read, read_more, third)[:n]:
        flow.connect(one, pair)
    flow.connect(read_more, keep)
    flow.connect(third, keep)
    flow.connect(pair, keep)
    (problem,) = flow.problems()
    assert problem.message == f"a join has a left and a right edge, but {said} into it"
    assert topology(pair, read, read_more) == []


# --- semantics, by hand -------------------------------------------------------------------------


def outputs(trial, function, items, *, finish=False):
    """What is given for these items, and the late ones."""
    made = trial(function)
    for item in items:
        made.feed(item)
    if finish:
        made.finish()
    made.commit()
    return made.outputs, made.late


def test_a_window_fires_when_the_watermark_reaches_its_end(trial):
    before = [("a", 0, 1), ("a", 9.9, 2)]
    assert outputs(trial, declared(tumbling(10)), before) == ([], [])
    fired = [("a", 0, 10, [1, 2])]
    assert outputs(trial, declared(tumbling(10)), [*before, ("a", 10, 3)]) == (fired, [])


def test_lateness_makes_a_window_wait(trial):
    items = [("a", 0, 1), ("a", 14.9, 2), ("a", 9, 3)]
    assert outputs(trial, declared(tumbling(10), lateness_s=5), items) == ([], [])
    items += [("a", 15, 4), ("a", 8, 5)]
    fired = [("a", 0, 10, [1, 3])]
    assert outputs(trial, declared(tumbling(10), lateness_s=5), items) == (fired, [("a", 8, 5)])


def test_another_key_of_the_partition_moves_the_watermark(trial):
    items = [("a", 1, 1), ("b", 10, 2)]
    assert outputs(trial, declared(tumbling(10)), items) == ([("a", 0, 10, [1])], [])


def test_windows_fire_in_order_of_end_and_key(trial):
    items = [("b", 1, 1), ("a", 11, 2), (10, 12, 3), (9, 13, 4), ("a", 5, 5), ("b", 99, 6)]
    found, _ = outputs(trial, declared(tumbling(10), lateness_s=20), items)
    assert [(start, key) for key, start, _, _ in found] == [
        *((0, "a"), (0, "b")),
        *((10, 9), (10, 10), (10, "a")),
    ]


def test_items_come_in_order_of_event_time_and_of_arrival(trial):
    items = [("a", 3, 1), ("a", 1, 2), ("a", 3, 3), ("a", 2, 4), ("a", 1, 5), ("a", 3, 6)]
    found, _ = outputs(trial, declared(tumbling(10)), items, finish=True)
    assert found == [("a", 0, 10, [2, 5, 4, 1, 3, 6])]


def test_an_item_is_late_only_when_all_its_windows_have_fired(trial):
    items = [("a", 10, 1), ("a", 9, 2), ("a", 4.9, 3)]
    found, late = outputs(trial, declared(sliding(10, 5)), items, finish=True)
    assert found == [("a", 5, 15, [2, 1]), ("a", 10, 20, [1])]
    assert late == [("a", 4.9, 3)]


def test_a_session_ends_after_its_gap_and_one_item_can_join_two(trial):
    items = [("a", 0, 1), ("a", 9, 2), ("a", 5, 3), ("b", 14, 4), ("a", 19, 5)]
    found, late = outputs(trial, declared(session(5.5), lateness_s=9), items, finish=True)
    assert found[0] == ("a", 0, 14.5, [1, 3, 2])
    assert found[1:] == [("b", 14, 19.5, [4]), ("a", 19, 24.5, [5])]
    assert late == []


def test_items_the_gap_apart_are_of_two_sessions(trial):
    found, _ = outputs(trial, declared(session(5)), [("a", 0, 1), ("a", 5, 2)], finish=True)
    assert found == [("a", 0, 5, [1]), ("a", 5, 10, [2])]


def test_after_the_end_everything_is_late(trial):
    made = trial(declared(tumbling(10)))
    made.feed(("a", 5, 1))
    made.finish()
    made.feed(("a", 500, 2))
    made.commit()
    assert made.outputs == [("a", 0, 10, [1])]
    assert made.late == [("a", 500, 2)]
    assert made.context.late == 1


def test_what_fires_at_the_end_fires_once_even_if_the_function_fails_at_first(trial):
    made = trial(declared(tumbling(10)))
    for key in "abc":
        made.feed((key, 5, 1))
    made.calls_until_failure = 1
    with pytest.raises(Exception, match="told to"):
        made.finish()
    made.calls_until_failure = -1
    made.finish()
    assert [key for key, *_ in made.outputs] == ["a", "b", "c"]


def fails_on_b(**options):
    @window(tumbling(10), time=event_time, **options)
    def counts(key, window, items):
        yield key, len(items)
        if key == "b":
            raise ValueError("no b")

    return counts


def feed_as_a_worker(made, item, *, retries):
    """As often as a worker would; how often it had to be tried again."""
    for failures in range(retries + 1):
        try:
            made.feed(item)
        except ValueError:
            continue
        return failures
    raise AssertionError("the worker would have given up the item")


def test_a_window_that_fails_at_every_attempt_is_given_up_and_not_the_item_behind_it(trial):
    made = trial(fails_on_b(retries=2))
    for key in "abc":
        made.feed((key, 5, key))
    assert feed_as_a_worker(made, ("a", 15, "d"), retries=2) == 2
    for item in (("b", 16, "e"), ("b", 17, "f")):
        made.feed(item)
    assert feed_as_a_worker(made, ("a", 25, "g"), retries=2) == 2
    made.commit()
    first, failed, third, again, failed_again = made.outputs
    assert (first, third, again) == (("a", 1), ("c", 1), ("a", 1))
    assert failed.item == {"key": "b", "window": (0, 10), "items": [("b", 5, "b")]}
    assert failed.error_class == "ValueError"
    assert "no b" in failed.error
    assert len(failed_again.item["items"]) == 2


def test_several_windows_that_one_item_fires_cost_it_no_more_attempts_than_one(trial):
    @window(tumbling(10), time=event_time, retries=1)
    def fails(key, window, items):
        raise ValueError(key)

    made = trial(fails)
    for key in "abc":
        made.feed((key, 5, key))
    assert feed_as_a_worker(made, ("a", 15, "d"), retries=1) == 1
    made.commit()
    assert [failed.item["key"] for failed in made.outputs] == ["a", "b", "c"]


def test_an_error_that_is_not_to_be_tried_again_gives_up_the_window_at_once(trial):
    made = trial(fails_on_b(retry_on=KeyError))
    made.feed(("b", 5, 1))
    assert feed_as_a_worker(made, ("a", 15, 2), retries=0) == 0


def test_a_window_is_dropped_or_fails_the_run_where_that_is_declared(trial):
    dropping = trial(fails_on_b(retries=0, on_error="drop"))
    dropping.feed(("b", 5, 1))
    dropping.finish()
    assert dropping.outputs == []
    failing = trial(fails_on_b(retries=0, on_error="fail"))
    failing.feed(("b", 5, 1))
    for _ in range(3):
        with pytest.raises(ValueError, match="no b"):
            failing.finish()


class FakeClock:
    now_s = 1000.0

    def wall_s(self):
        return self.now_s


@pytest.fixture
def idle(trial):
    """Two partitions of one replica, with windows that wait two seconds for company."""

    class Idle:
        def __init__(self):
            self.clock = FakeClock()
            self.quiet = trial(declared(tumbling(10), idle_s=2))
            self.stage = self.quiet.stage
            self.stage.clock = self.clock
            self.busy = trial(declared(tumbling(10), idle_s=2))
            self.busy.stage = self.stage

        def feed(self, made, item):
            self.stage.state, self.stage.context = made.state, made.context
            made.feed(item)

        def ring(self, made):
            """What the worker does when a timer is due; what it gives."""
            self.stage.state, self.stage.context = made.state, made.context
            timer = made.state.timers.first()
            if timer is None or timer[1] > self.clock.now_s:
                return None
            del made.state.timers[timer[0]]
            found = list(self.stage.on_timer(timer[0]))
            made.state.seal()
            return found

    return Idle()


def test_an_idle_partition_goes_on_with_the_others_of_its_replica(idle):
    idle.feed(idle.quiet, ("a", 5, 1))
    idle.clock.now_s += 1.5
    idle.feed(idle.busy, ("b", 25, 2))
    assert idle.ring(idle.quiet) is None
    idle.clock.now_s += 0.5
    assert idle.ring(idle.quiet) == [("a", 0, 10, [1])]
    idle.clock.now_s += 60
    assert idle.ring(idle.quiet) is None, "nothing is open, so nothing has to be watched"
    idle.feed(idle.quiet, ("a", 6, 3))
    idle.quiet.commit()
    assert idle.quiet.late == [("a", 6, 3)]


def test_a_partition_that_got_something_meanwhile_is_not_idle(idle):
    idle.feed(idle.quiet, ("a", 5, 1))
    idle.feed(idle.busy, ("b", 25, 2))
    idle.clock.now_s += 1.5
    idle.feed(idle.quiet, ("a", 6, 3))
    idle.clock.now_s += 0.5
    assert idle.ring(idle.quiet) == []
    idle.clock.now_s += 1.5
    assert idle.ring(idle.quiet) == [("a", 0, 10, [1, 3])]


def test_an_idle_partition_is_watched_as_long_as_something_is_open(idle):
    idle.feed(idle.quiet, ("a", 5, 1))
    for _ in range(3):
        idle.clock.now_s += 2
        assert idle.ring(idle.quiet) == []
    idle.feed(idle.busy, ("b", 10, 2))
    idle.clock.now_s += 2
    assert idle.ring(idle.quiet) == [("a", 0, 10, [1])]


@pytest.mark.parametrize("idle_s", [0, -1, "2", math.nan])
def test_a_wrong_time_to_be_idle_is_refused(idle_s):
    assert messages(declared(tumbling(60), idle_s=idle_s)) == [f"idle_s={idle_s!r} is not valid"]


def test_none_is_given_for_a_window_that_gives_none_and_a_list_is_one_item(trial):
    @window(tumbling(count=1))
    def some(key, window, items):
        return None if key == "a" else [1, 2]

    made = trial(some)
    made.feed(("a", 0, 0))
    made.feed(("b", 0, 0))
    made.commit()
    assert made.outputs == [[1, 2]]


def test_a_plain_function_that_returns_a_generator_is_an_error(trial):
    @window(tumbling(count=1))
    def some(key, window, items):
        return (item for item in items)

    with pytest.raises(StageError, match="yield from"):
        trial(some).feed(("a", 0, 0))


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf, "1", None])
def test_what_is_no_time_is_an_error_of_the_item(trial, time_s):
    made = trial(declared(tumbling(10)))
    with pytest.raises(StageError, match="a finite number; got"):
        made.feed(("a", time_s, 1))
    assert made.left_over() == []


def test_times_of_the_wall_clock_and_before_1970_have_their_windows(trial):
    items = [("a", -0.5, 1), ("a", 1_767_225_601.25, 2)]
    found, _ = outputs(trial, declared(tumbling(60)), items, finish=True)
    assert found == [("a", -60, 0, [1]), ("a", 1_767_225_600, 1_767_225_660, [2])]


def test_a_join_forgets_what_can_have_no_partner_any_more(trial):
    @join(within_s=2, time=event_time)
    def pair(key, left, right):
        return left[2], right[2]

    made = trial(pair)
    for k in range(1000):
        made.feed((k % 3, k / 10, k), k % 2)
    assert len(made.left_over()) < 200
    made.commit()
    near = {(a, b) for a in range(0, 1000, 2) for b in range(1, 1000, 2) if abs(a - b) <= 20}
    assert sorted(made.outputs) == sorted((a, b) for a, b in near if a % 3 == b % 3)


def test_a_window_keeps_nothing_of_what_has_fired(trial):
    for windows in (tumbling(10), sliding(10, 3), session(2), sliding(count=10, hop=3)):
        made = trial(declared(windows))
        for k in range(1000):
            made.feed((k // 20 % 3, k / 2, k))
        assert len(made.left_over()) < 100, windows


# --- partitions that leave ----------------------------------------------------------------------


@pytest.mark.parametrize("windows", [tumbling(60), session(5), tumbling(count=2)])
def test_nothing_is_remembered_of_a_partition_that_has_left(trial, windows):
    options = {} if windows == tumbling(count=2) else {"time": event_time, "idle_s": 60}
    one = trial(declared(windows, **({"time": None} | options)))
    one.stage.timers = one.state.timers
    one.feed(("a", 1.0, 1))
    one.fail_once(("a", 100.0, 2))
    assert one.stage._raised or one.stage._agendas
    one.stage._partition_left()
    kept = [
        one.stage._raised,
        getattr(one.stage, "_agendas", {}),
        getattr(one.stage, "_touched", {}),
    ]
    assert not any(kept)

"""What the workers make of user code: results, failures, streams, in slices."""

import pytest

from zflow.replica import yields as module
from zflow.replica.sinks import BatchSinkWorker
from zflow.replica.worker import StageWorker, describe
from zflow.replica.yields import YieldWorker
from zflow.stages import emit
from zflow.wire.run import OSEQ, Run

EDGE = 9


def stage(bench, call, kind=StageWorker, **options):
    settings = {"retry_on": (Exception,), "positioned": False, "is_sink": False}
    return kind(bench.bench, call, **{**settings, **options})


def work(bench, worker):
    """Slices until there is nothing more to run."""
    while worker.slice():
        bench.turn()


def sent(bench, edge=EDGE):
    bench.turn()
    return bench.links.sent.get(edge, [])


@pytest.fixture
def bench(make_bench, route):
    return make_bench(route(EDGE))


def test_a_function_is_called_once_per_item_and_its_results_go_on(bench):
    bench.feed([1, 2, 3])
    work(bench, stage(bench, lambda x: x * 10))
    assert sent(bench) == [10, 20, 30]
    assert bench.counters.processed == 3


def test_no_function_is_called_twice_however_late_its_results_share_a_buffer(bench):
    called = []
    used = bytearray(1)

    def call(x):
        called.append(x)
        used[0] = x
        return used if x >= 5 else x

    worker = stage(bench, call)
    bench.feed([0])
    work(bench, worker)
    bench.core.inbox.window.measured(1, 1e-7)  # so fast that a slice takes them all
    bench.feed(list(range(1, 8)))
    work(bench, worker)
    assert called == list(range(8))
    assert sent(bench) == [0, 1, 2, 3, 4, *(bytearray([x]) for x in (5, 6, 7))]


def test_an_input_is_settled_when_everything_made_from_it_is(bench):
    worker = stage(bench, lambda x: x)
    for items in ([1, 2], [None]):
        bench.feed(items)
        work(bench, worker)
    bench.turn()
    assert bench.acked() == [2]  # nothing was made from it
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 2]


def test_a_sink_settles_its_input_at_once(make_bench):
    bench = make_bench()
    bench.feed([1, 2])
    work(bench, stage(bench, lambda x: None, is_sink=True))
    assert bench.acked() == [0, 1]
    found = bench.counted()
    assert sum(n for name, n in found.items() if name.startswith("latency:read->work:")) == 2


def test_a_failure_goes_back_with_its_traceback_and_the_others_go_on(bench):
    def call(x):
        if x == 2:
            raise KeyError("two")
        return x

    bench.feed([1, 2, 3])
    work(bench, stage(bench, call))
    assert sent(bench) == [1, 3]
    assert bench.nacks() == [(1, "error", "KeyError")]
    (error,) = bench.errors()
    assert error.startswith("Traceback (most recent call last):\n")
    assert error.endswith("KeyError: 'two'\n")
    assert "/zflow/replica/" not in error
    assert bench.counters.errors == 1


@pytest.mark.parametrize(("error", "code"), [(OSError(), "error"), (ValueError(), "final")])
def test_only_what_retry_on_names_may_be_tried_again(bench, error, code):
    def call(x):
        raise error

    bench.feed([1])
    work(bench, stage(bench, call, retry_on=(OSError,)))
    assert bench.nacks() == [(0, code, type(error).__name__)]


def test_a_function_that_calls_sys_exit_fails_on_its_item(bench):
    bench.feed([1])
    work(bench, stage(bench, lambda x: exit(3)))
    assert bench.nacks() == [(0, "final", "SystemExit")]


def test_a_function_that_raises_stop_iteration_fails_on_its_item(bench):
    bench.feed([[1], [], [2]])
    work(bench, stage(bench, lambda items: next(iter(items))))
    assert sent(bench) == [1, 2]
    assert bench.nacks() == [(1, "error", "RuntimeError")]


def test_a_returned_generator_is_refused_and_the_others_go_on(bench):
    bench.feed([1, 2, 3])
    work(bench, stage(bench, lambda x: (y for y in [x]) if x == 2 else x))
    assert sent(bench) == [1, 3]
    assert bench.nacks() == [(1, "final", "StageError")]


def test_a_when_that_raises_is_the_failure_of_its_input(make_bench, route):
    bench = make_bench(route(EDGE, when=lambda x: 6 / x))
    bench.feed([1, 0, 3])
    work(bench, stage(bench, lambda x: x))
    assert sent(bench) == [1, 3]
    assert bench.nacks() == [(1, "error", "ZeroDivisionError")]


def test_what_a_function_gives_goes_to_the_edges_of_its_name(make_bench, route):
    bench = make_bench(route(1), route(2, output="odd"), route(3, when=lambda x: x > 2))
    bench.feed([1, 2, 3, 4])
    work(bench, stage(bench, lambda x: emit("odd", x) if x % 2 else x))
    assert (sent(bench, 1), sent(bench, 2), sent(bench, 3)) == ([2, 4], [1, 3], [4])


def test_the_black_box_names_what_is_executing_and_nothing_afterwards(bench):
    seen = []
    bench.feed(["a", "b"])
    work(bench, stage(bench, lambda x: seen.extend(bench.executing())))
    units = [unit for run in seen for unit in run.units()]
    assert (7, 0, 8, 0) in units
    assert (7, 1, 8, 0) in units
    assert bench.executing() == []


def test_a_class_knows_which_item_it_has(bench):
    def call(x):
        context = bench.context
        return context.attempt, context.edge, context.item_id

    bench.feed(["a", "b"], run=Run(7, 8, OSEQ, 0, 40, 2, attempt=3))
    work(bench, stage(bench, call, positioned=True))
    assert sent(bench) == [
        (3, "read->work", f"{7:016x}-40-{8:016x}-0"),
        (3, "read->work", f"{7:016x}-41-{8:016x}-0"),
    ]


def test_the_context_of_no_item_says_so(bench):
    with pytest.raises(RuntimeError, match="exist only while an item runs"):
        bench.context.item_id  # noqa: B018


# --- sinks with write(items) ---------------------------------------------------------------------


def test_a_batch_that_fails_is_written_one_by_one_and_only_the_guilty_fails(make_bench):
    written = []

    def write(items):
        if 2 in items:
            raise ValueError("two")
        written.append(items)

    bench = make_bench()
    worker = stage(bench, write, BatchSinkWorker, is_sink=True)
    bench.feed([1])
    work(bench, worker)
    bench.core.inbox.window.measured(1, 1e-6)  # so fast that a slice takes them all
    bench.feed([1, 2, 3])
    work(bench, worker)
    assert written == [[1], [1], [3]]
    assert bench.nacks() == [(2, "error", "ValueError")]
    assert bench.acked() == [0, 1, 3]


# --- generators ----------------------------------------------------------------------------------


def test_a_generator_gives_any_number_of_items_and_none_is_no_item(bench):
    def call(x):
        for k in range(x):
            yield k
            yield None

    bench.feed([3, 0, 1])
    work(bench, stage(bench, call, YieldWorker))
    assert sent(bench) == [0, 1, 2, 0]
    assert bench.counters.processed == 3
    assert bench.acked() == []
    bench.links.settle()
    bench.turn()
    assert bench.acked() == [0, 1, 2]


def test_many_outputs_of_one_input_leave_before_it_has_yielded_its_last(bench, monkeypatch):
    monkeypatch.setattr(module, "STREAM_ITEMS", 4)
    left = []

    def call(x):
        for k in range(10):
            left.append(len(bench.links.sent.get(EDGE, [])))
            yield k

    bench.feed(["a"])
    work(bench, stage(bench, call, YieldWorker))
    assert sent(bench) == list(range(10))
    assert left[0] == 0
    assert left[-1] >= 4
    assert bench.core.running == 0


def test_the_yields_of_one_input_have_numbers_of_their_own_wherever_they_are_cut(
    bench, monkeypatch
):
    monkeypatch.setattr(module, "STREAM_ITEMS", 4)
    bench.feed(["a"])
    work(bench, stage(bench, lambda x: (yield from range(10)), YieldWorker))
    bench.turn()
    units = [unit for run in bench.links.runs[EDGE] for unit in run.units()]
    assert len(set(units)) == 10


def test_a_generator_that_raises_at_once_fails_and_nothing_of_it_leaves(bench):
    def call(x):
        yield 1
        raise KeyError("two")

    bench.feed(["a", "b"])
    work(bench, stage(bench, call, YieldWorker))
    assert sent(bench) == []
    assert bench.nacks() == [(0, "error", "KeyError"), (1, "error", "KeyError")]
    assert bench.core.running == 0


def test_a_generator_that_raises_late_fails_when_what_has_left_is_settled(bench, monkeypatch):
    monkeypatch.setattr(module, "STREAM_ITEMS", 4)

    def call(x):
        yield from range(6)
        raise KeyError("late")

    bench.feed(["a"])
    work(bench, stage(bench, call, YieldWorker))
    assert sent(bench) == [0, 1, 2, 3]
    assert bench.nacks() == []
    bench.links.settle()
    bench.turn()
    assert bench.nacks() == [(0, "error", "KeyError")]
    assert bench.core.running == 0


def test_the_next_input_runs_after_one_that_failed_in_the_middle(bench, monkeypatch):
    monkeypatch.setattr(module, "STREAM_ITEMS", 2)

    def call(x):
        yield from (f"{x}{k}" for k in range(3))
        if x == "a":
            raise KeyError("a")

    bench.feed(["a", "b"])
    work(bench, stage(bench, call, YieldWorker))
    assert sent(bench) == ["a0", "a1", "b0", "b1", "b2"]


# --- how an error is told ------------------------------------------------------------------------


def test_an_error_of_zflow_itself_keeps_its_own_lines():
    def raising():
        raise RuntimeError("x")

    with pytest.raises(RuntimeError) as caught:
        raising()
    name, text = describe(caught.value)
    assert name == "RuntimeError"
    assert "in raising" in text


def test_a_long_traceback_keeps_its_end():
    try:
        raise ValueError("x" * 100_000 + "the end")
    except ValueError as error:
        _, text = describe(error)
    assert len(text) < 10_000
    assert text.rstrip().endswith("the end")

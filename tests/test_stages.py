"""What the decorators promise: the same object back, and every mistake kept for `check`."""

import doctest
import functools
import math
import pickle
import sys
from collections.abc import Callable, Iterator

import cloudpickle
import pytest

from zflow import emit, join, sink, source, stage, tumbling, window
from zflow.durable import DurableStage
from zflow.errors import ConfigError
from zflow.shapes import EMPTY
from zflow.stages import StageDecl, StageOptions, declaration_of


def here() -> int:
    return sys._getframe(1).f_lineno


def declared(target: object) -> StageDecl:
    decl = declaration_of(target)
    assert decl is not None
    return decl


def said(target: object) -> list[str]:
    return [str(problem) for problem in declared(target).problems]


def double(number: int) -> int:
    return number * 2


@pytest.mark.parametrize("decorator", [stage, stage(), stage(replicas=4), sink, sink(retries=0)])
def test_a_decorator_returns_the_very_function_that_it_got(decorator):
    def function(item):
        return item

    assert decorator(function) is function
    assert function(3) == 3
    assert declared(function).target is function


def test_a_decorated_class_stays_the_class_and_is_made_and_called_as_before():
    @stage(replicas=2)
    class Add:
        def __init__(self, n: int = 1) -> None:
            self.n = n

        def process(self, item: int) -> int:
            return item + self.n

    assert Add(n=2).process(3) == 5
    assert declared(Add).is_class
    assert not declared(Add).is_generator


def test_the_defaults_are_the_documented_ones():
    def function(item): ...

    def items():
        yield 1

    assert declared(stage(function)).options == StageOptions(
        replicas=1,
        retries=3,
        backoff_s=0.1,
        retry_on=(Exception,),
        timeout_s=300.0,
        max_crashes=3,
        on_error="dead_letter",
    )
    assert declared(source(items)).options.timeout_s == math.inf


def test_a_single_exception_class_is_kept_as_a_tuple():
    @stage(retry_on=OSError)
    def function(item): ...

    assert declared(function).options.retry_on == (OSError,)


def test_the_place_of_a_declaration_is_the_decorator_in_the_users_file():
    line = here() + 2

    @stage(name="other")
    def function(item): ...

    assert (declared(function).file, declared(function).line) == (__file__, line)
    assert declared(function).name == "other"


WRONG_OPTIONS = [
    ({"replicas": 0}, "replicas=0 is not valid; give a whole number, at least 1"),
    ({"replicas": True}, "replicas=True is not valid; give a whole number, at least 1"),
    ({"replicas": 2.0}, "replicas=2.0 is not valid; give a whole number, at least 1"),
    ({"retries": -1}, "retries=-1 is not valid; give a whole number, at least 0"),
    ({"retries": False}, "retries=False is not valid; give a whole number, at least 0"),
    ({"backoff_s": -0.5}, "backoff_s=-0.5 is not valid; give seconds, at least 0"),
    ({"timeout_s": 0}, "timeout_s=0 is not valid; give seconds, more than 0"),
    ({"timeout_s": math.nan}, "timeout_s=nan is not valid; give seconds, more than 0"),
    ({"max_crashes": 0}, "max_crashes=0 is not valid; give a whole number, at least 1"),
    ({"on_error": "ignore"}, "is not valid; give one of dead_letter, fail, drop"),
    ({"retry_on": "OSError"}, "is not valid; give an exception class or a tuple of them"),
    ({"retry_on": KeyboardInterrupt}, "give an exception class or a tuple of them"),
    ({"name": "a/b"}, "name='a/b' is not valid; give a name of letters, digits"),
    ({"replica": 2}, "unknown option 'replica'; did you mean 'replicas'?"),
    ({"zzz": 2}, "unknown option 'zzz'; choose one of: backoff_s, batch,"),
]


@pytest.mark.parametrize(("options", "text"), WRONG_OPTIONS)
def test_a_wrong_option_is_a_problem_with_file_and_line_and_never_an_exception(options, text):
    line = here() + 2

    @stage(**options)
    def function(item): ...

    (problem,) = said(function)
    assert problem.startswith(f"{__file__}:{line}: function: ")
    assert text in problem
    assert declared(function).options == StageOptions()


def test_all_wrong_options_of_one_stage_are_kept():
    @stage(replicas=0, retries=-1, colour="red")
    def function(item): ...

    assert len(said(function)) == 3


@pytest.mark.parametrize("option", ["timeout_s", "retry_on", "on_error", "max_crashes"])
def test_a_source_has_no_options_of_single_items(option):
    @source(**{option: 3})
    def items():
        yield 1

    (problem,) = said(items)
    assert f"unknown option '{option}'" in problem


def async_shape(case: str) -> object:
    async def async_source():
        yield 1

    async def async_yielding_sink(item):
        yield item

    class AsyncDurable(DurableStage):
        async def process(self, item): ...

    class AsyncWrite:
        async def write(self, items): ...

    class AsyncOpen:
        async def open(self): ...
        def process(self, item): ...

    class AsyncTimer(DurableStage):
        def process(self, item): ...
        async def on_timer(self, key): ...

    return locals()[case]


def shape(kind: str, case: str) -> object:
    """A fresh, wrong, target: a decorator leaves its mark on what it decorates."""

    def plain_source(): ...

    def yielding_sink(item):
        yield item

    def no_item(): ...

    def only_keywords(*, item): ...

    def takes_partition(item, partition): ...

    class Empty: ...

    class Finishes:
        def process(self, item): ...
        def finish(self): ...

    class Rings:
        def process(self, item): ...
        def on_timer(self, key): ...

    class Needs:
        def process(self, item, table): ...

    class Both:
        def write(self, items): ...
        def upsert(self, items, ids): ...

    class Forgets:
        def commit(self, items, ids, progress): ...

    class Wants:
        def upsert(self, items, ids, table): ...

    class DurableSource(DurableStage):
        def __iter__(self):
            yield 1

    class DurableSink(DurableStage):
        def write(self, items): ...

    def one_share(partition):
        yield partition

    return locals().get(case) or async_shape(case)


WRONG_SHAPES = [
    (source, "plain_source", "a source function must yield"),
    (source, "Empty", "a source class needs __iter__"),
    (source, "one_share", "takes only one of 'partition' and 'partitions'; take both"),
    (stage, "no_item", "takes no item; its first argument must be the item"),
    (stage, "only_keywords", "takes no item"),
    (stage, "takes_partition", "the argument 'partition' is reserved for sources"),
    (source, "async_source", "an async source is not available in this version yet"),
    (sink, "async_yielding_sink", "a sink that yields: nothing takes its items"),
    (stage, "AsyncDurable", "async def on a stage with state: its items are applied one after"),
    (sink, "AsyncWrite", "async write() on a sink class: its batches are written one after"),
    (stage, "AsyncOpen", "open() is async, and nothing here awaits it; write it without async"),
    (stage, "AsyncTimer", "on_timer() is async, and nothing here awaits it"),
    (stage, "Empty", "a stage class needs process"),
    (stage, "Finishes", "finish() would never be called: only durable stages have it; derive it"),
    (stage, "Rings", "on_timer() would never be called: only durable stages have it; derive it"),
    (stage, "Needs", "process() needs 'table'; take it in __init__ instead"),
    (sink, "yielding_sink", "a sink that yields: nothing takes its items"),
    (sink, "Empty", "a sink class has exactly one way to write; write one: write(items)"),
    (sink, "Both", "exactly one way to write; this one has write, upsert"),
    (sink, "Forgets", "a sink with commit() needs load_progress(); write load_progress()"),
    (sink, "Wants", "upsert() needs 'table'; take it in __init__ instead"),
    (sink, "DurableSink", "a sink has no state on disk of zflow's"),
    (source, "DurableSource", "a source has no state on disk; keep its place: write position()"),
]


@pytest.mark.parametrize(("decorator", "case", "text"), WRONG_SHAPES)
def test_a_shape_that_cannot_run_is_a_problem_with_file_and_line(decorator, case, text):
    target = shape(decorator.__name__, case)
    line = here() + 1
    decorator(target)
    (problem,) = said(target)
    assert problem.startswith(f"{__file__}:{line}: {case}: ")
    assert text in problem


def test_a_source_with_replicas_must_share_its_items_out():
    @source(replicas=2)
    def same():
        yield 1

    @source(replicas=2)
    def shared(partition: int, partitions: int):
        yield partition

    (problem,) = said(same)
    assert "replicas=2, but each would yield the same items; take 'partition'" in problem
    assert said(shared) == []
    assert declared(shared).takes_partition


def test_a_lambda_needs_a_name():
    line = here() + 1
    function = stage(lambda item: item)
    assert said(function)[0].startswith(f"{__file__}:{line}: <lambda>: '<lambda>' cannot name")
    assert said(stage(name="same")(lambda item: item)) == []


def test_declaring_one_function_twice_by_decorator_names_the_first_place():
    def function(item): ...

    line = here() + 1
    stage(function)
    sink(function)
    assert (
        f"declared twice: already a stage at {__file__}:{line}; use flow.sink" in said(function)[0]
    )


@pytest.mark.parametrize("target", [print, int, 3])
def test_what_cannot_carry_a_declaration_is_refused_at_once_with_the_way_out(target):
    line = here() + 2
    with pytest.raises(ConfigError) as error:
        sink(target)
    assert f"{__file__}:{line}: " in str(error.value)
    assert "cannot carry a declaration; use flow.sink(f, name=...)" in str(error.value)


def test_a_subclass_and_a_wrapper_of_a_stage_are_not_declared_themselves():
    @stage
    class Base:
        def process(self, item): ...

    class Child(Base): ...

    @functools.wraps(stage(double))
    def wrapper(item): ...

    assert declaration_of(Child) is None
    assert declaration_of(wrapper) is None


def test_generators_are_known_in_functions_and_classes():
    @stage
    def several(item):
        yield item

    @stage
    class Several:
        def process(self, item):
            yield item

    assert declared(several).is_generator
    assert declared(Several).is_generator


def test_the_parameters_of_a_source_are_all_but_the_reserved_arguments():
    @source
    def items(folder: str, n: int = 3, resume: int = 0, *, partition=0, partitions=1):
        yield folder

    decl = declared(items)
    assert decl.parameters == {"folder": (str, EMPTY, True), "n": (int, 3, False)}
    assert decl.parameters is decl.parameters
    assert decl.takes_resume
    assert decl.takes_partition


def test_the_parameters_of_a_function_are_the_arguments_after_the_item():
    @stage
    def function(item: bytes, limit=3, *rest, unit: "str" = "s", **others): ...

    assert declared(function).parameters == {"limit": (None, 3, False), "unit": (str, "s", False)}


def test_the_parameters_of_a_class_are_the_keywords_of_its_init():
    @source
    class Items:
        def __init__(self, url: str, depth: "NoSuchType" = 2) -> None: ...  # noqa: F821
        def open(self, resume): ...
        def __iter__(self) -> Iterator[int]:
            return iter([1])

    decl = declared(Items)
    assert decl.parameters == {"url": (str, EMPTY, True), "depth": (None, 2, False)}
    assert decl.takes_resume


def test_a_class_without_init_has_no_parameters():
    @sink
    class Write:
        def write(self, items): ...

    assert declared(Write).parameters == {}
    assert said(Write) == []


def test_emitted_items_compare_by_value_and_travel():
    wrapped = emit("invalid", {"id": 1})
    assert wrapped == emit("invalid", {"id": 1})
    assert wrapped != emit("valid", {"id": 1})
    assert pickle.loads(pickle.dumps(wrapped)) == wrapped


def test_the_examples_in_docstrings_hold():
    failed, tried = doctest.testmod(sys.modules["zflow.stages"])
    assert (failed, tried) == (0, 1)


def test_an_output_is_named_by_a_str():
    with pytest.raises(TypeError, match="the name of an output is a str; got 3"):
        emit(3, "item")


def test_a_decorated_closure_still_travels_by_value():
    def make(n: int) -> Callable[[int], int]:
        @stage
        def add(item: int) -> int:
            return item + n

        return add

    copy = pickle.loads(cloudpickle.dumps(make(2)))
    assert copy(3) == 5
    assert declared(copy).target is copy


# --- several items at once -----------------------------------------------------------------------


def asks_for_concurrency(kind: str) -> object:
    def numbers():
        yield 1

    def several(item):
        yield item

    class Keeps(DurableStage):
        def process(self, item): ...

    class Writes:
        def write(self, items): ...

    class Upserts:
        def upsert(self, items, ids): ...

    return locals()[kind]


@pytest.mark.parametrize(
    ("decorator", "case", "text"),
    [
        (source, "numbers", "a source has no concurrency=; remove it"),
        (stage, "several", "concurrency= on a generator function that is not async; write it as"),
        (stage, "Keeps", "concurrency= on a stage with state: its items are applied one after"),
        (sink, "Writes", "concurrency= on a sink class: its batches are written one after"),
        (sink, "Upserts", "concurrency= on a sink class: its batches are written one after"),
    ],
)
def test_concurrency_is_refused_where_it_makes_no_sense(decorator, case, text):
    target = decorator(concurrency=2)(asks_for_concurrency(case))
    (problem,) = said(target)
    assert text in problem


def test_windows_and_joins_take_neither_concurrency_nor_async():
    @window(tumbling(1), time=len, concurrency=2)
    def pane(key, window, items): ...

    @window(tumbling(1), time=len)
    async def awaits(key, window, items): ...

    @join(within_s=1, time=len, concurrency=2)
    def pair(key, left, right): ...

    for target, what in ((pane, "concurrency="), (awaits, "async def"), (pair, "concurrency=")):
        (problem,) = said(target)
        assert f"{what} on a stage with state: its items are applied one after" in problem


@pytest.mark.parametrize("value", [0, -1, 1.5, True, 10_001])
def test_concurrency_is_a_whole_number_that_a_black_box_can_name(value):
    @stage(concurrency=value)
    def function(item): ...

    assert "give a whole number from 1 to 10000" in said(function)[0]


def test_async_stages_run_a_hundred_items_at_once_unless_they_say_so():
    @stage
    async def plain(item): ...

    @stage(concurrency=7)
    async def asked(item): ...

    @stage
    async def yielding(item):
        yield item

    @stage(concurrency=3)
    def threads(item): ...

    @sink
    async def at_the_end(item): ...

    @stage
    class Method:
        async def open(self): ...
        async def process(self, item): ...
        async def close(self): ...

    decls = [declared(one) for one in (plain, asked, yielding, threads, at_the_end, Method)]
    assert [decl.problems for decl in decls] == [()] * 6
    assert [decl.concurrency for decl in decls] == [100, 7, 100, 3, 100, 100]
    assert [decl.is_async for decl in decls] == [True, True, True, False, True, True]
    assert [decl.is_generator for decl in decls] == [False, False, True, False, False, False]
    assert declared(stage(double)).concurrency == 0

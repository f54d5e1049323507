"""Every option on every kind of stage: taken, or refused with a sentence and a fix."""

import itertools

import pytest

from zflow import Breaker, DurableStage, Topology, join, sink, source, stage, tumbling, window

OPTIONS = {
    "concurrency": {"concurrency": 4},
    "batch": {"batch": 8},
    "batch_timeout_s": {"batch": 8, "batch_timeout_s": 0.1},
    "deadline_s": {"deadline_s": 5.0},
    "on_deadline": {"deadline_s": 5.0, "on_deadline": "dead_letter"},
    "rate_limit_per_s": {"rate_limit_per_s": 10.0},
    "rate_key": {"rate_limit_per_s": 10.0, "rate_key": len},
    "breaker": {"breaker": Breaker()},
    "retries": {"retries": 1},
    "backoff_s": {"backoff_s": 0.5},
    "retry_on": {"retry_on": (OSError,)},
    "timeout_s": {"timeout_s": 1.0},
    "max_crashes": {"max_crashes": 2},
    "on_error": {"on_error": "drop"},
    "deterministic": {"deterministic": False},
    "durability": {"durability": "process"},
    "journaled": {"journaled": True},
    "replicas": {"replicas": 2},
}
ONE_BY_ONE = "concurrency batch batch_timeout_s"
LIMITS = "deadline_s on_deadline rate_limit_per_s rate_key breaker"
# What each kind of stage does not take.
REFUSED = {
    "source": f"{ONE_BY_ONE} {LIMITS} retry_on timeout_s max_crashes on_error deterministic "
    "durability replicas",
    "function": "durability journaled",
    "generator": f"{ONE_BY_ONE} durability journaled",
    "coroutine": "batch batch_timeout_s durability journaled",
    "stream": "batch batch_timeout_s durability journaled",
    "method": "durability journaled",
    "durable": f"{ONE_BY_ONE} {LIMITS} journaled",
    "window": f"{ONE_BY_ONE} {LIMITS} journaled",
    "join": f"{ONE_BY_ONE} {LIMITS} journaled",
    "function sink": "durability journaled",
    "async sink": "batch batch_timeout_s durability journaled",
    "write": f"{ONE_BY_ONE} durability journaled",
    "upsert": f"{ONE_BY_ONE} durability journaled",
    "commit": f"{ONE_BY_ONE} durability journaled replicas",
}


def declared(kind, options):
    """The problems of a stage of that kind with those options, in a topology that is right else."""

    @source
    def read():
        yield "x"

    @source
    def other():
        yield "y"

    @sink
    def write(x): ...

    flow = Topology("pairs")
    keyed = {"key": str}
    made = MAKERS[kind](options)
    if kind == "source":
        flow.connect(made, write)
    elif kind in ("function sink", "async sink", "write", "upsert", "commit"):
        flow.connect(read, made)
    elif kind == "join":
        flow.connect(read, made, **keyed)
        flow.connect(other, made, **keyed)
        flow.connect(made, write)
    else:
        flow.connect(read, made, **(keyed if kind in ("durable", "window") else {}))
        flow.connect(made, write)
    return flow.problems()


def of_source(options):
    @source(**options)
    def made():
        yield "x"

    return made


def of_function(options):
    @stage(**options)
    def made(x):
        return x

    return made


def of_generator(options):
    @stage(**options)
    def made(x):
        yield x

    return made


def of_coroutine(options):
    @stage(**options)
    async def made(x):
        return x

    return made


def of_stream(options):
    @stage(**options)
    async def made(x):
        yield x

    return made


def of_method(options):
    @stage(**options)
    class Made:
        def process(self, x):
            return x

    return Made


def of_durable(options):
    @stage(**options)
    class Made(DurableStage):
        def process(self, x):
            self.state[x] = x

    return Made


def of_window(options):
    @window(tumbling(60), time=len, **options)
    def made(key, window, items):
        return key

    return made


def of_join(options):
    @join(within_s=5.0, time=len, **options)
    def made(key, left, right):
        return key

    return made


def of_function_sink(options):
    @sink(**options)
    def made(x): ...

    return made


def of_async_sink(options):
    @sink(**options)
    async def made(x): ...

    return made


def of_write(options):
    @sink(**options)
    class Made:
        def write(self, items): ...

    return Made


def of_upsert(options):
    @sink(**options)
    class Made:
        def upsert(self, items, ids): ...

    return Made


def of_commit(options):
    @sink(**options)
    class Made:
        def load_progress(self):
            return []

        def commit(self, items, ids, progress): ...

    return Made


MAKERS = {
    name[3:].replace("_", " "): make
    for name, make in list(globals().items())
    if name.startswith("of_")
}


def test_the_table_has_every_kind():
    assert MAKERS.keys() == REFUSED.keys()
    assert all(not declared(kind, {}) for kind in MAKERS)


@pytest.mark.parametrize(("kind", "option"), list(itertools.product(REFUSED, OPTIONS)))
def test_an_option_is_taken_or_refused_with_a_fix(kind, option):
    problems = declared(kind, OPTIONS[option])
    if option not in REFUSED[kind].split():
        assert problems == ()
        return
    said = [problem for problem in problems if option.split("_")[0] in str(problem)]
    assert said, problems or f"{option} is taken silently"
    assert all(problem.fix for problem in said)
    assert all(problem.file == __file__ for problem in said)


@pytest.mark.parametrize("kind", ["function", "method", "coroutine", "function sink"])
def test_a_batch_is_one_call_and_not_several(kind):
    problems = declared(kind, {"batch": 8, "concurrency": 4})
    assert any("batch=8" in str(problem) and problem.fix for problem in problems)

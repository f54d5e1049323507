"""A source in one process: what it yields, where it begins again, and what it refuses."""

import pytest

from zflow.hashing import stable_hash
from zflow.protocol.identity import Branch, place_output
from zflow.replica.source import SourceWorker, checksum
from zflow.state.positions import Mark, Position

EDGE = 9


class Source:
    """A source worker over a bench, with the failures it reported."""

    def __init__(self, make_bench, route, begin, *, low=0, mark=None, ended=False, **options):
        edge = route(EDGE, when=options.pop("when", None), key=options.pop("key", None))
        self.bench = make_bench(edge, source=True, low=low)
        self.failed = []
        settings = {"skips": True, "place": None, "retries": 3, "backoff_s": 0.0}
        self.worker = SourceWorker(
            self.bench.bench,
            begin,
            position=Position(birth=1, low=low, ended=ended, mark=mark),
            failed=self.failed.append,
            **{**settings, **options},
        )

    def run(self):
        while self.worker.slice():
            self.bench.turn()
        self.bench.turn()
        return self.sent

    def settle(self):
        self.bench.links.settle()
        self.bench.turn()

    @property
    def sent(self):
        return self.bench.links.sent.get(EDGE, [])


@pytest.fixture
def make(make_bench, route):
    """`make(begin)` is a source whose iterator `begin(resume)` makes."""
    return lambda begin, **options: Source(make_bench, route, begin, **options)


def test_everything_it_yields_is_sent_and_then_it_has_ended(make):
    source = make(lambda _: iter(range(5000)))
    assert source.run() == list(range(5000))
    assert source.worker.ended
    assert source.bench.core.source_ended
    assert source.bench.counters.processed == 5000


def test_the_low_mark_follows_what_is_settled(make):
    source = make(lambda _: iter("abc"))
    source.run()
    assert (source.bench.core.origin.low, source.bench.core.origin.next) == (0, 3)
    source.settle()
    assert source.bench.core.origin.low == 3
    assert source.worker.mark() == Mark(end=3, checksum=checksum("c"), place=None)


def test_a_draining_source_is_not_asked_for_more(make):
    source = make(lambda _: iter("abc"))
    source.worker.draining = True
    assert source.run() == []
    assert not source.worker.ended
    assert source.bench.core.source_ended


def test_what_a_source_yields_after_a_drain_has_ended_it_is_not_taken(make):
    def begin(_):
        yield 0
        source.bench.core.source_ended = True  # from the control thread, while it waited
        yield 1

    source = make(begin)
    assert source.run() == [0]
    assert source.bench.core.origin.next == 1
    assert source.bench.core.source_ended
    assert not source.worker.ended


def test_a_source_that_had_ended_is_not_begun_again(make):
    begun = []
    source = make(begun.append, low=5, ended=True)
    assert source.run() == []
    assert begun == []


# --- beginning again -----------------------------------------------------------------------------


def test_what_is_settled_is_read_again_and_thrown_away(make):
    mark = Mark(end=3, checksum=checksum("c"), place=None)
    assert make(lambda _: iter("abcde"), low=3, mark=mark).run() == ["d", "e"]


def test_a_mark_below_the_low_mark_is_compared_on_the_way(make):
    mark = Mark(end=2, checksum=checksum("b"), place=None)
    assert make(lambda _: iter("abcde"), low=4, mark=mark).run() == ["e"]


@pytest.mark.parametrize("items", ["abXde", "ab"], ids=["another item", "fewer items"])
def test_another_item_at_the_settled_place_is_refused_at_once(make, items):
    mark = Mark(end=3, checksum=checksum("c"), place=None)
    source = make(lambda _: iter(items), low=3, mark=mark)
    assert source.run() == []
    (error,) = source.failed
    assert str(error).startswith("the source changed: item 2 is not the one that was settled")


def test_an_item_without_a_checksum_is_not_compared(make):
    mark = Mark(end=3, checksum=0, place=None)
    assert make(lambda _: iter("abXde"), low=3, mark=mark).run() == ["d", "e"]


def test_a_source_that_takes_resume_is_told_how_many_are_settled(make):
    told = []

    def begin(resume):
        told.append(resume)
        return iter("abcde"[resume:])

    assert make(begin, low=3, skips=False).run() == ["d", "e"]
    assert told == [3]


def test_a_source_with_places_of_its_own_begins_at_the_newest_settled_one(make):
    class Log:
        at = 0

        def begin(self, place):
            self.at = place or 0
            while self.at < 50:
                self.at += 10
                yield self.at

        def position(self):
            return self.at

    first = Log()
    source = make(first.begin, skips=False, place=first.position)
    assert source.run() == [10, 20, 30, 40, 50]
    source.settle()
    mark = source.worker.mark()
    assert (mark.end, mark.checksum) == (5, checksum(50))
    second = Log()
    again = make(second.begin, low=5, mark=mark, skips=False, place=second.position)
    assert again.run() == []
    assert second.at == 50


# --- a source that raises ------------------------------------------------------------------------


def raising(times, at):
    """A source that raises before item `at`, so many times."""
    left = [times]

    def begin(_):
        for k in range(6):
            if k == at and left[0]:
                left[0] -= 1
                raise OSError(f"at {k}")
            yield k

    return begin


def test_a_source_that_raises_begins_again_behind_what_it_had_yielded(make):
    source = make(raising(3, at=4))
    assert source.run() == list(range(6))
    assert source.bench.counters.errors == 3
    assert source.failed == []


def test_retries_are_counted_anew_once_something_was_yielded(make):
    def begin(_):
        for k in range(6):
            if k not in seen:
                seen.add(k)
                raise OSError("each item once")
            yield k

    seen = set()
    source = make(begin, retries=1)
    assert source.run() == list(range(6))
    assert source.failed == []


def test_a_source_that_raises_more_often_than_its_retries_has_failed(make):
    source = make(raising(9, at=2), retries=2)
    assert source.run() == [0, 1]
    assert [str(error) for error in source.failed] == ["at 2"]
    assert source.bench.counters.errors == 3


def test_a_source_that_raises_waits_before_it_is_called_again(make):
    source = make(raising(1, at=2), backoff_s=20.0)
    assert source.run() == [0, 1]
    assert source.worker.due_s() - source.bench.clock.now_s() == pytest.approx(20, abs=2)
    assert not source.bench.core.source_ended


# --- while the generator runs --------------------------------------------------------------------


def test_what_was_yielded_can_be_collected_while_the_generator_runs_on(make):
    def begin(_):
        for k in range(10):
            yield k
            # What the control thread does while the generator takes its time here.
            if source.worker.waiting():
                with source.bench.reactor.lock:
                    source.worker.collect(source.bench.clock.now_ns())
                    source.bench.reactor.flush()
                assert source.sent == list(range(k + 1))

    source = make(begin)
    assert source.run() == list(range(10))


def test_items_that_share_a_buffer_are_sent_as_they_were_when_they_were_yielded(make):
    def begin(_):
        buffer = bytearray(1)
        yield "header"
        for k in range(20):
            buffer[0] = k
            if source.worker.waiting():
                with source.bench.reactor.lock:
                    source.worker.collect(source.bench.clock.now_ns())
                    source.bench.reactor.flush()
            yield buffer

    source = make(begin)
    assert source.run() == ["header", *(bytearray([k]) for k in range(20))]


def test_an_item_whose_when_raises_is_a_dead_letter_of_the_source_and_the_others_go_on(make):
    source = make(lambda _: iter([1, 0, 2]), when=lambda x: 1 / x)
    assert source.run() == [1, 2]
    (letter,) = source.bench.buried
    assert (letter.stage, letter.edge, letter.error_class) == ("work", "", "ZeroDivisionError")


def test_an_item_that_is_none_is_not_sent_and_is_settled(make):
    source = make(lambda _: iter([1, None, 2]))
    assert source.run() == [1, 2]
    source.settle()
    assert source.bench.core.origin.low == 3


def test_a_checksum_is_never_0_for_an_item_with_bytes_and_0_for_one_without():
    assert checksum("a") == checksum("a") != 0
    assert checksum(iter([])) != checksum(object) != 0
    assert checksum(lambda: None) == 0


def test_hundreds_of_items_whose_key_raises_are_dead_letters_one_by_one(make):
    source = make(lambda _: iter(range(1800)), key=lambda x: 1 // (x % 3 == 0))
    assert source.run() == list(range(0, 1800, 3))
    counters = source.bench.counters
    assert (counters.received, counters.processed, counters.errors) == (1800, 600, 1200)
    assert len(source.bench.buried) == 1200
    assert source.bench.core.origin.next == 1800


def test_a_source_names_what_it_sends_to_partitions_by_position_and_partition(make):
    source = make(lambda _: iter(range(100)), key=lambda x: x % 5, low=7)
    source.run()
    branch = Branch(edge=EDGE, keyed=True)
    expected = {}
    for x in range(7, 100):  # it begins again behind what is settled
        partition = stable_hash(x % 5) % 8
        place = place_output(branch, 0, 0, partition=partition)
        expected[77, x, place.path, place.index] = (partition, [x])
    assert source.bench.units(EDGE) == expected

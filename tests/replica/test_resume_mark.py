"""Where a source begins again, and how it finds out that it has changed."""

import pytest

from zflow.replica.source import SourceChanged, SourceWorker, checksum
from zflow.state.positions import Mark, Position

EDGE = 9


@pytest.fixture
def begin_again(make_bench, route):
    """Run a source to its end that was stopped at `low`; (what it sent, why it failed)."""

    def begin(items, *, low, mark):
        bench = make_bench(route(EDGE), source=True, low=low)
        worker = SourceWorker(
            bench.bench,
            lambda _: iter(items),
            position=Position(birth=1, low=low, ended=False, mark=mark),
            skips=True,
            place=None,
            retries=0,
            backoff_s=0.1,
            failed=bench.failed.append,
        )
        while worker.slice() and not bench.failed:
            bench.links.settle()
            bench.turn()
        return bench.links.sent.get(EDGE, []), bench.failed

    return begin


def mark_behind(end, item):
    return Mark(end=end, checksum=checksum(item), place=None)


def test_a_mark_at_the_very_end_of_what_is_settled_is_compared_once(begin_again):
    sent, failed = begin_again("abcdef", low=3, mark=mark_behind(3, "c"))
    assert (sent, failed) == (["d", "e", "f"], [])


def test_a_mark_within_what_is_settled_is_compared_on_the_way(begin_again):
    sent, failed = begin_again("abcdef", low=4, mark=mark_behind(2, "b"))
    assert (sent, failed) == (["e", "f"], [])


@pytest.mark.parametrize("items", ["abXdef", "ab"])
def test_another_item_or_none_at_the_mark_means_that_the_source_has_changed(begin_again, items):
    sent, failed = begin_again(items, low=3, mark=mark_behind(3, "c"))
    assert sent == []
    assert [type(error) for error in failed] == [SourceChanged]

"""What user code gave, and where it goes."""

import pytest

from zflow.errors import StageError
from zflow.replica.emit import Emitter, Keying, Route, WhenError
from zflow.stages import emit


def emitter(*routes):
    return Emitter([Route(edge=k, output=o, when=w) for k, (o, w) in enumerate(routes)])


def routed(maker, items):
    """edge -> (positions, items)"""
    return {output.edge: (output.positions, output.items) for output in maker.route(items)}


def gathered(maker, made):
    got = []
    maker.gather(made, got.append)
    return got


PLAIN = (None, None)


def test_every_plain_edge_gets_every_item():
    assert routed(emitter(PLAIN, PLAIN), [1, "two"]) == {
        0: (None, [1, "two"]),
        1: (None, [1, "two"]),
    }


def test_none_is_no_item():
    assert routed(emitter(PLAIN), [1, None, 3]) == {0: ([0, 2], [1, 3])}
    assert routed(emitter(PLAIN), [None]) == {0: ([], [])}


def test_a_wrapped_item_goes_only_to_the_edges_of_its_name():
    maker = emitter(PLAIN, ("bad", None), ("other", None))
    assert routed(maker, [1, emit("bad", 2), emit("nobody", 3)]) == {
        0: ([0], [1]),
        1: ([1], [2]),
        2: ([], []),
    }


def test_when_lets_through_what_it_likes_after_unwrapping():
    maker = emitter((None, lambda x: x > 1), ("bad", lambda x: x > 1))
    items = [1, 2, emit("bad", 1), emit("bad", 2)]
    assert routed(maker, items) == {0: ([1], [2]), 1: ([3], [2])}


def test_when_is_not_asked_about_items_that_do_not_go_there():
    maker = emitter(("bad", lambda x: 1 / x))
    assert routed(maker, [0, None, emit("other", 0)]) == {0: ([], [])}


def test_a_when_that_raises_tells_the_position_and_its_own_error():
    maker = emitter(PLAIN, (None, lambda x: 1 / x))
    with pytest.raises(WhenError) as caught:
        maker.route([2, 1, 0, 5])
    assert caught.value.position == 2
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_generator_object_is_refused_with_what_to_write_instead():
    with pytest.raises(StageError, match="write `yield from` in a generator function"):
        emitter(PLAIN).route([1, (x for x in "abc")])


# --- buffers that are used again -----------------------------------------------------------------


def reusing(count, wrap=lambda buffer: buffer):
    buffer = bytearray(1)
    for k in range(count):
        buffer[0] = k
        yield wrap(buffer)


@pytest.mark.parametrize(
    "wrap",
    [lambda b: b, lambda b: (1, b), lambda b: {"frame": b}, lambda b: emit("bad", b)],
    ids=["itself", "in a tuple", "in a dict", "wrapped"],
)
def test_items_that_share_a_buffer_are_kept_apart(wrap):
    got = gathered(emitter(PLAIN), reusing(5, wrap))
    assert got == [wrap(bytearray([k])) for k in range(5)]


def test_items_without_such_a_buffer_are_passed_on_as_they_are():
    items = [[1, 2], "text", b"raw", object]
    got = gathered(emitter(PLAIN), items)
    assert all(kept is item for kept, item in zip(got, items, strict=True))


def test_what_was_made_before_an_error_is_kept():
    def failing():
        yield 1
        yield 2
        raise KeyError("three")

    got = []
    with pytest.raises(KeyError):
        emitter(PLAIN).gather(failing(), got.append)
    assert got == [1, 2]


def test_items_made_without_care_that_needed_it_are_noticed():
    maker = emitter(PLAIN)
    assert not maker.careful
    assert not maker.surprised([1, "two", (3,)])
    assert maker.surprised([4, bytearray(1)])
    assert maker.careful


def test_the_most_frequent_keys_are_known_however_many_rare_ones_there_are():
    keying = Keying(lambda item: item, 8)
    for k in range(20_000):
        keying.partition("hot" if k % 4 == 0 else f"rare {k}")
        keying.partition("warm" if k % 10 == 0 else f"other {k}")
    (first, hot), (second, warm) = keying.most_common(2)
    assert (first, second) == ("'hot'", "'warm'")
    assert hot == 5000
    assert warm == 2000
    assert keying.items == 40_000

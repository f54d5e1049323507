"""What user code gave, and where it goes."""

from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum
from itertools import permutations
from uuid import UUID

import pytest

from zflow.errors import StageError
from zflow.hashing import stable_hash
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


# --- partitions ----------------------------------------------------------------------------------


def keyed(key, when=None):
    return Emitter([Route(edge=0, output=None, when=when, keyed=Keying(key, 64))])


def partitions_of(maker, items):
    (output,) = maker.route(items)
    return output.partitions


class Color(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


def test_without_a_key_everything_belongs_to_partition_0():
    assert Keying(None, 64).partition(object()) == 0
    assert partitions_of(keyed(None), [1, [2], None, "three"]) == [0, 0, 0]


KEYS = [1, "a", b"a", 2.5, None, Color.RED, (1, "a"), ((1,), None), UUID(int=5), date(2026, 1, 2)]


@pytest.mark.parametrize("key", KEYS, ids=lambda value: repr(value).partition(" at 0x")[0])
def test_a_partition_is_the_hash_of_the_key_before_and_after_it_is_remembered(key):
    keying = Keying(lambda item: item, 64)
    assert {keying.partition(key) for _ in range(3)} == {stable_hash(key) % 64}


@pytest.mark.parametrize("equal", [[*permutations([1, 1.0, True, Level.LOW])], [[0, -0.0, False]]])
def test_equal_keys_reach_one_partition_whichever_comes_first(equal):
    for order in equal:
        for wrap in (lambda key: key, lambda key: (key, "a")):
            assert len(set(partitions_of(keyed(wrap), list(order)))) == 1


def test_keys_are_spread_over_all_partitions():
    assert set(partitions_of(keyed(lambda item: item), list(range(1000)))) == set(range(64))


def test_a_keying_that_has_forgotten_a_key_finds_its_partition_again(monkeypatch):
    monkeypatch.setattr(Keying, "_REMEMBERED", 3)
    keying = Keying(lambda item: item, 64)
    first = [keying.partition(key) for key in range(20)]
    assert [keying.partition(key) for key in range(20)] == first
    assert len(keying._known) <= 3


UNFIT = [[1], {}, {1}, bytearray(b"a"), object(), 1j, Decimal(1), (1, [2]), (Decimal(1),)]


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda value: repr(value).partition(" at 0x")[0])
def test_what_cannot_be_a_key_is_told_with_a_sentence_whatever_was_seen_before(unfit):
    keying = Keying(lambda item: item, 64)
    for known in (1, (1,), b"a"):  # some of the unfit are equal to them
        keying.partition(known)
    with pytest.raises(TypeError, match="a key is None, bool, int, .* a tuple of these; got "):
        keying.partition(unfit)


def test_nan_is_refused_as_a_key_with_a_sentence():
    with pytest.raises(ValueError, match="NaN is not equal to itself"):
        Keying(lambda item: item, 64).partition(float("nan"))


def test_a_key_is_asked_about_what_goes_there_and_of_what_is_inside_a_wrapping():
    asked = []
    keying = Keying(lambda item: asked.append(item) or 0, 64)
    maker = Emitter([Route(edge=0, output="bad", when=lambda x: x > 1, keyed=keying)])
    (output,) = maker.route([1, emit("bad", 2), None, emit("bad", 1), emit("bad", 3)])
    assert asked == output.items == [2, 3]
    assert output.positions == [1, 4]
    assert len(output.partitions) == 2


@pytest.mark.parametrize("error", [KeyError, StopIteration])
def test_a_key_that_raises_tells_which_result_it_was(error):
    def key(item):
        if item == 7:
            raise error
        return item

    with pytest.raises(WhenError) as caught:
        keyed(key, when=lambda x: x > 1).route([5, 1, None, 7, 8])
    assert caught.value.position == 3
    assert isinstance(caught.value.__cause__, RuntimeError if error is StopIteration else error)


def test_the_most_frequent_keys_are_known_however_many_rare_ones_there_are():
    keying = Keying(lambda item: item, 8)
    for k in range(20_000):
        keying.partition("hot" if k % 4 == 0 else f"rare {k}")
        keying.partition("warm" if k % 10 == 0 else f"other {k}")
    (first, hot, place), (second, warm, _) = keying.most_common(2)
    assert (first, second) == ("'hot'", "'warm'")
    assert place == stable_hash("hot") % 8
    assert hot == 5000
    assert warm == 2000
    assert keying.items == 40_000


@pytest.mark.parametrize(
    "items", [["a", "b", "a"], [1, True, 1.0, "1"], [("a", 1), ("a", 2)], [b"x", None], []]
)
def test_a_slice_has_the_partitions_and_counts_of_its_items_one_by_one(items):
    one_by_one, at_once = (Keying(lambda item: item, 8) for _ in range(2))
    expected = [one_by_one.partition(item) for item in items]
    for _ in range(2):  # unknown keys, then known ones
        assert at_once.partitions(items) == expected
    assert at_once.items == 2 * one_by_one.items
    assert expected == [stable_hash(item) % 8 for item in items]


def test_a_slice_with_a_bad_key_counts_none_of_its_items():
    keying = Keying(lambda item: item, 8)
    with pytest.raises(TypeError):
        keying.partitions(["good", Decimal(1)])
    assert keying.items == 0
    assert keying.most_common(1) == []


# --- priorities ----------------------------------------------------------------------------------


def urgent(priority, when=None):
    return Emitter([Route(edge=0, output=None, when=when, priority=priority)])


def lanes(maker, items):
    return {output.lane: (output.positions, output.items) for output in maker.route(items)}


def test_a_number_is_the_lane_of_all():
    assert lanes(urgent(0), ["a", "b"]) == {0: (None, ["a", "b"])}
    assert lanes(urgent(7), ["a", None]) == {7: ([0], ["a"])}


def test_a_function_parts_items_by_lane_and_keeps_their_places():
    maker = urgent(lambda x: x % 3)
    assert lanes(maker, [0, 1, 3, None, 4]) == {0: ([0, 2], [0, 3]), 1: ([1, 4], [1, 4])}
    assert lanes(maker, [2, 5]) == {2: (None, [2, 5])}, "of one lane there is nothing to part"


def test_when_is_asked_before_how_urgent_it_is():
    maker = urgent(lambda x: 1 // x, when=lambda x: x > 0)
    assert lanes(maker, [0, 1, 2]) == {1: ([1], [1]), 0: ([2], [2])}


@pytest.mark.parametrize("wrong", [8, -1, True, 1.0, None, "high"])
def test_what_is_no_lane_fails_its_own_item(wrong):
    with pytest.raises(WhenError) as caught:
        urgent(lambda x: wrong if x == 5 else 0).route([1, None, 5])
    assert caught.value.position == 2
    assert "priority= gives a whole number from 0 to 7; got" in str(caught.value.__cause__)

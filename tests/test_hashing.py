import random
from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.hashing import MASK64, key_bytes, mix64, splitmix64, stable_hash, text_hash64

GAMMA = 0x9E3779B97F4A7C15

# From the reference implementation of the generator: the first numbers of two seeds.
SEED_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
SEED_1234567 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


@pytest.mark.parametrize(("seed", "numbers"), [(0, SEED_0), (1234567, SEED_1234567)])
def test_splitmix64_gives_the_published_numbers(seed, numbers):
    assert [splitmix64(seed + k * GAMMA & MASK64) for k in range(len(numbers))] == numbers


def unmixed(value: int) -> int:
    """The inverse of splitmix64, step by step."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        whole = value
        for _ in range(64 // shift):
            whole = value ^ (whole >> shift)
        value = whole * pow(factor, -1, 1 << 64) & MASK64
    return (value - GAMMA) & MASK64


def test_splitmix64_loses_nothing_because_it_can_be_undone():
    chance = random.Random(1)
    edges = [0, 1, MASK64, 1 << 63, *(1 << bit for bit in range(64))]
    for value in [*edges, *(chance.getrandbits(64) for _ in range(1000))]:
        mixed = splitmix64(value)
        assert 0 <= mixed <= MASK64
        assert unmixed(mixed) == value


def test_the_names_of_paths_never_change_from_version_to_version():
    assert mix64(0) == 0
    assert mix64(0, 0) == SEED_0[0]
    assert mix64(0, 1, 2, 3) == 0x6AE515C1C0AC7E37
    assert mix64(MASK64, MASK64) == 0xF3203E9039F4A821
    assert mix64(0x0123456789ABCDEF, text_hash64("resize", "store"), 5, 63, 2) == 0xD2B7EFFE63478FC8


def test_the_hashes_of_names_never_change_from_version_to_version():
    assert text_hash64() == 0xE4A6A0577479B2B4
    assert text_hash64("source", "sink") == 0x11399ED8AD006E43
    assert text_hash64("größe") == 0x65BC6B5F233E9846


def test_folding_twice_is_folding_once_with_both_fields():
    assert mix64(mix64(7, 8), 9) == mix64(7, 8, 9)


def test_the_order_and_the_number_of_fields_count():
    chance = random.Random(2)
    for _ in range(200):
        path, a, b = (chance.getrandbits(64) for _ in range(3))
        assert mix64(path, a, b) != mix64(path, b, a)
    assert len({mix64(5), mix64(5, 0), mix64(5, 0, 0), mix64(5, 0, 0, 0)}) == 4


def test_small_fields_do_not_run_into_each_other():
    paths = [mix64(0, text_hash64(str(edge))) for edge in range(20)]
    small = [(a, b) for a in range(20) for b in range(20)]
    made = {mix64(path, *fields) for path in paths for fields in small}
    assert len(made) == len(paths) * len(small)


def test_fields_beyond_64_bits_are_cut_to_64_bits():
    assert mix64(1, 1 << 64) == mix64(1, 0)


def test_texts_are_hashed_as_a_tuple_and_not_as_one_long_text():
    names = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), (), ("",), ("", "")]
    assert len({text_hash64(*parts) for parts in names}) == len(names)


def test_the_hash_of_texts_fits_64_bits():
    for k in range(100):
        assert 0 <= text_hash64(str(k)) <= MASK64


# --- keys ------------------------------------------------------------------------------------


class Colour(Enum):
    RED = 1
    CRIMSON = RED
    BLUE = 2


class Right(Flag):
    READ = 1
    WRITE = 2


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    A = "a"


class Day(date, Enum):
    FIRST = 2026, 1, 31


# As a module that every machine has; test modules have other names under other runners.
for named in (Colour, Right):
    named.__module__ = "paint"

NEW_YORK = ZoneInfo("America/New_York")
AMBIGUOUS = datetime(2025, 11, 2, 1, 30, tzinfo=NEW_YORK)
MOMENT = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
DAY = date(2026, 1, 31)

# Stored keys and partitions depend on them: a change here loses what users have stored.
GOLDEN = [
    (None, "30", 0x842B7D9D43CDDF75),
    (0, "698000000000000000", 0x4CF7DABF8898B586),
    (1, "698000000000000001", 0x66502D4F8C635032),
    (-1, "697fffffffffffffff", 0x3AA6231A2CF1F14E),
    (2**63 - 1, "69ffffffffffffffff", 0x7D935350D67C2082),
    (2**63, "6a008000000000000000", 0xA4224A7E4D0811BF),
    (-(2**63) - 1, "6aff7fffffffffffffff", 0xD93C045201906192),
    (10**30, "6a0c9f2c9cd04674edea40000000", 0x821F6719FFDEA503),
    (0.5, "663fe0000000000000", 0xD5D348955F325EFE),
    (-1e-300, "6681a56e1fc2f8f359", 0xE0D9251492058036),
    (float("inf"), "667ff0000000000000", 0xBFB5C8F90C4EA22A),
    ("", "73", 0xE64984C3AACF6EDE),
    ("größe", "736772c3b6c39f65", 0x8A0659AC574DF57E),
    ("\udcff", "73edb3bf", 0x0E1EB7F6648F8A5F),
    (b"", "62", 0x8472C2E34D854F75),
    (b"raw", "62726177", 0xB7A25627E6AE2F4C),
    (UUID(int=5), "7500000000000000000000000000000005", 0x3A54BA28014B8AB1),
    (DAY, "6400000000000b493f", 0x029034B6E9E93EB8),
    (datetime(2026, 1, 31, 23, 59, 59, 7), "6e00e309cb0028bdc7", 0x9C85918796FA9845),
    (MOMENT, "6180e309cb0028bdc0", 0x835BE7D30AD07FC1),
    (AMBIGUOUS, "7a00e302a5a6865600" + b"America/New_York".hex(), 0x211B8A7BA073805A),
    (
        Colour.RED,
        "657400000006737061696e740000000773436f6c6f75720000000473524544",
        0x15B94162A990F0E7,
    ),
    (
        Right.READ | Right.WRITE,
        "657400000006737061696e740000000673526967687400000009698000000000000003",
        0xBE78B3A68C7013BF,
    ),
    ((), "74", 0xCA73DCF5E072D4D6),
    (("user", 7), "7400000005737573657200000009698000000000000007", 0x9B43F2F2179184F7),
    (
        ((1,), 2.5),
        "740000000e740000000969800000000000000100000009664004000000000000",
        0xF2E611354B5C33B7,
    ),
]


@pytest.mark.parametrize(("key", "raw", "hashed"), GOLDEN, ids=lambda part: repr(part)[:30])
def test_bytes_and_hashes_of_keys_never_change_from_version_to_version(key, raw, hashed):
    assert key_bytes(key).hex() == raw
    assert stable_hash(key) == hashed


def test_all_these_keys_are_different():
    assert len({raw for _, raw, _ in GOLDEN}) == len({h for _, _, h in GOLDEN}) == len(GOLDEN)


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "equal",
    [
        (1, 1.0, True, Number.ONE),
        (0, 0.0, -0.0, False),
        (2**80, 2.0**80),
        ("a", Word.A),
        (Colour.RED, Colour.CRIMSON),
        (DAY, Day.FIRST),
        ((1, ("a", 2.0)), (True, (Word.A, 2)), Pair(Number.ONE, ("a", 2))),
        (MOMENT, MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))),
        (MOMENT, MOMENT.astimezone(NEW_YORK)),
        (AMBIGUOUS, AMBIGUOUS.replace(fold=1)),
        (datetime(2026, 1, 31), datetime(2026, 1, 31, fold=1)),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_equal_keys_have_equal_bytes(equal):
    assert len(set(equal)) == 1, "they are not equal for Python either"
    assert len({key_bytes(key) for key in equal}) == 1


@pytest.mark.parametrize(
    "different",
    [
        (None, 0, "", b"", ()),
        ("1", 1, b"1", (1,)),
        ((1, 2), (12,), ((1,), 2), (1, (2,))),
        (("ab", "c"), ("a", "bc"), ("abc",)),
        (DAY, datetime(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        (AMBIGUOUS, AMBIGUOUS.astimezone(UTC)),
        (Colour.RED, Colour.BLUE, 1, Right.READ),
        (2**53, 2**53 + 1, 2.0**53 + 2),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_different_keys_have_different_bytes(different):
    assert len(set(different)) == len(different), "they are not different for Python either"
    assert len({key_bytes(key) for key in different}) == len(different)


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, UTC, NEW_YORK])),
    st.sampled_from([*Colour, *Number, *Word]),
)
ANY_KEY = st.recursive(ATOMS, lambda part: st.lists(part, max_size=3).map(tuple), max_leaves=6)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(ANY_KEY, ANY_KEY)
def test_bytes_are_equal_exactly_if_the_keys_are(one, other):
    assert (key_bytes(one) == key_bytes(other)) == (one == other)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_whole_numbers_sort_like_their_bytes(numbers):
    assert sorted(numbers) == sorted(numbers, key=key_bytes)


@given(st.lists(st.text(max_size=4), max_size=5))
def test_texts_sort_like_their_bytes(texts):
    assert sorted(texts) == sorted(texts, key=key_bytes)


def test_an_enum_of_a_topology_keeps_its_bytes_when_the_source_changes():
    def bytes_in(module):
        made = Enum("State", ["OPEN"], module=module)
        return key_bytes(made.OPEN)

    assert bytes_in("zflow_topology_1a2b") == bytes_in("zflow_topology_3c4d") != bytes_in("other")


@pytest.mark.parametrize("nan", [float("nan"), (1, float("nan"))])
def test_nan_is_no_key(nan):
    with pytest.raises(ValueError, match="NaN is not equal to itself"):
        stable_hash(nan)


class Stamp(datetime):
    """Like pandas' Timestamp, which is a datetime and holds nanoseconds."""


@pytest.mark.parametrize(
    "key",
    [[1], {1}, frozenset({1}), object(), time(1), Fraction(1, 3), Stamp(2026, 1, 31), ("a", [1])],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_any_other_type_is_refused_with_those_that_can_be_keys(key):
    with pytest.raises(TypeError, match=r"a key is None, bool, .* tuple of these; got \w+\.\w+"):
        stable_hash(key)

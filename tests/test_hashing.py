import random

import pytest

from zflow.hashing import MASK64, mix64, splitmix64, text_hash64

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

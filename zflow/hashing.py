"""Hashes that are the same on every machine, Python and run.

Never uses `hash()`, which is salted per process.
"""

import hashlib

MASK64 = (1 << 64) - 1


def splitmix64(value: int) -> int:
    """One step of SplitMix64, a bijection on 64 bits.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def mix64(path: int, *fields: int) -> int:
    """Fold `fields` into `path` one after the other, so that their order and number count.

    Packing fields into one word first (by XOR or shifts) would make different tuples equal.
    """
    for field in fields:
        path = splitmix64((path + field) & MASK64)
    return path


def text_hash64(*parts: str) -> int:
    """64 bits of the parts as a tuple of texts; used for the names of edges and origins."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return int.from_bytes(digest.digest(), "big")

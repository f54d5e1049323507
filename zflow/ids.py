"""Names of things: slots, tokens, runs.

A slot is the lasting identity (stage, index); an incarnation is one process in it.
"""

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One replica's lasting place, written `stage/index`."""

    stage: str
    index: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Slot":
        """The inverse of `str`; raises ValueError for anything else."""
        stage, _, index = text.rpartition("/")
        slot = cls(stage, int(index)) if index.isdigit() else None
        if not stage or str(slot) != text or slot is None:
            raise ValueError(f"a slot is written stage/index; got {text!r}")
        return slot


def new_token() -> int:
    """A random 64-bit number that no peer can guess; never 0."""
    return secrets.randbits(64) | 1


def new_birth() -> int:
    """A random 63-bit number for the birth of an origin; fits an SQLite integer."""
    return secrets.randbits(63)

"""The words that workload state counts, the same list for every system, and the topology of zflow.

10,000 words; the one of rank r comes with weight 1 / r. A fixed seed draws them, one file holds
them, and every system reads that file before its time begins. Imports nothing but the standard
library at the top: the peers run in an environment without zflow.
"""

import json
import random
from collections import Counter
from itertools import accumulate
from pathlib import Path

VOCABULARY = 10_000
SEED = 20


def draw(n: int) -> list[str]:
    """The first n words."""
    vocabulary = [f"word-{rank:05d}" for rank in range(1, VOCABULARY + 1)]
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    return random.Random(SEED).choices(vocabulary, cum_weights=weights, k=n)


def load(path: str | Path, n: int) -> list[str]:
    """The first n words of the file that the bench has written."""
    words = Path(path).read_text().split("\n", n)[:n]
    if len(words) != n or not words[-1]:
        raise SystemExit(f"{path} holds fewer than {n} words")
    return words


def reference(words: list[str]) -> dict[str, int]:
    """What every system has to find."""
    return dict(Counter(words))


def write_result(path: str | Path, first_ns: int, last_ns: int, counts: dict[str, int]) -> None:
    """What one system hands to the bench; times of the monotonic clock."""
    findings = {"first_ns": first_ns, "last_ns": last_ns, "counts": counts}
    Path(path).write_text(json.dumps(findings))

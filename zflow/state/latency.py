"""Latencies as counts in fixed buckets, so that a quantile survives the process that counted.

Bounds grow by 2^(1/4) from 9.3 microseconds to more than two minutes: a quantile is at most 19 %
too high and never too low. Every fourth bound is one of those that are exported
(`metrics.BOUNDS_S`), so that nothing is lost when buckets are put together for that.
"""

import math
from collections.abc import Mapping

from zflow.metrics import BOUNDS_S

BUCKETS = 96
EXPORTED = len(BOUNDS_S) + 1  # and one for what is longer than the last bound
_PER_DOUBLING = 4
_ALIGNED = 23  # the bucket whose bound is the first exported one
_FIRST_S = BOUNDS_S[0] / math.pow(2.0, _ALIGNED / _PER_DOUBLING)
_FIRST_NS = round(BOUNDS_S[0] * 1e9)


def bucket_of(seconds: float) -> int:
    """The bucket of a duration."""
    if seconds <= _FIRST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log2(seconds / _FIRST_S) * _PER_DOUBLING))


def bound_s(bucket: int) -> float:
    """The upper bound of a bucket."""
    return _FIRST_S * math.pow(2.0, bucket / _PER_DOUBLING)


def exported_bucket(bucket: int) -> int:
    """In which of the EXPORTED buckets one of the BUCKETS lies."""
    return min(EXPORTED - 1, max(0, bucket - _ALIGNED + _PER_DOUBLING - 1) // _PER_DOUBLING)


def exported_bucket_of_ns(ns: int) -> int:
    """In which of the EXPORTED buckets a duration lies."""
    return min(EXPORTED - 1, ((ns - 1) // _FIRST_NS).bit_length()) if ns > 0 else 0


def quantile_s(counters: Mapping[str, int], quantile: float) -> float | None:
    """The bound below which that share of the items lies; None without any.

    counters: `latency:EDGE:0`, `latency:EDGE:1`, ... with the number of items in each bucket, of
    all edges.
    """
    counts = [0] * BUCKETS
    for name, count in counters.items():
        if name.startswith("latency:"):
            counts[int(name.rpartition(":")[2])] += count
    wanted = quantile * sum(counts)
    if not wanted:
        return None
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return bound_s(bucket)
    return bound_s(BUCKETS - 1)

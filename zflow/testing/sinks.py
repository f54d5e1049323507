"""Whether a sink keeps its contract: for the tests of those who write one.

    from zflow.testing.sinks import check_transactional

    def test_my_sink_keeps_the_contract(tmp_path):
        place = tmp_path / "mine"
        check_transactional(lambda: MySink(place), lambda: rows_of(place))

The first argument makes a sink on one place, empty at first, again and again as new processes
would; the second reads all items that are stored there, as they were given and in any order. `item`
makes item number n, where those of `sink_trial.numbered` do not fit. The promises are the functions
of `sink_promises`. They fork and kill processes; a check takes some seconds.
"""

from collections.abc import Callable, Sequence
from typing import Any

from zflow.connectors.contract import IdempotentSink, PlainSink, TransactionalSink
from zflow.testing.sink_faults import BrokenContract
from zflow.testing.sink_promises import IDEMPOTENT, PLAIN, TRANSACTIONAL, told
from zflow.testing.sink_trial import (
    IdempotentTrial,
    PlainTrial,
    Read,
    TransactionalTrial,
    numbered,
)

Item = Callable[[int], Any]


def check_transactional(
    make: Callable[[], TransactionalSink], read: Read, *, item: Item = numbered
) -> None:
    """All promises of a TransactionalSink; raises BrokenContract at the first broken one."""
    _check(TRANSACTIONAL, TransactionalTrial(make, read, item))


def check_idempotent(
    make: Callable[[], IdempotentSink], read: Read, *, item: Item = numbered
) -> None:
    """All promises of an IdempotentSink; raises BrokenContract at the first broken one."""
    _check(IDEMPOTENT, IdempotentTrial(make, read, item))


def check_plain(make: Callable[[], PlainSink], read: Read, *, item: Item = numbered) -> None:
    """All promises of a PlainSink; raises BrokenContract at the first broken one."""
    _check(PLAIN, PlainTrial(make, read, item))


def _check(promises: Sequence[Callable[[Any], None]], trial: Any) -> None:
    for promise in promises:
        try:
            promise(trial)
        except BrokenContract as error:
            raise BrokenContract(f"{told(promise)}: {error}") from error

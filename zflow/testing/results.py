"""How a run in one process ended, as a test reads it. Decides nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zflow.errors import ZflowError
from zflow.protocol.ledger import LedgerSnapshot
from zflow.state.deadletter import read_dead_letters
from zflow.wire.codec import load_item

# The call through which user code is run here: nobody's business who reads a traceback.
_OURS = re.compile(r'  File "[^"]*/zflow/testing/usercode\.py", line .*\n(    .*\n)*')


class RunFailed(ZflowError):
    """The run has failed as one over processes would: by policy, by its source, in a crash loop."""


class NotEnding(RunFailed):
    """The run does not come to its end; the message says what is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """One dead letter. item: None if it cannot be pickled, `shown` is its repr."""

    item: Any
    shown: str
    stage: str
    edge: str
    error_class: str
    error: str  # the traceback
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The end of a run. `result["notify"]` is what the sink took, in order.

    ledger: the books of each edge by label. elapsed_s: virtual. stages: what each stage counted
    (`processed`, `errors`, `retried`, `duplicates`, `user:...`). restarts: by slot.
    """

    seed: int
    sinks: Mapping[str, list[Any]]
    dead: list[Dead]
    ledger: Mapping[str, LedgerSnapshot]
    stages: Mapping[str, Mapping[str, int]]
    restarts: Mapping[str, int]
    elapsed_s: float

    def __getitem__(self, sink: str) -> list[Any]:
        """What that sink took. raises: KeyError with the names there are."""
        try:
            return self.sinks[sink]
        except KeyError:
            raise KeyError(f"{sink} is no sink; there is {', '.join(self.sinks)}") from None


def dead_in(folder: Path) -> list[Dead]:
    """All dead letters of a run, oldest first."""
    found = sorted(read_dead_letters(folder), key=lambda stored: stored.letter.buried_at_s)
    return [
        Dead(
            item=None if letter.item is None else load_item(letter.item),
            shown=letter.shown,
            stage=letter.stage,
            edge=letter.edge,
            error_class=letter.error_class,
            error=_OURS.sub("", letter.error),
            attempts=letter.attempts,
        )
        for letter in (stored.letter for stored in found)
    ]

"""Why a run is as fast as it is, in one sentence, from two pictures of it.

Decides which of several truths is told first: what is broken comes before what is slow. Never
guesses: without enough to go by it says so.
"""

from collections.abc import Callable, Mapping

from zflow.planning import broken, slow
from zflow.planning.rates import Rates, rates_between
from zflow.planning.verdict import Case, Verdict
from zflow.wire.picture import Picture

# The first that has something to say speaks.
RULES: tuple[Callable[[Case], Verdict | None], ...] = (
    broken.starting,
    broken.paused,
    broken.ending,
    broken.crashing,
    broken.early,
    broken.dead,
    slow.skew,
    slow.bottleneck,
    slow.source,
    slow.nearly,
    slow.idle,
)


def explain(before: Picture, after: Picture, cores: Mapping[str, float] | None = None) -> Verdict:
    """Why the run is as fast as it is between two pictures; cores: of the hosts, by name."""
    return verdict_of(after, rates_between(before, after), cores)


def verdict_of(picture: Picture, rates: Rates, cores: Mapping[str, float] | None = None) -> Verdict:
    """The same, where the rates are there already. picture: the newer of the two."""
    case = Case(picture, rates, cores or {})
    verdicts = (rule(case) for rule in RULES)
    return next((one for one in verdicts if one is not None), None) or slow.free(case)

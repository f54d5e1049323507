"""The source of a run that sends dead letters again. Decides their order and their pace."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from zflow.clock import Clock
from zflow.replica.place import Place
from zflow.state.deadletter import read_dead_letters
from zflow.wire.codec import load_item


def redrive_begin(place: Place, clock: Clock) -> Callable[[Any], Iterator[Any]]:
    """A source of dead letters, in the order in which they were chosen.

    Its wait between two letters is like that of any source which blocks: what it has yielded is
    sent meanwhile, and a drain ends it.
    """
    wanted = place.config.redrive.get(place.slot.stage, [])

    def begin(settled: int) -> Iterator[Any]:
        folder = place.state.dead_folder
        letters = {stored.id: stored.letter.item for stored in read_dead_letters(folder)}
        for letter_id in paced(wanted[settled:], redrive_pause_s(place), clock):
            raw = letters[letter_id]
            if raw is not None:
                yield load_item(raw)

    return begin


def redrive_pause_s(place: Place) -> float:
    """The time from one letter of this source to its next.

    Each source gets the share of the rate that it has of the letters, so that all end together.
    """
    config = place.config
    if not config.redrive_rate_per_s:
        return 0.0
    share = len(config.redrive[place.slot.stage]) / sum(map(len, config.redrive.values()))
    return 1.0 / (config.redrive_rate_per_s * share)


def paced(letters: Iterable[str], pause_s: float, clock: Clock) -> Iterator[str]:
    """These, one in `pause_s`. Blocks between two of them.

    Time that was lost downstream is not made up later: the rate is what others can bear.
    """
    due_s = clock.now_s()
    for letter in letters:
        late_s = clock.now_s() - due_s
        if late_s < 0.0:
            clock.sleep(-late_s)
        due_s += pause_s if late_s < pause_s else late_s + pause_s
        yield letter

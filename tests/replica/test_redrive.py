"""A source of dead letters: which it sends, in which order, and how fast."""

import pytest

from zflow.ids import Slot
from zflow.paths import RunDirectory, StateDirectory
from zflow.replica.place import Place
from zflow.replica.redrive import paced, redrive_begin, redrive_pause_s
from zflow.state.deadletter import DeadLetter, DeadLetterStore, edit_letter, read_dead_letters
from zflow.wire.codec import dump_item
from zflow.wire.control import RunConfig, TargetConfig

FIELDS = {
    "origin": "a",
    "path": "b",
    "index": 0,
    "stage": "parse",
    "edge": "read->parse",
    "attempts": 1,
    "code": "error",
    "error_class": "E",
    "error": "e",
    "shown": "",
    "maybe_applied": False,
    "buried_at_s": 1.0,
}


class FakeClock:
    """Its time passes in `sleep` and where a test says so."""

    def __init__(self):
        self.time_s = 100.0
        self.slept_s = []

    def now_s(self):
        return self.time_s

    def sleep(self, seconds):
        self.slept_s.append(round(seconds, 6))
        self.time_s += seconds


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def place(tmp_path):
    """`place(rate_per_s=1.0, a=[ids], b=[ids])` is the source of the edge `a`."""
    state = StateDirectory(tmp_path / "state")
    state.make()
    store = DeadLetterStore(state.dead_folder / "read-0.dead.sqlite")
    store.bury([DeadLetter(oseq=k, item=dump_item(10 * k), **FIELDS) for k in range(1, 9)])
    store.close()

    def make(*, rate_per_s=0.0, **edges):
        config = RunConfig(
            run_id="one",
            generation=1,
            topology="flow",
            target=TargetConfig(target="t", attribute=None, path=None),
            stages=[],
            edges=[],
            parameters=[],
            redrive={f"dead:{name}": [f"read-0:{k}" for k in ids] for name, ids in edges.items()},
            redrive_rate_per_s=rate_per_s,
        )
        return Place(
            config=config,
            slot=Slot("dead:a", 0),
            incarnation=1,
            crashes=(),
            run=RunDirectory(tmp_path),
            state=state,
            into="",
            ack="",
            rosters={},
        )

    return make


def test_letters_are_sent_in_the_order_in_which_they_were_chosen(place, clock):
    assert list(redrive_begin(place(a=[3, 1, 7], b=[2]), clock)(0)) == [30, 10, 70]
    assert clock.slept_s == []


def test_an_edited_item_is_sent_in_place_of_the_one_that_failed(place, clock):
    chosen = place(a=[1, 2])
    folder = chosen.state.dead_folder
    edit_letter(folder, next(read_dead_letters(folder)), dump_item("mended"), "mended")
    assert list(redrive_begin(chosen, clock)(0)) == ["mended", 20]


def test_a_source_that_begins_again_neither_sends_nor_waits_for_what_is_settled(place, clock):
    assert list(redrive_begin(place(a=[1, 2, 3, 4], rate_per_s=1.0), clock)(2)) == [30, 40]
    assert clock.slept_s == [1.0]


def test_one_letter_is_sent_at_once_and_then_one_in_a_pause(clock):
    assert list(paced("abcd", 0.25, clock)) == list("abcd")
    assert clock.slept_s == [0.25, 0.25, 0.25]


def test_time_that_was_lost_downstream_is_not_made_up_by_a_burst(clock):
    letters = paced("abcdef", 1.0, clock)
    assert next(letters) == "a"
    clock.time_s += 3.6  # nobody asked for the next one
    assert next(letters) == "b"
    assert clock.slept_s == []
    assert list(letters) == list("cdef")
    assert clock.slept_s == [1.0, 1.0, 1.0, 1.0]


def test_a_letter_that_is_a_little_late_does_not_slow_the_others_down(clock):
    letters = paced("abc", 1.0, clock)
    next(letters)
    clock.time_s += 1.25
    assert list(letters) == list("bc")
    assert clock.slept_s == [0.75]


def test_the_rate_is_that_of_all_edges_together(place):
    chosen = {"a": [1], "b": [2, 3, 4]}
    assert redrive_pause_s(place(rate_per_s=8.0, **chosen)) == pytest.approx(1 / 2)
    assert redrive_pause_s(place(rate_per_s=8.0, a=[1, 2])) == pytest.approx(1 / 8)
    assert redrive_pause_s(place(**chosen)) == 0.0

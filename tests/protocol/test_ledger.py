import random

import pytest

from zflow.protocol.ledger import (
    COLUMNS,
    DROP_REASONS,
    REPLAY_REASONS,
    EdgeLedger,
    snapshot_of,
)


def test_new_books_are_empty():
    ledger = EdgeLedger()
    assert ledger.row() == [0] * len(COLUMNS)
    assert ledger.snapshot().settled == 0


def test_the_columns_never_change_their_order():
    assert COLUMNS == (
        "sent",
        "processed",
        "dead_lettered",
        "replayed_reset",
        "replayed_peer_lost",
        "replayed_nack",
        "replayed_sender_died",
        "replayed_not_owner",
        "dropped_lost",
        "dropped_error",
        "sent_bytes",
        "retries",
        "dropped_full",
        "dropped_expired",
    )


@pytest.mark.parametrize("reason", REPLAY_REASONS)
def test_units_taken_back_are_counted_under_their_reason(reason):
    ledger = EdgeLedger()
    ledger.replayed(reason, 3)
    ledger.replayed(reason, 4)
    assert ledger.snapshot().replayed == {**dict.fromkeys(REPLAY_REASONS, 0), reason: 7}
    assert ledger.snapshot().settled == 7


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_units_given_up_are_counted_under_their_reason(reason):
    ledger = EdgeLedger()
    ledger.dropped(reason, 3)
    assert ledger.snapshot().dropped == {**dict.fromkeys(DROP_REASONS, 0), reason: 3}
    assert ledger.snapshot().settled == 3


@pytest.mark.parametrize("book", ["replayed", "dropped"])
def test_a_reason_that_has_no_column_is_refused(book):
    ledger = EdgeLedger()
    with pytest.raises(AttributeError):
        getattr(ledger, book)("boredom", 1)
    assert ledger.row() == [0] * len(COLUMNS)


@pytest.mark.parametrize("seed", range(50))
def test_every_unit_that_left_is_in_one_column_or_open(seed):
    chance = random.Random(seed)
    ledger = EdgeLedger()
    open_units = 0
    for step in range(200):
        if chance.random() < 0.5:
            n = chance.randrange(20)
            ledger.sent += n
            ledger.sent_bytes += 100 * n
            open_units += n
        else:
            n = chance.randint(0, open_units)
            open_units -= n
            column = chance.choice(["processed", "dead_lettered", "replayed", "dropped"])
            if column == "replayed":
                ledger.replayed(chance.choice(REPLAY_REASONS), n)
            elif column == "dropped":
                ledger.dropped(chance.choice(DROP_REASONS), n)
            else:
                setattr(ledger, column, getattr(ledger, column) + n)
        books = ledger.snapshot()
        assert books.sent == books.settled + open_units, f"seed {seed} step {step}"
        assert snapshot_of(ledger.row()) == books, f"seed {seed} step {step}"


def test_a_row_of_another_length_is_no_book():
    with pytest.raises(ValueError, match="zip"):
        snapshot_of([0] * (len(COLUMNS) - 1))


def test_a_snapshot_does_not_change_with_the_books():
    ledger = EdgeLedger()
    before = ledger.snapshot()
    ledger.sent += 5
    ledger.dropped("lost", 1)
    assert before == EdgeLedger().snapshot()

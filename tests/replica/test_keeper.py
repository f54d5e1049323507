"""The thread that waits for the disk: it tries again, whatever is wrong with the store."""

import logging
import sqlite3
from contextlib import closing

import pytest

from zflow.clock import Clock
from zflow.replica.keeper import Keeper
from zflow.state.deadletter import DeadLetter, read_dead_letters
from zflow.state.positions import Mark, PositionFile

LETTER = DeadLetter(
    origin="a",
    oseq=1,
    path="b",
    index=0,
    stage="parse",
    edge="read->parse",
    attempts=1,
    code="error",
    error_class="E",
    error="e",
    item=b"",
    shown="1",
    maybe_applied=False,
    buried_at_s=1.0,
)
SOON_S = 5.0


@pytest.fixture
def warnings(caplog):
    """What the keeper has said so far."""
    logger = logging.getLogger("zflow.keeper")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["newer", "no database", "a folder"])
def test_a_store_that_cannot_be_used_keeps_its_letters_waiting(
    tmp_path, wait_until, warnings, broken
):
    path = tmp_path / "read-0.dead.sqlite"
    if broken == "newer":
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version=9")
    elif broken == "no database":
        path.write_bytes(b"no database at all" * 99)
    else:
        path.mkdir()
    keeper = Keeper(path, None, Clock(), lambda: None)
    keeper.bury(7, [LETTER])
    wait_until(warnings, SOON_S)
    assert warnings()[0].startswith(f"cannot write to {tmp_path}: {path}")
    assert "nothing is lost, the stage waits and tries again" in warnings()[0]
    assert (list(keeper.done), keeper.idle()) == ([], False)
    path.rename(tmp_path / "aside")
    wait_until(keeper.idle, SOON_S)
    keeper.close()
    assert list(keeper.done) == [7]
    assert [stored.letter for stored in read_dead_letters(tmp_path)] == [LETTER]


@pytest.mark.slow
def test_a_position_that_cannot_be_stored_is_told_with_its_own_folder(
    tmp_path, wait_until, warnings
):
    (tmp_path / "positions").mkdir()
    position = PositionFile(tmp_path / "positions" / "read-0.sqlite")
    position._db.execute("PRAGMA max_page_count=1")
    keeper = Keeper(tmp_path / "dead" / "read-0.dead.sqlite", position, Clock(), lambda: None)
    large = Mark(end=1, checksum=1, place=b"x" * 100_000)
    keeper.store_position(1, ended=False, mark=large)
    wait_until(warnings, SOON_S)
    assert warnings()[0].startswith(f"cannot write to {position.path.parent}: {position.path}: ")
    position._db.execute("PRAGMA max_page_count=1000")
    wait_until(keeper.idle, SOON_S)
    assert keeper.stored_low == 1
    keeper.close()

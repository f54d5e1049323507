import logging

import pytest

from zflow.clock import Clock
from zflow.log import REPEAT_S, Repeating, configure


class SetClock(Clock):
    """A clock that shows what it is set to."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s


@pytest.fixture
def zflow_logger():
    """The logger of all of zflow, put back as it was."""
    logger = logging.getLogger("zflow")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def repeating(clock, lines):
    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger = logging.Logger("zflow.test")
    logger.addHandler(Lines())
    return Repeating(logger, clock)


def test_lines_go_to_stderr_led_by_the_name_of_the_process(zflow_logger, capsys):
    configure("INFO", "resize/0")
    logging.getLogger("zflow.net").info("link up")
    logging.getLogger("zflow.net").debug("too much")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "resize/0 INFO zflow.net: link up\n"


def test_configuring_twice_writes_each_line_once(zflow_logger, capsys):
    configure("INFO", "first")
    configure("INFO", "second")
    logging.getLogger("zflow").warning("once")
    assert capsys.readouterr().err == "second WARNING zflow: once\n"


def test_an_unknown_level_is_refused(zflow_logger):
    with pytest.raises(ValueError, match="LOUD"):
        configure("LOUD", "resize/0")


def test_the_first_warning_is_written_at_once(repeating, lines):
    repeating.warning("no credit on %s", "a->b")
    assert lines == ["no credit on a->b"]


def test_a_repeated_warning_is_held_back_and_counted(repeating, lines, clock):
    for _ in range(1001):
        repeating.warning("no credit on %s", "a->b")
    clock.time_s += REPEAT_S
    repeating.warning("no credit on %s", "a->c")
    assert lines == ["no credit on a->b", "no credit on a->c (1000 more in the last 5 s)"]


def test_the_count_begins_again_with_every_line(repeating, lines, clock):
    repeating.warning("slow")
    repeating.warning("slow")
    for _ in range(2):
        clock.time_s += REPEAT_S
        repeating.warning("slow")
    assert lines == ["slow", "slow (1 more in the last 5 s)", "slow"]


def test_different_warnings_do_not_hold_each_other_back(repeating, lines):
    repeating.warning("slow")
    repeating.warning("lost")
    assert lines == ["slow", "lost"]

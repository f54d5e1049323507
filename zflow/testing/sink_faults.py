"""What may happen to a sink: a call that raises half-way, a killed process, another process.

Decides nothing. The processes are forked, so that what they do may be a closure; the parent must
have no sink open meanwhile.
"""

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

FORK = multiprocessing.get_context("fork")

Work = Callable[[Connection], None]


class BrokenContract(AssertionError):
    """A sink does not keep its contract; says which promise, and what was found."""


class Interrupted(Exception):
    """What a `Breaking` list raises."""


def interrupt() -> None:
    """Ends a call as an exception does."""
    raise Interrupted


def die() -> None:
    """Ends this process at once, as `kill -9` and the out-of-memory killer do."""
    os.kill(os.getpid(), signal.SIGKILL)


class Breaking(list[Any]):
    """A list that cannot be read to its end: then `end` is called instead."""

    def __init__(self, rows: Iterable[Any], end: Callable[[], None]) -> None:
        super().__init__(rows)
        self._end = end

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        self._end()


@contextmanager
def dying_at_line(number: int) -> Iterator[None]:
    """End this process before that line of Python among those that are called from the block."""
    lines = itertools.count()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and next(lines) == number:
            die()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


class Other:
    """Another process, as this one sees it."""

    def __init__(self, work: Work) -> None:
        self._ours, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_run, args=(work, theirs, self._ours))
        self._process.start()
        theirs.close()

    def hear(self) -> Any:
        """What it says next; blocks. Raises BrokenContract if it has ended."""
        try:
            return self._ours.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BrokenContract(
                f"its process ended by itself (exit code {self._process.exitcode}, see stderr)"
            ) from None

    def survives(self) -> bool:
        """Whether it comes to say something, or was killed before; blocks."""
        try:
            self.hear()
        except BrokenContract:
            if self._process.exitcode != -signal.SIGKILL:
                raise
            return False
        return True

    def tell(self, what: str) -> None:
        """Let it go on."""
        self._ours.send(what)

    def kill(self) -> list[Any]:
        """`kill -9`; returns what it had said and nobody had heard. Twice is harmless."""
        self._process.kill()
        self._process.join()
        unheard = []
        with suppress(EOFError, OSError):
            while True:
                unheard.append(self._ours.recv())
        self._ours.close()
        return unheard


@contextmanager
def other_process(work: Work) -> Iterator[Other]:
    """Runs `work` with its end of a pipe, in a process that is killed in the end."""
    other = Other(work)
    try:
        yield other
    finally:
        other.kill()


def _run(work: Work, ours: Connection, theirs: Connection) -> None:
    theirs.close()  # or this process would not notice that its parent is gone
    work(ours)

"""A lock ends with its process, and with nothing else."""

import os
import socket
import stat

import pytest

from zflow.errors import Unavailable
from zflow.locks import FileLock

HELD = "somebody has it"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def forked():
    """`forked(job)` runs it in a child that lives until the test ends; waits for its answer."""
    children = []

    def fork(job=lambda: b"up"):
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            theirs.send(job())
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        children.append((child, ours))
        return ours.recv(100)

    yield fork
    for child, ours in children:
        ours.close()
        os.waitpid(child, 0)


def test_a_lock_that_is_held_is_refused_with_the_sentence_of_its_owner(path):
    lock = FileLock(path, HELD)
    with pytest.raises(Unavailable, match=HELD):
        FileLock(path, HELD)
    lock.release()
    FileLock(path, HELD).release()


def test_a_lock_is_held_even_if_nobody_keeps_the_object(path):
    FileLock(path, HELD)
    with pytest.raises(Unavailable):
        FileLock(path, HELD)


def test_only_this_user_may_open_a_lock(path):
    FileLock(path, HELD).release()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_forked_child_does_not_keep_the_lock(path, forked):
    lock = FileLock(path, HELD)
    assert forked() == b"up"
    with pytest.raises(Unavailable):
        FileLock(path, HELD)
    lock.release()
    FileLock(path, HELD).release()


def test_releasing_twice_closes_no_descriptor_of_somebody_else(path, forked):
    lock = FileLock(path, HELD)
    lock.release()
    with path.open() as other:
        lock.release()
        assert other.read() == ""
        assert forked(lambda: os.fstat(other.fileno()) and b"open") == b"open"

"""What a process may open: counted before anything is, refused with a sentence."""

import resource
import socket
import stat
import subprocess
import sys

import pytest
import zmq

from zflow.errors import Unavailable
from zflow.net.sockets import Sockets, check_endpoint, check_fds

BUDGET = """
import resource, sys
from zflow.errors import ConfigError
from zflow.net.sockets import check_fds

soft, hard, links = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    check_fds(links)
except ConfigError as error:
    print(error)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def checked(*, soft, hard, links):
    """What a process with these limits says about so many links."""
    command = [sys.executable, "-c", BUDGET, str(soft), str(hard), str(links)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
def test_too_few_files_are_refused_with_what_is_needed_and_what_to_do():
    said, _ = checked(soft=100, hard=256, links=30)
    assert said == (
        "open files: 30 links need up to 368 and the limit is 256; "
        "raise it (ulimit -Hn) or use fewer replicas"
    )


@pytest.mark.slow
def test_the_soft_limit_is_raised_to_the_hard_one_first():
    assert checked(soft=100, hard=256, links=10) == ["256 256"]


def test_what_fits_the_limit_is_accepted():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    check_fds(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_path_that_the_kernel_would_cut_is_refused_with_its_length():
    check_endpoint("ipc://" + "/x" * 53)
    with pytest.raises(Unavailable, match="/x/x is longer than 107 bytes"):
        check_endpoint("ipc://" + "/x" * 54)


def test_bytes_count_and_not_characters():
    with pytest.raises(Unavailable, match="longer than 107 bytes"):
        check_endpoint("ipc:///" + "ü" * 60)


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    made.close_all()


@pytest.mark.parametrize("kind", ["pull", "router", "publisher", "dealer", "subscriber"])
def test_every_kind_of_socket_refuses_a_path_that_is_too_long(sockets, kind):
    with pytest.raises(Unavailable, match="longer than 107 bytes"):
        getattr(sockets, kind)("ipc:///" + "x" * 120)


def test_a_push_refuses_a_path_that_is_too_long(sockets):
    with pytest.raises(Unavailable, match="longer than 107 bytes"):
        sockets.push("ipc:///" + "x" * 120, 1)


def test_a_socket_file_that_a_dead_process_left_is_replaced(sockets, tmp_path):
    path = tmp_path / "in"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert stat.S_ISSOCK(path.stat().st_mode)
    pull = sockets.pull(f"ipc://{path}")
    push = sockets.push(f"ipc://{path}", 10)
    push.setsockopt(zmq.SNDTIMEO, 5000)
    push.send(b"there")
    assert pull.poll(5000)
    assert pull.recv() == b"there"


def test_a_socket_that_was_closed_early_is_not_closed_again(sockets, tmp_path):
    pull = sockets.pull(f"ipc://{tmp_path}/in")
    sockets.close(pull)
    assert pull.closed
    assert not sockets._open

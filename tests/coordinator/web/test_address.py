"""Where the coordinator listens, and to which names it answers."""

import socket

import pytest

from zflow.coordinator.web import address as module
from zflow.coordinator.web.address import Address, answers_to, bind, bind_default, parse_address
from zflow.errors import ConfigError, Unavailable

GOOD = {
    "127.0.0.1:9464": Address("127.0.0.1", 9464),
    "9500": Address("127.0.0.1", 9500),
    "0.0.0.0:1": Address("0.0.0.0", 1),
    "[::1]:80": Address("::1", 80),
    "localhost:0": Address("localhost", 0),
}
BAD = [
    "",
    ":",
    ":9464",
    "host",
    "host:",
    "host:x",
    "1.2.3.4:65536",
    "::1:80",
    "[::1]",
    "h:-1",
    "h:²",
]


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read(text):
    assert parse_address(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_with_what_to_write(text):
    with pytest.raises(ConfigError, match="--http: '.*' is no address; "):
        parse_address(text)


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: Address already"
        ):
            bind(Address("127.0.0.1", port))


def test_an_address_that_is_not_of_this_machine_is_refused():
    with pytest.raises(ConfigError, match="cannot listen on"):
        bind(Address("192.0.2.1", 0))


def test_the_default_is_the_next_free_port_where_others_run(monkeypatch):
    with bind(Address("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        monkeypatch.setattr(module, "DEFAULT_PORT", port)
        with bind_default() as second:
            host, found = second.getsockname()
            assert host == "127.0.0.1"
            assert port < found < port + module.TRIED_PORTS


def test_without_a_free_port_there_is_none(monkeypatch):
    with bind(Address("127.0.0.1", 0)) as first:
        monkeypatch.setattr(module, "DEFAULT_PORT", first.getsockname()[1])
        monkeypatch.setattr(module, "TRIED_PORTS", 1)
        with pytest.raises(Unavailable, match="no port is free from"):
            bind_default()


# A page of somebody else may send any name that it could register; it cannot send these.
HOSTS = [
    # (Host header, on loopback, on all addresses)
    ("127.0.0.1:9464", True, True),
    ("127.0.0.1", True, True),
    ("127.9.9.9:1", True, True),
    ("localhost:9464", True, True),
    ("LOCALHOST", True, True),
    ("[::1]:9464", True, True),
    ("[::1]", True, True),
    ("10.1.2.3:9464", False, True),
    ("[2001:db8::1]:9464", False, True),
    (socket.gethostname() + ":9464", False, True),
    ("evil.example", False, False),
    ("evil.example:9464", False, False),
    ("127.0.0.1.evil.example", False, False),
    ("localhost.evil.example:9464", False, False),
    ("localhost.", False, False),
    ("2130706433", False, False),
    ("0x7f.1", False, False),
    ("user@127.0.0.1", False, False),
    ("127.0.0.1:port", False, False),
    ("127.0.0.1:", False, False),
    ("::1", False, False),
    ("[::1", False, False),
    ("[localhost]:80", False, False),
    ("[127.0.0.1]", False, False),
    ("127.0.0.1/", False, False),
    (" 127.0.0.1", False, False),
    ("", False, False),
    (":9464", False, False),
]


@pytest.mark.parametrize(("asked", "on_loopback", "on_all"), HOSTS)
def test_only_names_that_nobody_else_can_have_are_answered(asked, on_loopback, on_all):
    assert answers_to(asked, "127.0.0.1") is on_loopback
    assert answers_to(asked, "0.0.0.0") is on_all


def test_the_name_that_it_was_bound_to_is_answered():
    assert answers_to("Monitor.Example:9464", "monitor.example")
    assert not answers_to("other.example:9464", "monitor.example")

"""The thread that serves: real sockets, no signal handlers, nothing left behind."""

import logging
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request

import pytest

from tests.coordinator.web.conftest import make_picture
from zflow.clock import Clock
from zflow.coordinator.web.address import Address
from zflow.coordinator.web.server import WebServer, open_server

WITHIN_S = 30.0


@pytest.fixture
def server():
    made = open_server("127.0.0.1:0", Clock())
    yield made
    made.stop()


def get(server, path, **headers):
    request = urllib.request.Request(f"http://{server.address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        return answer.status, answer.read().decode()


def is_serving():
    return "zflow-http" in {thread.name for thread in threading.enumerate()}


def test_it_serves_from_the_moment_the_run_has_begun_and_not_before(server):
    server.show(make_picture("connect"))
    assert not is_serving()
    server.show(make_picture("run"))
    assert is_serving()
    assert get(server, "/readyz") == (200, "run\n")
    server.show(make_picture("drain"))
    assert get(server, "/readyz") == (200, "drain\n")


def test_the_last_picture_stays_until_it_is_stopped(server):
    server.show(make_picture("run"))
    server.show(make_picture("finish", processed=77))
    status, text = get(server, "/metrics")
    assert status == 200
    assert 'stage="read",topology="flow"} 77.0' in text


def test_a_request_that_comes_before_is_answered_once_the_run_has_begun(server):
    with socket.create_connection((server.address.host, server.address.port), WITHIN_S) as early:
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        server.show(make_picture("run"))
        assert early.recv(100).startswith(b"HTTP/1.1 200")


def test_it_answers_to_the_name_it_was_given():
    server = open_server("localhost:0", Clock())
    try:
        server.show(make_picture("run"))
        assert str(server.address).startswith("localhost:")
        assert get(server, "/healthz")[0] == 200
    finally:
        server.stop()


def test_it_leaves_the_signals_alone(server):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server.show(make_picture("run"))
    get(server, "/healthz")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_stopping_ends_it_at_once_although_somebody_listens(server):
    server.show(make_picture("run"))
    url = f"http://{server.address}/api/events"
    with urllib.request.urlopen(url, timeout=WITHIN_S) as listener:
        assert listener.readline().startswith(b"id: 1")
        server.stop()
        assert not is_serving()
        listener.read()  # it ends
    server.stop()  # once more changes nothing


def test_stopped_before_anybody_asked_it_has_loaded_no_web_server():
    server = open_server("127.0.0.1:0", Clock())
    server.show(make_picture("run"))
    server.stop()
    assert not is_serving()


def test_what_the_web_server_says_is_a_line_of_ours(server, caplog):
    caplog.set_level(logging.DEBUG, "zflow.http")
    server.show(make_picture("run"))
    get(server, "/healthz")
    logging.getLogger("uvicorn.error").error("out of %s", "luck")
    found = [(r.name, r.levelname, r.message) for r in caplog.records]
    assert ("zflow.http", "ERROR", "out of luck") in found
    assert {name for name, _, _ in found} == {"zflow.http"}
    assert not [r for r in found if r[1] == "INFO"]


def test_a_failure_of_the_web_server_is_logged_and_nothing_else(server, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # its import fails
    server.show(make_picture("run"))
    with socket.create_connection((server.address.host, server.address.port), WITHIN_S):
        server._thread.join(WITHIN_S)
    assert "the HTTP server has ended" in caplog.text
    server.show(make_picture("run"))


def test_other_hosts_are_refused_over_real_sockets(server):
    server.show(make_picture("run"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, "/metrics", Host="evil.example")
    assert refused.value.code == 421
    refused.value.close()


def test_the_default_is_loopback():
    server = open_server(None, Clock())
    try:
        assert isinstance(server, WebServer)
        assert server.address.host == "127.0.0.1"
        assert server.address.port >= 9464
        assert str(Address("::1", 80)) == "[::1]:80"
    finally:
        server.stop()

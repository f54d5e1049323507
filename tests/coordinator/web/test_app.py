"""What the coordinator answers: from the newest picture, and only to those who may ask."""

import gzip
import json

import msgspec
import pytest

from tests.coordinator.web.conftest import ask, make_picture
from zflow.clock import Clock
from zflow.coordinator.web import app as module
from zflow.coordinator.web.app import MAX_LISTENERS, TYPES, Board, make_app
from zflow.coordinator.web.guard import HEADERS
from zflow.wire.picture import Picture

PATHS = ("/metrics", "/healthz", "/readyz", "/sd", "/api/topology", "/api/state", "/", "/none")


@pytest.fixture
def board():
    made = Board(Clock())
    made.show(make_picture())
    return made


@pytest.fixture
def app(board, static):
    return make_app(board, "127.0.0.1", "127.0.0.1:9464", static)


def test_metrics_are_text_of_the_newest_picture(app, board):
    name = 'zflow_items_processed_total{outcome="ok",replica="0",stage="read",topology="flow"}'
    answer = ask(app, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert f"{name} 5.0\n" in answer.text
    board.show(make_picture(processed=6))
    assert f"{name} 6.0\n" in ask(app, "/metrics").text


def test_metrics_are_packed_for_whoever_asks(app):
    packed = ask(app, "/metrics", accept_encoding="deflate, gzip;q=0.9")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == ask(app, "/metrics").body


@pytest.mark.parametrize("accepted", ["", "deflate", "gzip;q=0", "br, gzip; q=0.0", "xgzip"])
def test_metrics_are_plain_for_whoever_does_not(app, accepted):
    assert "content-encoding" not in ask(app, "/metrics", accept_encoding=accepted).headers


@pytest.mark.parametrize(
    ("phase", "status"),
    [("bind", 503), ("connect", 503), ("run", 200), ("drain", 200), ("finish", 503)],
)
def test_it_is_ready_while_items_flow(app, board, phase, status):
    board.show(make_picture(phase))
    assert ask(app, "/readyz").status == status


def test_it_is_healthy_while_pictures_come(app, board, monkeypatch):
    assert ask(app, "/healthz").status == 200
    monkeypatch.setattr(module, "STALE_S", -1.0)
    answer = ask(app, "/healthz")
    assert (answer.status, answer.text) == (503, "nothing new for 0 s\n")


def test_discovery_names_the_address_it_was_asked_by_and_no_topology_label(app):
    (target,) = json.loads(ask(app, "/sd", host="localhost:1234").text)
    assert target["targets"] == ["localhost:1234"]
    assert target["labels"] == {"__meta_zflow_topology": "flow", "__meta_zflow_run": "run-1"}
    (target,) = json.loads(ask(app, "/sd", host="localhost").text)
    assert target["targets"] == ["127.0.0.1:9464"]


def test_the_state_is_the_picture(app, board):
    raw = ask(app, "/api/state").body
    assert msgspec.json.decode(raw, type=Picture) == board.picture


def test_the_topology_is_what_runs_without_numbers(app):
    found = json.loads(ask(app, "/api/topology").text)
    assert (found["topology"], found["phase"]) == ("flow", "run")
    (stage,) = found["stages"]
    assert (stage["name"], stage["kind"], stage["desired"]) == ("read", "source", 1)
    assert "slots" not in stage


def test_before_there_is_a_picture_it_says_so(static):
    app = make_app(Board(Clock()), "127.0.0.1", "127.0.0.1:9464", static)
    assert ask(app, "/api/state").status == 503
    assert ask(app, "/api/topology").status == 503
    assert ask(app, "/readyz").status == 503
    assert ask(app, "/metrics").body == b""
    assert json.loads(ask(app, "/sd").text) == [{"targets": ["127.0.0.1:9464"], "labels": {}}]


# --- events -----------------------------------------------------------------------------------


def frames(answer):
    """(event, id, data) of each frame."""
    found = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return found


def test_a_listener_gets_the_events_and_the_picture(app):
    answer = ask(app, "/api/events", parts=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, second, third, *_ = frames(answer)
    assert [first[:2], second[:2]] == [("event", "1"), ("event", "2")]
    assert first[2]["text"] == "event 0"
    assert third[0] == "picture"
    assert third[2]["run_id"] == "run-1"


def test_a_listener_that_comes_back_gets_the_events_since(app):
    first, second, *_ = frames(ask(app, "/api/events", parts=2, last_event_id="1"))
    assert (first[:2], second[0]) == (("event", "2"), "picture")


def test_a_listener_hears_of_what_happens_meanwhile(app, board, monkeypatch):
    monkeypatch.setattr(module, "EVENTS_EVERY_S", 0.0)
    shown = iter([make_picture(events=3)])
    old = module.msgspec.json.encode

    def encode(data):  # something happens while the second event is written
        if getattr(data, "number", 0) == 2:
            for picture in shown:
                board.show(picture)
        return old(data)

    monkeypatch.setattr(module.msgspec.json, "encode", encode)
    answer = ask(app, "/api/events", parts=4)
    assert [kind for kind, _, _ in frames(answer)[:4]] == ["event", "event", "picture", "event"]


def test_streams_end_when_the_server_stops(app, board):
    board.close()
    assert ask(app, "/api/events").body == b""


def test_there_are_only_so_many_listeners(board, static, monkeypatch):
    monkeypatch.setattr(module, "MAX_LISTENERS", 0)
    app = make_app(board, "127.0.0.1", "127.0.0.1:9464", static)
    assert MAX_LISTENERS > 0
    assert ask(app, "/api/events").status == 503


# --- the page ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/app.js", "/static/app.js"])
def test_files_of_the_page_have_their_type(app, path):
    answer = ask(app, path)
    assert (answer.status, answer.text) == (200, "run()")
    assert answer.headers["content-type"] == TYPES[".js"]


def test_the_root_is_the_page(app):
    answer = ask(app, "/")
    assert (answer.text, answer.headers["content-type"]) == ("<h1>page</h1>", TYPES[".html"])


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/static/../../secret.txt", "//etc/passwd", "/none.js", "/static/"]
)
def test_nothing_outside_of_the_page_is_served(app, path):
    answer = ask(app, path)
    assert "not for you" not in answer.text
    assert answer.status == (200 if path == "/static/" else 404)


# --- who may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_protect_a_browser(app, path):
    headers = ask(app, path).headers
    assert {name.lower(): text for name, text in HEADERS.items()}.items() <= headers.items()
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:9464", None])
def test_a_host_that_is_not_ours_gets_nothing(app, path, host):
    answer = ask(app, path, host=host)
    assert (answer.status, answer.text) == (421, "this host is not known here\n")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(app, path, method):
    answer = ask(app, path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", [*PATHS[:7], "/api/events"])
def test_head_is_answered(app, path):
    assert ask(app, path, method="HEAD").status == ask(app, path, parts=1).status

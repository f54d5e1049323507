"""What the page is told: one message for each picture, and the points of its charts."""

import json

import pytest

from tests.coordinator.web.conftest import ask
from tests.planning.made import HOST, blocked, busy, picture, starved
from zflow.clock import Clock
from zflow.coordinator.web.app import Board, make_app
from zflow.coordinator.web.live import KEPT_POINTS, Live


def chain(**parse):
    return [blocked("read", unacked=7), busy("parse", **parse), starved("keep", kind="sink")]


def taken(*at_s):
    live = Live({HOST: 2})
    for one in at_s:
        live.take(picture(chain(), one))
    return live


def test_before_the_first_picture_there_is_nothing():
    assert (taken().message(), taken().history()) == (b"null", b"[]")


def test_a_message_holds_run_edges_rates_verdict_and_point():
    message = json.loads(taken(100, 101, 102).message())
    assert message["run"]["run_id"] == "one"
    assert "stages" not in message["run"]
    assert [edge["label"] for edge in message["edges"]] == ["read->parse", "parse->keep"]
    assert message["verdict"]["stage"] == "parse"
    assert message["rates"]["stages"][1]["rate_per_s"] == pytest.approx(100)
    at_s, yielded, finished, p50_s, p99_s, waiting, rates, queues = message["point"]
    assert (at_s, yielded, finished, waiting) == (1102.0, 100.0, 100.0, 7)
    assert 0 < p50_s <= p99_s
    assert (rates, queues) == ([100.0] * 3, [0] * 3)


def test_the_first_picture_alone_gives_no_point():
    live = taken(100)
    assert json.loads(live.message())["point"] is None
    assert live.history() == b"[]"


def test_the_same_picture_again_changes_nothing():
    live = taken(100)
    second = picture(chain(), 102)
    live.take(second)
    live.take(second)
    assert len(json.loads(live.history())) == 1


def test_history_holds_a_quarter_of_an_hour():
    points = json.loads(taken(*range(100, 100 + KEPT_POINTS + 50)).history())
    assert len(points) == KEPT_POINTS
    assert points[-1][0] == 1000 + 100 + KEPT_POINTS + 49


def test_other_stages_begin_another_history():
    live = taken(100, 101, 102)
    live.take(picture(chain()[:2], 103))
    assert len(json.loads(live.history())) == 1


def test_the_page_is_told_history_events_and_views():
    board = Board(Clock())
    board.show(picture(chain(), 100))
    app = make_app(board, "127.0.0.1", "127.0.0.1:9464")
    answer = ask(app, "/api/live", parts=2)
    first, second = answer.text.strip().split("\n\n")[:2]
    assert first == "event: history\ndata: []"
    assert second.startswith("event: view\ndata: ")

"""Picture after picture: rates of the last seconds, a verdict on a longer while."""

import json
import socket

import msgspec

from tests.planning.made import HOST, blocked, busy, picture, starved
from zflow.planning.processors import processors_here
from zflow.planning.watch import RATES_S, VERDICT_S, Watch


def chain(rate=100.0):
    return [blocked("read", rate=rate), busy("parse", rate=rate), starved("keep", kind="sink")]


def test_the_first_picture_alone_says_nothing():
    view = Watch({HOST: 2}).take(picture(chain(), 100))
    assert (view.verdict.kind, view.rates.interval_s) == ("early", 0)


def test_rates_follow_quickly_and_the_verdict_looks_back_further():
    watch = Watch({HOST: 2})
    for second in range(30):
        view = watch.take(picture(chain(), 100 + second))
        assert view.rates.interval_s == min(second, RATES_S)
    assert view.verdict.stage == "parse"
    assert len(watch._pictures) == VERDICT_S + 1


def test_another_run_and_a_new_coordinator_begin_anew():
    watch = Watch({})
    for at in (100, 102):
        watch.take(picture(chain(), at))
    assert watch.take(picture(chain(), 104, run_id="two")).verdict.kind == "early"
    watch.take(picture(chain(), 106, run_id="two"))
    assert watch.take(picture(chain(), 1, run_id="two")).verdict.kind == "early"


def test_a_view_is_plain_data_beside_its_picture():
    watch = Watch({})
    watch.take(picture(chain(), 100))
    view = watch.take(picture(chain(), 102))
    data = json.loads(msgspec.json.encode(view.as_data()))
    assert data["verdict"]["sentence"] == view.verdict.sentence
    assert data["rates"]["stages"][1]["times"]["busy_ratio"] == 1.0


def test_a_container_may_allow_less_than_the_machine_has(tmp_path):
    quota = tmp_path / "cpu.max"
    unlimited = processors_here(quota)
    assert unlimited[socket.gethostname()] >= 1
    quota.write_text("max 100000\n")
    assert processors_here(quota) == unlimited
    quota.write_text("50000 100000\n")
    assert processors_here(quota) == {socket.gethostname(): 0.5}

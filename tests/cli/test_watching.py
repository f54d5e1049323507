"""What `ps`, `status`, `top`, `events` and `explain` show of a running run, from its pictures."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from click.testing import CliRunner

from tests.cli.conftest import ROOT
from tests.cli.coordinator import Answering
from tests.planning.made import blocked, busy, picture, starved
from zflow.cli import asking, ps
from zflow.cli.main import main
from zflow.clock import Clock
from zflow.wire.picture import Event

EVENTS = [
    Event(number=1, at_s=1000.0, kind="phase", stage="", slot="", text="run"),
    Event(
        number=2, at_s=1001.0, kind="death", stage="parse", slot="parse/1", text="exit code 3\nx"
    ),
]


@pytest.fixture
def zflow(tmp_path, tmp_path_factory, monkeypatch):
    """`zflow("ps")` in tmp_path, in this process; waiting takes no time."""
    monkeypatch.chdir(tmp_path)
    runtime = tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(Clock, "sleep", lambda _self, _seconds: None)
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture
def answering(tmp_path, make_run, zflow):
    """`answering(pictures)` is run `one` of topology `flow`, which runs and answers."""
    state = make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [])
    return lambda *pictures, **how: Answering(state, pictures, os.environ, **how)


def chain(**parse):
    return [
        blocked("read", unacked=50),
        busy("parse", n=2, inbox=4, **parse),
        starved("keep", kind="sink"),
    ]


def seen(at_s=100, stages=None, **fields):
    made = picture(stages or chain(), at_s, **fields)
    return msgspec.structs.replace(made, events=EVENTS)


def two():
    return seen(100), seen(103)


def test_explain_says_the_sentence_and_what_to_try(zflow, answering):
    with answering(*two()):
        done = zflow("explain")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("parse is the bottleneck: its 2 replicas are busy 100% of the")
    assert done.stderr == "try: zflow scale parse=3\n"


def test_explain_repeats_which_run_was_meant_in_what_to_try(zflow, answering):
    with answering(*two()):
        done = zflow("explain", "--topology", "flow")
    assert done.stderr == "try: zflow scale parse=3 --topology flow\n"


def test_explain_gives_programs_one_object(zflow, answering):
    with answering(*two()):
        data = json.loads(zflow("explain", "--json").stdout)
    assert (data["kind"], data["stage"], data["run_id"]) == ("stage", "parse", "one")
    assert data["gain"]["factor"] == pytest.approx(1.5)


def test_status_shows_every_stage(zflow, answering):
    with answering(seen(100), *two()):
        done = zflow("status")
    head, headings, *rows = done.stdout.splitlines()
    assert head == "flow one: run, 1 min"
    assert headings.split()[:4] == ["stage", "replicas", "items/s", "busy"]
    assert rows[0].split() == ["read", "1/1", "100", "10%", "90%", "0%", "0", "0", "0", "blocked"]
    assert rows[1].split() == ["parse", "2/2", "100", "100%", "0%", "0%", "8", "0", "0", "busy"]
    assert rows[2].split()[-1] == "starved"
    assert rows[3].startswith("latency p50 ")


def test_status_of_a_stage_shows_its_replicas_and_how_one_ended(zflow, answering):
    def made(at_s):
        return seen(at_s, chain(deaths_per_s=0.01, states={1: "down"}))

    with answering(made(100), made(100), made(103)):
        done = zflow("status", "parse")
    head, headings, first, second, *rest = done.stdout.splitlines()
    assert head.startswith("flow one: run, 1 min: parse, 10,")
    assert headings.split()[0] == "replica"
    assert first.split()[:4] == ["parse/0", "running", "4711", "here"]
    assert second.split()[:4] == ["parse/1", "down", "-", "-"]
    assert "parse/0 ended before: exit code 3" in rest
    assert "ValueError: no" in rest


def test_status_says_what_a_starting_run_waits_for(zflow, answering):
    stages = chain(states={0: "registered"})
    with answering(seen(1, stages, phase="bind")):
        done = zflow("status")
    assert done.stdout.splitlines()[-1] == "it waits: parse/0 is not up yet"
    assert done.stdout.startswith("flow one: bind, 1 s\n")


def test_status_gives_programs_one_object(zflow, answering):
    with answering(seen(100), *two()):
        data = json.loads(zflow("status", "--json").stdout)
    assert [stage["name"] for stage in data["stages"]] == ["read", "parse", "keep"]
    assert (data["phase"], data["waits_for"]) == ("run", [])
    with answering(seen(100), *two()):
        data = json.loads(zflow("status", "parse", "--json").stdout)
    assert [one["slot"] for one in data["stages"][0]["replicas"]] == ["parse/0", "parse/1"]


def test_an_unknown_stage_is_refused_with_the_nearest(zflow, answering):
    with answering(seen()):
        done = zflow("status", "prase")
    assert (done.exit_code, done.stderr) == (
        2,
        "prase: is no stage of this run; did you mean 'parse'?\n",
    )


def test_top_once_is_one_frame_with_verdict_stages_and_edges(zflow, answering):
    with answering(*two()):
        done = zflow("top", "--once")
    assert done.exit_code == 0, done.stderr
    assert "parse is the bottleneck" in done.stdout
    assert "try: zflow scale parse=3" in done.stdout
    (edge,) = [line for line in done.stdout.splitlines() if line.startswith("read->parse")]
    assert edge.split() == ["read->parse", "100", "##########..........", "50"]


def test_top_without_a_terminal_says_what_to_type(zflow, answering):
    with answering(seen()):
        done = zflow("top")
    assert (done.exit_code, "zflow top --once" in done.stderr) == (2, True)


def test_events_are_shown_with_their_time_and_what_they_are_about(zflow, answering):
    with answering(seen()):
        done = zflow("events")
    first, second = done.stdout.splitlines()
    assert first.split()[1:] == ["phase", "run"]
    assert second.split()[1:] == ["death", "parse/1", "exit", "code", "3"]


def test_events_that_are_followed_are_shown_once_until_the_run_ends(zflow, answering, monkeypatch):
    later = Event(number=3, at_s=1002.0, kind="move", stage="parse", slot="", text="7 to 1")
    second = msgspec.structs.replace(seen(101), events=[EVENTS[1], later])
    coordinator = answering(seen(100), second)
    looks = []

    def ends_after_three(_self, _seconds):
        looks.append(1)
        if len(looks) == 3:
            coordinator.__exit__()

    monkeypatch.setattr(Clock, "sleep", ends_after_three)
    coordinator.__enter__()
    done = zflow("events", "-f", "--json")
    assert done.exit_code == 0, done.stderr
    assert [json.loads(line)["number"] for line in done.stdout.splitlines()] == [1, 2, 3]


def test_ps_lists_what_runs_with_its_process(zflow, answering):
    with answering(seen()):
        done = zflow("ps")
        data = json.loads(zflow("ps", "--json").stdout)
    headings, row = done.stdout.splitlines()
    assert headings.split() == ["topology", "run", "phase", "since", "stages", "replicas", "pid"]
    assert row.split()[:3] == ["flow", "one", "run"]
    assert row.split()[-3:] == ["3", "4/4", str(os.getpid())]
    assert (data["pid"], data["running"]) == (os.getpid(), 4)


def test_ps_lists_a_run_that_does_not_answer_too(zflow, answering, monkeypatch):
    monkeypatch.setattr(ps, "ANSWER_WITHIN_S", 0.05)
    with answering(seen(), silent=True):
        done = zflow("ps")
    assert "no answer" in done.stdout.splitlines()[1]


def test_ps_says_if_nothing_runs(zflow, make_run, tmp_path):
    make_run(tmp_path / ".zflow" / "flow" / "one", "one", "flow", [])
    done = zflow("ps")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "nothing is running here; all runs: zflow runs ls\n"


@pytest.mark.parametrize("verb", [["explain"], ["status"], ["top", "--once"], ["events"]])
def test_without_an_answer_the_exit_code_is_3(zflow, answering, verb, monkeypatch):
    monkeypatch.setattr(asking, "ANSWER_WITHIN_S", 0.05)
    with answering(seen(), silent=True):
        done = zflow(*verb)
    assert done.exit_code == 3
    assert done.stderr.startswith("zflow: run one has not answered within")
    done = zflow(*verb)
    assert done.exit_code == 3
    assert done.stderr == (
        "zflow: run one is not running: there is nothing to see; see zflow runs ls\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["q", "interrupt"])
def test_top_on_a_terminal_draws_until_somebody_leaves(answering, tmp_path, leave):
    ours, theirs = pty.openpty()
    with answering(*(seen(at_s) for at_s in (100, 103))):
        process = subprocess.Popen(
            [sys.executable, "-m", "zflow", "top"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            read_until(ours, b"parse is the bottleneck")
            if leave == "q":
                os.write(ours, b"q")
            else:
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def read_until(descriptor, words):
    """What a terminal is sent, until it holds these words."""
    found = b""
    until = time.monotonic() + 30
    while words not in found:
        ready, _, _ = select.select([descriptor], [], [], max(0, until - time.monotonic()))
        assert ready, found
        found += os.read(descriptor, 65_536)

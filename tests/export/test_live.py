"""A real Prometheus scrapes a run by the exported files: each query and rule gives something.

Prometheus listens on loopback, on a port that it chooses, and keeps its data in the test's folder.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.conftest import EVERYTHING, ROOT, declared_of, program
from zflow.export.grafana import dashboard
from zflow.export.prometheus import CONFIG_SD, SCRAPE_INTERVAL, prometheus_files
from zflow.export.rules import alerts, recordings

pytestmark = pytest.mark.slow

WITHIN_S = 90
POLL_S = 0.1
SCRAPED = "500ms"
# What Grafana puts in; its $__rate_interval is at least four scrapes.
VARIABLES = {"$__rate_interval": "10s", "$topology": "everything", "$stage": ".*"}

# A coordinator is asked without the proxies that the environment may name.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def until(wanted: Callable[[], object], what: str) -> object:
    """What is wanted, as soon as it is there."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"no {what} within {WITHIN_S} s"
        time.sleep(POLL_S)
    return found


class Started:
    """A process whose stderr is read while it goes on."""

    def __init__(self, command: list[object], folder: Path, **environment: str) -> None:
        self._log = folder / "stderr"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def said(self, pattern: str) -> str:
        """What its stderr has in the place of the pattern's group."""

        def find() -> re.Match | None:
            log = self._log.read_text()
            assert self.process.poll() is None, log
            return re.search(pattern, log)

        return until(find, pattern).group(1)

    def stop(self) -> None:
        """End it, first gently."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Prometheus:
    """What its API says."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1"

    def ask(self, path: str, **parameters: str):
        """The data of an answer."""
        url = f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}"
        with OPEN(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """The numbers that a query gives now; NaN is none."""
        found = [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def unanswered(self, queries: list[str]) -> list[str]:
        """The queries that give nothing, although they were given time for it."""
        missing = dict.fromkeys(queries)

        def answered() -> bool:
            for query in [one for one in missing if self.values(one)]:
                del missing[query]
            return not missing

        try:
            until(answered, "answer")
        except AssertionError:
            return list(missing)
        return []


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run of everything.py, and the Prometheus that watches it."""
    prometheus = program("prometheus", "prometheus")
    folder, runtime = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    started: list[Started] = []
    try:
        marker = f"Work.marker={folder / 'died'}"
        command = [sys.executable, "-m", "zflow", "run", EVERYTHING, "-p", marker]
        run = Started([*command, "--http", "127.0.0.1:0"], folder, XDG_RUNTIME_DIR=str(runtime))
        started.append(run)
        address = run.said(r"metrics on http://([\d.:]+)/")
        watching = folder / "prometheus"
        watching.mkdir()
        for name, text in prometheus_files(declared_of(EVERYTHING), address=address).items():
            faster = text.replace(f'interval: "{SCRAPE_INTERVAL}"', f"interval: {SCRAPED}")
            (watching / name).write_text(faster)
        assert SCRAPED in (watching / CONFIG_SD).read_text()
        options = [f"--config.file={CONFIG_SD}", "--storage.tsdb.path=data"]
        watcher = Started([prometheus, *options, "--web.listen-address=127.0.0.1:0"], watching)
        started.append(watcher)
        api = Prometheus(watcher.said(r'msg="Listening on" address=([\d.:]+)'))
        watcher.said(r"(Server is ready to receive web requests)")
        # The one process that dies has been replaced: no test sees another one come.
        until(lambda: api.values('zflow_replica_info{stage="Work",incarnation="2"}'), "successor")
        yield api
    finally:
        for one in reversed(started):
            one.stop()


def test_every_panel_shows_something(live, everything):
    rows = dashboard(everything)["panels"]
    panels = [panel for row in rows for panel in [row, *row.get("panels", [])]]
    queries = [target["expr"] for one in panels for target in one.get("targets", [])]
    assert len(queries) > 50
    for name, value in VARIABLES.items():
        queries = [query.replace(name, value) for query in queries]
    assert not [query for query in queries if "$" in query]
    assert live.unanswered(queries) == []


def test_every_recording_rule_gives_something(live, everything):
    assert live.unanswered([rule.name for rule in recordings(everything)]) == []


def test_states_of_a_stage_add_up_to_one(live, everything):
    until(lambda: live.values("stage_state:zflow_stage_time:ratio_rate1m"), "recorded state")
    sums = live.values("sum by (stage) (stage_state:zflow_stage_time:ratio_rate1m)")
    assert len(sums) == len(everything.stages)
    assert sums == pytest.approx([1] * len(sums))


def test_every_series_that_an_alert_looks_at_is_there(live, everything):
    exprs = [alert.expr for alert in alerts(everything)]
    looked_at = [one for expr in exprs for one in re.findall(r"[a-z][\w:]*\{[^}]*\}", expr)]
    assert len(looked_at) > 10
    assert live.unanswered([one for one in looked_at if not one.startswith("up")]) == []
    # One scrape may take longer than its time on a busy machine.
    until(lambda: live.values('up{job="zflow-everything"}') == [1], "scrape")


def test_the_alert_on_dead_letters_fires_and_others_are_silent(live, everything):
    def rules():
        groups = live.ask("rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        states = {rule["name"]: rule["state"] for rule in found if rule["type"] == "alerting"}
        evaluated = all(rule["health"] == "ok" for rule in found)
        return found if evaluated and states["DeadLetters"] == "firing" else None

    found = until(rules, "dead letter that was told")
    assert len(found) == len(recordings(everything)) + len(alerts(everything))
    fired = [one for one in live.ask("alerts")["alerts"] if one["state"] == "firing"]
    told = {(one["labels"]["alertname"], one["labels"]["stage"]) for one in fired}
    assert told == {("DeadLetters", "Work")}
    command = "zflow dead ls --topology everything --stage Work --newer 10m"
    assert fired[0]["annotations"]["command"] == command

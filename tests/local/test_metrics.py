"""A real Prometheus scrapes a topology that runs: what it stores is what the ledger says."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
WITHIN_S = 60.0
ITEMS = 600
GIVEN_UP = {n for n in range(ITEMS) if n % 100 == 99}
FILTERED = set(range(0, ITEMS, 3)) - GIVEN_UP
KEPT = set(range(ITEMS)) - GIVEN_UP - FILTERED

FLOW = """
    import time
    from pathlib import Path
    from zflow import DurableStage

    @source
    def numbers(n: int, go: str):
        yield from range(n)
        while not Path(go).exists():  # everything is settled meanwhile
            time.sleep(0.02)

    @stage(replicas=2, retries=1, backoff_s=0.01)
    class Pick:
        def open(self):
            self.even = self.context.counter("picked", parity="even")

        def process(self, number):
            if number % 100 == 99:
                raise ValueError(number)
            if number % 3 == 0:
                return None
            if number % 2 == 0:
                self.even.add()
            return number

    @stage
    class Count(DurableStage):
        def process(self, number):
            self.state[0] = self.state.get(0, 0) + 1
            return number

    @sink
    def show(number):
        pass

    flow = Topology("counted")
    flow.connect(numbers, Pick)
    flow.connect(Pick, Count)
    flow.connect(Count, show)
"""

CONFIG = """
global:
  scrape_interval: 300ms
  scrape_timeout: 300ms
scrape_configs:
  - job_name: fixed
    static_configs:
      - targets: ["{address}"]
  - job_name: found
    http_sd_configs:
      - url: http://{address}/sd
        refresh_interval: 1s
"""

pytestmark = pytest.mark.slow


class Prometheus:
    """A server of its own on loopback, with its own data."""

    def __init__(self, folder, address):
        (folder / "prometheus.yml").write_text(CONFIG.format(address=address))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(PROMETHEUS),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def address(self):
        """Where it listens; None before it does."""
        found = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())
        return found and found[1]

    def query(self, expression):
        """[(labels, value)] now; none before it is ready."""
        if self.address is None:
            return []
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
                found = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            error.close()
            return []
        return [(one["metric"], float(one["value"][1])) for one in found]

    def number(self, expression):
        """The one value, None without exactly one."""
        found = self.query(expression)
        return found[0][1] if len(found) == 1 else None

    def stop(self):
        self.process.terminate()
        self.process.wait(WITHIN_S)


@pytest.fixture
def watched(shop, tmp_path_factory, wait_until):
    """(the run, its Prometheus): everything that can be settled is."""
    if PROMETHEUS is None:
        assert not os.environ.get("CI"), "Debian package prometheus is needed: .ci/packages"
        pytest.skip("Debian package prometheus is not installed")
    shop.write(FLOW)
    go = shop.folder / "go"
    parameters = ("-p", f"numbers.n={ITEMS}", "-p", f"numbers.go={go}")
    running = shop.start("run", "flow.py", "--json", "--http", "127.0.0.1:0", *parameters)
    wait_until(lambda: address_of(running), WITHIN_S)
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), address_of(running))
    try:
        yield running, prometheus
    finally:
        prometheus.stop()


def address_of(running):
    found = re.search(r"metrics on http://(\S+)/metrics", running.err)
    return found and found[1]


def finish(shop, running):
    (shop.folder / "go").touch()
    done = running.end()
    assert done.code == 0, done.err
    return done.data


def by_outcome(stage):
    return f'sum by (outcome) (zflow_items_processed_total{{job="fixed", stage="{stage}"}})'


def settled(prometheus):
    return prometheus.number(
        'sum(zflow_items_processed_total{job="fixed", stage="show", outcome="ok"})'
    ) == len(KEPT)


def test_what_it_stores_is_what_the_ledger_says_at_the_end(shop, watched, wait_until):
    running, prometheus = watched
    wait_until(lambda: settled(prometheus), WITHIN_S)
    wait_until(lambda: len(prometheus.query("up == 1")) == 2, WITHIN_S)
    targets = {labels["job"]: labels["instance"] for labels, _ in prometheus.query("up")}
    assert targets == {"fixed": address_of(running), "found": address_of(running)}
    stages = ("numbers", "Pick", "Count", "show")
    outcomes = {
        stage: {labels["outcome"]: n for labels, n in prometheus.query(by_outcome(stage))}
        for stage in stages
    }
    others = {
        "letters": 'sum(zflow_dead_letters_total{job="fixed", stage="Pick", reason="error"})',
        "errors": 'zflow_errors_total{job="fixed", error="ValueError"}',
        "retries": 'zflow_retries_total{job="fixed", stage="Pick"}',
        "even": 'sum(zflow_user_picked_total{job="fixed", parity="even"})',
        "found": 'sum(zflow_items_in_total{job="found", edge="Pick->Count"})',
        "end": 'zflow_end_to_end_seconds_count{job="fixed", source="Count", sink="show"}',
        "commits": 'zflow_commit_seconds_count{job="fixed", stage="Count"}',
        "lag": 'zflow_source_position_lag_items{job="fixed"}',
    }
    numbers = {name: prometheus.number(expression) for name, expression in others.items()}
    ledger = {edge["edge"]: edge for edge in finish(shop, running)["ledger"]}
    for stage, incoming in (("Pick", "numbers->Pick"), ("Count", "Pick->Count")):
        good = outcomes[stage]["ok"] + outcomes[stage]["filtered"]
        assert good == ledger[incoming]["processed"]
    assert outcomes["numbers"]["ok"] == ITEMS
    assert outcomes["show"]["ok"] == ledger["Count->show"]["processed"]
    assert outcomes["Pick"]["filtered"] == len(FILTERED)
    assert numbers["letters"] == ledger["numbers->Pick"]["dead_lettered"] == len(GIVEN_UP)
    assert (numbers["errors"], numbers["retries"], numbers["lag"]) == (12, 6, 0)
    assert numbers["even"] == sum(n % 2 == 0 for n in KEPT)
    assert numbers["found"] == numbers["end"] == ledger["Pick->Count"]["processed"]
    assert numbers["commits"] >= 1


def test_the_series_of_a_killed_process_are_gone_and_its_stage_counts_on(shop, watched, wait_until):
    running, prometheus = watched
    wait_until(lambda: settled(prometheus), WITHIN_S)
    info = 'zflow_replica_info{job="fixed", stage="Pick", replica="0"}'
    before = {labels["outcome"]: n for labels, n in prometheus.query(by_outcome("Pick"))}
    ((labels, _),) = prometheus.query(info)
    os.kill(int(labels["pid"]), signal.SIGKILL)
    wait_until(lambda: [one["incarnation"] for one, _ in prometheus.query(info)] == ["2"], WITHIN_S)
    gone = f'zflow_replica_info{{pid="{labels["pid"]}"}}'
    wait_until(lambda: not prometheus.query(gone), WITHIN_S)  # the other job scrapes a bit later
    after = {labels["outcome"]: n for labels, n in prometheus.query(by_outcome("Pick"))}
    assert after == before
    restarts = 'zflow_restarts_total{job="fixed", stage="Pick", reason="signal"}'
    assert prometheus.number(restarts) == 1
    sums = 'sum by (stage) (zflow_items_processed_total{job="fixed"})'
    falls = prometheus.query(f"resets(({sums})[1m:300ms])")
    assert sorted(n for _, n in falls) == [0, 0, 0, 0]
    finish(shop, running)


def test_times_add_up_promtool_is_content_and_an_interrupt_drains_while_somebody_listens(
    shop, watched, wait_until
):
    running, prometheus = watched
    wait_until(lambda: settled(prometheus), WITHIN_S)
    rates = 'sum by (stage, replica) (rate(zflow_stage_time_seconds_total{job="fixed"}[1500ms]))'

    def add_up():
        found = prometheus.query(rates)
        return len(found) == 5 and all(0.5 < rate < 1.5 for _, rate in found)

    wait_until(add_up, WITHIN_S)  # scrapes and counts are half a second apart, and not in step
    share = 'sum by (state) (zflow_stage_time_seconds_total{job="fixed", stage="numbers"})'
    spent = {labels["state"]: s for labels, s in prometheus.query(share)}
    assert spent["starved"] == max(spent.values())  # it waits in its own generator
    url = f"http://{address_of(running)}/metrics"
    with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
        text = answer.read()
    check = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    url = f"http://{address_of(running)}/api/events"
    with urllib.request.urlopen(url, timeout=WITHIN_S) as listener:
        assert listener.readline() == b"id: 1\n"
        running.interrupt()  # as ever, although somebody listens
        done = running.end()
    assert done.code == 130, done.err
    assert "Traceback" not in done.err

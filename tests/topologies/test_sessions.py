"""topologies/sessions.py: every visit of the log, once, whatever is killed meanwhile."""

import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from zflow import Window

ROOT = Path(__file__).parents[2]
LOG = ROOT / "topologies" / "data" / "access.log"
SCRIPT = ROOT / "scripts" / "make_access_log"
MOST_BYTES = 300_000


@pytest.fixture
def sessions(load):
    return load("sessions")


def visits_of(sessions, path: Path = LOG) -> Counter:
    """A second way: sort each host's requests, and cut where there is a pause."""
    by_host = defaultdict(list)
    for request in sessions.requests(str(path)):
        by_host[request.host].append(request)
    found = Counter()
    for host, requests in by_host.items():
        requests.sort(key=lambda request: request.time)
        cuts = [0, len(requests)]
        for at in range(1, len(requests)):
            if requests[at].time - requests[at - 1].time >= sessions.GAP_S:
                cuts.insert(-1, at)
        for begin, end in zip(cuts, cuts[1:], strict=False):
            found[row(host, requests[begin:end])] += 1
    return found


def row(host, requests):
    pages = [request.page for request in requests if request.status == 200]
    seconds = requests[-1].time - requests[0].time
    entry = pages[0] if pages else ""
    return host, requests[0].time, seconds, len(pages), entry, len(requests)


def stored(tmp_path: Path) -> Counter:
    path = tmp_path / "visits.db"
    if not path.exists():
        return Counter()
    db = sqlite3.connect(path)
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'visits'").fetchone():
            return Counter()
        return Counter(
            db.execute("SELECT host, begin, seconds, pages, entry, requests FROM visits")
        )
    finally:
        db.close()


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    """The log several times over, by visitors of other addresses: long enough to be disturbed."""
    lines = LOG.read_text().splitlines(keepends=True)
    path = tmp_path / "long.log"
    with path.open("w") as file:
        for line in lines:
            file.writelines(line.replace("127.0.1.", f"127.0.{n}.", 1) for n in range(1, 16))
    return path


def test_the_log_is_small_and_has_visits_of_thirty_hosts(sessions):
    assert LOG.stat().st_size < MOST_BYTES
    visits = visits_of(sessions)
    assert len({host for host, *_ in visits}) == 30
    assert visits.total() > 150
    assert max(requests for *_, requests in visits) > 10


def test_a_line_that_is_no_request_is_passed_over(sessions, tmp_path):
    line = '::1 - - [24/Nov/2026:17:27:35 +0100] "GET /a?b=c HTTP/1.1" 404 -'
    (tmp_path / "log").write_text(f"garbage\n{line}\n")
    (request,) = sessions.requests(str(tmp_path / "log"))
    assert request == ("::1", 1_795_537_655, "/a?b=c", 404)


def test_a_visit_counts_the_pages_that_were_there(sessions):
    statuses = [404, 200, 200]
    requests = [sessions.Request("h", 10.0 + n, f"/{n}", s) for n, s in enumerate(statuses)]
    assert sessions.visit("h", Window(10, 15), requests) == ("h", 10, 2.0, 2, "/1", 3)
    assert sessions.visit("h", Window(10, 13), requests[:1]) == ("h", 10, 0.0, 0, "", 1)


@pytest.mark.slow
def test_every_visit_of_the_log_is_stored(zflow_run, sessions, tmp_path):
    summary = zflow_run("sessions")
    assert stored(tmp_path) == visits_of(sessions)
    assert summary["stages"]["visit"]["late"] == 0


@pytest.mark.slow
@pytest.mark.chaos
def test_every_visit_is_stored_once_after_kills(
    zflow_start, sessions, long_log, tmp_path, wait_until
):
    going = zflow_start("sessions", "-p", f"requests.path={long_log}")
    wait_until(lambda: stored(tmp_path), 30)
    for stage in ("visit", "requests", "Visits", "visit"):
        before = {victim.pid for victim in going.replicas(stage)}
        assert going.kill(stage), f"{stage} was over before it was disturbed"
        wait_until(
            lambda stage=stage, before=before: {one.pid for one in going.replicas(stage)} - before,
            30,
        )
    going.end()
    assert stored(tmp_path) == visits_of(sessions, long_log)


@pytest.mark.slow
def test_the_script_that_made_the_log_makes_another_of_the_same_kind(sessions, tmp_path):
    log = tmp_path / "access.log"
    arguments = [log, "--seconds", "2", "--visitors", "40"]
    subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], check=True, timeout=60)
    lines = log.read_text().splitlines()
    requests = list(sessions.requests(str(log)))
    assert len(requests) == len(lines) > 10
    assert {request.status for request in requests} <= {200, 404}
    assert all(request.host.startswith("127.0.1.") for request in requests)

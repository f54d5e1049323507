"""topologies/fetch.py against a server on this machine that is slow, fails, resets and hangs."""

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytestmark = pytest.mark.slow

WITHIN_S = 60.0


class Moody(BaseHTTPRequestHandler):
    """What the path asks for, the first times; then the page."""

    protocol_version = "HTTP/1.1"
    asked: Counter = Counter()
    counting = threading.Lock()

    def do_GET(self):
        with self.counting:
            self.asked[self.path] += 1
            times = self.asked[self.path]
        mood = self.path.split("/")[1]
        if mood == "slow":
            time.sleep(0.3)
        elif mood == "brief":
            time.sleep(0.02)
        elif mood == "busy" and times <= 2:
            self.answer(503, b"later")
            return
        elif mood == "reset" and times <= 2:
            self.close_connection = True
            self.connection.close()
            return
        elif mood == "hang" and times <= 1:
            time.sleep(3.0)
        elif mood == "gone":
            self.answer(404, b"<title> not here </title>")
            return
        elif mood == "never":
            self.answer(500, b"never")
            return
        self.answer(200, f"<html><title>{self.path}</title></html>".encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_):
        """Whoever was reset, or was tired of waiting, has gone."""


@pytest.fixture
def site():
    Moody.asked = Counter()
    server = Server(("127.0.0.1", 0), Moody)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def pages(folder):
    with closing(sqlite3.connect(folder / "pages.db")) as db:
        return {row[0]: row[1:] for row in db.execute("SELECT url, status, title FROM pages")}


MOODS = {"plain": 60, "slow": 20, "busy": 10, "reset": 10, "hang": 5, "gone": 5, "never": 2}


def written(folder, site):
    paths = [f"/{mood}/{k}" for mood, n in MOODS.items() for k in range(n)]
    (folder / "urls.txt").write_text("".join(f"{site}{path}\n\n" for path in paths))
    return paths


def test_every_page_is_fetched_whatever_its_server_does(site, tmp_path, zflow_run):
    paths = written(tmp_path, site)
    done = zflow_run("fetch", "Fetch.patience_s=1.5")
    found = pages(tmp_path)
    assert found.keys() == {site + path for path in paths if not path.startswith("/never")}
    for path in paths:
        mood = path.split("/")[1]
        if mood == "gone":
            assert found[site + path] == (404, "not here")
        elif mood != "never":
            assert found[site + path] == (200, path)
    assert done["dead_letters"] == 2, "what never answers is given up, and kept"
    assert all(Moody.asked[path] >= 3 for path in paths if path.startswith(("/busy", "/reset")))
    assert all(Moody.asked[path] == 6 for path in paths if path.startswith("/never")), "5 retries"


def test_pages_are_there_once_though_the_fetchers_are_killed(
    site, tmp_path, zflow_start, wait_until
):
    paths = [f"/brief/{k}" for k in range(300)]
    (tmp_path / "urls.txt").write_text("\n".join(site + path for path in paths))
    going = zflow_start("fetch")
    for least in (50, 150):
        wait_until(lambda least=least: sum(Moody.asked.values()) >= least, WITHIN_S)
        assert going.kill("Fetch")
    going.end()
    assert pages(tmp_path) == {site + path: (200, path) for path in paths}

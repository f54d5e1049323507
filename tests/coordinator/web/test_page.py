"""The page in a headless browser: it shows what runs, moves with it, and says when it is alone."""

import hashlib
import os
import re
import threading

import msgspec
import pytest

from tests.coordinator.web.browser import Browser, chromium
from tests.local.conftest import shop  # noqa: F401 - a fixture
from tests.planning.made import busy, hot, picture, starved
from zflow.clock import Clock
from zflow.coordinator.web.app import STATIC
from zflow.coordinator.web.server import open_server
from zflow.wire.picture import Event

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
VENDORED = {
    "dagre.esm.js": "b0ddaf4af1417bec9bd89373a3a3987f081727d6cc6d95fc40dbf85a19bdf3b0",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
FLOW = """
    import time

    @source
    def numbers():
        yield from range(10_000_000)

    @stage(replicas=2)
    def work(k):
        time.sleep(0.002)
        return k

    @sink
    def keep(k): ...

    flow = Topology("chain")
    flow.connect(numbers, work, keep)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium() is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium to test the page with")
        pytest.skip("there is no chromium")
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


class Showing:
    """A server that shows pictures of a chain, each a second older than the last."""

    def __init__(self):
        self._server = open_server("127.0.0.1:0", Clock())
        self.url = f"http://{self._server.address}/"
        self.stages = chain()
        self.events = [event(1, "phase", "run"), event(2, "start", "incarnation 1", "parse/0")]
        self.run_id = "one"
        self._at_s = 100.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)

    def _feed(self):
        while not self._ended.wait(0.2):
            self._at_s += 0.5
            made = picture(self.stages, self._at_s, run_id=self.run_id)
            self._server.show(msgspec.structs.replace(made, events=list(self.events)))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self.stop()

    def stop(self):
        self._ended.set()
        self._thread.join()
        self._server.stop()


def chain():
    return [
        busy("read", 0.1, dead_per_s=0.1, unacked=50),
        hot("Count"),
        starved("keep", kind="sink"),
    ]


def event(number, kind, text, slot=""):
    stage = slot.partition("/")[0]
    return Event(number=number, at_s=1090.0, kind=kind, stage=stage, slot=slot, text=text)


@pytest.fixture
def showing():
    with Showing() as made:
        yield made


def opened(browser, url, **how):
    browser.said.clear()
    browser.open(url, **how)
    browser.wait("document.body?.dataset.link === 'live'", WITHIN_S)


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({selector!r})?.textContent ?? ''")


def click(browser, stage):
    node = f"document.querySelector('[data-stage={stage}]')"
    browser.wait(f"{node} !== null")
    browser.evaluate(f"{node}.dispatchEvent(new Event('click'))")


def url_of(running, wait_until):
    found = []
    wait_until(lambda: found.extend(re.findall(r"http://\S+:\d+", running.err)) or found, WITHIN_S)
    return f"{found[0]}/"


def test_a_real_run_is_shown_with_rates_that_move_until_it_is_gone(browser, shop, wait_until):  # noqa: F811
    shop.write(FLOW)
    running = shop.start("run", "flow.py", "--http", "127.0.0.1:0")
    opened(browser, url_of(running, wait_until))
    names = "[...document.querySelectorAll('.node .name')].map(one => one.textContent).join()"
    assert browser.evaluate(names) == "numbers,work,keep"
    first = "document.querySelector('[data-stage=work] .rate').textContent"
    browser.wait(f"!{first}.startsWith('0/')", WITHIN_S)
    before = browser.evaluate(first)
    browser.wait(f"{first} !== {before!r}", WITHIN_S)
    browser.wait("document.getElementById('verdict').dataset.kind !== 'early'", WITHIN_S)
    assert re.search(r"\w+ \d+%", text(browser, "[data-stage=work] .state"))
    click(browser, "work")
    browser.wait("document.querySelectorAll('#detail tbody tr').length === 2")
    pids = set(map(str, running.replicas("work")))
    cells = "[...document.querySelectorAll('#detail tbody td:nth-child(3)')]"
    assert set(browser.evaluate(f"{cells}.map(td => td.textContent)")) == pids
    assert browser.said == []
    running.process.kill()
    running.process.wait()
    browser.wait("document.body?.dataset.link === 'lost'", WITHIN_S)
    assert "The coordinator is not heard" in text(browser, "#lost")


def test_the_verdict_is_said_with_what_to_type(browser, showing):
    opened(browser, showing.url)
    browser.wait("document.getElementById('verdict').dataset.kind === 'skew'", WITHIN_S)
    assert text(browser, "#sentence").startswith("Count/1 has the keys that come most")
    assert text(browser, "#try code") == "zflow move Count 1=0 7=2"
    assert browser.evaluate("document.querySelector('[data-stage=Count]').dataset.told") == "true"
    assert browser.said == []


def test_a_stage_is_opened_and_closed_by_keyboard_alone(browser, showing):
    opened(browser, showing.url)
    for _ in range(20):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.dataset.stage ?? ''") == "Count":
            break
    browser.press("Enter")
    browser.wait("!document.getElementById('detail').hidden")
    assert text(browser, "#detail-title") == "Count"
    assert "8 partitions" in text(browser, "#detail .facts")
    assert browser.evaluate("document.querySelectorAll('#detail tbody tr').length") == 3
    assert text(browser, "#detail tbody tr:nth-child(2) td.owned") == "3: 1 4 7"
    label = "document.querySelector('[data-stage=Count]').getAttribute('aria-label')"
    assert "3 of 3 replicas run" in browser.evaluate(label)
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('detail').hidden")


def test_how_a_replica_ended_is_shown_as_it_was_written(browser, showing):
    showing.stages[1].deaths_per_s = 0.01
    showing.stages[1].last_error = "exit code 3\n<b>ValueError</b>: no"
    opened(browser, showing.url)
    click(browser, "Count")
    browser.wait("document.querySelectorAll('#detail pre').length")
    assert text(browser, "#detail pre") == "exit code 3\n<b>ValueError</b>: no"


def test_dead_letters_are_counted_with_the_command_that_shows_them(browser, showing):
    opened(browser, showing.url)
    browser.wait("document.querySelectorAll('#dead code').length")
    assert text(browser, "#dead code") == "zflow dead ls --stage Count"
    assert int(text(browser, "#dead td.number")) >= 10


def test_what_happens_is_listed_once_and_marked_on_the_time_line(browser, showing):
    opened(browser, showing.url)
    browser.wait("document.querySelectorAll('#events li').length === 2", WITHIN_S)
    showing.events.append(event(3, "death", "signal 9 (SIGKILL)\nand more", "Count/1"))
    showing.events.append(event(4, "move", "partitions 1 to 0", "Count/1"))
    browser.wait("document.querySelectorAll('#events li').length === 4", WITHIN_S)
    newest = text(browser, "#events li:nth-child(2)")
    assert newest.endswith("deathCount/1signal 9 (SIGKILL)")
    browser.wait("document.querySelectorAll('#timeline .mark.death').length === 1", WITHIN_S)
    click(browser, "Count")
    browser.wait("document.querySelector('#detail .facts').textContent.includes('1 to 0')")


def test_the_charts_have_what_was_seen_before_the_page_came_back(browser, showing):
    opened(browser, showing.url)
    browser.wait("document.querySelector('#charts .line b').textContent !== '-'", WITHIN_S)
    drawn = "document.querySelectorAll('#charts canvas').length"
    assert browser.evaluate(drawn) == 3
    opened(browser, showing.url)
    browser.wait("document.querySelector('#charts .line b').textContent !== '-'", WITHIN_S)
    assert browser.said == []


def test_another_run_at_the_same_address_forgets_the_old_one(browser, showing):
    opened(browser, showing.url)
    browser.wait("document.querySelectorAll('#events li').length === 2", WITHIN_S)
    showing.events = [event(1, "phase", "bind")]
    showing.run_id = "two"
    browser.wait("document.getElementById('run').textContent === 'two'", WITHIN_S)
    browser.wait("document.querySelectorAll('#events li').length === 1", WITHIN_S)


def test_a_lost_connection_is_said_with_how_old_the_numbers_are(browser, showing):
    opened(browser, showing.url)
    showing.stop()
    browser.wait("document.body?.dataset.link === 'lost'", WITHIN_S)
    assert "What is shown is of" in text(browser, "#lost")


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_narrow_screen(browser, showing, dark):
    opened(browser, showing.url, width=400, height=800, dark=dark, calm=True)
    browser.wait("document.querySelectorAll('.node').length === 3")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 25, 26)") is dark
    moving = "getComputedStyle(document.querySelector('.edge .flow')).transitionDuration"
    assert browser.evaluate(moving) == "0s"


@pytest.mark.parametrize("name", VENDORED)
def test_what_is_vendored_is_what_was_published(name):
    path = STATIC / "vendor" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == VENDORED[name]


def test_what_the_policy_forbids_is_refused_and_noticed_here(browser, showing):
    opened(browser, showing.url)
    browser.evaluate("document.body.setAttribute('style', 'color: red')")
    browser.wait("getComputedStyle(document.body).color !== 'rgb(255, 0, 0)'")
    assert any("Content Security Policy" in said for said in browser.said)

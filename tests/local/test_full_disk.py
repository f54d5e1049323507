"""A store of dead letters that cannot be written stops the pipeline and loses nothing (H16).

On real file systems: a small tmpfs that is filled up, and one that is made read-only.
"""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from zflow.state.blackbox import read_black_box
from zflow.state.deadletter import read_dead_letters
from zflow.supervisor.supervise import CRASH_LOOP

pytestmark = pytest.mark.slow

ITEMS = 200
SOON_S = 5.0
START_S = 20.0
PAGE = b"\0" * 4096

# One item that fails at once, then `go` has to be there before the others come.
FAILING = f"""
    import os, time

    @source
    def read(early: int = 0):
        for k in range({ITEMS}):
            if k == early:
                open("waiting", "w").close()
                while not os.path.exists("go"):
                    time.sleep(0.01)
            yield k, "x" * 2000

    @stage(retries=0)
    def parse(item):
        raise ValueError(item[0])

    @sink
    def show(item):
        print(item)

    flow = Topology("failing")
    flow.connect(read, parse, show)
"""


@pytest.fixture
def mount():
    """`mount(folder)` puts a private tmpfs of 4 MiB there, until the test's end."""
    mounted = []

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            give_up(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def give_up(reason: str) -> None:
    """Not without root; but CI has to show it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is not a page left."""
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_for_ever(file)


def write_for_ever(file) -> None:
    while True:
        file.write(PAGE)


def counters(shop, stage_number: int) -> dict[str, int]:
    """What the first process of a stage counts, while it lives."""
    (box,) = shop.runtime.glob(f"zf-*/b/{stage_number}-0.1")
    return read_black_box(box).counters


def begin(shop, wait_until, state: Path, *, early: int):
    """A run that has come to `waiting`, with `early` letters and its position stored.

    So from now on nothing but letters has to be written, and the alarm is about them.
    """
    shop.write(FAILING)
    options = ["--state", state, "-p", f"read.early={early}", "--json"]
    running = shop.start("run", "flow.py", *options)
    wait_until((shop.folder / "waiting").exists, START_S)
    wait_until(lambda: letters(state) == list(range(early)), START_S)
    wait_until(lambda: stored_low(state) == early, START_S)
    return running


def stored_low(state: Path) -> int:
    """How far the source is settled, by its file."""
    place = f"file:{state}/positions/read-0.sqlite?mode=ro"
    with closing(sqlite3.connect(place, uri=True)) as db:
        return db.execute("SELECT low FROM position").fetchone()[0]


def letters(state: Path) -> list[int]:
    """The numbers of the items that are stored as dead."""
    return sorted(stored.letter.oseq for stored in read_dead_letters(state / "dead"))


def hold(shop, wait_until, running, state: Path, *, early: int) -> None:
    """All items fail; the alarm comes, and not one of them is settled."""
    (shop.folder / "go").touch()
    wait_until(lambda: "cannot write to " in running.err, SOON_S)
    assert f"{state}/dead: {state}/dead/read-0.dead.sqlite: " in running.err
    assert "nothing is lost, the stage waits and tries again" in running.err
    wait_until(lambda: counters(shop, 1)["errors"] == ITEMS, START_S)
    books = counters(shop, 0)
    assert books["low"] <= early
    assert books["dead_lettered:read->parse"] == early
    assert books["processed:read->parse"] == 0
    assert sum(count for name, count in books.items() if name.startswith("dropped")) == 0
    assert letters(state) == list(range(early))
    assert running.process.poll() is None


def ends_well(running, state: Path) -> None:
    """The run is over soon, and every item is a letter."""
    began_s = time.monotonic()
    done = running.end()
    assert time.monotonic() - began_s < SOON_S
    assert done.code == 0, done.err
    assert letters(state) == list(range(ITEMS))
    (edge,) = [row for row in done.data["ledger"] if row["edge"] == "read->parse"]
    assert (edge["dead_lettered"], edge["open"], set(edge["dropped"].values())) == (ITEMS, 0, {0})
    assert done.data["dead_letters"] == ITEMS


@pytest.mark.parametrize("early", [0, 1], ids=["no store yet", "a store"])
def test_a_full_disk_holds_the_run_back_until_there_is_space(shop, wait_until, mount, early):
    disk = mount(shop.folder / "disk")
    running = begin(shop, wait_until, disk / "run", early=early)
    fill(disk / "filler")
    hold(shop, wait_until, running, disk / "run", early=early)
    (disk / "filler").unlink()
    ends_well(running, disk / "run")


def test_a_read_only_store_holds_the_run_back_until_it_can_be_written(shop, wait_until, mount):
    dead = mount(shop.folder / "run" / "dead")
    (shop.folder / "run").chmod(0o700)
    running = begin(shop, wait_until, shop.folder / "run", early=0)
    remount(dead, "ro")
    hold(shop, wait_until, running, shop.folder / "run", early=0)
    remount(dead, "rw")
    ends_well(running, shop.folder / "run")
    # People can look at what lies on a read-only file system, and are told if they cannot change.
    remount(dead, "ro")
    listed = shop.zflow("dead", "ls", "--state", "run", "--json")
    assert (listed.code, len(listed.lines)) == (0, ITEMS), listed.err
    purged = shop.zflow("dead", "purge", "--state", "run", "--yes")
    assert purged.code == 3
    assert "run/dead/read-0.dead.sqlite: " in purged.err
    assert letters(shop.folder / "run") == list(range(ITEMS))


@pytest.mark.parametrize("early", [0, 1], ids=["no store yet", "a store"])
def test_a_run_that_is_stopped_while_its_disk_is_full_says_so_and_continues_later(
    shop, wait_until, mount, early
):
    disk = mount(shop.folder / "disk")
    running = begin(shop, wait_until, disk / "run", early=early)
    fill(disk / "filler")
    hold(shop, wait_until, running, disk / "run", early=early)
    running.interrupt()
    wait_until(lambda: "draining" in running.err, SOON_S)
    running.interrupt()
    stopped = running.end()
    assert stopped.code == 137, stopped.err[-2000:]
    reason = f"(not written down: {disk}/run/run.json: No space left on device)"
    assert reason in stopped.data["outcome"]
    assert stopped.data["dead_letters"] == early
    (disk / "filler").unlink()
    done = shop.zflow("run", "flow.py", "--resume", "last", "--state", disk / "run", "--json")
    assert done.code == 0, done.err[-2000:]
    assert letters(disk / "run") == list(range(ITEMS))


COUNTING = """
    import os, time
    from zflow import DurableStage

    @source
    def read(n: int = 400):
        for k in range(n):
            if k == 200:
                open("waiting", "w").close()
                while not os.path.exists("go"):
                    time.sleep(0.01)
            yield k

    @stage
    class Count(DurableStage):
        def process(self, k):
            self.state["n"] = self.state.get("n", 0) + 1

        def finish(self):
            return self.state.get("n")

    @sink
    def show(n):
        print(n)

    flow = Topology("counting")
    flow.connect(read, Count, show)
"""


def test_a_durable_stage_that_dies_while_its_disk_is_full_is_back_when_there_is_space(
    shop, mount, wait_until, tmp_path
):
    state = mount(tmp_path / "small")
    shop.write(COUNTING)
    running = shop.start("run", "flow.py", "--state", state)
    wait_until((shop.folder / "waiting").exists, START_S)
    wait_until(lambda: stored_low(state) == 200, START_S)
    filler = state / "filler"
    fill(filler)
    (victim,) = running.replicas("Count")
    os.kill(victim, signal.SIGKILL)
    (shop.folder / "go").touch()

    def refused() -> bool:
        fill(filler)  # a successor that was refused has given a little back
        return running.err.count("refuses for now") > CRASH_LOOP or "cannot commit" in running.err

    wait_until(refused, START_S)
    assert running.process.poll() is None
    filler.unlink()
    freed_s = time.monotonic()
    done = running.end()
    assert done.code == 0, done.err
    assert done.lines == ["400"]
    assert time.monotonic() - freed_s < 2 * SOON_S

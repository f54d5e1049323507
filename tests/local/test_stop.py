"""`zflow run` when something is stopped, killed or stuck: nothing is lost, and it says what was."""

import json
import os
import re
import shlex
import signal
import sqlite3
from contextlib import closing

import pytest

pytestmark = pytest.mark.slow

START_S = 20.0
GIVE_UP_S = 20.0

# 300 items in about 0.6 s, each appended to a file; `held` waits until there is a file `open`.
PACED = """
    import os
    import time

    @source
    def read(n: int = 300, held: int = -1):
        for x in range(n):
            time.sleep(0.002)
            while x == held and not os.path.exists("open"):
                time.sleep(0.01)
            yield x

    @stage
    def same(x):
        return x

    @sink
    def keep(x):
        with open("log", "a") as file:
            file.write(f"{x}\\n")

    flow = Topology("paced")
    flow.connect(read, same, keep)
"""


def numbers(shop):
    return sorted(map(int, shop.read("log")))


def hint(said, what):
    """The command that a line of a ledger tells to type, without `zflow`."""
    (command,) = re.findall(rf"^{what}: zflow (.*)$", said, re.MULTILINE)
    return shlex.split(command)


def test_ctrl_c_drains_with_130_and_resuming_does_the_rest_once(shop, wait_until):
    shop.write(PACED)
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(numbers(shop)) > 20, START_S)
    running.interrupt()
    done = running.end()
    assert done.code == 130, done.err
    assert "draining: sources have stopped" in done.err
    assert "interrupted; everything that was begun is settled" in done.err
    first = numbers(shop)
    assert first == list(range(len(first)))
    assert len(first) < 300
    again = shop.zflow(*hint(done.err, "continue it"))
    assert again.code == 0, again.err
    assert numbers(shop) == list(range(300))
    assert not list(shop.runtime.iterdir())


def test_kill_9_of_everything_and_resuming_loses_nothing(shop, wait_until):
    shop.write(PACED)
    running = shop.start("run", "flow.py", "-p", "read.held=150")
    wait_until(lambda: len(numbers(shop)) > 20, START_S)
    assert len(running.replicas()) == 3
    assert "running" in shop.zflow("runs", "ls").out
    refused = shop.zflow("run", "flow.py", "--resume", "last")
    assert refused.code == 3
    assert "is running" in refused.err
    for pid in [running.process.pid, *running.replicas()]:
        os.kill(pid, signal.SIGKILL)
    running.process.wait()
    assert len(set(numbers(shop))) <= 150
    (shop.folder / "open").touch()
    assert "killed" in shop.zflow("runs", "ls").out
    again = shop.zflow("run", "flow.py", "--resume", "last")
    assert again.code == 0, again.err
    assert set(numbers(shop)) == set(range(300))
    assert not list(shop.runtime.iterdir())


def test_the_replicas_end_when_the_run_is_killed(shop, wait_until):
    shop.write(PACED)
    running = shop.start("run", "flow.py", "-p", "read.n=100000")
    wait_until(lambda: numbers(shop), START_S)
    replicas = running.replicas()
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in replicas), 5.0)
    (run,) = shop.zflow("runs", "ls", "--json").out.splitlines()
    assert shop.zflow("runs", "rm", json.loads(run)["run_id"]).code == 0
    assert not list(shop.runtime.iterdir())


def test_a_replica_that_is_killed_is_told_and_replaced_and_loses_nothing(shop, wait_until):
    shop.write(PACED)
    n = 2000  # so that there is something left for the last of them, however slow this test is
    running = shop.start("run", "flow.py", "--json", "-p", f"read.n={n}")
    for stage in ("same", "keep", "read"):
        before = len(numbers(shop))
        wait_until(lambda before=before: len(numbers(shop)) > before + 5, START_S)
        (pid,) = running.replicas(stage)
        os.kill(pid, signal.SIGKILL)
    done = running.end()
    assert done.code == 0, done.err
    assert set(numbers(shop)) == set(range(n))
    for stage in ("same", "keep", "read"):
        assert f"zflow: {stage}/0 died: signal 9 (SIGKILL)" in done.err
        assert done.data["stages"][stage]["restarts"] == 1
    assert done.data["holes"] == []
    assert all(row["open"] == 0 for row in done.data["ledger"])


BLOCKS = """
    import os, time

    @source
    def read():
        for x in range(5):
            yield x, time.monotonic()
            time.sleep(0.05)
        yield 5, time.monotonic()
        time.sleep(3600)

    @stage
    def hold(item):
        if item[0] == 5 and not os.path.exists("held"):
            open("held", "w").close()
            time.sleep(3600)
        return item

    @sink
    def keep(item):
        with open("log", "a") as file:
            file.write(f"{item[0]} {time.monotonic() - item[1]}\\n")

    flow = Topology("blocks")
    flow.connect(read, hold, keep)
"""


def test_what_a_source_has_yielded_leaves_at_once_and_is_sent_again_though_it_blocks(
    shop, wait_until
):
    shop.write(BLOCKS)
    running = shop.start("run", "flow.py")
    wait_until(lambda: (shop.folder / "held").exists(), START_S)
    waits = dict(line.split() for line in shop.read("log"))
    assert sorted(waits) == ["0", "1", "2", "3", "4"]
    assert sorted(map(float, waits.values()))[2] < 0.1
    (pid,) = running.replicas("hold")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(shop.read("log")) == 6, START_S)
    # The source sleeps on: Ctrl-C cannot drain it, a second one stops at once.
    running.interrupt()
    wait_until(lambda: "draining" in running.err, 5.0)
    running.interrupt()
    done = running.end()
    assert done.code == 137, done.err
    assert "stopped before everything was settled" in done.err
    assert not list(shop.runtime.iterdir())


def test_a_run_that_takes_too_long_ends_with_4_and_its_hint_continues_it(shop):
    shop.write(
        """
        import os, time

        @source
        def read():
            yield 1
            if not os.path.exists("go"):
                time.sleep(3600)
            yield 2

        @sink
        def show(x):
            print(x)

        flow = Topology("late")
        flow.connect(read, show)
        """
    )
    done = shop.zflow("run", "flow.py", "--timeout", "2", "--state", "my state")
    assert done.code == 4, done.err
    assert "not finished after 2 s" in done.err
    assert done.out == "1\n"
    twice = shop.zflow("run", "flow.py", "--state", "my state")
    assert twice.code == 2
    assert "there is a run in this folder already; continue it with --resume" in twice.err
    (shop.folder / "go").touch()
    again = shop.zflow(*hint(done.err, "continue it"))
    assert again.code == 0, again.err
    assert again.out == "2\n"


def test_a_stage_that_cannot_open_is_a_crash_loop_with_its_traceback(shop):
    done = shop.run(
        """
        @source
        def read():
            yield 1

        @sink
        class Store:
            def open(self):
                raise ConnectionError("no database at db:5432")

            def write(self, items): ...

        flow = Topology("loop")
        flow.connect(read, Store)
        """,
        code=5,
    )
    assert "Store/0 died 5 times before it had done anything" in done.err
    ending = done.err.partition("died 5 times")[2]
    assert 'raise ConnectionError("no database at db:5432")' in ending
    assert "ConnectionError: no database at db:5432" in ending
    assert "zflow/replica" not in done.err  # only the user's own lines


def test_an_item_that_kills_or_blocks_its_process_is_a_dead_letter_with_the_cause(shop):
    done = shop.run(
        """
        import os, time

        @source
        def read():
            yield from range(10)

        @stage(max_crashes=1, timeout_s=0.5)
        def work(x):
            if x == 3:
                os._exit(3)
            if x == 7:
                time.sleep(3600)
            return x

        @sink
        def show(x):
            print(x)

        flow = Topology("poison")
        flow.connect(read, work, show)
        """
    )
    assert set(done.lines) == {str(x) for x in range(10) if x not in (3, 7)}
    letters = map(json.loads, shop.zflow("dead", "ls", "--json").out.splitlines())
    causes = {letter["item"]: letter for letter in letters}
    assert sorted(causes) == ["3", "7"]
    assert "exit code 3" in causes["3"]["error"]
    assert "stuck: it ran for" in causes["7"]["error"]
    assert "longer than timeout_s=0.5" in causes["7"]["error"]
    assert causes["3"]["maybe_applied"]


# --- sources -----------------------------------------------------------------------------------


def test_a_source_that_raises_starts_again_behind_what_it_had_yielded(shop):
    done = shop.run(
        """
        import os

        @source(backoff_s=0.05)
        def read():
            for x in range(10):
                if x == 5 and not os.path.exists("raised"):
                    open("raised", "w").close()
                    raise OSError("try again")
                yield x

        @sink
        def show(x):
            print(x)

        flow = Topology("raises")
        flow.connect(read, show)
        """
    )
    assert done.lines == [str(x) for x in range(10)]
    assert "the source raised OSError: try again; it starts again in 0.1 s (1 of 3)" in done.err


def test_a_source_that_goes_on_raising_fails_the_run_with_its_traceback(shop):
    done = shop.run(
        """
        @source(retries=1, backoff_s=0.01)
        def read():
            yield 1
            raise OSError("gone for good")

        @sink
        def show(x):
            print(x)

        flow = Topology("broken")
        flow.connect(read, show)
        """,
        code=1,
    )
    assert done.out == "1\n"
    assert "read/0 failed" in done.err
    assert "OSError: gone for good" in done.err.partition("read/0 failed")[2]


def stored_low(shop) -> int:
    """The low mark that the only source has on disk; 0 while there is none."""
    for path in shop.folder.glob(".zflow/*/*/positions/*.sqlite"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            try:
                return db.execute("SELECT low FROM position").fetchone()[0]
            except (sqlite3.Error, TypeError):  # not made yet
                return 0
    return 0


@pytest.mark.parametrize("kind", ["resume", "class"])
def test_a_source_that_can_go_on_is_told_where_after_a_crash(shop, wait_until, kind):
    sources = {
        "resume": """
            @source
            def read(resume):
                begun(resume)
                for x in range(resume, 300):
                    time.sleep(0.002)
                    yield x
            """,
        "class": """
            @source(name="read")
            class Read:
                def open(self, resume):
                    self.at = resume or 0
                    begun(self.at)
                def __iter__(self):
                    while self.at < 300:
                        time.sleep(0.002)
                        self.at += 1
                        yield self.at - 1
                def position(self):
                    return self.at
            """,
    }
    name = {"resume": "read", "class": "Read"}[kind]
    shop.write(
        PACED.partition("@source")[0]
        + """
    def begun(at):
        with open("begun", "a") as file:
            file.write(f"{at}\\n")
"""
        + sources[kind].replace("\n        ", "\n")
        + "\n    @sink"
        + PACED.partition("@sink")[2].replace("read, same, keep", f"{name}, keep")
    )
    running = shop.start("run", "flow.py")
    wait_until(lambda: stored_low(shop) > 0, START_S)
    (pid,) = running.replicas("read")
    os.kill(pid, signal.SIGKILL)
    done = running.end()
    assert done.code == 0, done.err
    assert set(numbers(shop)) == set(range(300))
    first, second = sorted(map(int, shop.read("begun")))
    assert first == 0
    assert 0 < second < 300


def test_a_source_that_gives_other_items_than_before_is_refused(shop, wait_until):
    shop.write(
        """
        import time
        from pathlib import Path

        @source
        def read():
            for line in Path("input").read_text().splitlines():
                time.sleep(0.002)
                yield line

        @sink
        def keep(line):
            with open("log", "a") as file:
                file.write(line + "\\n")

        flow = Topology("changes")
        flow.connect(read, keep)
        """
    )
    source = shop.folder / "input"
    source.write_text("".join(f"line {k}\n" for k in range(2000)))
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(shop.read("log")) > 20, START_S)
    running.interrupt()
    assert running.end().code == 130
    source.write_text("".join(f"another line {k}\n" for k in range(2000)))
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 1, done.err
    assert re.search(r"the source changed: item \d+ is not the one that was settled", done.err)


def test_a_topology_that_was_changed_is_not_resumed(shop, wait_until):
    shop.write(PACED)
    running = shop.start("run", "flow.py")
    wait_until(lambda: numbers(shop), START_S)
    running.interrupt()
    assert running.end().code == 130
    with (shop.folder / "flow.py").open("a") as file:
        file.write("# changed\n")
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 2
    assert "the topology has changed since run" in done.err
    assert "restore the file (its text is in" in done.err

"""What the chaos campaigns have found, each as small as it goes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from zflow.ids import Slot
from zflow.net.control import ControlServer
from zflow.net.sockets import Sockets
from zflow.paths import RunDirectory
from zflow.replica.process import SlotLock
from zflow.wire.control import EXIT_UNAVAILABLE

pytestmark = pytest.mark.slow

START_S = 20.0
SOON_S = 10.0


def test_ctrl_c_before_a_source_has_started_ends_the_run_at_once(shop, wait_until):
    shop.write(
        """
        import time

        @source
        def read():
            yield 1

        @sink
        class Keep:
            def open(self):
                time.sleep(3600)

            def write(self, items):
                pass

        flow = Topology("late")
        flow.connect(read, Keep)
        """
    )
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(running.replicas()) == 2, START_S)
    began_s = time.monotonic()
    running.interrupt()
    done = running.end()
    assert done.code == 130, done.err
    assert time.monotonic() - began_s < SOON_S
    assert "interrupted before any source had started" in done.err
    assert not list(shop.runtime.iterdir())


def test_the_end_of_the_terminal_drains_the_run(shop, wait_until):
    shop.write(
        """
        import itertools, time

        @source
        def read():
            for number in itertools.count():
                time.sleep(0.002)
                yield number

        @sink
        def keep(x):
            with open("log", "a") as file:
                file.write(f"{x}\\n")

        flow = Topology("endless")
        flow.connect(read, keep)
        """
    )
    running = shop.start("run", "flow.py")
    wait_until(lambda: len(shop.read("log")) > 20, START_S)
    running.process.send_signal(signal.SIGHUP)
    done = running.end()
    assert done.code == 130, done.err
    assert not list(shop.runtime.iterdir())


def test_a_child_that_outlives_its_replica_does_not_keep_the_successor_from_its_peers(shop):
    # The child inherits the listening socket: whoever dialled it before the successor had bound
    # waited half a minute for an answer.
    began_s = time.monotonic()
    try:
        done = shop.run(
            """
            import os, time

            @source
            def read():
                for number in range(100):
                    time.sleep(0.002)
                    yield number

            @stage
            def fork_and_die(number):
                if number == 30 and not os.path.exists("forked"):
                    open("forked", "w").close()
                    if os.fork() == 0:
                        os.setsid()
                        while not os.path.exists("over"):
                            time.sleep(0.01)
                        os._exit(0)
                    os._exit(1)
                return number

            @sink
            def keep(x):
                with open("log", "a") as file:
                    file.write(f"{x}\\n")

            flow = Topology("forking")
            flow.connect(read, fork_and_die, keep)
            """
        )
    finally:
        (shop.folder / "over").touch()
    assert done.code == 0
    assert time.monotonic() - began_s < 2 * SOON_S
    assert {int(line) for line in shop.read("log")} == set(range(100))


def test_a_sink_whose_write_costs_much_gets_many_items_at_once(shop):
    shop.run(
        """
        import time

        @source
        def read():
            yield from range(2000)

        @sink
        class Keep:
            def write(self, items):
                time.sleep(0.005)
                with open("calls", "a") as file:
                    file.write(f"{len(items)}\\n")

        flow = Topology("commits")
        flow.connect(read, Keep)
        """
    )
    calls = [int(line) for line in shop.read("calls")]
    assert sum(calls) == 2000
    assert len(calls) < 500, "most writes were of a single item"


def test_a_process_that_does_not_get_its_slot_says_nothing_to_the_coordinator(tmp_path):
    # A registration of a newer incarnation made the coordinator deaf to the living one.
    run, slot = RunDirectory(tmp_path / "run"), Slot("read", 0)
    run.make()
    lock = SlotLock(run.lock(slot))
    sockets = Sockets()
    try:
        server = ControlServer((sockets, run.control))
        command = [sys.executable, "-m", "zflow.replica", "--run", str(run.root)]
        command += ["--state", str(tmp_path), "--control", run.control]
        command += ["--in", "ipc://in", "--ack", "ipc://ack"]
        command += ["--slot", str(slot), "--incarnation", "2", "--parent", str(os.getpid())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == EXIT_UNAVAILABLE
        assert "another process holds this slot" in done.stderr
        server.wait(0.1)
        assert server.receive() == []
    finally:
        sockets.close_all()
        lock.release()

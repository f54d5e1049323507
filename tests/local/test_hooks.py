"""The hooks of a topology: told what happens, in a process of their own that can harm nobody."""

import json
import os
import signal

import pytest

pytestmark = pytest.mark.slow

WITHIN_S = 30.0
FLOW = """
    import json, os, time

    @source
    def numbers(n: int = 20, pause_s: float = 0.0):
        for k in range(n):
            time.sleep(pause_s)
            yield k

    @stage(retries=1, backoff_s=0.01)
    def divide(k):
        return 100 // (k % 10)

    @sink
    def write(k):
        pass

    flow = Topology("hooked")
    flow.connect(numbers, divide, write)

    def note(name, **facts):
        with open("told", "a") as file:
            file.write(json.dumps({"hook": name, "pid": os.getpid(), **facts}) + "\\n")

    @flow.on_start
    def begin(run):
        note("start", run=run.run_id, parameters=run.parameters, ended=run.exit_code)

    @flow.on_dead_letter
    def dead(letter):
        print("dead:", letter.item)
        note("dead", item=letter.item, error=letter.error_class, attempts=letter.attempts,
             stage=letter.stage, id=letter.id, trace="100 // (k % 10)" in letter.error)

    @flow.on_error
    def error(failure):
        note("error", slot=failure.slot, cause=failure.cause)

    @flow.on_finish
    def end(run):
        note("finish", code=run.exit_code, outcome=run.outcome, items=run.items,
             dead=run.dead_letters)
"""


def told(shop):
    path = shop.folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def named(shop, hook):
    return [one for one in told(shop) if one["hook"] == hook]


def test_hooks_are_told_of_the_start_of_each_dead_letter_and_of_the_end(shop):
    done = shop.run(FLOW, "-p", "numbers.n=30", "--http", "off")
    start, *dead, finish = told(shop)
    assert (start["hook"], start["parameters"], start["ended"]) == ("start", ["numbers.n=30"], None)
    assert sorted(one["item"] for one in dead) == [0, 10, 20]
    for letter in dead:
        facts = letter["error"], letter["attempts"], letter["stage"], letter["trace"]
        assert facts == ("ZeroDivisionError", 2, "divide", True)
        assert shop.zflow("dead", "show", letter["id"]).code == 0, "by the same name"
    assert (finish["code"], finish["items"], finish["dead"]) == (0, 30, 3)
    assert {one["pid"] for one in told(shop)} == {start["pid"]}, "one process calls all of them"
    assert "dead: 10" in done.out, "what a hook prints is passed on"


def test_what_dies_is_told_and_so_is_a_run_that_fails(shop, wait_until):
    shop.write(FLOW)
    slow = ("-p", "numbers.n=100000", "-p", "numbers.pause_s=0.01")
    running = shop.start("run", "flow.py", *slow, "--http", "off", "--timeout", "600")
    wait_until(lambda: named(shop, "start"), WITHIN_S)
    (pid,) = running.replicas("divide")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: named(shop, "error"), WITHIN_S)
    (died,) = named(shop, "error")
    assert (died["slot"], "SIGKILL" in died["cause"]) == ("divide/0", True)
    running.interrupt()
    assert running.end().code == 130
    assert [one["code"] for one in named(shop, "finish")] == [130]
    assert len(named(shop, "error")) == 1, "an interrupted run has not failed"
    assert shop.zflow("run", "flow.py", *slow, "--http", "off", "--timeout", "1").code == 4
    failed = named(shop, "error")[-1]
    assert (failed["slot"], failed["cause"]) == ("", "not finished after 1 s")


HARMFUL = """
    @flow.on_start
    def raises(run):
        raise KeyError("nobody home")

    @flow.on_start
    def goes_on(run):
        note("went on")

    @flow.on_finish
    def WHAT
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("kills_itself(run): os._exit(7)", "the process of the hooks ended with exit code 7"),
        ("blocks(run): time.sleep(1000)", "a hook still ran when the run was over: ended"),
    ],
)
def test_a_hook_that_fails_blocks_or_dies_harms_nobody(shop, what, said):
    done = shop.run(FLOW + HARMFUL.replace("WHAT", what), "--http", "off")
    assert "on_start: raises failed" in done.err
    assert "KeyError: 'nobody home'" in done.err
    assert len(named(shop, "went on")) == 1, "the next one is called"
    assert said in done.err
    assert len(named(shop, "dead")) == 2


def test_a_resumed_run_tells_no_letter_twice_and_leaves_out_none(shop, wait_until):
    shop.write(FLOW)
    slow = ("-p", "numbers.n=60", "-p", "numbers.pause_s=0.03", "--http", "off")
    running = shop.start("run", "flow.py", *slow)
    wait_until(lambda: len(named(shop, "dead")) >= 2, WITHIN_S)
    running.process.kill()
    running.process.wait()
    assert shop.zflow("run", "flow.py", "--resume", "last", "--http", "off").code == 0
    assert sorted(one["item"] for one in named(shop, "dead")) == [0, 10, 20, 30, 40, 50]


def test_what_cannot_be_a_hook_is_refused_where_it_is_given(shop):
    shop.write(FLOW + "\n    @flow.on_finish\n    async def later(run):\n        pass\n")
    done = shop.zflow("check", "flow.py")
    assert done.code == 2
    said = "on_finish: later is async, and nobody would await it; give a plain function of one"
    assert said in done.out + done.err

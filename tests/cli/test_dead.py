"""What `zflow dead` promises: what was given up can be read, and sent again."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def test_ls_shows_a_line_per_letter(zflow, stored):
    done = zflow("dead", "ls")
    assert done.exit_code == 0
    head, first, second, *_ = done.stdout.splitlines()
    assert head.split() == ["id", "stage", "edge", "error", "attempts", "age", "item"]
    assert re.fullmatch(r"read-0:1 +parse +read->parse +ValueError +4 +\d+ d +5", first)
    assert second.endswith(" " + "x" * 57 + "...")


def test_ls_filters_by_stage_and_error(zflow, stored, shown):
    assert shown(zflow("dead", "ls", "--stage", "count")) == ["read-0:2"]
    assert shown(zflow("dead", "ls", "--error", "KeyError")) == ["read-0:2"]
    nothing = zflow("dead", "ls", "--stage", "parse", "--error", "KeyError")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert nothing.stderr == "run one has no such dead letters\n"


def test_ls_gives_json_lines_for_programs(zflow, stored):
    rows = [json.loads(line) for line in zflow("dead", "ls", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == [f"read-0:{k}" for k in range(1, 6)]
    assert rows[0]["identity"] == "00000000000000aa-0-00000000000000bb-2"
    assert (rows[0]["item"], rows[0]["attempts"], rows[0]["replayed"]) == ("5", 4, False)
    assert rows[2]["maybe_applied"] is True


def test_show_tells_everything_about_one_letter(zflow, stored):
    done = zflow("dead", "show", "read-0:3")
    assert done.exit_code == 0
    for line in (
        "id             read-0:3",
        "edge           read->parse",
        "attempts       4",
        "identity       00000000000000aa-2-00000000000000bb-2",
        "maybe applied  yes: an attempt may have had its effect",
        "  5",
        "  ValueError: no",
    ):
        assert line in done.stdout.splitlines()


def test_show_of_an_item_that_could_not_be_pickled_shows_its_text(zflow, stored):
    done = zflow("dead", "show", "read-0:4")
    assert "  <lock>" in done.stdout.splitlines()
    assert "none: it failed in the source that yielded it" in done.stdout


def test_show_gives_json_for_programs(zflow, stored):
    assert json.loads(zflow("dead", "show", "read-0:2", "--json").stdout)["stage"] == "count"


@pytest.mark.parametrize("verb", ["show", "replay"])
def test_an_id_that_is_not_there_is_refused_with_what_lists_them(zflow, stored, verb):
    done = zflow("dead", verb, "read-0:9")
    assert done.exit_code == 2
    assert done.stderr == (
        "read-0:9: the run has no dead letter of this id; list them: zflow dead ls\n"
    )


def test_a_dry_run_says_what_would_be_sent_and_what_would_not_and_why(zflow, stored):
    done = zflow("dead", "replay", "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["read->parse: read-0:1", "parse->count: read-0:2"]
    assert done.stderr.splitlines() == [
        "read-0:3: an attempt may have had its effect, sending it again may repeat that; "
        "send it all the same: zflow dead replay read-0:3 --force",
        "read-0:4: cannot be sent again: it failed where read makes it, before any edge; "
        "mend the stage, and start a new run; look at it: zflow dead show read-0:4",
        "read-0:5: cannot be sent again: its item could not be pickled, only its text is kept; "
        "look at it: zflow dead show read-0:5",
    ]
    forced = zflow("dead", "replay", "--dry-run", "--force")
    assert forced.stdout.splitlines()[0] == "read->parse: read-0:1 read-0:3"


def test_what_was_named_and_cannot_be_sent_again_is_refused_and_nothing_is_sent(zflow, stored):
    done = zflow("dead", "replay", "read-0:1", "read-0:3", "read-0:5")
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 2


def test_nothing_to_send_again_is_no_error_unless_something_was_held_back(zflow, stored):
    nothing = zflow("dead", "replay", "--stage", "absent")
    assert (nothing.exit_code, nothing.stderr) == (0, "there is nothing to send again\n")
    assert zflow("dead", "replay", "--stage", "read").exit_code == 2


# --- which run ---------------------------------------------------------------------------------


def test_without_any_run_it_says_where_to_go(zflow, tmp_path):
    done = zflow("dead", "ls")
    assert done.exit_code == 2
    assert done.stderr == (
        f".zflow: there are no runs in {tmp_path}; "
        "go to the folder where the topology was started, or give --state DIR\n"
    )


def test_with_several_topologies_it_asks_which(zflow, stored, tmp_path, shown, make_run):
    make_run(tmp_path / ".zflow" / "other" / "two", "two", "other", [{}])
    done = zflow("dead", "ls")
    assert done.exit_code == 2
    assert "there are runs of 2 topologies here; say which: --topology flow|other" in done.stderr
    assert shown(zflow("dead", "ls", "--topology", "other")) == ["read-0:1"]
    wrong = zflow("dead", "ls", "--topology", "othr")
    assert (wrong.exit_code, "did you mean 'other'?" in wrong.stderr) == (2, True)


def test_the_last_run_is_meant_unless_another_is_named(zflow, stored, tmp_path, shown, make_run):
    make_run(tmp_path / ".zflow" / "flow" / "two", "two", "flow", [{}], started_at_s=9.0)
    assert len(shown(zflow("dead", "ls"))) == 1
    assert len(shown(zflow("dead", "ls", "--run", "one"))) == 5
    wrong = zflow("dead", "ls", "--run", "three")
    assert wrong.exit_code == 2
    assert "the newest are: one, two" in wrong.stderr


def test_a_run_elsewhere_is_found_by_its_folder(zflow, tmp_path, shown, make_run):
    make_run(tmp_path / "there", "one", "flow", [{}])
    assert shown(zflow("dead", "ls", "--state", "there")) == ["read-0:1"]
    wrong = zflow("dead", "ls", "--state", "nowhere")
    assert wrong.exit_code == 2
    assert "nowhere holds no run that can be read" in wrong.stderr


# --- sending again, for real -------------------------------------------------------------------


def listed(zflow, *options):
    """The letters as data."""
    return [
        json.loads(line) for line in zflow("dead", "ls", "--json", *options).stdout.splitlines()
    ]


FLOW = """
import os
from dataclasses import dataclass
from zflow import Topology, sink, source, stage

@dataclass
class Order:
    number: int

@source
def read():
    for number in range(6):
        yield Order(number)

@stage(retries=0)
def parse(order):
    if order.number in (1, 2) and not os.path.exists("mended"):
        raise ValueError(f"no {order}")
    return order

@stage(retries=0)
def price(order):
    if order.number == 4 and not os.path.exists("mended"):
        raise KeyError(order)
    if order.number == 2:
        raise OverflowError("never")
    return order

@sink
def show(order):
    print(order.number)

flow = Topology("flow")
flow.connect(read, parse, price, show)
"""


@pytest.mark.slow
def test_letters_are_sent_again_over_their_edges_and_what_fails_again_is_a_new_letter(
    zflow, tmp_path, shown, command
):
    (tmp_path / "flow.py").write_text(FLOW)
    first = command("run", "flow.py")
    assert sorted(first.stdout.split()) == ["0", "3", "5"], first.stderr
    (hint,) = re.findall(r"^3 dead letters: zflow (.*)$", first.stderr, re.MULTILINE)
    assert len(shown(zflow(*hint.split()))) == 3
    first_letters = listed(zflow)
    (run,) = zflow("runs", "ls", "--json").stdout.splitlines()
    assert {one["version"] for one in first_letters} == {json.loads(run)["digest"][:12]}
    (tmp_path / "mended").touch()
    again = command("dead", "replay")
    assert again.returncode == 0, again.stderr
    # 1 came on read->parse and 4 on parse->price; 2 is through parse and fails in price.
    assert sorted(again.stdout.split()) == ["1", "4"]
    assert re.search(r"^read->parse +2 +2 +0 +0 +0$", again.stderr, re.MULTILINE), again.stderr
    assert re.search(r"^parse->price +3 +2 +1 +0 +0$", again.stderr, re.MULTILINE), again.stderr
    assert "1 dead letter: zflow dead ls" in again.stderr
    (left,) = listed(zflow)
    assert (left["stage"], left["error_class"], left["item"]) == (
        "price",
        "OverflowError",
        "Order(number=2)",
    )
    assert sum(one["replayed"] for one in listed(zflow, "--all")) == 3
    # It went over its edge as an item of an origin of its own.
    assert left["origin"] not in {one["origin"] for one in first_letters}
    assert left["version"] == first_letters[0]["version"]
    # The run itself ended as it ended.
    (run,) = zflow("runs", "ls", "--json").stdout.splitlines()
    assert json.loads(run)["exit_code"] == 0
    named = zflow("dead", "replay", left["id"], "--dry-run")
    assert named.exit_code == 0


@pytest.mark.slow
def test_a_run_that_was_killed_is_still_killed_after_its_letters_were_sent_again(
    zflow, tmp_path, command
):
    (tmp_path / "flow.py").write_text(FLOW)
    assert command("run", "flow.py").returncode == 0
    (run,) = (tmp_path / ".zflow" / "flow").iterdir()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "outcome": "", "exit_code": None}))
    done = command("dead", "replay", "--error", "KeyError", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dead_letters"] == 3
    assert "killed" in zflow("runs", "ls").stdout


# Every item fails until `mended` is there; then it is kept in a file with the time it came.
PRICES = """
import os, time
from zflow import Topology, sink, source, stage

@source
def read():
    for k in range(4):
        yield {"n": k, "price": "1.50"}

@stage(retries=0)
def price(order):
    if not os.path.exists("mended"):
        raise TypeError(f"no number: {order['price']!r}")
    return order

@sink
def keep(order):
    with open("kept", "a") as file:
        file.write(f"{time.monotonic()} {order['n']} {order['price']!r}\\n")

flow = Topology("prices")
flow.connect(read, price, keep)
"""


@pytest.fixture
def prices(tmp_path, command):
    """A run with four dead letters, and then `mended`."""
    (tmp_path / "flow.py").write_text(PRICES)
    assert command("run", "flow.py").returncode == 0
    (tmp_path / "mended").touch()


def kept(folder):
    """What the sink has: (time, number, price as text)."""
    path = folder / "kept"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(line.split()[0]), *line.split()[1:]) for line in lines]


@pytest.mark.slow
def test_an_edited_item_is_what_is_sent_again_and_what_was_sent_can_be_purged(
    zflow, tmp_path, command, prices
):
    edited = zflow("dead", "edit", "read-0:3", "--json", '{"n": 2, "price": 1.5}')
    assert edited.exit_code == 0, edited.stderr
    done = command("dead", "replay", "read-0:2", "read-0:3")
    assert done.returncode == 0, done.stderr
    assert sorted(row[1:] for row in kept(tmp_path)) == [("1", "'1.50'"), ("2", "1.5")]
    assert zflow("dead", "purge", "--replayed", "--yes").stderr == "removed 2 dead letters\n"
    assert [one["id"] for one in listed(zflow, "--all")] == ["read-0:1", "read-0:4"]


@pytest.mark.slow
def test_a_rate_spreads_what_is_sent_over_time(zflow, tmp_path, command, prices):
    done = command("dead", "replay", "--rate", "5")
    assert done.returncode == 0, done.stderr
    rows = kept(tmp_path)
    assert [row[1] for row in rows] == ["0", "1", "2", "3"]
    assert rows[-1][0] - rows[0][0] > 0.6 - 0.1  # three pauses of 0.2 s, and the way to the sink
    assert listed(zflow) == []


@pytest.fixture
def replaying(tmp_path, prices):
    """`replaying("--rate", "5")` is `zflow dead replay --rate 5`, and goes on."""
    started = []

    def start(*options):
        process = subprocess.Popen(
            [sys.executable, "-m", "zflow", "dead", "replay", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_paced_replay_stops_at_once_and_only_what_was_not_sent_stays(
    zflow, tmp_path, wait_until, replaying
):
    process = replaying("--rate", "0.01")
    wait_until(lambda: kept(tmp_path), 20.0)  # the next one would come after 100 s
    refused = zflow("dead", "purge", "--yes")
    assert (refused.exit_code, "it is running" in refused.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10.0)
    assert process.returncode == 130, err
    assert len(kept(tmp_path)) == 1
    assert [one["id"] for one in listed(zflow)] == ["read-0:2", "read-0:3", "read-0:4"]
    assert "3 dead letters: zflow dead ls" in err


@pytest.mark.slow
def test_a_replay_whose_source_is_killed_goes_on_behind_what_is_settled(
    zflow, tmp_path, wait_until, replaying
):
    process = replaying("--rate", "2")
    wait_until(lambda: kept(tmp_path), 20.0)
    for child in psutil.Process(process.pid).children():
        if any(part.startswith("dead:") for part in child.cmdline()):
            child.kill()
    _, err = process.communicate(timeout=30.0)
    assert process.returncode == 0, err
    assert "SIGKILL" in err
    assert {row[1] for row in kept(tmp_path)} == {"0", "1", "2", "3"}
    assert listed(zflow) == []


def test_a_dry_run_gives_json_for_programs(zflow, stored):
    data = json.loads(zflow("dead", "replay", "--dry-run", "--json").stdout)
    assert data["would_send"] == {"read->parse": ["read-0:1"], "parse->count": ["read-0:2"]}
    assert [one["where"] for one in data["held_back"]] == ["read-0:3", "read-0:4", "read-0:5"]


@pytest.mark.parametrize("rate", ["0", "-1", "x"])
def test_a_rate_that_is_none_is_wrong_use(zflow, stored, rate):
    assert zflow("dead", "replay", f"--rate={rate}").exit_code == 2

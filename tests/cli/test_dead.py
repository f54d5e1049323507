"""What `zflow dead` promises: what was given up can be read, and sent again."""

import json
import re
from pathlib import Path

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
        "read-0:4: cannot be sent again: it failed in the source read, before any edge; "
        "mend the source, and start a new run; look at it: zflow dead show read-0:4",
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
    (tmp_path / "mended").touch()
    again = command("dead", "replay")
    assert again.returncode == 0, again.stderr
    # 1 came on read->parse and 4 on parse->price; 2 is through parse and fails in price.
    assert sorted(again.stdout.split()) == ["1", "4"]
    assert re.search(r"^read->parse +2 +2 +0 +0 +0$", again.stderr, re.MULTILINE), again.stderr
    assert re.search(r"^parse->price +3 +2 +1 +0 +0$", again.stderr, re.MULTILINE), again.stderr
    assert "1 dead letter: zflow dead ls" in again.stderr
    (left,) = [json.loads(line) for line in zflow("dead", "ls", "--json").stdout.splitlines()]
    assert (left["stage"], left["error_class"], left["item"]) == (
        "price",
        "OverflowError",
        "Order(number=2)",
    )
    everything = zflow("dead", "ls", "--all", "--json").stdout.splitlines()
    assert sum(json.loads(line)["replayed"] for line in everything) == 3
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

"""The log files of a run, read while they are written, cut, replaced and removed."""

import shutil

import pytest

from zflow.ids import Slot
from zflow.local.logs import CHUNK_BYTES, Logs
from zflow.paths import RunDirectory


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "r")
    directory.make()
    return directory


@pytest.fixture
def logs(run):
    made = Logs(run, lambda _slot, _stream: True)
    yield made
    made.close()


def begin(run, number, slot):
    run.log(number, Slot.parse(slot).index, "slot").write_text(slot)


def write(run, number, index, text, stream="out"):
    with run.log(number, index, stream).open("a") as file:
        file.write(text)


def texts(lines):
    return [f"{line.slot} {line.stream} {line.text}" for line in lines]


def test_lines_come_once_and_only_when_they_are_whole(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "one\ntw")
    assert texts(logs.lines()) == ["read/0 out one"]
    write(run, 0, 0, "o\n")
    assert texts(logs.lines()) == ["read/0 out two"]
    assert texts(logs.lines()) == []
    write(run, 0, 0, "half")
    assert texts(logs.last()) == ["read/0 out half"]


def test_slots_that_come_later_are_read_too(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "a\n")
    assert texts(logs.lines()) == ["read/0 out a"]
    begin(run, 1, "parse/3")
    write(run, 1, 3, "b\n", "err")
    assert texts(logs.lines()) == ["parse/3 err b"]


def test_a_file_that_is_cut_is_read_from_its_beginning(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "a long line\n")
    assert texts(logs.lines()) == ["read/0 out a long line"]
    run.log(0, 0, "out").write_text("")
    assert texts(logs.lines()) == []
    write(run, 0, 0, "new\n")
    assert texts(logs.lines()) == ["read/0 out new"]


def test_a_file_that_is_replaced_is_read_to_its_end_first(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "one\n")
    assert texts(logs.lines()) == ["read/0 out one"]
    write(run, 0, 0, "two\nhalf")
    run.log(0, 0, "out").rename(run.root / "old")
    write(run, 0, 0, "three\n")
    assert texts(logs.lines()) == ["read/0 out two", "read/0 out half", "read/0 out three"]


def test_the_last_words_are_read_though_the_run_has_removed_its_folder(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "one\n")
    assert texts(logs.lines()) == ["read/0 out one"]
    write(run, 0, 0, "last words\n")
    shutil.rmtree(run.root)
    assert texts(logs.last()) == ["read/0 out last words"]


def test_of_several_files_the_one_written_first_comes_first(run, logs, wait_until):
    for number, slot in enumerate(("a/0", "b/0", "c/0")):
        begin(run, number, slot)
        write(run, number, 0, "begin\n")
    list(logs.lines())

    def written_later(number, than):
        write(run, number, 0, ".\n")
        paths = [run.log(one, 0, "out") for one in (number, than)]
        return paths[0].stat().st_mtime_ns > paths[1].stat().st_mtime_ns

    write(run, 2, 0, ".\n")
    wait_until(lambda: written_later(0, than=2), 10)
    wait_until(lambda: written_later(1, than=0), 10)
    order = dict.fromkeys(str(line.slot) for line in logs.lines())
    assert list(order) == ["c/0", "a/0", "b/0"]


def test_a_line_longer_than_one_read_stays_one_line(run, logs):
    begin(run, 0, "read/0")
    write(run, 0, 0, "x" * (CHUNK_BYTES + 10) + "\ny\n")
    assert [len(line.text) for line in logs.lines()] == [CHUNK_BYTES + 10, 1]


def test_bytes_that_are_no_text_are_shown_all_the_same(run, logs):
    begin(run, 0, "read/0")
    run.log(0, 0, "out").write_bytes(b"a\xffb\n")
    assert texts(logs.lines()) == ["read/0 out a\ufffdb"]


TALKER = """
import sys
import time

@source
def numbers():
    for n in range(1_000_000):
        yield n
        time.sleep(0.01 * (n > 20))

@stage
def talk(n: int):
    print("number", n)
    if n == 3:
        print("three is odd", file=sys.stderr)
    return n

@sink
def keep(n): ...

flow = Topology("talker")
flow.connect(numbers, talk, keep)
"""


@pytest.mark.slow
def test_logs_of_a_run_are_followed_until_it_ends(shop, wait_until):
    shop.write(TALKER)
    running = shop.start("run", "flow.py")
    wait_until(lambda: "number 3" in running.out, 60)
    followed = shop.start("logs", "talk", "-f", "--grep", "number [0-9]$|odd")
    wait_until(lambda: "odd" in followed.out, 60)
    running.interrupt()
    assert running.end().code == 130
    done = followed.end()
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line for line in lines if "|" in line] == [f"talk/0 | number {n}" for n in range(10)]
    assert "talk/0 ! three is odd" in lines

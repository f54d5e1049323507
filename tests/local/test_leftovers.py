"""What dead processes have left, and what is wrong with runs that are running."""

import os
from dataclasses import replace

import msgspec
import pytest

from tests.planning.made import busy, picture
from zflow.local.leftovers import (
    YOUNG_S,
    about_folders,
    about_picture,
    about_records,
    about_silent,
    failed_handshakes,
    run_folders,
)
from zflow.paths import RunDirectory, StateDirectory, run_directory_of
from zflow.state.runs import (
    RunFolder,
    RunLock,
    RunRecord,
    StoredRun,
    is_used,
    read_run,
    write_record,
)
from zflow.wire.picture import Event


@pytest.fixture
def runtime(tmp_path):
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    return {"XDG_RUNTIME_DIR": str(folder)}


@pytest.fixture
def killed(tmp_path, runtime):
    """A run that never came to its end: its record, and the lock that nobody holds."""
    state = StateDirectory(tmp_path / "state")
    state.make()
    record = RunRecord(
        run_id="one",
        topology="flow",
        target="my flow.py",
        attribute="flow",
        path=None,
        digest="d",
        parameters=[],
        replicas=[],
        started_at_s=0.0,
    )
    write_record(state, record)
    RunLock(state).release()
    return read_run(state.root)


def old(path):
    os.utime(path, (0, 0))
    return path


def test_a_run_directory_is_used_as_long_as_a_process_works_in_it(tmp_path):
    run = RunDirectory(tmp_path / "zf-a")
    assert not is_used(run)
    folder = RunFolder(run)
    other = RunFolder(run)
    assert is_used(run)
    other.leave()
    assert is_used(run)
    folder.leave()
    assert not is_used(run)
    assert not run.root.exists()  # to have asked keeps nobody from removing it


def test_folders_of_dead_processes_are_found_and_others_are_not(runtime, tmp_path):
    root = tmp_path / "runtime"
    used = RunFolder(RunDirectory(root / "zf-used"))
    for name in ("zf-left", "zf-young", "other"):
        RunDirectory(root / name).make()
    for name in ("zf-used", "zf-left", "other"):
        old(root / name)
    folders = run_folders(runtime)
    assert {path.name for path in folders if path.parent == root} == {
        *("zf-used", "zf-left", "zf-young")
    }
    mine = [path for path in folders if path.parent == root]
    (found,) = about_folders(mine, (root / "zf-young").stat().st_mtime + YOUNG_S / 2)
    assert found.command == f"rm -r {root}/zf-left"
    assert found.what.startswith("1 run directory of dead processes: ")
    used.leave()
    assert list(about_folders([], 0.0)) == []


def test_a_folder_that_has_just_been_removed_is_none(runtime, tmp_path):
    gone = tmp_path / "runtime" / "zf-gone"
    assert list(about_folders([gone], 1e12)) == []


def test_a_killed_run_is_found_with_the_command_that_goes_on(killed, runtime):
    (found,) = about_records([killed], runtime)
    assert found.what == "run one of flow was killed: it never came to its end"
    assert found.command == ("zflow run 'my flow.py' --resume one  # or: zflow runs rm one")


def test_a_run_that_ended_or_runs_or_is_led_elsewhere_is_no_finding(killed, runtime):
    ended = StoredRun(record=replace(killed.record, outcome="done"), state=killed.state)
    assert list(about_records([ended], runtime)) == []
    lock = RunLock(killed.state)
    assert list(about_records([killed], runtime)) == []
    lock.release()
    folder = RunFolder(RunDirectory(run_directory_of(killed.state.root, runtime)))
    assert list(about_records([killed], runtime)) == []  # its stages go on without a coordinator
    folder.leave()
    (killed.state.root / "lock").unlink()
    assert list(about_records([killed], runtime)) == []


def died(number, at_s, slot="parse/0"):
    return Event(number=number, at_s=at_s, kind="death", stage="parse", slot=slot, text="exit 3")


def seen(events=(), states=None):
    made = picture([busy("read"), busy("parse", states=states or {}, deaths_per_s=0.01)], 100)
    return msgspec.structs.replace(made, events=list(events))


def test_a_replica_that_dies_again_and_again_is_found():
    now_s = seen().at_s
    events = [died(k, now_s - 20 * k) for k in range(3)]
    (found,) = about_picture(seen(events))
    assert found.check == "crash loop"
    assert found.what == "parse/0 of run one dies again and again: ValueError: no"
    assert found.command == "zflow logs parse/0 --err --tail 50 --run one"


@pytest.mark.parametrize(
    "events",
    [
        [(0, "parse/0"), (1, "parse/0")],
        [(0, "parse/0"), (1, "parse/0"), (70, "parse/0")],
        [(0, "parse/0"), (1, "parse/1"), (2, "parse/2")],
    ],
)
def test_deaths_that_are_few_or_long_ago_or_of_several_are_none(events):
    now_s = seen().at_s
    deaths = [died(k, now_s - ago_s, slot) for k, (ago_s, slot) in enumerate(events)]
    assert list(about_picture(seen(deaths))) == []


def test_a_supervisor_that_is_not_heard_is_found():
    (found,) = about_picture(seen(states={0: "lost"}))
    assert found.check == "supervisor"
    assert found.what == "the supervisor of parse/0 in run one is not heard"
    assert found.command == "zflow stage parse --coordinator URL"


def test_no_link_has_refused_anybody_yet():
    assert list(failed_handshakes(seen())) == []


def test_a_silent_coordinator_is_told_by_its_run(killed):
    assert about_silent(killed).what.startswith("run one is running, and its coordinator")

"""What runs have left behind, and what hurts those that are running.

Decides from files, locks and pictures. Removes nothing.
"""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from zflow.local.machine import Finding
from zflow.paths import RunDirectory, run_directory_of
from zflow.state.runs import StoredRun, is_running, is_used
from zflow.wire.picture import Picture, SlotCensus

YOUNG_S = 60.0  # a run directory that is so young may be just being made
LOOPING_DEATHS = 3  # of one replica
LOOPING_S = 60.0  # within so long


def run_folders(environment: Mapping[str, str]) -> list[Path]:
    """Every run directory of this user, wherever its run was started."""
    places = [(Path("/tmp"), f"zf-{os.getuid()}-*")]  # noqa: S108 - private folders below it
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        places.append((Path(runtime), "zf-*"))
    found = [path for place, pattern in places if place.is_dir() for path in place.glob(pattern)]
    return sorted(path for path in found if path.is_dir() and path.stat().st_uid == os.getuid())


def about_folders(folders: Iterable[Path], now_s: float) -> Iterator[Finding]:
    """Run directories that nobody uses. now_s: wall clock."""
    left = []
    for path in folders:
        with suppress(FileNotFoundError):  # its run has just ended
            if now_s - path.stat().st_mtime > YOUNG_S and not is_used(RunDirectory(path)):
                left.append(path)
    if left:
        yield Finding(
            check="left-over run directories",
            what=f"{len(left)} run director{'y' if len(left) == 1 else 'ies'} of dead processes: "
            + ", ".join(map(str, left)),
            why="they hold what replicas of killed runs have printed (zflow logs), and space",
            command=shlex.join(["rm", "-r", *map(str, left)]),
        )


def about_records(runs: Iterable[StoredRun], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Runs that are recorded as running and are not."""
    for run in runs:
        record = run.record
        place = RunDirectory(run_directory_of(run.state.root, environment))
        # A machine that only runs stages of a run has a record too, and no lock.
        coordinated = (run.state.root / "lock").exists()
        if record.outcome or not coordinated or is_running(run.state) or is_used(place):
            continue
        resume = ["zflow", "run", record.target, "--resume", record.run_id]
        yield Finding(
            check="killed runs",
            what=f"run {record.run_id} of {record.topology} was killed: it never came to its end",
            why="what its sources had yielded is not all settled, and its files stay for ever",
            command=f"{shlex.join(resume)}  # or: zflow runs rm {record.run_id}",
        )


def about_silent(run: StoredRun) -> Finding:
    """A run whose coordinator does not answer."""
    return Finding(
        check="coordinator",
        what=f"run {run.record.run_id} is running, and its coordinator does not answer",
        why="it takes no orders, and notices no death, as long as it is stopped or stuck",
        command="zflow ps  # its pid; a process that was stopped goes on after: kill -CONT PID",
    )


def about_picture(picture: Picture) -> Iterator[Finding]:
    """What is wrong with a run that is running."""
    for slot in _looping(picture):
        yield Finding(
            check="crash loop",
            what=f"{slot.slot} of run {picture.run_id} dies again and again"
            + (f": {slot.last_error.strip().splitlines()[-1]}" if slot.last_error.strip() else ""),
            why="each time what it had begun is done again; at last the run ends with exit code 5",
            command=f"zflow logs {slot.slot} --err --tail 50 --run {picture.run_id}",
        )
    lost = [slot.slot for slot in _slots(picture) if _state(slot) == "lost"]
    if lost:
        yield Finding(
            check="supervisor",
            what=f"the supervisor of {', '.join(lost)} in run {picture.run_id} is not heard",
            why="nobody starts these replicas again if they die, and they may be running unseen",
            command=f"zflow stage {lost[0].rpartition('/')[0]} --coordinator URL",
        )
    yield from failed_handshakes(picture)


def failed_handshakes(picture: Picture) -> Iterator[Finding]:
    """Who was refused at a door of the run, or spoke in another one's name."""
    for alarm in picture.alarms:
        yield Finding(
            check="keys",
            what=f"run {picture.run_id}: {alarm}",
            why="who is refused takes no part in the run: what waits for it waits on",
            command="zflow keys show DIR, on both machines: the keys have to be the same",
        )


def _looping(picture: Picture) -> list[SlotCensus]:
    since_s = picture.at_s - LOOPING_S
    deaths = Counter(e.slot for e in picture.events if e.kind == "death" and e.at_s >= since_s)
    return [slot for slot in _slots(picture) if deaths[slot.slot] >= LOOPING_DEATHS]


def _slots(picture: Picture) -> Iterator[SlotCensus]:
    return (slot for stage in picture.stages for slot in stage.slots)


def _state(slot: SlotCensus) -> str:
    return slot.replica.state if slot.replica is not None else ""

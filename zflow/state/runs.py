"""The runs of a topology on disk: which there are, how they ended, and which may be removed.

Decides which run `last` is and which old ones go. Never touches a run that a process holds.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from zflow.errors import ConfigError, Problem, Unavailable
from zflow.paths import RunDirectory, StateDirectory
from zflow.state.deadletter import read_dead_letters

KEPT_RUNS = 20
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What `run.json` says. outcome: "" while it runs or was killed, else how it ended."""

    run_id: str
    topology: str
    target: str
    attribute: str
    path: str | None
    digest: str
    parameters: list[str]
    replicas: list[str]
    started_at_s: float
    outcome: str = ""
    exit_code: int | None = None
    schema: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One run on disk."""

    record: RunRecord
    state: StateDirectory

    def dead_letters(self) -> int:
        """How many items of the run are given up and not yet sent again."""
        letters = read_dead_letters(self.state.dead_folder)
        return sum(not stored.replayed for stored in letters)

    def finish(self, outcome: str, exit_code: int) -> None:
        """Write down how it ended; raises Unavailable."""
        write_record(self.state, replace(self.record, outcome=outcome, exit_code=exit_code))


def write_record(state: StateDirectory, record: RunRecord) -> None:
    """Atomically: a crash leaves the old record or the new one; so does a full disk.

    raises: Unavailable if it cannot be written.
    """
    draft = state.record.with_suffix(f".{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps(asdict(record), indent=2))
        draft.chmod(0o600)
        draft.replace(state.record)
    except OSError as error:
        raise Unavailable(f"{state.record}: {error.strerror}") from error


def read_run(root: Path) -> StoredRun:
    """The run in a state directory; raises Unavailable if it has none that can be read."""
    state = StateDirectory(root)
    try:
        fields = json.loads(state.record.read_text())
        record = RunRecord(**fields)
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(f"{root} holds no run that can be read: {error}") from error
    if record.schema != SCHEMA_VERSION:
        raise Unavailable(f"{root} has schema {record.schema}; this zflow reads {SCHEMA_VERSION}")
    return StoredRun(record=record, state=state)


def all_runs(folder: Path) -> list[StoredRun]:
    """The runs of one topology, oldest first."""
    runs = []
    for root in folder.iterdir() if folder.is_dir() else ():
        with suppress(Unavailable):
            runs.append(read_run(root))
    return sorted(runs, key=lambda run: run.record.started_at_s)


def find_run(folder: Path, name: str) -> StoredRun:
    """The run of that id, or the newest for `last`; raises ConfigError with those there are."""
    runs = all_runs(folder)
    if name == "last" and runs:
        return runs[-1]
    for run in runs:
        if run.record.run_id == name:
            return run
    known = ", ".join(run.record.run_id for run in runs[-5:]) or "none"
    raise ConfigError(
        [
            Problem(
                where=f"run {name}",
                file="",
                line=0,
                message=f"there is no such run in {folder}",
                fix=f"the newest are: {known}",
            )
        ]
    )


def write_private(path: Path, raw: bytes) -> None:
    """Atomically, since several processes of a run may do the same; raises Unavailable."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(raw)
        draft.chmod(0o600)
        draft.replace(path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def read_own(path: Path) -> bytes:
    """A file that nobody but this user (or root) can have written; raises Unavailable."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (os.getuid(), 0) or found.st_mode & 0o022:
                raise Unavailable(f"{path}: other users could have written it, so it is not run")
            return file.read()
    except OSError as error:
        raise Unavailable(
            f"{path}: {error.strerror}; without keys the code does not travel, so the same file "
            "has to be here"
        ) from error


class RunFolder:
    """The use of a run directory by a process; stages of one run on one machine share it.

    Made when it is not there; removed by whoever leaves it last.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        path = run.root / "users"
        while True:
            run.make()
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # somebody has just left it
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if path.exists() and os.fstat(self._descriptor).st_ino == path.stat().st_ino:
                return
            os.close(self._descriptor)

    def leave(self) -> None:
        """Give it up; the files of whoever stays are left alone."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            shutil.rmtree(self._run.root, ignore_errors=True)
        os.close(self._descriptor)


def is_used(run: RunDirectory) -> bool:
    """True while a process works in a run directory; False too if there is none."""
    # Exclusively: a shared lock would keep whoever leaves last from removing the folder.
    return _is_held(run.root / "users", fcntl.LOCK_EX)


class RunLock:
    """One process at a time works in a state directory."""

    def __init__(self, state: StateDirectory) -> None:
        path = state.root / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise Unavailable(f"the run in {state.root} is running") from error
        with suppress(OSError):  # a full disk: it is for people who look for the process
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


def is_running(state: StateDirectory) -> bool:
    """True while a process works in a state directory."""
    return _is_held(state.root / "lock", fcntl.LOCK_SH)


def _is_held(path: Path, lock: int) -> bool:
    """True while a process holds the file so that `lock` cannot be had; False if it is absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def process_of(state: StateDirectory) -> int | None:
    """The process that works in a state directory now; None if there is none, or it is unknown."""
    if not is_running(state):
        return None
    text = (state.root / "lock").read_text().strip()
    return int(text) if text.isdigit() else None


def remove_run(run: StoredRun) -> None:
    """Delete a run's files; raises Unavailable if it is running."""
    lock = RunLock(run.state)
    try:
        shutil.rmtree(run.state.root)
    finally:
        lock.release()


def superseded(folder: Path) -> Iterator[StoredRun]:
    """Ended runs beyond the last 20 that hold no dead letters; what cannot be read is kept."""
    ended = [run for run in all_runs(folder) if run.record.outcome]
    return (run for run in ended[:-KEPT_RUNS] if not _may_hold_letters(run))


def _may_hold_letters(run: StoredRun) -> bool:
    try:
        return bool(run.dead_letters())
    except Unavailable:
        return True

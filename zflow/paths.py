"""Where things lie: the run directory (sockets, locks, black boxes, logs) and the state directory.

Decides names only, and makes private folders. A run directory is 0700, owned by this user and no
symlink, or it is refused: whoever may write there could speak to the replicas.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zflow.errors import Unavailable
from zflow.ids import Slot

MAX_IPC_PATH_BYTES = 107  # sockaddr_un.sun_path, less the final zero


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run that live as long as its processes. Stages are numbered, not named,
    so that a long stage name cannot make a socket path too long."""

    root: Path

    def make(self) -> None:
        """Make the folders, private; raises Unavailable if they are there and are unsafe."""
        for folder in (self.root, *(self.root / part for part in ("s", "b", "l", "o"))):
            make_private(folder)

    def endpoint(self, stage_number: int, index: int, side: str) -> str:
        """The ipc endpoint of a slot; side is `in` or `ack`."""
        return f"ipc://{self.root}/s/{stage_number}-{index}.{side}"

    @property
    def control(self) -> str:
        """Where the coordinator answers."""
        return f"ipc://{self.root}/s/control"

    def black_box(self, stage_number: int, index: int, incarnation: int) -> Path:
        """The black box of one incarnation."""
        return self.root / "b" / f"{stage_number}-{index}.{incarnation}"

    def crashes(self, stage_number: int, index: int) -> Path:
        """How the last incarnations of a slot died, for the next one."""
        return self.root / "b" / f"{stage_number}-{index}.crashes"

    @property
    def snapshot(self) -> Path:
        """The newest configuration, for replicas that start while no coordinator is there."""
        return self.root / "snapshot"

    def of_slot(self, stage_number: int, slot: Slot) -> Iterator[Path]:
        """All files of one slot that are there."""
        for folder in ("s", "b", "o"):
            yield from (self.root / folder).glob(f"{stage_number}-{slot.index}.*")
        yield self.lock(slot)

    def hot_keys(self, stage_number: int, index: int) -> Path:
        """Which keys a slot's last process has sent most often."""
        return self.root / "b" / f"{stage_number}-{index}.keys"

    def lock(self, slot: Slot) -> Path:
        """Held with flock by the one process that speaks for this slot; known by its name, since
        a process has to hold it before it asks for anything."""
        return self.root / "l" / f"{slot.stage}-{slot.index}"

    def log(self, stage_number: int, index: int, stream: str) -> Path:
        """What a slot's processes wrote to `out` or `err`."""
        return self.root / "o" / f"{stage_number}-{index}.{stream}"

    def hooks_log(self, stream: str) -> Path:
        """What the topology's hooks wrote to `out` or `err`."""
        return self.root / "o" / f"hooks.{stream}"

    def logged(self) -> dict[Slot, dict[str, Path]]:
        """The logs that are there, by slot and stream; empty without a run directory."""
        found = {}
        for name in (self.root / "o").glob("*.slot"):
            with suppress(FileNotFoundError, ValueError):  # removed, or only just made
                slot = Slot.parse(name.read_text())
                found[slot] = {stream: name.with_suffix(f".{stream}") for stream in ("out", "err")}
        return dict(sorted(found.items()))


def make_private(path: Path) -> None:
    """Make a 0700 folder, or accept it only if it is one, ours, and no symlink."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Unavailable(f"{path} is not a folder")
    if found.st_uid != os.getuid():
        raise Unavailable(f"{path} belongs to user {found.st_uid}; it must be this user's own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Unavailable(f"{path} is open to other users; its mode must be 0700")


def run_directory_of(state: Path, environment: Mapping[str, str]) -> Path:
    """Where the run directory of a state directory lies, whether it exists or not."""
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / f"zf-{digest}"
    return Path("/tmp") / f"zf-{os.getuid()}-{digest}"


def run_directory(state: Path, environment: Mapping[str, str]) -> RunDirectory:
    """The run directory that belongs to a state directory, not made yet; raises Unavailable."""
    root = run_directory_of(state, environment)
    longest = RunDirectory(root).endpoint(999_999, 999_999, "ack")
    if len(longest.removeprefix("ipc://").encode()) > MAX_IPC_PATH_BYTES:
        raise Unavailable(
            f"{root} is too long for sockets (at most {MAX_IPC_PATH_BYTES} bytes); "
            "set XDG_RUNTIME_DIR to a shorter folder"
        )
    return RunDirectory(root)


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The files of one run that outlive it: positions, dead letters, the code as it was."""

    root: Path

    def position(self, slot: Slot) -> Path:
        """Where a source replica's position is kept."""
        return self.root / "positions" / f"{slot.stage}-{slot.index}.sqlite"

    def journal(self, slot: Slot) -> Path:
        """What a source replica that cannot be replayed has yielded."""
        return self.root / "positions" / f"{slot.stage}-{slot.index}.journal.sqlite"

    def dead_letters(self, slot: Slot) -> Path:
        """What a replica has given up."""
        return self.dead_folder / f"{slot.stage}-{slot.index}.dead.sqlite"

    @property
    def dead_folder(self) -> Path:
        """All dead letters of the run."""
        return self.root / "dead"

    @property
    def partitions_folder(self) -> Path:
        """The partitions of all durable stages, a folder each."""
        return self.root / "partitions"

    def partition(self, stage: str, number: int) -> Path:
        """The file of one partition of a durable stage."""
        return self.partitions_folder / stage / f"{number:03}.sqlite"

    @property
    def code(self) -> Path:
        """The topology file as it was when the run began."""
        return self.root / "topology.py"

    @property
    def epoch(self) -> Path:
        """How many processes have coordinated the run."""
        return self.root / "epoch"

    @property
    def stores(self) -> Path:
        """In which state directory each source and durable stage keeps what it has, as JSON."""
        return self.root / "stores.json"

    @property
    def told(self) -> Path:
        """The dead letters that the topology's hooks have been told of, an id in each line."""
        return self.root / "told"

    @property
    def record(self) -> Path:
        """What the run is and how it ended, as JSON."""
        return self.root / "run.json"

    def make(self) -> None:
        """Make the folders, private."""
        for folder in (self.root, self.root / "positions", self.dead_folder):
            make_private(folder)

    def make_partitions(self, stage: str) -> None:
        """Make the folder of a durable stage's partitions, private."""
        for folder in (self.partitions_folder, self.partitions_folder / stage):
            make_private(folder)


def topologies_folder(base: Path) -> Path:
    """Where the runs of all topologies lie."""
    return base / ".zflow"


def runs_folder(base: Path, topology: str) -> Path:
    """Where the runs of one topology lie."""
    return topologies_folder(base) / topology

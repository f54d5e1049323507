"""What of this machine would hurt a run: versions, limits, folders, clocks.

Decides what is a finding, from what was measured; `measured` alone asks the machine. Never changes
anything.
"""

import os
import platform
import resource
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zflow.declared.model import Declared
from zflow.errors import Unavailable
from zflow.local.relay import MAX_LOG_BYTES
from zflow.net.sockets import FDS_AT_REST, FDS_PER_LINK
from zflow.net.versions import ZmqVersions, zmq_versions
from zflow.paths import run_directory, run_directory_of
from zflow.state.filesystem import NETWORK_FILESYSTEMS, filesystem_of
from zflow.state.versions import sqlite_version

OLDEST_PYZMQ = (26,)
OLDEST_LIBZMQ = (4, 3, 4)
OLDEST_SQLITE = (3, 35)  # RETURNING
MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
# What the kernel reads without a call of its own (vDSO), on the machines there are.
QUICK_CLOCKS = frozenset(
    {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "timebase", "tod"}
)
CLOCKS = "/sys/devices/system/clocksource/clocksource0"
THREADS_PER_REPLICA = 6  # data, control, disk, and those of libzmq
FREE_STATE_BYTES = 256 * 1024 * 1024
FREE_RUN_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that would hurt. check: its short name; command: what to type."""

    check: str
    what: str
    why: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a topology asks of the machine that runs all of it. links: of its best connected
    process."""

    topology: str
    replicas: int
    links: int

    @property
    def open_files(self) -> int:
        """At most, of one process."""
        return 2 * (FDS_AT_REST + FDS_PER_LINK * self.links)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured. Limits: None for any number. run_directory_problem: why there can be no
    run directory. mounts: the text of /proc/mounts."""

    python: str
    zmq: ZmqVersions
    sqlite: str
    open_files: int | None
    processes: int | None
    state_folder: Path
    state_writable: bool
    state_free_bytes: int
    run_directory: Path
    run_directory_problem: str
    run_free_bytes: int
    mounts: str
    clock_source: str
    quick_clocks: tuple[str, ...]


def need_of(declared: Declared, replicas: Mapping[str, int]) -> Need:
    """replicas: by stage, where they are not the declared ones."""
    counts = {s.name: replicas.get(s.name, s.options.replicas) for s in declared.stages}
    links = dict.fromkeys(counts, 0)
    for edge in declared.edges:
        links[edge.source] += counts[edge.target]
        links[edge.target] += counts[edge.source]
    most = max([*links.values(), sum(counts.values())])
    return Need(topology=declared.name, replicas=sum(counts.values()), links=most)


def measured(state_folder: Path, environment: Mapping[str, str]) -> Machine:
    """This machine, for runs whose state lies in that folder, which need not be there yet."""
    problem = ""
    try:
        root = run_directory(state_folder, environment).root
    except Unavailable as error:
        problem, root = str(error), run_directory_of(state_folder, environment)
    there = _nearest(state_folder)
    return Machine(
        python=platform.python_version(),
        zmq=zmq_versions(),
        sqlite=sqlite_version(),
        open_files=_limit(resource.RLIMIT_NOFILE),
        processes=_limit(resource.RLIMIT_NPROC) if os.getuid() else None,  # root has none
        state_folder=there,
        state_writable=os.access(there, os.W_OK | os.X_OK),
        state_free_bytes=shutil.disk_usage(there).free,
        run_directory=root.parent,
        run_directory_problem=problem or _unusable(root.parent),
        run_free_bytes=shutil.disk_usage(_nearest(root)).free,
        mounts=_read("/proc/mounts"),
        clock_source=_read(f"{CLOCKS}/current_clocksource").strip(),
        quick_clocks=tuple(
            one for one in _read(f"{CLOCKS}/available_clocksource").split() if one in QUICK_CLOCKS
        ),
    )


def _limit(which: int) -> int | None:
    hard = resource.getrlimit(which)[1]  # zflow raises its own soft limit
    return None if hard == resource.RLIM_INFINITY else hard


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _unusable(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


def _read(path: str) -> str:
    """A text of the kernel; empty where it has none."""
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""


def findings(machine: Machine, need: Need | None) -> Iterator[Finding]:
    """All that would hurt, the worst first. need: of a topology, if one is meant."""
    yield from _about_run_directory(machine, need)
    yield from _about_state(machine)
    if need is not None:
        yield from _about_limits(machine, need)
    yield from _about_versions(machine)
    yield from _about_clock(machine)


def _about_run_directory(machine: Machine, need: Need | None) -> Iterator[Finding]:
    if machine.run_directory_problem:
        yield Finding(
            check="run directory",
            what=machine.run_directory_problem,
            why="sockets, locks and logs of a run lie there; no run can start",
            command="export XDG_RUNTIME_DIR=$(mktemp -d)",
        )
    logs_bytes = 2 * MAX_LOG_BYTES * need.replicas if need is not None else 0
    if machine.run_free_bytes < max(FREE_RUN_BYTES, logs_bytes):
        wanted = max(FREE_RUN_BYTES, logs_bytes) // 2**20
        yield Finding(
            check="run directory space",
            what=f"{machine.run_directory} has {machine.run_free_bytes // 2**20} MiB left, and "
            f"{wanted} MiB may be needed",
            why="what replicas print is kept there, up to 16 MiB for each and stream; on a full "
            "disk prints fail, and so does the code that prints",
            command=f"df -h {machine.run_directory}",
        )


def _about_state(machine: Machine) -> Iterator[Finding]:
    folder = machine.state_folder
    kind = filesystem_of(os.path.realpath(folder), machine.mounts)
    if not machine.state_writable:
        yield Finding(
            check="state folder",
            what=f"{folder} cannot be written",
            why="positions, dead letters and the state of durable stages are kept below it",
            command="zflow run TARGET --state DIR",
        )
    if kind in NETWORK_FILESYSTEMS:
        yield Finding(
            check="state folder",
            what=f"{folder} lies on a network file system ({kind})",
            why="SQLite and locks lose data there; a run with state refuses it",
            command="zflow run TARGET --state DIR  # on a local disk",
        )
    if kind in MEMORY_FILESYSTEMS:
        yield Finding(
            check="state folder",
            what=f"{folder} lies in memory ({kind})",
            why="what is kept there outlives processes, but no reboot: a run cannot be resumed",
            command="zflow run TARGET --state DIR  # on a disk",
        )
    if machine.state_free_bytes < FREE_STATE_BYTES:
        yield Finding(
            check="state folder space",
            what=f"{folder} has {machine.state_free_bytes // 2**20} MiB left",
            why="on a full disk stages with state wait, and so does all that sends to them",
            command="zflow runs rm --keep 5",
        )


def _about_limits(machine: Machine, need: Need) -> Iterator[Finding]:
    if machine.open_files is not None and machine.open_files < need.open_files:
        yield Finding(
            check="open files",
            what=f"{need.topology} needs up to {need.open_files:,} open files in one process, and "
            f"the limit is {machine.open_files:,}",
            why="zflow run refuses to start, since libzmq aborts where files run out",
            command=f"ulimit -Hn {need.open_files}  # as root, or in /etc/security/limits.conf",
        )
    threads = THREADS_PER_REPLICA * (need.replicas + 1)
    if machine.processes is not None and machine.processes < threads:
        yield Finding(
            check="processes",
            what=f"{need.topology} needs about {threads:,} threads, and the limit is "
            f"{machine.processes:,} for all that this user runs",
            why="a replica that gets none ends at its start, again and again",
            command=f"ulimit -Hu {2 * threads}  # as root, or in /etc/security/limits.conf",
        )


def _about_versions(machine: Machine) -> Iterator[Finding]:
    for name, found, oldest, why, command in (
        (
            "pyzmq",
            machine.zmq.pyzmq,
            OLDEST_PYZMQ,
            "it is older than zflow is tested with",
            "pip install --upgrade pyzmq",
        ),
        (
            "libzmq",
            machine.zmq.libzmq,
            OLDEST_LIBZMQ,
            "older ones crash in ways that were mended since",
            "pip install --force-reinstall --only-binary pyzmq pyzmq",
        ),
        (
            "SQLite",
            machine.sqlite,
            OLDEST_SQLITE,
            "it does not know the statements that state and dead letters are kept with",
            "python3 -c 'import sqlite3; print(sqlite3.sqlite_version)'  # of a newer Python",
        ),
    ):
        if _numbers(found) < oldest:
            wanted = ".".join(map(str, oldest))
            what = f"{name} {found} is older than {wanted}"
            yield Finding(check=name, what=what, why=why, command=command)
    if not machine.zmq.curve:
        yield Finding(
            check="CURVE",
            what=f"libzmq {machine.zmq.libzmq} is built without CURVE",
            why="links between machines can be neither encrypted nor authenticated",
            command="pip install --force-reinstall --only-binary pyzmq pyzmq",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """`27.3.0b1` as (27, 3, 0)."""
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _about_clock(machine: Machine) -> Iterator[Finding]:
    if machine.clock_source and machine.clock_source not in QUICK_CLOCKS:
        better = machine.quick_clocks[0] if machine.quick_clocks else ""
        yield Finding(
            check="clock source",
            what=f"the clock source is {machine.clock_source}",
            why="each look at the clock is a call into the kernel, and a replica looks several "
            "times for every item",
            command=f"echo {better} | sudo tee {CLOCKS}/current_clocksource"
            if better
            else "dmesg | grep -i clocksource  # why the kernel trusts no quicker one",
        )

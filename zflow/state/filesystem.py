"""Which file systems can hold state: not those of another machine, whose locks cannot be trusted.

Decides from the text of /proc/mounts; only `refuse_network_folder` reads it.
"""

import os
import re
from pathlib import Path

from zflow.errors import ConfigError, Problem

# SQLite's WAL needs memory that all its processes share, flock a kernel that all of them ask.
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "fuse.sshfs"}
)
_MOUNTS = Path("/proc/mounts")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # how blanks, tabs, newlines and backslashes are written


def filesystem_of(path: str, mounts: str) -> str:
    """The type of the file system that an absolute path without symlinks lies on; "" if unknown.

    mounts: the text of /proc/mounts.
    """
    best, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1]).rstrip("/")
        # Of two on the same place the later one hides the earlier.
        if (path == place or path.startswith(f"{place}/")) and len(place) >= best:
            best, found = len(place), fields[2]
    return found


def refuse_network_folder(folder: Path) -> None:
    """Raises ConfigError if the folder lies on another machine; does nothing without /proc."""
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return
    kind = filesystem_of(os.path.realpath(folder), mounts)
    if kind in NETWORK_FILESYSTEMS:
        message = f"lies on a network file system ({kind}), where SQLite and locks lose data"
        fix = "give --state a folder on a local disk"
        raise ConfigError([Problem(where=str(folder), file="", line=0, message=message, fix=fix)])

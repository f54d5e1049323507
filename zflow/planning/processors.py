"""How many processors a host has for the replicas that run on it."""

import os
import socket
from contextlib import suppress
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # `200000 100000`: quota and period; or `max ...`


def processors_here(quota_file: Path = CGROUP_QUOTA) -> dict[str, float]:
    """Of this host by its name: those it may use, or fewer where a container allows less time."""
    here: float = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file, or `max`: nothing is limited
        quota, period = quota_file.read_text().split()
        here = min(here, int(quota) / int(period))
    return {socket.gethostname(): here}

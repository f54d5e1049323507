"""What a supervisor counts of its replicas: their black boxes and what the system says of them."""

import socket
from collections.abc import Mapping

import psutil

from zflow.supervisor.member import Member
from zflow.supervisor.supervise import Supervisor
from zflow.wire.picture import Census, Replica, SlotCensus

HOST = socket.gethostname()


def census_of(supervisor: Supervisor, states: Mapping[str, str]) -> Census:
    """Every slot, now, and the books brought up to date with it.

    states: of the replicas, as they have reported them, if that is known.
    """
    slots = []
    for name, member in [*supervisor.gone.items(), *supervisor.members.items()]:
        replica = _replica(supervisor, member, states.get(name, ""))
        if replica is not None:
            supervisor.books.living(name, replica.counters)
        retired = supervisor.books.retired(name)
        if replica is None and member.process is not None:
            # It has just ended, and its books are closed with the next reaping: nothing that was
            # counted may be missing meanwhile.
            retired = supervisor.books.slot(name)
        slots.append(
            SlotCensus(
                slot=name,
                replica=replica,
                retired=retired,
                restarts=dict(member.restarts),
                last_error=member.last_error,
            )
        )
    return Census(slots=slots)


def _replica(supervisor: Supervisor, member: Member, state: str) -> Replica | None:
    if member.process is None:
        return None
    box = supervisor.reading(member)
    try:
        process = psutil.Process(member.process.pid)
        with process.oneshot():
            cpu, memory = process.cpu_times(), process.memory_info()
            open_fds = process.num_fds()
    except psutil.Error:  # it has just ended and is not reaped yet
        return None
    return Replica(
        incarnation=member.incarnation,
        pid=member.process.pid,
        host=HOST,
        state=state,
        started_at_s=member.started_at_s,
        cpu_s=cpu.user + cpu.system,
        memory_bytes=memory.rss,
        open_fds=open_fds,
        counters=box.counters if box is not None else {},
    )

"""What a supervisor and a coordinator say to one another, on the supervisor's side.

Decides what a standing says and what a duty means. While no coordinator is heard the last duty
holds: replicas that die are started again.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from zflow.supervisor.census import HOST, census_of
from zflow.supervisor.member import Member
from zflow.supervisor.supervise import Supervisor
from zflow.wire.control import Duty, Snapshot, Standing
from zflow.wire.data import PROTOCOL

DISTRIBUTION = "zflow-pipelines"


def versions() -> dict[str, str]:
    """What all processes of a run have to share: items are pickled, code is shipped."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"zflow": version(DISTRIBUTION), "Python": python, "protocol": str(PROTOCOL)}


class Attending:
    """Of one supervisor. offers: how many replicas of which stage; None: as many as wanted."""

    def __init__(
        self,
        name: str,
        supervisor: Supervisor,
        offers: Mapping[str, int | None],
        *,
        run_id: str,
        store: str,
    ) -> None:
        self.name = name
        self.supervisor = supervisor
        self.duty: Duty | None = None
        self.stale_duties = 0  # of a coordinator that is not the newest
        self.ended = False
        self._offers = dict(offers)
        self._run_id = run_id
        self._store = store

    def standing(
        self, states: Mapping[str, str], *, heard: Snapshot | None = None, digest: str = ""
    ) -> Standing:
        """What this supervisor has and offers."""
        members = self.supervisor.members
        looping = self.supervisor.crash_looping()
        return Standing(
            supervisor=self.name,
            host=HOST,
            versions=versions(),
            offers=self._offers,
            addresses={n: self.supervisor.posts.addresses(m.slot)[0] for n, m in members.items()},
            incarnations={n: member.incarnation for n, member in members.items()},
            finished=[n for n, member in members.items() if member.finished],
            census=census_of(self.supervisor, states),
            looping=loop_sentence(looping) if looping is not None else "",
            heard=heard,
            run_id=self._run_id,
            digest=digest,
            store=self._store,
            ended=self.ended,
        )

    def resign(self) -> None:
        """From now on it offers nothing and has nothing."""
        self._offers = {}
        self.supervisor.hold({})

    def obey(self, duty: Duty) -> bool:
        """Hold the slots it names; False if the duty is an older coordinator's."""
        if self.duty is not None and duty.epoch < self.duty.epoch:
            self.stale_duties += 1
            return False
        self.duty = duty
        if duty.snapshot is not None:
            self.supervisor.configure(duty.snapshot.config)
        self.supervisor.hold(duty.slots, duty.restart, duty.waiting)
        return True


def loop_sentence(member: Member) -> str:
    """Why a slot is given up."""
    return (
        f"{member.slot} died {member.fruitless} times before it had done anything:\n"
        f"{member.last_tail}"
    )

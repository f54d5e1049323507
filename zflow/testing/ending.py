"""When durable stages finish: as a coordinator would say it, from what the processes are.

Decides only that, and when everything is over. A stage may finish when everything upstream of it
runs, has ended and is settled, and has finished itself.
"""

from typing import TYPE_CHECKING

from zflow.testing.anchors import AnchorWorker
from zflow.testing.topologies import DURABLE, Stage

if TYPE_CHECKING:
    from zflow.testing.process import Process
    from zflow.testing.world import World


class Ending:
    """One world's end. `look` is called again and again."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._above = _ancestors(world.topology.stages)

    def look(self) -> bool:
        """Let the stages that may finish; True if all is over."""
        over = {
            stage.index: self._world.moves.known(stage)
            and self._world.rescales.settled(stage)
            and all(self.over(seat.process) for seat in self._world.seats_of(stage))
            for stage in self._world.topology.stages
        }
        self._world.redrives.look(over)
        for seat in self._world.seats.values():
            process = seat.process
            if process is not None and process.alive and isinstance(process.worker, AnchorWorker):
                process.worker.alarms.check(self._world.now_s)
        for stage in self._world.topology.stages:
            if stage.kind != DURABLE or not self.may_finish(stage, over):
                continue
            if over[stage.index] or not self._world.nemesis.delays_finish(stage):
                self._finish(stage)
        return all(over.values())

    def may_finish(self, stage: Stage, over: dict[int, bool]) -> bool:
        """Everything upstream of the stage is over."""
        return all(over[index] for index in self._above[stage.index])

    def over(self, process: "Process | None") -> bool:
        """It runs, and nothing is open or will come."""
        return (
            process is not None
            and process.alive
            and process.worker.ready()
            and process.core.settled()
            and process.core.quiet()
        )

    def _finish(self, stage: Stage) -> None:
        for seat in self._world.seats_of(stage):
            process = seat.process
            if process is not None and process.alive:
                assert isinstance(process.worker, AnchorWorker), "a durable stage commits"
                if process.core.settled() and process.core.quiet():
                    process.worker.finish()


def _ancestors(stages: tuple[Stage, ...]) -> dict[int, set[int]]:
    above: dict[int, set[int]] = {}
    for stage in sorted(stages, key=lambda stage: bool(stage.ins)):  # origins first
        direct = {edge.source for edge in stage.ins}
        above[stage.index] = direct.union(*(above[index] for index in direct))
    return above

"""Dead letters that are sent again: an operator has mended what was wrong, and starts a source.

Decides which edges have such sources, when each starts and which letters it sends. Each is an
origin of its own: its items have new names, since the watermark of their first origin is long past
them. What was sent again must be applied like any item, once at an anchor; it may fail again.
"""

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from zflow.hashing import text_hash64
from zflow.testing.disk import Disk, Written
from zflow.testing.invariants import Violation
from zflow.testing.items import Item, again
from zflow.testing.topologies import SOURCE, SOURCE_SERVICES_S, Edge, Stage, Topology
from zflow.wire.control import REDRIVE

if TYPE_CHECKING:
    from zflow.testing.world import Seat, World

WORLDS = 0.5  # of them, in which somebody sends dead letters again
EARLY = 0.7  # of the sources, that start while there are faults
STARTS = 1, 1, 2  # sources one after the other, for one edge


def with_redrives(topology: Topology, random: Random) -> Topology:
    """The topology and, now and then, sources for the dead letters of some edges."""
    if random.random() >= WORLDS:
        return topology
    stages = list(topology.stages)
    able = [edge for stage in stages for edge in stage.ins if _has_letters(edge)]
    able += [edge for edge in able if stages[edge.target].anchor] * 2
    for edge in dict.fromkeys(random.choices(able, k=random.choice((1, 2))) if able else ()):
        source = _source(edge, len(stages), random)
        target = stages[edge.target]
        stages[edge.target] = replace(target, ins=(*target.ins, *source.outs))
        stages.append(source)
    return replace(topology, stages=tuple(stages))


def _has_letters(edge: Edge) -> bool:
    return not edge.lossy and edge.settings.on_error != "drop"


def _source(edge: Edge, index: int, random: Random) -> Stage:
    """Like any source, but for what it sends."""
    name = f"{REDRIVE}{edge.settings.label}"
    settings = replace(edge.settings, edge=text_hash64(name))
    return Stage(
        index=index,
        name=name,
        kind=SOURCE,
        slots=tuple(f"{name}/{k}" for k in range(random.choice(STARTS))),
        ins=(),
        outs=(replace(edge, source=index, share=1.0, settings=settings),),
        service_s=random.choice(SOURCE_SERVICES_S),
        slice_items=2,
        window_items=32,
        window_bytes=1 << 20,
        horizon_s=0.5,
        resends=edge,
    )


class Redrives:
    """The sources of dead letters of one world. `look` is called again and again."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = world.random
        self._sent: dict[Item, Item] = {}  # a letter that was sent again -> what it is now
        self._waiting = [seat for seat in world.seats.values() if seat.stage.resends is not None]
        self._items = {  # that may become letters which the sources of a stage send
            stage.index: [item for item in world.items if item.edge is stage.resends]
            for stage in world.topology.stages
            if stage.resends is not None
        }
        ends_s = world.nemesis.ends_s
        self._from_s = [
            ends_s * (0.1 + self._random.random())
            if self._random.random() < EARLY
            else float("inf")
            for _ in self._waiting
        ]

    def look(self, over: dict[int, bool]) -> None:
        """Start what is due; at the latest when no more letters will come."""
        for at in reversed(range(len(self._waiting))):
            seat = self._waiting[at]
            due = self._from_s[at] <= self._world.now_s and self._letters(seat.stage)
            if due or self._no_more(seat, over):
                del self._waiting[at], self._from_s[at]
                self._start(seat)

    def _no_more(self, seat: "Seat", over: dict[int, bool]) -> bool:
        """Whatever sends over the edge is over, so all its dead letters are committed."""
        edge = seat.stage.resends
        assert edge is not None, "a source of dead letters has an edge"
        before = [other for other in self._world.seats_of(seat.stage) if other is not seat]
        ending = self._world.ending
        return over[edge.source] and all(
            other in self._waiting or ending.over(other.process) for other in before
        )

    def _letters(self, stage: Stage) -> list[Item]:
        """The dead letters of the edge that nobody has sent again, its sources' own among them."""
        dead, sent = self._world.invariants.dead, self._sent
        return [item for item in self._items[stage.index] if item in dead and item not in sent]

    def _start(self, seat: "Seat") -> None:
        world = self._world
        roots = world.roots[seat.slot] = []
        for letter in self._letters(seat.stage):
            items = again(letter, seat.stage, world.topology, self._random)
            world.items.extend(items)
            roots.append(items[0])
            self._sent[letter] = item = items[0].kids[0][0][1]
            self._items[seat.stage.index].append(item)
            world.count("dead letter sent again")
            if letter.edge is not seat.stage.resends:
                world.count("dead letter sent again twice")
        seat.origin = self._origin(seat)
        world.effects.rows[seat.origin] = roots
        world.begin(seat)
        if roots and seat.process is not None:
            world.nemesis.resends(seat.process)

    def _origin(self, seat: "Seat") -> int:
        """The number of the source, which no other has."""
        return text_hash64("origin", seat.slot)

    def commits(self, disk: Disk, written: Written) -> None:
        """The file is about to take this: count what only a new name brings past its mark."""
        if not self._sent:
            return
        for item in written.items:
            letter = item.letter
            if letter is not None and letter.unit is not None:
                origin, oseq, _, _ = letter.unit
                passed = oseq < disk.contents.watermarks.get(origin, 0)
                self._world.count("applied behind its first mark" if passed else "applied again")

    def ended(self) -> None:
        """Everything has drained: what was sent again has come to its end, once."""
        world = self._world
        for letter, item in self._sent.items():
            anchored = world.topology.stages[item.stage].anchor
            applied = item in world.effects.applied if anchored else not item.doomed
            if item.owed or applied is (item in world.invariants.dead):
                raise Violation("I17", f"it was sent again, and is lost: {item}, before {letter}")
            if letter in world.effects.applied:
                raise Violation("I5", f"it was sent again, and had been applied: {letter}")

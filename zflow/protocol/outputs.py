"""What user code gave, and the segments that it becomes on its edges.

Decides which outputs are a unit together. Names come from `identity`; nothing is sent here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zflow.protocol.identity import Brancher
from zflow.protocol.segment import Segment
from zflow.protocol.task import Task
from zflow.wire.run import Run, lane_flags


class Output:
    """What a stretch of inputs gave on one edge.

    positions: which inputs gave an item, None if every one did; items: in the same order.
    partitions: on a keyed edge, where each item belongs. lane: how urgent all of them are, None
    where nothing overtakes. There may be several of one edge, one for each lane.
    """

    __slots__ = ("edge", "items", "lane", "partitions", "positions")

    def __init__(
        self,
        edge: int,
        positions: list[int] | None,
        items: list[Any],
        partitions: list[int] | None = None,
        lane: int | None = None,
    ) -> None:
        self.edge = edge
        self.positions = positions
        self.items = items
        self.partitions = partitions
        self.lane = lane


class Share:
    """What some inputs gave to one partition of a keyed edge.

    positions: the inputs, in order. counts: how many items each gave, None if one. part: of what
    one input yields to one partition, the how-manieth PART_UNITS.
    """

    __slots__ = ("counts", "items", "part", "partition", "positions")

    def __init__(self, partition: int, part: int = 0, *, counted: bool = False) -> None:
        self.partition = partition
        self.part = part
        self.positions: list[int] = []
        self.items: list[Any] = []
        self.counts: list[int] | None = [] if counted else None


def by_run(runs: list[Run], positions: Sequence[int]) -> Iterator[tuple[Run, Sequence[int]]]:
    """Which positions, counted from its own start, each run has of those counted through all."""
    if len(runs) == 1:  # of a source, always
        yield runs[0], positions
        return
    at = taken = 0
    for run in runs:
        begin = taken
        while taken < len(positions) and positions[taken] < at + run.n:
            taken += 1
        if taken > begin:
            yield run, [p - at for p in positions[begin:taken]]
        at += run.n


def segments_of(
    brancher: Brancher, task: Task, runs: list[Run], output: Output
) -> Iterator[Segment]:
    """What inputs that returned gave on one edge: one segment, or one for each partition."""
    if not output.items:
        return
    if output.partitions is not None:
        yield from shared(brancher, task, runs, _shares(output, output.partitions))
        return
    if output.positions is None:
        made = [brancher.returned(run, None) for run in runs]
        parents: Sequence[int] = range(len(output.items))
    else:
        made = [brancher.returned(run, own) for run, own in by_run(runs, output.positions)]
        parents = output.positions
    if output.lane is not None:
        for run in made:
            run.flags = lane_flags(output.lane)
    yield Segment(made, output.items, task, parents)


def _shares(output: Output, partitions: list[int]) -> Iterator[Share]:
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, partition in enumerate(partitions):
        places[partition].append(place)
    items, positions = output.items, output.positions
    for partition, own in places.items():
        share = Share(partition)
        share.positions = own if positions is None else [positions[place] for place in own]
        share.items = [items[place] for place in own]
        yield share


def shared(
    brancher: Brancher, task: Task, runs: list[Run], shares: Iterable[Share]
) -> Iterator[Segment]:
    """What inputs gave to partitions: one segment for each share."""
    for share in shares:
        made, at = [], 0
        for run, own in by_run(runs, share.positions):
            counts = share.counts[at : at + len(own)] if share.counts else None
            at += len(own)
            made.append(brancher.keyed(run, own, share.partition, part=share.part, counts=counts))
        yield Segment(made, share.items, task, share.positions)

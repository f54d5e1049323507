"""What generators yield to the partitions of one keyed edge, collected into units.

Decides which unit an output is part of: all that one input yields to one partition is one unit,
cut after every PART_UNITS outputs, in the order of the yields.
"""

from zflow.protocol.identity import PART_UNITS
from zflow.protocol.outputs import Output, Share


class Scatter:
    """One keyed edge, for a stretch of inputs that are executed one after the other."""

    def __init__(self, edge: int) -> None:
        self.edge = edge
        self._shares: dict[tuple[int, int], Share] = {}  # by partition and part
        self._ordinals: dict[int, int] = {}  # by partition, of the input in hand

    def begin(self) -> None:
        """The next input: its outputs are numbered from 0."""
        self._ordinals.clear()

    def add(self, position: int, output: Output) -> None:
        """Outputs of the input at `position`."""
        ordinals = self._ordinals
        for partition, item in zip(output.partitions or (), output.items, strict=True):
            ordinal = ordinals.get(partition, 0)
            ordinals[partition] = ordinal + 1
            part, place = divmod(ordinal, PART_UNITS)
            share = self._shares.get((partition, part))
            if share is None:
                share = self._shares[partition, part] = Share(partition, part, counted=True)
            share.items.append(item)
            assert share.counts is not None, "what is yielded is counted"
            if place == 0:
                share.positions.append(position)
                share.counts.append(1)
            else:
                share.counts[-1] += 1

    def take(self, *, full: bool) -> list[Share]:
        """What may leave; with `full` only units that no later output can join."""
        left: dict[tuple[int, int], Share] = {}
        if full:
            for (partition, part), share in self._shares.items():
                if part == self._ordinals.get(partition, 0) // PART_UNITS:
                    left[partition, part] = share
        gone = [share for name, share in self._shares.items() if name not in left]
        self._shares = left
        for share in gone:
            if share.counts is not None and max(share.counts) == 1:
                share.counts = None
        return gone

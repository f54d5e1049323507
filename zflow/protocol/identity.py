"""Which unit an output becomes: a pure function of its parent unit, its edge and its number.

Decides names only. Never looks at what was filtered, dropped, retried, dead-lettered or cut
differently, so a unit made again after any crash has the same name as before.

Two rules hold everything together:
1. Numbers come from the place of the input and the ordinal of the yield, never from the order of
   completion and never from what survived.
2. `path` is folded field by field (`mix64`), and never computed per output: once per run, or once
   per parent where siblings branch again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zflow.hashing import mix64
from zflow.wire.run import INDEX, OSEQ, Run

PART_UNITS = 256  # places in one keyed unit; more outputs of one input start another part


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What is known of an outgoing edge before any item: all of it declared, none of it run time.

    multi: one of the stage's input edges is keyed, so its input units may hold several items.
    """

    edge: int
    keyed: bool = False
    yields: bool = False
    multi: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where one output lies: path and index of its unit, and its place inside the unit."""

    path: int
    index: int
    place: int


def place_output(
    branch: Branch, path: int, index: int, *, place: int = 0, ordinal: int = 0, partition: int = 0
) -> Place:
    """The unit and place of one output of the item at `place` of the unit (path, index).

    ordinal: the number of the yield among all yields of that item; on a keyed edge, among those
    for that partition. The whole rule, item by item; `returned` and `yielded` are its fast forms.
    """
    parent = (index, place) if branch.multi else (index,)
    if branch.keyed and branch.yields:
        part, inside = divmod(ordinal, PART_UNITS)
        where = (partition, place, part) if branch.multi else (partition, part)
        return Place(mix64(path, branch.edge, *where), index, inside)
    if branch.keyed:
        return Place(mix64(path, branch.edge, partition, 0), index, place)
    if branch.yields:
        return Place(mix64(path, branch.edge, *parent), ordinal, 0)
    if branch.multi:
        return Place(mix64(path, branch.edge, index), place, 0)
    return Place(mix64(path, branch.edge), index, 0)


class Brancher:
    """The fast forms for one edge of a stage without keyed inputs, with remembered paths.

    Runs of one origin share their path, so the last few paths answer nearly every question.
    """

    _REMEMBERED = 4096

    def __init__(self, edge: int) -> None:
        self._edge = edge
        self._paths: dict[int, int] = {}
        self._keyed: dict[tuple[int, int, int], int] = {}

    def returned(self, run: Run, positions: Sequence[int] | None) -> Run:
        """The run that a run of inputs becomes when each gives one output (or None)."""
        path = self._paths.get(run.path)
        if path is None:
            path = self._remember(run.path)
        if positions is not None:
            run = run.kept(positions)
        return Run(
            run.origin,
            path,
            run.axis,
            run.fixed,
            run.start,
            run.n,
            run.born_ns,
            0,
            0,
            run.numbers,
        )

    def yielded(self, run: Run, position: int, ordinals: list[int] | range) -> Run:
        """The run of what one input unit yielded; `ordinals` are those that take this edge."""
        number = run.number(position)
        oseq, index = (number, run.fixed) if run.axis == OSEQ else (run.fixed, number)
        first, n = ordinals[0], len(ordinals)
        gaps = ordinals[-1] - first != n - 1
        return Run(
            run.origin,
            mix64(run.path, self._edge, index),
            INDEX,
            oseq,
            first,
            n,
            run.born_ns,
            0,
            0,
            list(ordinals) if gaps else None,
        )

    def keyed(
        self,
        run: Run,
        positions: Sequence[int],
        partition: int,
        *,
        part: int = 0,
        counts: list[int] | None = None,
    ) -> Run:
        """The run of what the inputs at `positions` gave to one partition of a keyed edge.

        counts: how many items each gave, None if one; of yields, those with ordinals (for that
        partition) from PART_UNITS * part on.
        """
        where = (run.path, partition, part)
        path = self._keyed.get(where)
        if path is None:
            if len(self._keyed) >= self._REMEMBERED:
                self._keyed.clear()
            path = self._keyed[where] = mix64(run.path, self._edge, partition, part)
        kept = run.kept(positions) if len(positions) != run.n else run
        return Run(
            run.origin,
            path,
            run.axis,
            run.fixed,
            kept.start,
            kept.n,
            run.born_ns,
            0,
            0,
            kept.numbers,
            partition,
            counts,
        )

    def _remember(self, path: int) -> int:
        if len(self._paths) >= self._REMEMBERED:
            self._paths.clear()
        self._paths[path] = mixed = mix64(path, self._edge)
        return mixed

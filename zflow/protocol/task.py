"""When an input is done: it has returned and everything made from it is settled.

Decides only that. Never knows what the outputs are; counts them.
"""

from typing import Protocol


class Owner(Protocol):
    """Where the inputs of a task came from: a receiver link, or the origin of a source."""

    def settle(self, first: int, n: int) -> None:
        """Units [first, first + n) are settled with everything made from them."""

    def fail(
        self, first: int, code: str, error_class: str, error: str, *, partial: bool = False
    ) -> None:
        """The unit `first` failed; nothing made from it is under way any more.

        partial: some of what its task made had left, so that effects of it may exist.
        """


class Task:
    """Input units [first, first + n) of one owner, executed together. One thread owns it.

    Invariant (I3): the owner hears of it exactly once, when `returned` and no output is open.
    """

    __slots__ = ("_failures", "_made", "_open", "_returned", "first", "n", "owner")

    def __init__(self, owner: Owner, first: int, n: int) -> None:
        self.owner = owner
        self.first = first
        self.n = n
        self._open = 0
        self._made = 0
        self._returned = False
        self._failures: dict[int, tuple[str, str, str]] | None = None

    @property
    def open(self) -> int:
        """Outputs not yet settled."""
        return self._open

    def made(self, n: int) -> None:
        """`n` more outputs depend on it; refused once it has returned (H19)."""
        if self._returned:
            raise ValueError("a task that has returned makes no more outputs")
        self._open += n
        self._made += n

    def returned(self) -> None:
        """The user's code is through with all of its inputs."""
        self._returned = True
        if not self._open:
            self._tell()

    def settled(self, n: int) -> None:
        """`n` of its outputs are settled."""
        self._open -= n
        assert self._open >= 0, "more outputs settled than made"
        if not self._open and self._returned:
            self._tell()

    def failed(self, position: int, code: str, error_class: str, error: str) -> None:
        """The input at `position` failed; it is told when the outputs under way are settled."""
        if self._failures is None:
            self._failures = {}
        self._failures.setdefault(position, (code, error_class, error))

    def _tell(self) -> None:
        if self._failures is None:
            self.owner.settle(self.first, self.n)
            return
        done = 0
        for position, failure in sorted(self._failures.items()):
            if position > done:
                self.owner.settle(self.first + done, position - done)
            partial = self._made > len(self._failures)  # an output that cannot travel is one too
            self.owner.fail(self.first + position, *failure, partial=partial)
            done = position + 1
        if done < self.n:
            self.owner.settle(self.first + done, self.n - done)

"""What a sink class promises, as three interfaces; which one it is decides what a crash can do.

Decides nothing and holds no code. `zflow.testing.sinks` checks a sink against its interface.

| interface | its method | a crash may make an item |
|---|---|---|
| PlainSink | write | appear twice |
| IdempotentSink | upsert | be written twice, to the same row |
| TransactionalSink | commit | never be written twice |

A replica makes one instance. It calls `open` once, then the writing method from one thread at a
time, which need not be the thread of `open`, and `close` once at the end, never after a crash.
Because there may be no `close`, what a writing method has returned from must be durable by then:
the items are acknowledged at once, and nobody has them any more.
"""

from typing import Any, Protocol

Progress = list[tuple[bytes, bytes | None]]  # rows to store: (key, value), None deletes


class PlainSink(Protocol):
    """At least once: after a crash some items are written again."""

    def open(self) -> None:
        """Called once per process, before anything else: connect, open files, make tables.

        The usual mistake is to do this in `__init__`, which also runs where nothing is written.
        """
        ...

    def write(self, items: list[Any]) -> None:
        """Store all items durably. **raises** anything: the items are then written one by one, to
        find out whose fault it is, so some of them may be written again.

        Called for every portion that arrives, from one item to some thousand. The usual mistake is
        to keep items for a later, larger write: they are acknowledged when this returns.
        """
        ...

    def close(self) -> None:
        """Called once when the process ends well; twice must be harmless.

        The usual mistake is to write what is left here: a killed process never comes to it.
        """
        ...


class IdempotentSink(Protocol):
    """Effects as if once: an item that comes again carries its id, and replaces its own row."""

    def open(self) -> None:
        """As in PlainSink."""
        ...

    def upsert(self, items: list[Any], ids: list[str]) -> None:
        """Store `items[k]` under `ids[k]` durably; what is there under that id is replaced.

        An id is a text without spaces, the same for the same item in every process for ever. Called
        as `write` is. If it raises, some of the items may be stored: all of them come again. The
        usual mistake is to insert where the id is unknown and to add where it is known (a counter):
        the second call must leave what the first one left.
        """
        ...

    def close(self) -> None:
        """As in PlainSink."""
        ...


class TransactionalSink(Protocol):
    """Exactly once: the items and the note that they were written are stored in one step."""

    def open(self) -> None:
        """As in PlainSink; and from here on no other process may commit.

        A process that was taken for dead may still run, with this sink open. Either its later
        commits raise `Superseded`, or this `open` raises it until that process has ended. The
        usual mistake is to trust that the other one is dead.
        """
        ...

    def load_progress(self) -> list[tuple[bytes, bytes]]:
        """All progress rows that are stored, in any order; called after `open`, and again after a
        `commit` that has raised.

        The usual mistake is to return rows of a commit that was not completed.
        """
        ...

    def commit(self, items: list[Any], ids: list[str], progress: Progress) -> None:
        """Store the items and the progress rows in one durable step.

        **shape** A progress row is (key, value), opaque; it replaces the row of the same key, and a
        value of None deletes it. Items that were committed before are left out by the caller, so
        `ids` need not be stored. Either list may be empty.

        Called up to some hundred times per second, with one to some thousand items. **raises**
        anything, and then nothing of it may be there: the same call comes again, or a part of it.
        The usual mistake is a second store for the progress: a crash between the two writes is
        the very case that this interface is for.
        """
        ...

    def close(self) -> None:
        """As in PlainSink."""
        ...

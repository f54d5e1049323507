"""What a sink promises, one function each; its name is the promise.

Each takes a trial, changes what is stored through sinks of its own, and leaves a trial that holds,
so that all of them can follow one another on the same place. **raises** BrokenContract.
"""

import functools
import itertools
import random
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from zflow.connectors.contract import Progress, TransactionalSink
from zflow.errors import Unavailable
from zflow.testing.sink_faults import (
    Breaking,
    BrokenContract,
    die,
    dying_at_line,
    interrupt,
    other_process,
)
from zflow.testing.sink_trial import (
    Batch,
    IdempotentTrial,
    PlainTrial,
    S,
    TransactionalTrial,
    Trial,
)

LARGE = 10_000  # items in one call
ROUNDS = 8  # processes that are killed at a random moment
LONGEST_SPIN = 30_000  # turns of an empty loop, about 1 ms: from one commit into the next
SOON_ENOUGH = 2_000  # lines of Python in one commit of two items; with more the check gives up

HARD_PROGRESS = ((b"", b""), (b"\0nul", b"\xff\xfe"), (b"\xf0\x9f", b"x" * 70_000))


def told(promise: Callable[..., None]) -> str:
    """The name of a promise as a sentence."""
    return promise.__name__.replace("_", " ")


# --- of every sink -------------------------------------------------------------------------------


def what_was_written_is_there(trial: Trial[S]) -> None:
    """In one call, in the next one, and in the next process."""
    for _ in range(2):
        with trial.opened() as sink:
            for count in (1, 12):
                batch = trial.batch(count)
                trial.write(sink, batch)
                trial.now_holds(batch)
        trial.expect()


def ten_thousand_items_are_one_call(trial: Trial[S]) -> None:
    """Nothing is limited to what a statement, a buffer or a request usually holds."""
    batch = trial.batch(LARGE)
    with trial.opened() as sink:
        trial.write(sink, batch)
    trial.now_holds(batch)
    trial.expect()


def another_thread_may_write_and_close(trial: Trial[S]) -> None:
    """Sinks are opened in one thread and may be used in another."""
    sink, batch, raised = trial.make(), trial.batch(3), list[Exception]()
    sink.open()

    def use() -> None:
        try:
            trial.write(sink, batch)
            sink.close()
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    if raised:
        raise BrokenContract(f"it raised {raised[0]!r}") from raised[0]
    trial.now_holds(batch)
    trial.expect()


def nothing_to_write_is_harmless(trial: Trial[S]) -> None:
    """A call without items, even as the first one."""
    with trial.opened() as sink:
        trial.write(sink, Batch([], []))
    trial.expect()


def closing_twice_is_harmless(trial: Trial[S]) -> None:
    """After a failed start close may be called once more."""
    with trial.opened() as sink:
        sink.close()
    trial.expect()


def a_killed_process_keeps_what_it_wrote(trial: Trial[S]) -> None:
    """Nothing waits for `close`, and nothing in a buffer."""
    batch = trial.batch(5)

    def work(parent: Connection) -> None:
        with trial.opened() as sink:
            trial.write(sink, batch)
            parent.send("written")
            parent.recv()  # until it is killed

    with other_process(work) as other:
        other.hear()
    trial.now_holds(batch)
    trial.expect()


# --- of sinks that may be given an item twice ----------------------------------------------------


def a_call_that_raised_may_come_again(trial: Trial[S]) -> None:
    """In the same process, with the same items."""
    batch = trial.batch(5)
    with trial.opened() as sink:
        broken = Batch(Breaking(batch.items, interrupt), batch.ids)
        if _raises(lambda: trial.write(sink, broken)):
            trial.write(sink, batch)
    trial.now_holds(batch)
    trial.expect()


def a_call_that_killed_its_process_may_come_again(trial: Trial[S]) -> None:
    """At whatever line of Python the process ended."""

    def settle(batch: Batch, survived: bool) -> None:
        if not survived:
            with trial.opened() as sink:
                trial.write(sink, batch)
        trial.now_holds(batch)

    _killed_at_every_line(trial, trial.write, settle)


# --- of idempotent sinks -------------------------------------------------------------------------


def the_same_id_replaces_the_same_row(trial: IdempotentTrial) -> None:
    """In the same call, in the next one, in another process; others stay as they are."""
    batch, newer, newest = (trial.batch(4) for _ in range(3))
    with trial.opened() as sink:
        trial.write(sink, Batch(batch.items + newer.items, batch.ids + batch.ids))
        trial.now_holds(Batch(newer.items, batch.ids))
    trial.expect()
    some = Batch(newest.items[:2], batch.ids[:2])
    with trial.opened() as sink:
        trial.write(sink, some)
        trial.write(sink, some)
    trial.now_holds(some)
    trial.expect()


def two_processes_may_write_the_same_items(trial: IdempotentTrial) -> None:
    """One that was taken for dead harms nothing, whether it is refused or not."""
    batch = trial.batch(4)

    def work(parent: Connection) -> None:
        with trial.opened() as sink:
            trial.write(sink, batch)
            parent.send("written")
            parent.recv()
            parent.send(_refused(lambda: trial.write(sink, batch)))

    with other_process(work) as other:
        other.hear()
        _refused(lambda: _write_once(trial, batch))
        other.tell("again")
        other.hear()
    trial.now_holds(batch)
    trial.expect()


# --- of transactional sinks ----------------------------------------------------------------------


def progress_is_stored_with_the_items(trial: TransactionalTrial) -> None:
    """Any bytes; a new value replaces the old one."""
    with trial.opened() as sink:
        trial.commit(sink, trial.batch(3), HARD_PROGRESS)
        trial.commit(sink, trial.batch(1), [(b"", b"newer"), (b"again", b"1"), (b"again", b"2")])
    trial.expect()


def progress_may_come_without_items(trial: TransactionalTrial) -> None:
    """Rows are stored and deleted when items were dropped or had been committed before."""
    with trial.opened() as sink:
        trial.commit(sink, Batch([], []), [(b"alone", b"1"), (b"other", b"2")])
    trial.expect()


def none_deletes_a_row_of_progress(trial: TransactionalTrial) -> None:
    """Its own row and no other; one that is not there, too."""
    with trial.opened() as sink:
        trial.commit(sink, trial.batch(1), [(b"goes", b"1"), (b"goes too", b"2"), (b"stays", b"3")])
        trial.commit(sink, trial.batch(1), [(b"goes", None), (b"was never there", None)])
        trial.commit(sink, Batch([], []), [(b"goes too", None)])
    trial.expect()


def a_commit_that_raises_changes_nothing(trial: TransactionalTrial) -> None:
    """Not for a reader, not for the next process; and the same call may come again."""
    for breaks in ("items", "progress"):
        batch = trial.batch(4)
        rows: Progress = [(b"raised", breaks.encode()), (b"too", b"")]
        items = Breaking(batch.items, interrupt) if breaks == "items" else batch.items
        progress = Breaking(rows, interrupt) if breaks == "progress" else rows
        with trial.opened() as sink:
            raised = _raises(functools.partial(sink.commit, items, batch.ids, progress))
            if not raised:  # it did not look at the list one by one
                trial.now_holds(batch, rows)
            trial.expect_items()
        trial.expect()
        with trial.opened() as sink:
            if raised and _raises(functools.partial(sink.commit, items, batch.ids, progress)):
                trial.commit(sink, batch, rows)
        trial.expect()


def a_commit_that_is_killed_half_way_leaves_nothing(trial: TransactionalTrial) -> None:
    """Between the items and their progress."""
    batch, rows = trial.batch(4), [(b"killed", b"1")]

    def work(parent: Connection) -> None:
        with trial.opened() as sink:
            sink.commit(batch.items, batch.ids, Breaking(rows, die))
            parent.send("committed")
            parent.recv()

    with other_process(work) as other:
        if other.survives():
            trial.now_holds(batch, rows)
    trial.expect()


def a_commit_that_is_killed_at_any_line_is_whole_or_absent(trial: TransactionalTrial) -> None:
    """One process after the other, each killed one line of Python later."""

    def row(batch: Batch) -> tuple[bytes, bytes]:
        return b"newest", batch.ids[-1].encode()

    def write(sink: TransactionalSink, batch: Batch) -> None:
        sink.commit(batch.items, batch.ids, [row(batch)])

    def settle(batch: Batch, survived: bool) -> None:
        key, value = row(batch)
        if survived or trial.found_progress().get(key) == value:
            trial.now_holds(batch, [(key, value)])

    _killed_at_every_line(trial, write, settle)


def commits_that_are_killed_at_random_leave_whole_batches(trial: TransactionalTrial) -> None:
    """The items are those of the batches up to the number in the progress, and no others."""
    for seed in range(ROUNDS):
        rng = random.Random(seed)

        def work(parent: Connection) -> None:  # until it is killed
            with trial.opened() as sink:
                for number in itertools.count():
                    batch = trial.batch(3)
                    sink.commit(batch.items, batch.ids, [(b"last", b"%d" % number)])
                    parent.send(number)

        with other_process(work) as other:
            heard = [other.hear() for _ in range(rng.randrange(1, 10))]
            for _ in range(rng.randrange(LONGEST_SPIN)):
                pass
            heard += other.kill()
        last = int(trial.found_progress().get(b"last", b"-1"))
        if last not in (heard[-1], heard[-1] + 1):
            raise BrokenContract(f"seed {seed}: batch {heard[-1]} was committed, {last} is stored")
        for number in range(last + 1):
            trial.now_holds(trial.batch(3), [(b"last", b"%d" % number)])
        trial.expect()


def of_two_processes_only_one_commits(trial: TransactionalTrial) -> None:
    """Either the second cannot open the sink, or the first can no longer commit."""
    first, late, second = (trial.batch(2) for _ in range(3))

    def work(parent: Connection) -> None:
        with trial.opened() as sink:
            sink.commit(first.items, first.ids, [(b"owner", b"first")])
            parent.send("open")
            parent.recv()
            parent.send(_refused(lambda: sink.commit(late.items, late.ids, [(b"owner", b"late")])))

    with other_process(work) as other:
        other.hear()
        trial.now_holds(first, [(b"owner", b"first")])
        newer = trial.make()
        opened = not _refused(newer.open)
        if opened:
            trial.commit(newer, second, [(b"owner", b"second")])
        other.tell("now commit")
        refused = other.hear()
        if opened and not refused:
            raise BrokenContract("a process committed after another one had opened the sink")
        if not refused:
            trial.now_holds(late, [(b"owner", b"late")])
        if opened:
            trial.commit(newer, trial.batch(2), [(b"owner", b"second")])
            newer.close()
    trial.expect()


# --- helpers -------------------------------------------------------------------------------------


def _raises(call: Callable[[], None]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001 - a sink may raise an error of its own instead
        return True
    return False


def _refused(call: Callable[[], None]) -> bool:
    """Whether it raised Unavailable; any other error goes up."""
    try:
        call()
    except Unavailable:
        return True
    return False


def _write_once(trial: Trial[S], batch: Batch) -> None:
    with trial.opened() as sink:
        trial.write(sink, batch)


def _killed_at_every_line(
    trial: Trial[S], write: Callable[[S, Batch], None], settle: Callable[[Batch, bool], None]
) -> None:
    """Write in processes that end one line of Python later each, until one comes to the end."""
    for line in range(SOON_ENOUGH):
        batch = trial.batch(2)

        def work(parent: Connection, line: int = line, batch: Batch = batch) -> None:
            with trial.opened() as sink:
                with dying_at_line(line):
                    write(sink, batch)
                parent.send("written")
                parent.recv()

        with other_process(work) as other:
            survived = other.survives()
        settle(batch, survived)
        trial.expect()
        if survived:
            return


# The large call comes last: what follows it would read all of it back each time.
OF_ANY: tuple[Callable[[Trial[Any]], None], ...] = (
    nothing_to_write_is_harmless,
    what_was_written_is_there,
    another_thread_may_write_and_close,
    closing_twice_is_harmless,
    a_killed_process_keeps_what_it_wrote,
)
PLAIN: tuple[Callable[[PlainTrial], None], ...] = (
    *OF_ANY,
    a_call_that_raised_may_come_again,
    a_call_that_killed_its_process_may_come_again,
    ten_thousand_items_are_one_call,
)
IDEMPOTENT: tuple[Callable[[IdempotentTrial], None], ...] = (
    *OF_ANY,
    a_call_that_raised_may_come_again,
    a_call_that_killed_its_process_may_come_again,
    the_same_id_replaces_the_same_row,
    two_processes_may_write_the_same_items,
    ten_thousand_items_are_one_call,
)
TRANSACTIONAL: tuple[Callable[[TransactionalTrial], None], ...] = (
    *OF_ANY,
    progress_is_stored_with_the_items,
    progress_may_come_without_items,
    none_deletes_a_row_of_progress,
    a_commit_that_raises_changes_nothing,
    a_commit_that_is_killed_half_way_leaves_nothing,
    a_commit_that_is_killed_at_any_line_is_whole_or_absent,
    commits_that_are_killed_at_random_leave_whole_batches,
    of_two_processes_only_one_commits,
    ten_thousand_items_are_one_call,
)

"""A run that goes on until it is told to stop, and what its sink must hold then, to the last row.

Its source writes down how many items it has yielded, so that no test depends on how fast they go.
"""

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

STAGES = ("numbers", "digits", "Count", "Keep")
RUNNING_EVERY = 20  # of a digit
AHEAD = 200  # items that the source still yields when it is told to stop

FLOWING = f"""
    import itertools, time
    from pathlib import Path
    from zflow import DurableStage
    from zflow.connectors.sqlite import SqliteTable

    def number(name):
        path = Path(name)
        return int(path.read_text()) if path.exists() else None

    def write(name, k):
        draft = Path(name + ".new")
        draft.write_text(str(k))
        draft.replace(name)

    @source
    def numbers(pause_s: float = 0.02):
        known = number("at") or 0
        for k in itertools.count():
            if k % 10 == 0 and k >= known:
                end = number("n") or number("stop")
                if end is not None and k >= end:
                    write("n", k)
                    return
                write("at", k)
                time.sleep(pause_s)
            yield k

    @stage
    def digits(k):
        yield from str(k)

    @stage(replicas=2)
    class Count(DurableStage):
        def process(self, digit):
            self.state[digit] = self.state.get(digit, 0) + 1
            if self.state[digit] % {RUNNING_EVERY} == 0:
                yield digit, self.state[digit], "now"

        def finish(self):
            for digit, n in self.state.items():
                yield digit, n, "total"

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("digit", "n", "kind"))

    flow = Topology("count", delivery="exactly_once")
    flow.connect(numbers, digits)
    flow.connect(digits, Count, key=str)
    flow.connect(Count, Keep)
"""


def stop(folder: Path) -> None:
    """Let the source come to its end soon, always at the same item. folder: of its process."""
    at = folder / "at"
    (folder / "stop.new").write_text(str(int(at.read_text() if at.exists() else 0) + AHEAD))
    (folder / "stop.new").replace(folder / "stop")


def yielded(folder: Path) -> int:
    """How many items the source had at its end."""
    return int((folder / "n").read_text())


def expected(n: int) -> Counter:
    """Every running value, and the totals."""
    counts = Counter(digit for k in range(n) for digit in str(k))
    rows = Counter((digit, count, "total") for digit, count in counts.items())
    for digit, count in counts.items():
        steps = range(RUNNING_EVERY, count + 1, RUNNING_EVERY)
        rows.update((digit, now, "now") for now in steps)
    return rows


def kept(folder: Path) -> Counter:
    """What the sink holds; a row that was stored twice counts twice. folder: of its process."""
    path = folder / "kept.db"
    if not path.exists():
        return Counter()
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as db:
        return Counter(db.execute("SELECT digit, n, kind FROM kept"))
    return Counter()

"""What a run of the topology `exact` must leave behind, and what it has left.

Decides by plain Python: the rows of the sink, and the state in the partition files, entry by
entry. A lost unit and one that was applied twice show in the state even where both cancel out in
a sum, since each key has a count and a sum of its own.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import chaos_durable as user

from chaos_campaigns.campaign import Job, finish
from chaos_campaigns.process import Replica, Run, Site, Stuck, wait_until
from chaos_campaigns.verdict import Verdict, count
from zflow.state.reader import read_partition
from zflow.wire.codec import load_item

TOPOLOGIES = Path(user.__file__)
Tallies = dict[str, tuple[int, int]]
Row = tuple[str, str, int, int]
SLOWEST_PER_S = 2000  # items, on a busy machine
DRAIN_S = 120.0


def tallies(numbers: Iterable[int]) -> Tallies:
    """Count and sum of each key."""
    found: Tallies = {}
    for number in numbers:
        for piece in user.pieces_of(number):
            key = user.key_of(piece)
            n, total = found.get(key, (0, 0))
            found[key] = n + 1, total + piece[1]
    return found


def expected_rows(wanted: Tallies) -> set[Row]:
    """Every running value, and the totals."""
    rows: set[Row] = {("total", key, n, total) for key, (n, total) in wanted.items()}
    for key, (n, _) in wanted.items():
        number = int(key[1:])
        rows.update(
            ("running", key, at, 0) for at in range(1, n + 1) if user.is_running(number, at)
        )
    return rows


def start(
    site: Site,
    n: int,
    topology: str = "exact",
    *,
    source: str = "numbers",
    rows: Path | None = None,
    parameters: Iterable[str] = (),
    **options: object,
) -> Run:
    """A run of one of the durable topologies; its rows lie in the site unless told otherwise."""
    given = [f"{source}.n={n}", f"{source}.gate={site.gate}", f"Rows.path={rows or rows_of(site)}"]
    return Run(site, topology, [*given, *parameters], topologies=TOPOLOGIES, **options)


def resume(site: Site, topology: str = "exact", state: Path | None = None) -> Run:
    """Go on with the last run of the site, all of whose processes were killed."""
    for box in site.runtime.glob("zf-*/b/*"):
        box.unlink()  # else the dead ones' counters would be read as those of their successors
    return Run(site, topology, resume=True, topologies=TOPOLOGIES, state=state)


def rows_of(site: Site) -> Path:
    """The sink's file."""
    return site.folder / "rows.sqlite"


def read_rows(path: Path) -> list[Row]:
    """What the sink has committed, as often as it is there."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchone():
            return []
        return db.execute(f"SELECT {', '.join(user.COLUMNS)} FROM rows").fetchall()


def partition_files(folder: Path, stage: str = "Tally") -> list[Path]:
    """All partitions of a stage below a folder."""
    return sorted(folder.glob(f"**/partitions/{stage}/*.sqlite"))


def read_state(paths: Iterable[Path]) -> dict[str, object]:
    """All keys of all partitions; a key that lies in two of them is an error."""
    found: dict[str, object] = {}
    for path in paths:
        with read_partition(path) as reader:
            for _, row in reader.items() if reader is not None else ():
                key, value = load_item(row)
                if key in found:
                    raise Stuck(f"key {key} lies in two partitions")
                found[key] = value
    return found


def differences(wanted: Tallies, found: dict[str, object]) -> tuple[int, int, int]:
    """Units lost, units applied twice, and keys with the right count and another sum."""
    lost = twice = mixed = 0
    for key in wanted.keys() | found.keys():
        n, total = wanted.get(key, (0, 0))
        has, has_total = found.get(key, (0, 0))  # type: ignore[misc]
        lost += max(0, n - has)
        twice += max(0, has - n)
        mixed += has == n and has_total != total
    return lost, twice, mixed


def judge(verdict: Verdict, site: Site, n: int, *, rows: Path | None = None) -> None:
    """The bars of every exact campaign: rows and state equal the reference, nothing is dead."""
    compare(verdict, tallies(range(n)), rows or rows_of(site), partition_files(site.folder))
    verdict.dead = len(site.dead_letters())
    verdict.need(verdict.dead == 0, f"{verdict.dead} dead letters")


def compare(verdict: Verdict, wanted: Tallies, rows: Path, files: list[Path]) -> None:
    """Rows and state against the reference."""
    verdict.items = count(expected_rows(wanted), read_rows(rows))
    verdict.need(
        verdict.items.lost == verdict.items.duplicated == verdict.items.unexpected == 0,
        f"the sink is not exact: {verdict.items.lost} rows lost, {verdict.items.duplicated} twice,"
        f" {verdict.items.unexpected} that nobody should make: {list(verdict.items.shown)}",
    )
    lost, twice, mixed = differences(wanted, read_state(files))
    verdict.facts |= {"units": sum(n for n, _ in wanted.values()), "twice": twice}
    verdict.need(
        lost == twice == mixed == 0,
        f"the state is not exact: {lost} units lost, {twice} applied twice, {mixed} wrong sums",
    )


def finish_exact(job: Job, run: Run, verdict: Verdict, n: int) -> None:
    """Everything through, then the bars."""
    run.site.open_gate(n)
    finish(run, verdict, DRAIN_S + n / SLOWEST_PER_S)
    judge(verdict, run.site, n)


# --- how far a run has come -----------------------------------------------------------------------


def source_of(run: Run, stage: str = "numbers") -> Replica | None:
    """The living process of the source."""
    found = [replica for replica in run.replicas() if replica.stage == stage]
    return found[0] if found else None


def settled_by(run: Run, stage: str = "numbers") -> int:
    """How many items the source's process says are settled; 0 while there is none."""
    replica = source_of(run, stage)
    return run.counters(replica).get("low", 0) if replica is not None else 0


def wait_settled(run: Run, n: int, *, within_s: float = 60.0, stage: str = "numbers") -> None:
    """Until so many items are settled."""

    def enough() -> bool:
        if run.process.poll() is not None:
            raise Stuck(f"the run ended too early: {run.ending()}")
        return settled_by(run, stage) >= n

    wait_until(enough, within_s, f"{n} settled items")


def stored_low(path: Path) -> int:
    """What a position file says; 0 if there is none yet."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT low FROM position").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def rounds(n: int, count_of: int) -> Iterator[int]:
    """Where the gate stands in each round, so that something is on the way at every fault."""
    return (n * (k + 1) // (count_of + 1) for k in range(count_of))


def pause(job: Job) -> None:
    """A random moment, so that faults do not keep time with the run."""
    time.sleep(job.dice.uniform(0, job.size["pause_s"]))

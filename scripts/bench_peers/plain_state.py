"""Workload state in one process: a dict, and SQLite with a commit per 1,000 words or 20 ms.

    python plain_state.py WORDS N FOLDER RESULT

The keys that changed and the position in the words are written in one transaction, so that after
kill -9 it could go on where the last commit ended, exactly once. WAL with synchronous=FULL: a
commit survives a power cut. What it cannot do is use a second core.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench_words  # noqa: E402 - found by the line above

GROUP_WORDS = 1000
GROUP_NS = 20_000_000

PUT = "INSERT INTO state VALUES (?, ?) ON CONFLICT (word) DO UPDATE SET n = excluded.n"


def open_database(folder: str) -> sqlite3.Connection:
    db = sqlite3.connect(Path(folder) / "plain.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE state (word TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID")
    db.execute("CREATE TABLE position (words INTEGER NOT NULL)")
    db.execute("INSERT INTO position VALUES (0)")
    return db


def commit(db: sqlite3.Connection, changed: dict[str, int], position: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(PUT, changed.items())
    db.execute("UPDATE position SET words = ?", (position,))
    db.execute("COMMIT")


def count(db: sqlite3.Connection, words: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    changed: dict[str, int] = {}
    clock = time.monotonic_ns
    committed, due_ns = 0, clock() + GROUP_NS
    for position, word in enumerate(words, 1):
        counts[word] = changed[word] = counts.get(word, 0) + 1
        if position - committed >= GROUP_WORDS or clock() >= due_ns:
            commit(db, changed, position)
            changed.clear()
            committed, due_ns = position, clock() + GROUP_NS
    commit(db, changed, len(words))
    return counts


def main() -> None:
    path, n, folder, result = sys.argv[1:]
    words = bench_words.load(path, int(n))
    db = open_database(folder)
    first_ns = time.monotonic_ns()
    count(db, words)
    totals = dict(db.execute("SELECT word, n FROM state"))
    last_ns = time.monotonic_ns()
    bench_words.write_result(result, first_ns, last_ns, totals)
    json.dump({"sqlite": sqlite3.sqlite_version}, sys.stdout)


if __name__ == "__main__":
    main()

"""Workload state in Celery: a task per word, two worker processes, Redis as broker and as store.

    python celery_state.py WORDS N FOLDER RESULT [--appendfsync everysec] [--prefetch N]

Redis syncs before every answer, so that what is confirmed survives a power cut, as with zflow. The
time begins with the first `delay` and ends when all words are counted and all tasks acknowledged;
the workers are up before. Prefetch: with 1, 16, 64 and 256 tasks per process, 64 was fastest.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import bench_words  # noqa: E402 - found by the line above
import redis_server  # noqa: E402

LONGEST_START_S = 60.0
LONGEST_RUN_S = 240.0
LOOK_EVERY_S = 0.01
PROCESSES = 2


def worker_command() -> list[str]:
    return [
        *(sys.executable, "-m", "celery", "--app", "celery_tasks", "worker"),
        *("--concurrency", str(PROCESSES), "--loglevel", "warning"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def wait_for(condition, what: str, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"celery: {what} took more than {within_s} s")
        time.sleep(LOOK_EVERY_S)


def run(words: list[str], tasks) -> tuple[int, int]:
    """The moments of the first word given and of the last one counted and acknowledged."""
    store = tasks.store

    def counted() -> int:
        seen = store.info("commandstats")  # redis-py may send `INCR key` as `INCRBY key 1`
        names = ("cmdstat_incr", "cmdstat_incrby")
        return sum(seen.get(name, {}).get("calls", 0) for name in names)

    def settled(n: int) -> bool:
        return counted() >= n and not store.exists("unacked", "celery")

    # Both processes have imported everything and are connected once they have counted something.
    for _ in range(PROCESSES * 10):
        tasks.count.delay("warm up")
    wait_for(lambda: settled(PROCESSES * 10), "start of the workers", LONGEST_START_S)
    store.delete(tasks.KEY_PREFIX + "warm up")
    first_ns = time.monotonic_ns()
    for word in words:
        tasks.count.delay(word)
    wait_for(lambda: settled(len(words) + PROCESSES * 10), "counting", LONGEST_RUN_S)
    return first_ns, time.monotonic_ns()


def totals(tasks) -> dict[str, int]:
    keys = list(tasks.store.scan_iter(tasks.KEY_PREFIX + "*", count=1000))
    prefix = len(tasks.KEY_PREFIX)
    return {
        key.decode()[prefix:]: int(value)
        for key, value in zip(keys, tasks.store.mget(keys), strict=True)
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("words")
    parser.add_argument("n", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result")
    parser.add_argument("--appendfsync", default="always", choices=["always", "everysec"])
    parser.add_argument("--prefetch", default=64, type=int)
    return parser.parse_args()


def main() -> None:
    chosen = options()
    words = bench_words.load(chosen.words, chosen.n)
    with redis_server.running(chosen.folder, appendfsync=chosen.appendfsync) as port:
        os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        os.environ["BENCH_PREFETCH"] = str(chosen.prefetch)
        import celery
        import celery_tasks
        import redis

        with (chosen.folder / "worker.log").open("w") as log:
            here = Path(__file__).parent
            worker = subprocess.Popen(worker_command(), cwd=here, stdout=log, stderr=log)
        try:
            first_ns, last_ns = run(words, celery_tasks)
        finally:
            redis_server.stop(worker)
        counts = totals(celery_tasks)
        version = celery_tasks.store.info("server")["redis_version"]
    bench_words.write_result(chosen.result, first_ns, last_ns, counts)
    versions = {"celery": celery.__version__, "redis-py": redis.__version__, "redis": version}
    json.dump(versions, sys.stdout)


if __name__ == "__main__":
    main()

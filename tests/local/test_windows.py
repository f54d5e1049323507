"""Windows and joins in whole runs: exact whatever is killed, open ones outlive a drain."""

import json
import os
import signal
import sqlite3
from collections import Counter, defaultdict
from contextlib import suppress

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

EVENTS = 6000
LATE_EVERY = 500  # from the first thousand on, one event in so many has time 0

WINDOWS = """
    import time
    from zflow import session, sliding, tumbling, window
    from zflow.connectors.sqlite import SqliteTable

    @source
    def events(n: int = 6000, pause_s: float = 0.0):
        for k in range(n):
            if pause_s and k % 50 == 0:
                time.sleep(pause_s)
            disordered_s = k / 10 - k * 7919 % 13 / 10
            yield k % 7, (0.0 if k >= 1000 and k % 500 == 0 else disordered_s), k

    def key(event):
        return event[0]

    def event_time(event):
        return event[1]

    @window(tumbling(60), time=event_time, lateness_s=2, replicas=2)
    def tumbled(key, window, events):
        yield "tumbling", key, window.start, window.end, repr([k for _, _, k in events])

    @window(sliding(60, 20), time=event_time, lateness_s=2)
    def slid(key, window, events):
        return "sliding", key, window.start, window.end, repr([k for _, _, k in events])

    @window(tumbling(count=100))
    def counted(key, window, events):
        return "count", key, window.start, window.end, repr([k for _, _, k in events])

    @stage
    def too_late(event):
        return "late", event[0], event[1], 0, str(event[2])

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("kind", "key", "start", "end", "what"))

    flow = Topology("windows", delivery="exactly_once")
    for stage_of_windows in (tumbled, slid, counted):
        flow.connect(events, stage_of_windows, key=key)
        flow.connect(stage_of_windows, Keep)
    flow.connect(tumbled, too_late, output="late")
    flow.connect(too_late, Keep)
"""


def stream() -> list[tuple[int, float, int]]:
    """What the source yields."""
    found = []
    for k in range(EVENTS):
        late = k >= 1000 and k % LATE_EVERY == 0
        found.append((k % 7, 0.0 if late else k / 10 - k * 7919 % 13 / 10, k))
    return found


def expected() -> Counter:
    rows = Counter()
    on_time = [event for event in stream() if event[1] or event[2] < 1000]
    for event in stream():
        if event not in on_time:
            rows["late", event[0], event[1], 0, str(event[2])] += 1
    for kind, hop_s in (("tumbling", 60), ("sliding", 20)):
        windows = defaultdict(list)
        for key, time_s, k in sorted(on_time, key=lambda event: event[1]):
            for start in range(-60, 661, hop_s):
                if start <= time_s < start + 60:
                    windows[key, start].append(k)
        for (key, start), found in windows.items():
            rows[kind, key, start, start + 60, repr(found)] += 1
    for key in range(7):
        mine = [event[2] for event in stream() if event[0] == key]
        for start in range(0, len(mine), 100):
            found = mine[start : start + 100]
            rows["count", key, start, start + len(found), repr(found)] += 1
    return rows


def kept(shop, columns: str = "kind, key, start, end, what") -> Counter:
    """What the sink holds; a row that was stored twice counts twice."""
    db = sqlite3.connect(shop.folder / "kept.db")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone():
            return Counter()
        return Counter(db.execute(f"SELECT {columns} FROM kept"))
    finally:
        db.close()


def kill(pids) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_one_after_another(running, stages, wait_until) -> None:
    for stage in stages:
        wait_until(lambda stage=stage: running.replicas(stage), 30)
        victims = running.replicas(stage)
        kill(victims)
        wait_until(
            lambda victims=victims, stage=stage: set(running.replicas(stage)) - set(victims), 30
        )


def test_every_window_is_right_and_late_items_leave_by_their_own_output(shop):
    done = shop.run(WINDOWS, "--json")
    assert kept(shop) == expected()
    late = sum(1 for row in expected() if row[0] == "late")
    assert late == (EVENTS - 1000) // LATE_EVERY
    # Those of the sliding windows have no edge to go to; they are counted all the same.
    assert {name: done.data["stages"][name]["late"] for name in ("tumbled", "slid", "counted")} == {
        "tumbled": late,
        "slid": late,
        "counted": 0,
    }


def test_the_ledger_says_how_many_items_were_late(shop):
    done = shop.run(WINDOWS, "-p", "events.n=1001")
    assert "tumbled: 1 item came too late" in done.err


def test_windows_are_exact_after_kills_of_their_stage_and_its_neighbours(shop, wait_until):
    shop.write(WINDOWS)
    running = shop.start("run", "flow.py", "-p", "events.pause_s=0.05")
    wait_until(lambda: kept(shop), 30)
    stages = ("tumbled", "slid", "counted", "events", "tumbled", "Keep", "tumbled", "slid")
    kill_one_after_another(running, stages, wait_until)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_windows_are_exact_after_everything_was_killed_at_once_and_resumed(shop, wait_until):
    shop.write(WINDOWS)
    for attempt in range(3):
        more = ["--resume", "last"] if attempt else ["-p", "events.pause_s=0.05"]
        running = shop.start("run", "flow.py", *more)
        known = len(kept(shop))
        wait_until(lambda known=known: len(kept(shop)) > known, 30)
        kill([running.process.pid, *running.replicas()])
        running.end()
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()


def test_a_drain_keeps_open_windows_and_a_resume_goes_on_with_them(shop, wait_until):
    shop.write(WINDOWS)
    running = shop.start("run", "flow.py", "-p", "events.pause_s=0.05")
    wait_until(lambda: kept(shop), 30)
    running.interrupt()
    done = running.end()
    assert done.code == 130, done.err
    assert kept(shop) <= expected(), "a window fired before its time"
    assert kept(shop) != expected()
    done = shop.zflow("run", "flow.py", "--resume", "last")
    assert done.code == 0, done.err
    assert kept(shop) == expected()


JOIN = """
    import time
    from zflow import join
    from zflow.connectors.sqlite import SqliteTable

    @source
    def orders(n: int = 2000, pause_s: float = 0.0):
        for k in range(n):
            if pause_s and k % 50 == 0:
                time.sleep(pause_s)
            yield k % 10, k / 10, k

    @source
    def payments(n: int = 2000, pause_s: float = 0.0):
        for k in range(n):
            if pause_s and k % 50 == 0:
                time.sleep(pause_s)
            yield k % 10, k / 10 + 0.5, k

    @join(within_s=1, time=lambda item: item[1], replicas=2)
    def paid(key, order, payment, more: int = 0):
        return key, order[2], payment[2] + more

    @sink
    class Keep(SqliteTable):
        def __init__(self, path: str = "kept.db"):
            super().__init__(path, table="kept", columns=("key", "ordered", "paid"))

    flow = Topology("join", delivery="exactly_once")
    flow.connect(orders, paid, key=lambda order: order[0])
    flow.connect(payments, paid, key=lambda payment: payment[0])
    flow.connect(paid, Keep)
"""


def test_a_join_is_exact_after_kills_and_takes_the_first_edge_as_the_left_one(shop, wait_until):
    shop.write(JOIN)
    pauses = [f"{source}.pause_s=0.05" for source in ("orders", "payments")]
    parameters = [part for pause in [*pauses, "paid.more=5"] for part in ("-p", pause)]
    running = shop.start("run", "flow.py", *parameters)
    wait_until(lambda: kept(shop, "key, ordered, paid"), 30)
    kill_one_after_another(running, ("paid", "orders", "paid", "payments", "paid"), wait_until)
    done = running.end()
    assert done.code == 0, done.err
    # Payment p is made half a second after order p, and order p + 10 of its key a second after p.
    pairs = [(p % 10, order, p + 5) for p in range(2000) for order in (p, p + 10) if order < 2000]
    assert kept(shop, "key, ordered, paid") == Counter(pairs)


POISON = """
    import json
    from zflow import tumbling, window

    @source
    def events(n: int = 1000):
        for k in range(n):
            yield k % 3, k / 10, k

    @window(tumbling(10), time=lambda event: event[1], retries=1, backoff_s=0.01)
    def counted(key, window, events):
        if key == 1 and window.start == 50:
            raise ValueError("this one never works")
        return key, window.start, len(events)

    @sink
    def show(row):
        print(json.dumps(row))

    flow = Topology("poison")
    flow.connect(events, counted, key=lambda event: event[0])
    flow.connect(counted, show)
"""


def test_a_window_whose_function_never_works_is_one_dead_letter_and_costs_no_other(shop):
    done = shop.run(POISON)
    rows = {tuple(json.loads(line)) for line in done.lines}
    times = [(k % 3, k // 100 * 10) for k in range(1000)]
    assert rows == {(*place, n) for place, n in Counter(times).items() if place != (1, 50)}
    (letter,) = map(json.loads, shop.zflow("dead", "ls", "--json").out.splitlines())
    shown = shop.zflow("dead", "show", letter["id"])
    assert "this one never works" in shown.out
    assert "Window(start=50, end=60)" in shown.out


TOGETHER = """
    from zflow import DurableStage, tumbling, window

    @source
    def lines(n: int = 200):
        for k in range(n):
            yield " ".join(f"{letter}{k}" for letter in "abcde")

    @stage
    def words(line):
        yield from line.split()

    def letter(word):
        return word[0]

    @window(tumbling(count=50), replicas=2)
    def fifty(key, window, words):
        return key, window.start, len(words), {word[0] for word in words} == {key}

    @stage(replicas=2)
    class Keyed(DurableStage):
        def process(self, word):
            self.state[word[0]] = self.state.get(word[0], True) and self.context.key == word[0]

        def finish(self):
            for key, right in self.state.items():
                yield key, self.context.edges[0], -1, right

    @sink
    def show(row):
        print(*row)

    flow = Topology("together")
    flow.connect(lines, words)
    for keyed in (fifty, Keyed):
        flow.connect(words, keyed, key=letter)
        flow.connect(keyed, show)
"""


def test_each_of_the_items_that_came_together_has_its_own_key(shop):
    done = shop.run(TOGETHER)
    windows = [f"{letter} {start} 50 True" for letter in "abcde" for start in (0, 50, 100, 150)]
    assert done.lines == sorted([*windows, *(f"{key} words->Keyed -1 True" for key in "abcde")])


def test_windows_are_exact_while_their_partitions_move(shop, wait_until):
    shop.write(WINDOWS)
    running = shop.start("run", "flow.py", "-p", "events.pause_s=0.05")
    wait_until(lambda: sum(kept(shop).values()) > 10, 30)
    for turn in range(6):
        moves = [f"{partition}={(partition + turn) % 2}" for partition in range(64)]
        done = shop.zflow("move", "tumbled", *moves)
        assert done.code == 0, done.err
        before = sum(kept(shop).values())
        wait_until(lambda before=before: sum(kept(shop).values()) > before, 30)
    done = running.end()
    assert done.code == 0, done.err
    assert kept(shop) == expected()

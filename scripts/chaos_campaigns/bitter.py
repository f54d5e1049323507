"""Items that fail in a stage with keyed state, among kills of it: poison (D5), or for once (D6).

Who is innocent goes on, in the order of its key.

Each item carries its number within its key, and the stage gives it with the number before: the
reference knows that number for every item, so one that was overtaken shows, whatever died.
"""

from collections.abc import Iterator

import chaos_durable as user

from chaos_campaigns import exact
from chaos_campaigns.anchors import PatientKiller
from chaos_campaigns.campaign import Campaign, Job, Twin, finish
from chaos_campaigns.poison import BLAME_ALL
from chaos_campaigns.process import Site
from chaos_campaigns.verdict import Verdict, count

Letters = dict[int, tuple[str, str]]
SOURCE, STAGE = "sequences", "Ordered"
# kind -> code of the dead letter, and what it must say
CAUSES = {
    "raise": ("error", ("ValueError", "this is no number", "chaos_durable.py")),
    "exit": ("crash", ("exit code 3",)),
    "segfault": ("crash", ("SIGSEGV", "Segmentation fault", "chaos_durable.py", "<lambda>")),
}
DEATHS_PER_POISON = 3
KILLING = ("exit", "segfault")


def expected_rows(n: int, bad: dict[int, str]) -> set[exact.Row]:
    """Of each key its numbers in order, without the poison."""
    before = dict.fromkeys(range(user.ORDER_KEYS), -1)
    rows: set[exact.Row] = set()
    for number in range(n):
        key, at = number % user.ORDER_KEYS, number // user.ORDER_KEYS
        if number not in bad:
            rows.add(("order", str(key), at, before[key]))
            before[key] = at
    return rows


def play_bitter(job: Job) -> Verdict:
    """D5, D6."""
    n, kills = job.number("items"), job.number("kills")
    verdict = Verdict()
    site = job.site()
    given = [f"{SOURCE}.poison={bool(job.size['poison'])}"]
    run = exact.start(site, n, "ordered", source=SOURCE, parameters=given)
    killer = PatientKiller(run, job.dice)
    for gate in exact.rounds(n, kills):
        site.open_gate(gate)
        victim = killer.victim(STAGE)
        exact.pause(job)
        killer.kill([victim])
    site.open_gate(n)
    finish(run, verdict, exact.DRAIN_S + n / exact.SLOWEST_PER_S)
    bad = user.poisoned() if job.size["poison"] else {}
    bad = {number: kind for number, kind in bad.items() if number < n}
    verdict.faults = dict(killer.kills) | {"poison": len(bad)}
    verdict.items = count(expected_rows(n, bad), exact.read_rows(exact.rows_of(site)))
    items = verdict.items
    verdict.need(
        items.lost == items.duplicated == items.unexpected == 0,
        f"the rows are not exact and in order: {items.lost} missing, {items.duplicated} twice,"
        f" {items.unexpected} behind another number than their own: {list(items.shown)}",
    )
    judge_letters(verdict, letters_of(site), bad)
    result = run.result()
    deaths = result["stages"][STAGE]["restarts"] - killer.kills[STAGE] if result else -1
    verdict.facts["deaths"] = deaths
    most = DEATHS_PER_POISON * sum(kind in KILLING for kind in bad.values())
    verdict.need(0 <= deaths <= most, f"{deaths} deaths by poison, more than {most}")
    return verdict


def letters_of(site: Site) -> Letters:
    """By the number of its item: code, and what it says."""
    letters = [stored.letter for stored in site.dead_letters()]
    return {one.oseq: (one.code, f"{one.error_class} {one.error}") for one in letters}


def judge_letters(verdict: Verdict, letters: Letters, bad: dict[int, str]) -> None:
    """Each poison item has a letter with its cause, and nobody else has one."""
    verdict.dead = len(letters)
    innocent = sorted(letters.keys() - bad.keys())
    verdict.need(not innocent, f"{len(innocent)} innocent items in the store: {innocent[:5]}")
    for number, said in missing_words(letters, bad):
        verdict.broken.append(f"the item {number} that should {bad[number]}: {said}")


def missing_words(letters: Letters, bad: dict[int, str]) -> Iterator[tuple[int, str]]:
    for number, kind in bad.items():
        code_wanted, words = CAUSES[kind]
        code, text = letters.get(number, ("", ""))
        lacking = [word for word in words if word not in text]
        if code != code_wanted:
            yield number, f"its letter has the code {code!r}"
        elif lacking:
            yield number, f"the letter does not say {lacking}:\n{text}"


# --- twins ----------------------------------------------------------------------------------------

# What comes behind an item that failed does not wait for it.
NOBODY_WAITS = """
from collections import deque
from zflow.replica.durable import DurableWorker
from zflow.replica.partitions import Owned
_init, _run = Owned.__init__, DurableWorker._run
_running = []
class Unseen(deque):
    def __bool__(self):
        return not _running and len(self) > 0
def init(self, *arguments):
    _init(self, *arguments)
    self.held = Unseen()
def run(self, portion):
    _running.append(portion)
    try:
        _run(self, portion)
    finally:
        _running.pop()
Owned.__init__, DurableWorker._run = init, run
"""

CAMPAIGNS = (
    Campaign(
        name="D5",
        title="poison in a stage with keyed state, kill -9 of it, and the order of every key",
        full={"items": 300_000, "kills": 40, "pause_s": 0.5, "poison": 1},
        ci={"items": 24_000, "kills": 3, "pause_s": 0.5, "poison": 1},
        play=play_bitter,
        twin=Twin(
            patch=BLAME_ALL,
            breaks="innocent items in the store",
            size={"items": 20_000, "kills": 0, "pause_s": 0.5, "poison": 1},
        ),
    ),
    Campaign(
        name="D6",
        title="the order of every key: items that fail once, and kill -9 of their stage",
        full={"items": 300_000, "kills": 100, "pause_s": 0.5, "poison": 0},
        ci={"items": 30_000, "kills": 4, "pause_s": 0.5, "poison": 0},
        play=play_bitter,
        twin=Twin(
            patch=NOBODY_WAITS,
            breaks="innocent items in the store",
            size={"items": 10_000, "kills": 0, "pause_s": 0.5, "poison": 0},
        ),
    ),
)

"""The files of a new project, as `zflow new` writes them. `$name` stands for the project's name.

Decides what a beginner sees first. tests/cli/test_new.py runs all of it.
"""

PYPROJECT = """\
[project]
name = "$name"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["zflow-pipelines"]

[dependency-groups]
dev = ["pytest"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]

# What holds for every run; `zflow config topologies/words.py` shows what counts in the end.
[tool.zflow.parameters]
texts.folder = "texts"

[tool.zflow.replicas]
words = 2
"""

README = """\
# $name

Counts the words of all texts in `texts/`, in processes of its own for each stage, exactly once
whoever dies.

Run it:

    zflow run topologies/words.py

Test it:

    python -m pytest

The counts are in `words.db` then (`sqlite3 words.db 'SELECT * FROM words ORDER BY n DESC'`).
Next: write your own stages in `topologies/words.py`, and let `zflow check topologies/words.py` say
what is wrong. While a run goes on, `zflow top` shows what it does and `zflow tap texts:words` what
goes by.
"""

TOPOLOGY = '''\
"""Count the words of all texts in a folder."""

import re
from pathlib import Path

from zflow import DurableStage, Topology, sink, source, stage
from zflow.connectors.sqlite import SqliteTable


@source
def texts(folder: str):
    """Every text, in the same order each time: after a crash what was settled is skipped."""
    for path in sorted(Path(folder).rglob("*.txt")):
        yield path.read_text()


@stage
def words(text: str):
    """Any number of items from one: a generator."""
    yield from re.findall(r"[a-z']+", text.lower())


@stage(replicas=2)
class Count(DurableStage):
    """Keeps its state on disk; the same word always comes to the same replica (`key=` below)."""

    def process(self, word: str) -> None:
        self.state[word] = self.state.get(word, 0) + 1

    def finish(self):
        """Once all texts are counted."""
        yield from self.state.items()


@sink
class Counts(SqliteTable):
    """Stores the totals together with what it has taken, so that none is there twice."""

    def __init__(self, path: str = "words.db"):
        super().__init__(path, table="words", columns=("word", "n"), key="word")


flow = Topology("$name")
flow.connect(texts, words)
flow.connect(words, Count, key=str)
flow.connect(Count, Counts)
'''

TEST = '''\
"""The functions as they are, the sink against its contract, and the whole topology once."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from topologies.words import Counts, words
from zflow.testing.sinks import check_transactional

TOPOLOGY = Path(__file__).parent.parent / "topologies" / "words.py"


def stored(path: Path) -> list[tuple[str, int]]:
    """What the sink has stored; nothing while there is no table."""
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone():
            return []
        return db.execute("SELECT word, n FROM words").fetchall()


def test_words_are_runs_of_small_letters():
    assert list(words("It's 2 o'clock")) == ["it's", "o'clock"]


def test_the_sink_loses_and_doubles_nothing_whatever_kills_it(tmp_path):
    path = tmp_path / "words.db"
    check_transactional(
        lambda: Counts(str(path)), lambda: stored(path), item=lambda n: (f"word{n}", n)
    )


def test_every_word_is_counted(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("one two two")
    (texts / "b.txt").write_text("two Three")
    parameters = ["-p", f"texts.folder={texts}", "-p", f"Counts.path={tmp_path / 'words.db'}"]
    state = ["--state", str(tmp_path / "state")]
    subprocess.run(
        [sys.executable, "-m", "zflow", "run", str(TOPOLOGY), *parameters, *state], check=True
    )
    assert sorted(stored(tmp_path / "words.db")) == [("one", 1), ("three", 1), ("two", 3)]
'''

TEXT = """\
The first item is never lost: everybody is connected before a source begins.
The last item is never lost: a run ends when everything is settled.
"""

IGNORED = """\
.zflow/
words.db*
__pycache__/
"""

FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "topologies/words.py": TOPOLOGY,
    "tests/test_words.py": TEST,
    "texts/example.txt": TEXT,
    ".gitignore": IGNORED,
}

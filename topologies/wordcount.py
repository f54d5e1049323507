"""Count the words of all text files below a folder: keyed state on disk, exactly once.

    zflow run topologies/wordcount.py -p files.folder=docs -p Counts.path=words.db

Each word belongs to one replica, whose count of it survives any crash. When the sources have ended,
`finish` gives the totals, and the sink stores them together with what it has taken.
"""

import re
from pathlib import Path

from zflow import DurableStage, Topology, sink, source, stage
from zflow.connectors.sqlite import SqliteTable


@source
def files(folder: str = ".", pattern: str = "*.py"):
    for path in sorted(Path(folder).rglob(pattern)):
        yield path.read_text(errors="replace")


@stage(replicas=2)
def words(text: str):
    yield from re.findall(r"[a-z']+", text.lower())


@stage(replicas=2)
class Count(DurableStage):
    def process(self, word: str) -> None:
        self.state[word] = self.state.get(word, 0) + 1

    def finish(self):
        yield from self.state.items()


@sink
class Counts(SqliteTable):
    def __init__(self, path: str = "words.db"):
        super().__init__(path, table="words", columns=("word", "n"), key="word")


flow = Topology("wordcount", delivery="exactly_once")
flow.connect(files, words)
flow.connect(words, Count, key=str)
flow.connect(Count, Counts)

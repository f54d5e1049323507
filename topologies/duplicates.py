"""Files below a folder that have the same content, by size and checksum, in an SQLite database.

Shows a source in two processes that share the work, a diamond (both stages get every path, one sink
puts their answers together), a stage with `open`, and a sink that may see an item twice.

    zflow run topologies/duplicates.py -p paths.folder=$HOME -p Catalogue.path=files.db
    sqlite3 files.db 'select group_concat(path) from files group by digest having count(*) > 1'
"""

import os
import sqlite3
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from zflow import Topology, sink, source, stage

TABLE = "create table if not exists files (path text primary key, bytes integer, digest text)"
UPSERT = """
insert into files values (?, ?, ?) on conflict (path) do update set
    bytes = coalesce(excluded.bytes, bytes), digest = coalesce(excluded.digest, digest)
"""


@source(replicas=2)
def paths(folder: str = ".", partition: int = 0, partitions: int = 1):
    for path in sorted(Path(folder).rglob("*")):
        if crc32(os.fsencode(path)) % partitions == partition and path.is_file():
            yield str(path)


@stage
def size(path: str):
    return path, os.path.getsize(path), None


@stage(replicas=2)
class Checksum:
    def open(self):
        self.block = memoryview(bytearray(1 << 20))  # once per process, not once per file

    def process(self, path: str):
        digest = blake2b(digest_size=16)
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(self.block):
                digest.update(self.block[:count])
        return path, None, digest.hexdigest()


@sink
class Catalogue:
    def __init__(self, path: str = "files.db"):
        self.db_path = path

    def open(self):
        self.db = sqlite3.connect(self.db_path)
        self.db.execute(TABLE)

    def write(self, items):
        with self.db:  # one transaction for all of them
            self.db.executemany(UPSERT, items)

    def close(self):
        self.db.close()


flow = Topology("duplicates")
flow.connect(paths, size, Catalogue)
flow.connect(paths, Checksum, Catalogue)

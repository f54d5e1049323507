"""Which SQLite this process has loaded."""

import sqlite3


def sqlite_version() -> str:
    """Of the library, as `3.40.1`."""
    return sqlite3.sqlite_version

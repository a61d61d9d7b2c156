"""Records that end by themselves: which, and when.

In:    puts of status records that are given a time to live.
Out:   the table ``expiring``, made with the first of them; whoever next looks at status records deletes those that are
       over, as any delete, so that every process and every watch sees the same.
"""

from __future__ import annotations

import sqlite3
import time

PREFIX = "/calico/felix/"
"""Of every path that may end."""


def set_end(connection: sqlite3.Connection, path: str, ttl_s: float | None) -> None:
    """Within a write: when ``path`` ends; None: it stays."""
    if ttl_s is not None:
        connection.execute("CREATE TABLE IF NOT EXISTS expiring(path TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID")
        connection.execute("INSERT OR REPLACE INTO expiring VALUES(?, ?)", (path, time.time() + ttl_s))
    elif has_ends(connection):
        connection.execute("DELETE FROM expiring WHERE path = ?", (path,))


def over(connection: sqlite3.Connection) -> list[str]:
    """Paths whose time has come."""
    if not has_ends(connection):
        return []
    rows = connection.execute("SELECT path FROM expiring WHERE at <= ? ORDER BY at", (time.time(),))
    return [path for (path,) in rows]


def has_ends(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'expiring'").fetchone()
    return found is not None

"""Changes after a revision, out of the version log.

In:    rows of ``versions`` past the last one seen.
Out:   events, each once, in revision order. The position moves only after a batch was read whole, so a call that failed
       can simply be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from calico_datastore_sqlite.database import Database, Opened
from calico_datastore_sqlite.notify import CommitNotifier
from calico_kernel.errors import RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model import keys
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Event, Record

BATCH_ROWS = 2000


class SqliteWatch(Watch):
    def __init__(
        self,
        database: Database,
        notifier: CommitNotifier,
        queries: Sequence[Query],
        revision: int,
        decode: Callable[[Key, bytes, int], Record],
        before_each_look: Callable[[], None],
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._queries = tuple(queries)
        self._prefixes = tuple({keys.prefix(query) for query in queries})
        self._position = revision
        self._decode = decode
        self._before_each_look = before_each_look
        self._closed = False
        self._opened: Opened = database.opened()
        check_revision(database, revision)

    def next(self, timeout_s: float) -> Sequence[Event]:
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            seen = self._notifier.generation
            full, events = self._read()
            if events:
                return events
            if full:
                continue  # all of a long batch was of no interest; there is more
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                break
            self._notifier.wait(seen, remaining_s)
        return ()

    def close(self) -> None:
        self._closed = True
        self._notifier.bump()

    def _read(self) -> tuple[bool, list[Event]]:
        if self._database.opened() is not self._opened:
            self._notifier.follow()
            raise RevisionTooOld(
                what=f"the database {self._database.path} was replaced, so changes since {self._position} are unknown",
                todo="list again and watch from there",
                other_history=True,
            )
        self._before_each_look()
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT revision, path, value, previous FROM versions WHERE revision > ? ORDER BY revision LIMIT ?",
                (self._position, BATCH_ROWS),
            ).fetchall()
        if not rows:
            return False, []
        # Checked after the read: compaction only grows, so what was read is whole when it was not overtaken even now.
        check_revision(self._database, self._position)
        events = []
        for revision, path, value, previous in rows:
            if not path.startswith(self._prefixes) or (value is None and previous is None):
                continue
            key = keys.parse(path)
            if key is None or not any(keys.matches(query, key) for query in self._queries):
                continue
            record = None if value is None else self._decode(key, value, revision)
            events.append(Event(key, record, str(revision)))
        self._position = rows[-1][0]
        return len(rows) == BATCH_ROWS, events


def check_revision(database: Database, revision: int) -> None:
    """Raises RevisionTooOld unless every change after ``revision`` is still in the log."""
    with database.read() as connection:
        compacted, newest = connection.execute(
            "SELECT (SELECT value FROM meta WHERE name = 'compacted'), (SELECT max(revision) FROM versions)"
        ).fetchone()
    if not compacted <= revision <= newest:
        raise RevisionTooOld(
            what=f"revision {revision} is not among those kept ({compacted} to {newest})",
            todo="list again and watch from there",
            other_history=revision > newest,
        )

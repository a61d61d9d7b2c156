"""The datastore over one SQLite file.

In:    typed keys and values (calico_kernel.model), from the agent, calicoctl, IPAM and controllers.
Out:   rows whose paths and values are byte for byte those that Calico keeps in etcd.
Order: every write is one transaction and one revision; a transaction is seen whole or not at all, by every process.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, TypeVar

from calico_datastore_sqlite import expiry
from calico_datastore_sqlite.database import Database
from calico_datastore_sqlite.notify import CommitNotifier
from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.watch import SqliteWatch
from calico_kernel.errors import RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import keys, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Listing, Record, Value

T = TypeVar("T")

COMPACT_EVERY_WRITES, COMPACT_AT_MOST = 64, 256

_REPLACEMENT_END = "\U0010ffff"  # sorts after every path that has the prefix


class SqliteDatastore(Datastore):
    keeps_status: ClassVar[bool] = True

    def __init__(self, settings: SqliteSettings, log: logging.Logger | None = None) -> None:
        self._log = log or logging.getLogger(__name__)
        self._settings = settings
        self._database = Database(settings, self._log)
        self._notifier = CommitNotifier(self._database.path, self._log)

    # ── writes ──

    def create(self, key: Key, value: Value) -> Record:
        path, raw = keys.path(key), storing.encode(key, value)
        with self._database.write(flush=must_flush(key)) as connection:
            if (there := current_revision(connection, path)) is not None:
                raise storing.exists(key, there)
            revision = self._append(connection, path, raw, None)
        return self._wrote(key, raw, revision)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        path, raw = keys.path(key), storing.encode(key, value)
        with self._database.write(flush=must_flush(key)) as connection:
            there = required_revision(connection, key, path, revision)
            now = self._append(connection, path, raw, there)
        return self._wrote(key, raw, now)

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        path, raw = keys.path(key), storing.encode(key, value)
        storing.check_ttl(key, ttl_s)
        with self._database.write(flush=must_flush(key)) as connection:
            revision = self._append(connection, path, raw, current_revision(connection, path), ttl_s)
        return self._wrote(key, raw, revision)

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        path = keys.path(key)
        with self._database.write(flush=must_flush(key)) as connection:
            there = required_revision(connection, key, path, revision)
            (raw,) = connection.execute("SELECT value FROM versions WHERE revision = ?", (there,)).fetchone()
            self._append(connection, path, None, there)
        self._notifier.bump()
        return storing.record_of(key, raw, there)

    def compact(self, keep_revisions: int = 0) -> str:
        """Forget all history but the last ``keep_revisions`` changes now; returns the oldest revision still good for a
        list or a watch. Ordinary use needs no call: writes compact as they go."""
        while True:
            with self._database.write() as connection:
                compacted, more = compact_some(connection, keep_revisions, before_s=None)
            if not more:
                return str(compacted)

    # ── reads ──

    def get(self, key: Key) -> Record:
        if keys.is_status(key):
            self._expire()
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT v.revision, v.value FROM current c JOIN versions v ON v.revision = c.revision WHERE c.path = ?",
                (keys.path(key),),
            ).fetchone()
        if row is None:
            raise storing.not_found(key)
        return storing.record_of(key, row[1], row[0], whole=True)

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        prefixes = storing.prefixes(queries)
        rows: list[tuple[str, int, bytes]] = []
        if any(map(keys.asks_status, queries)):
            self._expire()
        with self._database.snapshot() as connection:
            compacted, newest = connection.execute(
                "SELECT (SELECT value FROM meta WHERE name = 'compacted'), (SELECT max(revision) FROM versions)"
            ).fetchone()
            moment = newest if revision is None else storing.parse_revision(revision)
            if not compacted <= moment <= newest:
                raise RevisionTooOld(
                    what=f"revision {revision} is not among those kept ({compacted} to {newest})",
                    todo="list without a revision",
                )
            rows += current_rows(connection, prefixes)
            if moment < newest:
                rows = rewound(connection, rows, prefixes, moment)
        with storing.collector_resting(len(rows)):
            return Listing(list(decoded(rows, tuple(queries), storing.record_of)), str(moment))

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        if any(map(keys.asks_status, queries)):
            self._expire()
        with self._database.snapshot() as connection:
            rows = list(current_rows(connection, storing.prefixes(queries)))
        return list(decoded(rows, tuple(queries), lambda key, raw, _revision: (key, raw)))

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        before_each_look = self._expire if any(map(keys.asks_status, queries)) else lambda: None
        watch = SqliteWatch(
            self._database,
            self._notifier,
            queries,
            storing.parse_revision(revision),
            storing.record_of,
            before_each_look,
        )
        self._notifier.follow()
        return watch

    def close(self) -> None:
        self._database.close()
        self._notifier.close()

    # ── inside ──

    def _append(
        self,
        connection: sqlite3.Connection,
        path: str,
        raw: bytes | None,
        previous: int | None,
        ttl_s: float | None = None,
    ) -> int:
        revision = connection.execute(
            "INSERT INTO versions(path, value, previous, at) VALUES(?, ?, ?, ?)",
            (path, raw, previous, int(time.time())),
        ).lastrowid
        assert revision is not None
        if raw is None:
            connection.execute("DELETE FROM current WHERE path = ?", (path,))
        else:
            connection.execute("INSERT OR REPLACE INTO current(path, revision) VALUES(?, ?)", (path, revision))
        if path.startswith(expiry.PREFIX):
            expiry.set_end(connection, path, ttl_s)
        if revision % COMPACT_EVERY_WRITES == 0:
            compact_some(connection, self._settings.retain_revisions, before_s=time.time() - self._settings.retain_s)
        return revision

    def _expire(self) -> None:
        """Delete what is over. Called before status records are looked at, and never otherwise."""
        with self._database.read() as connection:
            if not expiry.over(connection):
                return
        with self._database.write(flush=False) as connection:
            for path in expiry.over(connection):
                self._append(connection, path, None, current_revision(connection, path))
        self._notifier.bump()

    def _wrote(self, key: Key, raw: bytes, revision: int) -> Record:
        self._notifier.bump()
        return storing.record_of(key, raw, revision)


def must_flush(key: Key) -> bool:
    """Whether a write is worth a trip to the disk of its own. Handles and affinities are books beside the blocks: an
    assignment writes them first and its block after, which takes them along, since the journal keeps the order. One
    that power loss takes leaves a count too high or an affinity unfinished, which IPAM expects after any crash. Reports
    of status come again."""
    return not isinstance(key, keys.HandleKey | keys.BlockAffinityKey | keys.StatusKey)


def current_revision(connection: sqlite3.Connection, path: str) -> int | None:
    row = connection.execute("SELECT revision FROM current WHERE path = ?", (path,)).fetchone()
    return None if row is None else int(row[0])


def required_revision(connection: sqlite3.Connection, key: Key, path: str, revision: str | None) -> int:
    there = current_revision(connection, path)
    if there is None or (revision is not None and str(there) != revision):
        raise storing.conflict(key, there, revision or "")
    return there


def rewound(
    connection: sqlite3.Connection, rows: Iterable[tuple[str, int, bytes]], prefixes: Sequence[str], moment: int
) -> list[tuple[str, int, bytes]]:
    """The present ``rows`` as they were at ``moment``: the first later change of a path tells what it replaced."""
    then = {path: (path, at, raw) for path, at, raw in rows}
    seen = set()
    for path, previous in connection.execute(
        "SELECT path, previous FROM versions WHERE revision > ? ORDER BY revision", (moment,)
    ).fetchall():
        if path in seen or not path.startswith(tuple(prefixes)):
            continue
        seen.add(path)
        then.pop(path, None)
        if previous is not None:
            (raw,) = connection.execute("SELECT value FROM versions WHERE revision = ?", (previous,)).fetchone()
            then[path] = (path, previous, raw)
    return [then[path] for path in sorted(then)]


def current_rows(connection: sqlite3.Connection, prefixes: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
    for prefix in prefixes:  # sorted and disjoint, so what they give follows each other in order
        yield from connection.execute(
            "SELECT c.path, v.revision, v.value FROM current c JOIN versions v ON v.revision = c.revision"
            " WHERE c.path >= ? AND c.path < ? ORDER BY c.path",
            (prefix, prefix + _REPLACEMENT_END),
        ).fetchall()


def decoded(
    rows: Iterable[tuple[str, int, bytes]], queries: Sequence[Query], make: Callable[[Key, bytes, int], T]
) -> Iterator[T]:
    for path, at, raw in rows:
        key = keys.parse(path)
        if key is None:
            continue
        for query in queries:
            if keys.matches(query, key):
                yield make(key, raw, at)
                break


def compact_some(connection: sqlite3.Connection, keep_revisions: int, *, before_s: float | None) -> tuple[int, bool]:
    """Forget a bounded part of what is more than ``keep_revisions`` changes back or older than ``before_s``.

    Returns (the compacted revision, whether there is more to forget). Versions that are still current stay.
    """
    (compacted,) = connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
    (newest,) = connection.execute("SELECT max(revision) FROM versions").fetchone()
    rows = connection.execute(
        "SELECT revision, previous, value IS NULL, at FROM versions WHERE revision > ? ORDER BY revision LIMIT ?",
        (compacted, COMPACT_AT_MOST),
    ).fetchall()
    gone = []
    for revision, previous, deleted, at in rows:
        # The newest version stays, even a deletion: its number is where the next one comes from.
        if revision >= newest or (revision > newest - keep_revisions and (before_s is None or at >= before_s)):
            break
        compacted = revision
        if previous is not None:
            gone.append((previous,))
        if deleted:
            gone.append((revision,))
    else:
        more = len(rows) == COMPACT_AT_MOST
        _forget(connection, compacted, gone)
        return compacted, more
    _forget(connection, compacted, gone)
    return compacted, False


def _forget(connection: sqlite3.Connection, compacted: int, gone: Iterable[tuple[int]]) -> None:
    connection.executemany("DELETE FROM versions WHERE revision = ?", gone)
    connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (compacted,))

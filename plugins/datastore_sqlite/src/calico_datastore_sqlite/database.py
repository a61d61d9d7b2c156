"""The database file: opening, connections, write transactions, and what its errors mean.

In:    SQL of calico_datastore_sqlite.store and .watch.
Out:   one SQLite file in WAL mode, its ``-wal`` and ``-shm``, all mode 0600.
Owns:  the connections of this process. Readers never block and are never blocked; writers queue, across processes too.

Layout: ``versions`` holds one row for every change (the revision is its row number, so revisions have no holes and
become visible in order); ``current`` points from each path to its latest version; ``meta`` says up to where history was
compacted. A deleted path has a version without value. A new file starts at a revision taken from the clock, so that no
revision of an earlier file, deleted or replaced, can ever be mistaken for one of this file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, field

from calico_datastore_sqlite.settings import SqliteSettings
from calico_kernel.errors import DatastoreUnavailable

APPLICATION_ID = 0x63616C69  # "cali"
SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE versions(
        revision INTEGER PRIMARY KEY,
        path TEXT NOT NULL,
        value BLOB,              -- NULL: the path was deleted
        previous INTEGER,        -- the version that this one replaced; NULL: there was none
        at INTEGER NOT NULL      -- seconds since 1970
    )""",
    "CREATE TABLE current(path TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID",
)

FIRST_WAIT_S, LONGEST_WAIT_S = (
    50e-6,
    2e-3,
)  # a write transaction takes 30 µs to a few ms; SQLite's own steps start at 1 ms

_ABANDONED: list[object] = []  # connections inherited by fork; closing them here could disturb the parent's locks


class Opened(Struct, eq=False):
    """One opening of the file. A replaced file gives a new one; connections of the old are closed when returned."""

    identity: tuple[int, int]
    pid: int
    journal: frozenset[tuple[str, int]]
    """(path, inode) of the -wal and -shm that go with this file."""
    readers: list[sqlite3.Connection] = field(default_factory=list)
    writer: sqlite3.Connection | None = None
    journal_fd: int = -1
    """The -wal, to flush it. Only the database file itself must never be opened beside SQLite: closing any descriptor
    of it would drop the locks of the whole process."""

    def is_of(self, identity: tuple[int, int] | None) -> bool:
        """Whether it is an opening of that file, by this process."""
        return self.identity == identity and self.pid == os.getpid()


class Database:
    def __init__(self, settings: SqliteSettings, log: logging.Logger) -> None:
        self.path = os.path.abspath(settings.path)
        self._settings = settings
        self._log = log
        self._opened: Opened | None = None
        self._seen_before = False
        self._closed = False
        self._opening = threading.RLock()
        self._writing = threading.Lock()

    # ── use ──

    def opened(self) -> Opened:
        """The file as it stands now. Raises DatastoreUnavailable when it is gone or cannot be opened."""
        opened = self._opened
        try:
            found = os.stat(self.path)
        except OSError as exc:
            if self._seen_before or not isinstance(exc, FileNotFoundError):
                raise self._gone(exc) from exc
        else:
            if opened is not None and opened.is_of((found.st_dev, found.st_ino)):
                return opened
        return self._open()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; statements outside BEGIN see the latest commit each."""
        opened = self.opened()
        try:
            connection = opened.readers.pop() if opened.readers else self._connect(self._settings.busy_timeout_s)
        except IndexError:  # another thread took the last one
            connection = self._connect(self._settings.busy_timeout_s)
        healthy = False
        try:
            yield connection
            healthy = True
        except sqlite3.Error as exc:
            raise self.unavailable(exc, "nothing was read") from exc
        except BaseException:
            healthy = not connection.in_transaction
            raise
        finally:
            if healthy and opened is self._opened:
                opened.readers.append(connection)
            else:
                close_quietly(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection whose statements all see one moment."""
        with self.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def write(self, *, flush: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end of the block, rolled back when the block raises.

        flush:  in durability "full", do not return before it is on disk. Without, it gets there with the next that is.
        """
        if not self._writing.acquire(timeout=self._settings.busy_timeout_s):
            raise self._locked("another thread of this process")
        try:
            opened = self.opened()
            connection = opened.writer or self._connect(0.0)
            opened.writer = None  # given back below, unless something is wrong with it
            try:
                self._begin(connection)
                yield connection
                connection.execute("COMMIT")
            except sqlite3.Error as exc:
                close_quietly(connection)  # rolls back
                raise self.unavailable(exc, "nothing was written") from exc
            except BaseException:
                connection.execute("ROLLBACK")
                opened.writer = connection
                raise
            opened.writer = connection
            if opened is not self._opened:
                self._retire(opened)
        finally:
            self._writing.release()
        with contextlib.suppress(OSError):
            os.utime(self.path)  # wakes the watches of every process: a commit itself shows only in shared memory
        if flush and self._settings.durability == "full":
            self._flush(opened)

    def _flush(self, opened: Opened) -> None:
        """Flush the journal, holding no lock: writers that flush at the same time share one trip to the disk, which
        SQLite's own flush, inside the transaction, would not let them. Whatever was committed before is flushed too,
        and the journal is replayed up to its first damage, so order is kept."""
        try:
            os.fdatasync(opened.journal_fd)
        except OSError as exc:
            if opened is not self._opened:
                return  # closed or replaced meanwhile
            raise DatastoreUnavailable(
                what=f"the journal of {self.path} could not be flushed to disk ({exc.strerror})",
                kept="the write was made, but may not survive a power loss",
                todo="look at the disk (dmesg), then read the record again",
            ) from exc

    def close(self) -> None:
        with self._opening:
            self._closed = True
            opened, self._opened = self._opened, None
            if opened is not None:
                self._retire(opened)

    # ── opening ──

    def _open(self, attempts: int = 3) -> Opened:
        with self._opening:
            if self._closed:
                raise DatastoreUnavailable(what=f"the datastore {self.path} was closed", todo="open it again")
            if self._opened is not None and self._opened.is_of(identity_of(self.path)):
                return self._opened  # another thread was quicker
            old, self._opened = self._opened, None
            if old is not None and old.pid == os.getpid():
                replaced = is_open_here(old.identity)
                if not replaced and (old.readers or old.writer) and (identity := identity_of(self.path)) is not None:
                    # The same file under another number: an overlay filesystem copied it up, or numbers are not kept.
                    old.identity, self._opened = identity, old
                    return old
                if replaced and os.path.exists(self.path):
                    # While the old journal is still open here, no new file can have got its inode number.
                    self._discard_stale(old.journal)
                self._retire(old)
            elif old is not None:
                self._retire(old)
            try:
                if not self._seen_before:
                    self._create_file()
                found = os.stat(self.path)
                connection = self._connect(self._settings.busy_timeout_s)
            except OSError as exc:
                raise self._gone(exc) from exc
            try:
                self._prepare(connection)
                journal_fd = os.open(self.path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
            except sqlite3.Error as exc:
                close_quietly(connection)
                raise self.unavailable(exc, "nothing was changed") from exc
            except OSError as exc:
                close_quietly(connection)
                if isinstance(exc, FileNotFoundError) and attempts > 1 and os.path.exists(self.path):
                    # Another process that noticed the replacement took the old file's journal away, which SQLite had
                    # just opened here.
                    return self._open(attempts - 1)
                raise self._gone(exc) from exc
            except BaseException:
                close_quietly(connection)
                raise
            if self._seen_before:
                self._log.warning("the database %s was replaced; every watch must list again", self.path)
            self._opened = Opened(
                identity=(found.st_dev, found.st_ino),
                pid=os.getpid(),
                journal=self._journal(),
                readers=[connection],
                journal_fd=journal_fd,
            )
            self._seen_before = True
            return self._opened

    def _journal(self) -> frozenset[tuple[str, int]]:
        found = set()
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                found.add((self.path + suffix, os.stat(self.path + suffix).st_ino))
        return frozenset(found)

    def _discard_stale(self, journal: frozenset[tuple[str, int]]) -> None:
        """Remove the journal of a file that another one replaced: SQLite would replay it into the new file."""
        for path, inode in journal & self._journal():
            self._log.warning("removing %s (inode %d): it belongs to the database that was replaced", path, inode)
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _create_file(self) -> None:
        Path(self.path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            # Made here, not by SQLite, for its mode; SQLite gives -wal and -shm the mode of the database.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if os.stat(self.path).st_mode & 0o077:
            os.chmod(self.path, 0o600)

    def _connect(self, timeout_s: float) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"file:{_quoted(self.path)}?mode=rw",
                uri=True,
                timeout=timeout_s,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            connection.execute("PRAGMA synchronous=NORMAL")  # checkpoints flush; commits are flushed by _flush
            connection.execute("PRAGMA cache_size=-8000")
            connection.execute("PRAGMA journal_size_limit=16777216")
        except sqlite3.Error as exc:
            raise self.unavailable(exc, "nothing was read or written") from exc
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            if self._seen_before or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                # A file that is being copied into place may look empty for a moment: never make a new, empty
                # database where there was one, the whole cluster's policy would seem deleted.
                raise DatastoreUnavailable(
                    what=f"{self.path} is not a database of this datastore",
                    todo=f"put the right file there, or remove {self.path} and start again with an empty datastore",
                )
            self._make_schema(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise DatastoreUnavailable(
                what=f"{self.path} has layout version {version}, this calico-datastore-sqlite knows {SCHEMA_VERSION}",
                todo="install the version of calico-datastore-sqlite that wrote the file",
            )
        self._use_wal(connection)

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        self._use_wal(connection)
        self._begin(connection)
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            for statement in SCHEMA:
                connection.execute(statement)
            first = time.time_ns() // 1000  # grows faster than any disk can commit, so two files never share a revision
            connection.execute("INSERT INTO versions VALUES(?, '', NULL, NULL, ?)", (first, int(time.time())))
            connection.execute("INSERT INTO meta VALUES('compacted', ?)", (first - 1,))
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """A file keeps its mode, but a copy made by ``VACUUM INTO`` has lost it. While another process has the file
        open, the change fails or, as quietly, does not happen."""
        deadline = time.monotonic() + self._settings.busy_timeout_s
        while True:
            try:
                if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the journal
                    return
                busy = sqlite3.OperationalError("another process keeps the database from using a journal")
            except sqlite3.OperationalError as exc:
                if not is_busy(exc):
                    raise
                busy = exc
            if time.monotonic() > deadline:
                raise busy
            time.sleep(LONGEST_WAIT_S)

    def _begin(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._settings.busy_timeout_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                if not is_busy(exc) or time.monotonic() >= deadline:
                    raise
            from random import uniform

            time.sleep(wait_s * uniform(0.5, 1.5))
            wait_s = min(wait_s * 1.5, LONGEST_WAIT_S)

    def _retire(self, opened: Opened) -> None:
        connections = [*opened.readers, *([opened.writer] if opened.writer is not None else [])]
        opened.readers, opened.writer = [], None
        if opened.journal_fd >= 0:
            os.close(opened.journal_fd)
            opened.journal_fd = -1
        if opened.pid != os.getpid():
            _ABANDONED.extend(connections)
            return
        for connection in connections:
            close_quietly(connection)

    # ── what errors mean ──

    def unavailable(self, exc: sqlite3.Error, kept: str) -> DatastoreUnavailable:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._locked("another process")
        if code == sqlite3.SQLITE_FULL:
            return DatastoreUnavailable(
                what=f"no space is left for the database {self.path}",
                kept=f"{kept}; all records are as they were and can be read",
                todo=f"free space on the filesystem of {os.path.dirname(self.path)}",
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DatastoreUnavailable(
                what=f"the database {self.path} is damaged ({exc})",
                kept=kept,
                todo="stop what uses it and put a backup in its place; running agents go on with what they know",
            )
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            todo = f"check that {self.path} and its directory exist and may be read and written by uid {os.getuid()}"
        else:
            todo = "look at the disk (dmesg); the same call may be repeated"
        return DatastoreUnavailable(what=f"the database {self.path} cannot be used ({exc})", kept=kept, todo=todo)

    def _locked(self, by: str) -> DatastoreUnavailable:
        return DatastoreUnavailable(
            what=f"the database {self.path} stayed locked by {by} for {self._settings.busy_timeout_s:g} s",
            kept="nothing was written",
            todo=f"repeat the call; if it stays so, see who holds it (fuser {self.path})",
        )

    def _gone(self, exc: OSError) -> DatastoreUnavailable:
        todo = f"put {self.path} back; to begin with an empty datastore instead, restart what uses it"
        if isinstance(exc, PermissionError):
            todo = f"run as the user that {self.path} belongs to (uid {os.getuid()} may not use it)"
        elif exc.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            todo = f"make room on, or make writable, the filesystem of {os.path.dirname(self.path)}"
        elif not self._seen_before:
            todo = f"make its directory {os.path.dirname(self.path)}, or set datastore.path to another file"
        return DatastoreUnavailable(
            what=f"the database {self.path} cannot be opened ({exc.strerror})",
            kept="what was programmed from it",
            todo=todo,
        )


def identity_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_open_here(identity: tuple[int, int]) -> bool:
    """Whether this process has that very file open, by whatever name it goes now."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found = os.fstat(int(descriptor))
            if (found.st_dev, found.st_ino) == identity:
                return True
    return False


def is_busy(exc: sqlite3.Error) -> bool:
    return (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def close_quietly(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.close()


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")

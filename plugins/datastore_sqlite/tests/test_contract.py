"""SQLite keeps the datastore contract."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.hookspecs import Datastore
from calico_kernel.testing.datastore import SharedDatastoreContract


class TestSqliteDatastore(SharedDatastoreContract):
    @pytest.fixture(autouse=True)
    def _remember(self, tmp_path: Path) -> None:
        self.file = tmp_path / "calico.db"
        self.settings = SqliteSettings(path=str(self.file), durability="normal")

    @pytest.fixture
    def store(self, _remember: None) -> Iterator[Datastore]:
        store = SqliteDatastore(self.settings)
        yield store
        store.close()

    def forget_history(self, store: Datastore) -> None:
        assert isinstance(store, SqliteDatastore)
        store.compact()

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        return self._file_away()

    @contextmanager
    def _file_away(self) -> Iterator[None]:
        away = self.file.with_suffix(".away")
        self.file.rename(away)
        try:
            yield
        finally:
            away.rename(self.file)

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        connection = sqlite3.connect(self.file, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("SELECT revision FROM current WHERE path = ?", (at,)).fetchone()
        revision = connection.execute(
            "INSERT INTO versions(path, value, previous, at) VALUES(?, ?, ?, 0)", (at, raw, row and row[0])
        ).lastrowid
        connection.execute("INSERT OR REPLACE INTO current(path, revision) VALUES(?, ?)", (at, revision))
        connection.execute("COMMIT")
        connection.close()

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        return functools.partial(SqliteDatastore, self.settings)

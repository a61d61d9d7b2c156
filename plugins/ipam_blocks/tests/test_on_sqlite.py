"""The same contract over the embedded datastore, as a node runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.testing.ipam import IpamContract, add_node

sqlite = pytest.importorskip("calico_datastore_sqlite.store", reason="calico-datastore-sqlite is not installed")


class TestBlocksIpamOnSqlite(IpamContract):
    @pytest.fixture
    def datastore(self, tmp_path: Path) -> Iterator[Datastore]:
        from calico_datastore_sqlite.settings import SqliteSettings

        self.file = tmp_path / "calico.db"
        store: Datastore = sqlite.SqliteDatastore(SqliteSettings(path=str(self.file), durability="normal"))
        add_node(store, "n1", rack="a")
        add_node(store, "n2", rack="b")
        yield store
        store.close()

    @contextmanager
    def outage(self, datastore: Datastore) -> Iterator[None]:
        """The file is moved away."""
        file = self.file
        away = file.rename(file.with_suffix(".away"))
        try:
            yield
        finally:
            away.rename(file)

    @pytest.fixture
    def ipam(self, datastore: Datastore) -> Ipam:
        return BlocksIpam(datastore)

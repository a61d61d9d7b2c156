"""The in-memory datastore keeps the datastore contract."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from calico_kernel.hookspecs import Datastore
from calico_kernel.testing.datastore import DatastoreContract
from calico_kernel.testing.memory_datastore import MemoryDatastore


class TestMemoryDatastore(DatastoreContract):
    @pytest.fixture
    def store(self) -> Datastore:
        return MemoryDatastore()

    def forget_history(self, store: Datastore) -> None:
        assert isinstance(store, MemoryDatastore)
        store.forget_history()

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        assert isinstance(store, MemoryDatastore)
        return store.outage()

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        assert isinstance(store, MemoryDatastore)
        store.write_raw(at, raw)
